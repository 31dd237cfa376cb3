"""
The ``syncd`` command line: its commands, global options and exit codes.

A command's module is imported only when the command is called, so ``COMMANDS`` repeats the help line
of each command.
"""

import contextlib
import importlib
import logging
import os
import sys
import threading
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, NamedTuple, NoReturn

import click

from syncd import __version__
from syncd.core.exit_codes import INTERRUPTED
from syncd.errors import SyncdError

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from syncd.config.loader import Loaded

INTERNAL_ERROR = 70


class Lazy(NamedTuple):
    """A command that is imported from ``target`` (``module:attribute``) when it is called."""

    target: str
    help: str
    group: str = "Other"

    def load(self) -> click.Command:
        module, _, attribute = self.target.partition(":")
        command = getattr(importlib.import_module(module), attribute)
        assert isinstance(command, click.Command)
        return command


_GROUPS: Mapping[str, Mapping[str, tuple[str, str]]] = {
    "Run": {
        "run": ("main:run_command", "Watch and upload until stopped (the default command)."),
        "config": ("config:config", "Check and show the configuration."),
        "completion": ("main:completion", "Print the completion script of a shell."),
    },
    "Look": {
        "status": ("status:status", "Show the status of every file."),
        "file": ("inspect:file", "Show everything known about one file."),
        "queue": ("inspect:queue", "Show running uploads and what comes next."),
        "history": ("inspect:history", "Show what happened to files, and why."),
        "safe": ("safe:safe", "Check whether every model here is in the catalog."),
    },
    "Control": {
        "pause": ("control:pause", "Stop uploading until `syncd resume`."),
        "resume": ("control:resume", "Resume uploading after a pause."),
        "retry": ("control:retry", "Retry files now."),
        "bump": ("control:bump", "Move files to the front of the queue."),
        "cancel": ("control:cancel", "Stop uploading files until they change."),
        "limit": ("control:limit", "Show or change the upload bandwidth limit."),
        "scan": ("control:scan", "Scan the models directories now."),
    },
    "Account": {
        "login": ("login:login", "Get a device key, or sign in to upload large files."),
        "logout": ("login:logout", "Revoke and remove the credentials from login."),
        "whoami": ("whoami:whoami", "Show the account, its credentials and what they allow."),
    },
    "Catalog": {
        "plan": ("plan:plan", "Show what would be uploaded, without uploading it."),
        "apply": ("apply:apply", "Apply a plan written by `syncd plan --out`."),
        "diff": ("diff:diff", "Compare the models directories with the catalog."),
        "verify": ("verify:verify", "Read registered files again and compare their hashes."),
        "prune": ("apply:prune", "Remove catalog records whose files are gone."),
    },
    "Troubleshoot": {
        "doctor": ("doctor:doctor", "Check everything that syncd needs."),
        "health": ("status:health", "Exit with 0 if a running syncd is healthy."),
        "gc": ("gc:gc", "Abort unneeded uploads and delete old history."),
        "support-bundle": ("support:support_bundle", "Collect data for a bug report, without secrets."),
    },
    "Try it out": {
        "demo": ("demo:demo", "Upload sample models to a simulated cloud."),
        "sandbox": ("sandbox:sandbox", "Run a simulated cloud on this machine."),
    },
}  # fmt: skip

COMMANDS: Mapping[str, Lazy] = {
    name: Lazy(f"syncd.cli.{target}", line, group)
    for group, commands in _GROUPS.items()
    for name, (target, line) in commands.items()
}


