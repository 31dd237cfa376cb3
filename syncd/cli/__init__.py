"""
The ``syncd`` command.

What is asked most often is answered by ``quick``, everything else by ``commands``.
"""

import resource
import sys
from typing import NoReturn

from syncd.cli import quick

INTERRUPTED = 130


def entry() -> NoReturn:
    """The ``syncd`` command."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core dump would hold the token
    arguments = sys.argv[1:]
    try:
        code = quick.answer(arguments)
    except KeyboardInterrupt:
        sys.stderr.write("\nsyncd: interrupted; progress is kept\n")
        code = INTERRUPTED
    if code is not None:
        sys.exit(code)
    from syncd.cli.commands import leave, status_of

    leave(status_of(arguments))
