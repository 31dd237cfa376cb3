"""``syncd completion``: prints the completion script of a shell."""

import click
from click.shell_completion import get_completion_class

from syncd.cli.main import main

VARIABLE = "_SYNCD_COMPLETE"
"""Set by the shell when it asks; click looks for it by this name."""


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> int:
    """
    Print the completion script for SHELL.

    \b
    bash:  syncd completion bash > /etc/bash_completion.d/syncd
    zsh:   syncd completion zsh > "${fpath[1]}/_syncd"
    fish:  syncd completion fish > ~/.config/fish/completions/syncd.fish
    """
    found = get_completion_class(shell)
    assert found is not None, "click knows these three"
    # Not source(): for bash that runs a bash, which need not be there where this is printed.
    complete = found(main, {}, "syncd", VARIABLE)
    click.echo(complete.source_template % complete.source_vars())
    return 0