class LazyGroup(click.Group):
    """A group that lists ``COMMANDS`` without importing them; each accepts the global options too."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        names = self.list_commands(ctx)
        if args and args[0] not in names and not args[0].startswith("-"):
            import difflib

            near = difflib.get_close_matches(args[0], names, n=1, cutoff=0.5)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            ctx.fail(f"No such command {args[0]!r}.{hint}")
        return super().resolve_command(ctx, args)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        entry = COMMANDS.get(cmd_name)
        return _with_global_options(entry.load()) if entry else None

    def shell_complete(self, ctx: click.Context, incomplete: str) -> "list[CompletionItem]":
        from click.shell_completion import CompletionItem

        items = [
            CompletionItem(name, help=entry.help)
            for name, entry in COMMANDS.items()
            if name.startswith(incomplete)
        ]
        return [*items, *click.Command.shell_complete(self, ctx, incomplete)]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for group, commands in groupby(COMMANDS.items(), key=lambda item: item[1].group):
            with formatter.section(group):
                formatter.write_dl([(name.ljust(14), entry.help) for name, entry in commands])


def global_options(*, hidden: bool = False) -> list[click.Option]:
    """The options that are accepted before and after the command; ``Invocation`` holds their values."""
    levels, formats = click.Choice(LEVELS), click.Choice(FORMATS)
    return [
        click.Option(
            [flag], metavar=metavar, type=type_, help=text, hidden=hidden,
            expose_value=False, callback=_remember,
        )
        for flag, metavar, type_, text in (
            ("--config", "FILE", None, "Read this configuration file (TOML)."),
            ("--models-dir", "DIR", None, "Watch this ComfyUI models directory."),
            ("--state-dir", "DIR", None, "Keep syncd's database in this directory."),
            ("--log-level", "LEVEL", levels, f"Log level: {', '.join(LEVELS)}."),
            ("--log-format", "FORMAT", formats, f"Log format: {', '.join(FORMATS)}."),
        )
    ]  # fmt: skip


LEVELS, FORMATS = ("debug", "info", "warning", "error"), ("auto", "console", "json")
_OPTIONS = "syncd.options"
_EPILOG = "Global options such as --config and --state-dir work here too; see: syncd --help"


def _remember(ctx: click.Context, parameter: click.Parameter, value: str | None) -> None:
    """Keep the value of a global option; one after the command overrides one before it."""
    if value is not None:
        ctx.meta.setdefault(_OPTIONS, {})[parameter.name] = value
    if parameter.name == "log_level" and value == "debug":
        # Set before the configuration is read, so that an internal error there has a traceback.
        logging.getLogger().setLevel(logging.DEBUG)


def _with_global_options(command: click.Command) -> click.Command:
    if not any(parameter.name == "state_dir" for parameter in command.params):
        command.params += global_options(hidden=True)
        command.epilog = command.epilog or _EPILOG
        for each in command.commands.values() if isinstance(command, click.Group) else ():
            _with_global_options(each)
    return command


@dataclass(frozen=True, slots=True)
class Invocation:
    """The global options of one call; a command receives it with ``@pass_invocation``."""

    once: bool
    options: Mapping[str, str]

    def load(self) -> "Loaded":
        """Read the configuration and set up logging. Raises ``ConfigError``."""
        from syncd.monitoring import log

        loaded = self.read()
        log.configure(format=loaded.settings.log.format, level=loaded.settings.log.level)
        return loaded

    def state_dir(self) -> str:
        """Find the state directory without reading the other settings. Raises ``ConfigError``."""
        from syncd.config.locations import state_dir_of

        return state_dir_of(self.options.get("state_dir"), self.options.get("config"), os.environ)

    def read(self) -> "Loaded":
        """Read the configuration without setting up logging. Raises ``ConfigError``."""
        from syncd.config import loader

        names = {"models_dir", "state_dir", "log_level", "log_format"} & self.options.keys()
        flags = {name.replace("log_", "log."): self.options[name] for name in names}
        return loader.load(self.options.get("config"), flags, os.environ)


pass_invocation = click.make_pass_decorator(Invocation)
json_option = click.option(
    "--json", "as_json", is_flag=True, help="One JSON object (docs/schemas)."
)


def print_json(document: Mapping[str, object]) -> None:
    """Print the ``--json`` output of a command; docs/schemas describes version 1 of each."""
    import json

    click.echo(json.dumps({"schema": 1, **document}, indent=2))


ONCE_HELP = "Upload everything that is missing from the catalog, then exit."


@click.command(
    cls=LazyGroup,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    params=global_options(),
)
@click.option("--once", is_flag=True, help=ONCE_HELP)
@click.version_option(__version__, message="syncd %(version)s")
@click.pass_context
def main(ctx: click.Context, once: bool) -> int | None:
    """
    Upload the models of a ComfyUI installation to a team's Cyberun catalog.

    Cyberun is a cloud service for teams that use ComfyUI. Its catalog lists the team's models, and
    the team's agents (the machines that run workflows) download every model in it.

    syncd watches the models directory, uploads new and changed files and registers them in the
    catalog. The sync is one way: syncd never changes a model file, and by default deleting a local
    file changes nothing in the catalog.

    Without a command, syncd runs in the foreground until it is stopped.
    """
    if once and ctx.invoked_subcommand not in (None, "run"):
        raise click.UsageError(f"--once cannot be used with {ctx.invoked_subcommand}")
    ctx.obj = Invocation(once, ctx.meta.setdefault(_OPTIONS, {}))
    return _run(ctx.obj, once) if ctx.invoked_subcommand is None else None


@click.command("run")
@click.option("--once", is_flag=True, help=ONCE_HELP)
@pass_invocation
def run_command(invocation: Invocation, once: bool) -> int:
    """Watch the models directories and upload new and changed files, until stopped."""
    return _run(invocation, once or invocation.once)


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
    from click.shell_completion import get_completion_class

    found = get_completion_class(shell)
    assert found is not None, "click knows these three"
    # Not source(): it runs bash, which may not be installed here.
    complete = found(main, {}, "syncd", "_SYNCD_COMPLETE")
    click.echo(complete.source_template % complete.source_vars())
    return 0


def _run(invocation: Invocation, once: bool) -> int:
    from syncd.daemon.process import reduce_memory_footprint

    reduce_memory_footprint()
    loaded = invocation.load()
    from syncd.cli.run import run

    return run(loaded, once, invocation.read)


def status_of(args: Sequence[str]) -> int:
    """Run the command line *args* and return its exit code; errors are printed to stderr."""
    try:
        return main.main(list(args), prog_name="syncd", standalone_mode=False) or 0
    except click.Abort:
        _print_error("interrupted; progress is kept")
        return INTERRUPTED
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except SyncdError as error:
        _print_error(str(error))
        return error.exit_code
    except Exception as error:
        _print_internal_error(error)
        return INTERNAL_ERROR


def _print_error(text: str) -> None:
    from syncd.monitoring.log import scrub

    click.echo(f"syncd: {scrub(text)}", err=True)


def _print_internal_error(error: Exception) -> None:
    """Print what a bug report needs; at level debug the traceback, without local variables."""
    from syncd.types import printable

    debug = logging.getLogger().isEnabledFor(logging.DEBUG)
    if debug:
        lines = "".join(traceback.format_exception(error)).splitlines()
        _print_error("traceback\n" + "\n".join(map(printable, lines)))
    _print_error(
        f"internal error: {type(error).__name__}: {printable(str(error))[:300]} "
        f"(syncd {__version__}). Progress is kept. "
        f"{'Please report it.' if debug else 'Please report it with the output of --log-level debug.'}"
    )


def leave(code: int) -> NoReturn:
    """Exit without waiting for threads that still wait for a server: everything is committed."""
    if threading.active_count() == 1:
        sys.exit(code)
    logging.shutdown()  # flush buffered log lines
    with contextlib.suppress(OSError):  # the reader of our output may be gone
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)
