"""
The ``syncd`` command.

What is asked most often is answered by ``quick``, everything else by ``commands``.
"""

import resource
import sys
from typing import NoReturn

from syncd.cli import fast_path
from syncd.core.exit_codes import INTERRUPTED


def entry() -> NoReturn:
    """The ``syncd`` command."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core dump would hold the token
    arguments = sys.argv[1:]
    try:
        code = fast_path.answer(arguments)
    except KeyboardInterrupt:
        sys.stderr.write("\nsyncd: interrupted; progress is kept\n")
        code = INTERRUPTED
    if code is not None:
        sys.exit(code)
    from syncd.cli.main import leave, status_of

    leave(status_of(arguments))
