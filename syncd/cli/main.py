"""
The command line: what ``syncd`` is called with, and how it ends.

Nothing heavy is imported before a command needs it: the table below names each command's home and
carries its help line.
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
from types import MappingProxyType
from typing import TYPE_CHECKING, NoReturn

import click

from syncd import __version__
from syncd.core.exit_codes import INTERRUPTED
from syncd.errors import SyncdError

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from syncd.config.loader import Loaded

OUR_BUG = 70


@dataclass(frozen=True, slots=True)
class Lazy:
    """A command that is imported (``target`` is ``module:attribute``) only when it is called."""

    target: str
    help: str

    def load(self) -> click.Command:
        """Import the command."""
        module, _, attribute = self.target.partition(":")
        command = getattr(importlib.import_module(module), attribute)
        assert isinstance(command, click.Command)
        return command


COMMANDS: Mapping[str, Lazy] = MappingProxyType(
    {
        "run": Lazy(
            "syncd.cli.main:run_command", "Keep the catalog in step (what no command means)."
        ),
        "status": Lazy("syncd.cli.status:status", "Tell where each file stands."),
        "retry": Lazy("syncd.cli.control:retry", "Try files again now."),
        "pause": Lazy("syncd.cli.control:pause", "Send nothing more until resume."),
        "resume": Lazy("syncd.cli.control:resume", "End a pause."),
        "limit": Lazy("syncd.cli.control:limit", "Limit upload bandwidth, or show the limit."),
        "scan": Lazy("syncd.cli.control:scan", "Look at the models directories now."),
        "bump": Lazy("syncd.cli.control:bump", "Let queued files go first."),
        "cancel": Lazy("syncd.cli.control:cancel", "Give up on files until they change."),
        "file": Lazy("syncd.cli.inspect:file", "Tell everything about one file."),
        "queue": Lazy("syncd.cli.inspect:queue", "Tell what is on its way and what comes next."),
        "history": Lazy("syncd.cli.inspect:history", "Tell what happened, and why."),
        "plan": Lazy("syncd.cli.plan:plan", "Tell what would be sent, and send nothing."),
        "verify": Lazy("syncd.cli.verify:verify", "Read the registered files again and compare."),
        "gc": Lazy("syncd.cli.gc:gc", "Abort unwanted uploads, forget what is long past."),
        "doctor": Lazy("syncd.cli.doctor:doctor", "Check everything that syncd needs."),
        "health": Lazy("syncd.cli.health:health", "Exit with 0 while a running syncd is well."),
        "support-bundle": Lazy(
            "syncd.cli.support:support_bundle", "Pack what a bug report needs, without secrets."
        ),
        "completion": Lazy("syncd.cli.completion:completion", "Print completion for a shell."),
        "login": Lazy("syncd.cli.login:login", "Get a device key; for large files, a session."),
        "logout": Lazy("syncd.cli.login:logout", "Revoke and remove what login got."),
        "whoami": Lazy("syncd.cli.whoami:whoami", "Tell who syncd is, and what it may upload."),
        "diff": Lazy("syncd.cli.diff:diff", "Compare the tree with the catalog."),
        "safe": Lazy("syncd.cli.safe:safe", "Tell whether this machine may be destroyed."),
        "apply": Lazy("syncd.cli.apply:apply", "Let a plan happen that syncd plan --out wrote."),
        "prune": Lazy("syncd.cli.prune:prune", "Take back records whose files are gone."),
        "config": Lazy("syncd.cli.config:config", "Check and show the configuration."),
        "demo": Lazy("syncd.cli.demo:demo", "Show it all against a stand-in cloud."),
        "sandbox": Lazy("syncd.cli.sandbox:sandbox", "Serve the stand-in cloud on this machine."),
    }
)


class LazyGroup(click.Group):
    """A group that lists ``COMMANDS`` without importing them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        entry = COMMANDS.get(cmd_name)
        return entry.load() if entry else None

    def shell_complete(self, ctx: click.Context, incomplete: str) -> "list[CompletionItem]":
        """The commands that begin so, from the table; options as ever."""
        from click.shell_completion import CompletionItem

        items = [
            CompletionItem(name, help=entry.help)
            for name, entry in COMMANDS.items()
            if name.startswith(incomplete)
        ]
        return [*items, *click.Command.shell_complete(self, ctx, incomplete)]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.help) for name, entry in COMMANDS.items()])


@dataclass(frozen=True, slots=True)
class Invocation:
    """What was given before the command: every command gets it with ``@pass_invocation``."""

    config_file: str | None
    once: bool
    overrides: Mapping[str, str | None]

    def load(self) -> "Loaded":
        """
        Read the configuration and set up the log as it says.

        Raises:
            ConfigError: As ``syncd.config.load``.
        """
        from syncd.monitoring import log

        loaded = self.read()
        log.configure(format=loaded.settings.log.format, level=loaded.settings.log.level)
        return loaded

    def state_dir(self) -> str:
        """
        The state directory, found without reading the rest of the configuration.

        Raises:
            ConfigError: As ``syncd.config.locations.state_dir_of``.
        """
        from syncd.config.locations import state_dir_of

        return state_dir_of(self.overrides["state_dir"], self.config_file, os.environ)

    def read(self) -> "Loaded":
        """Read the configuration, and leave the log as it is. Raises what ``load`` raises."""
        from syncd.config import loader

        return loader.load(self.config_file, self.overrides, os.environ)


pass_invocation = click.make_pass_decorator(Invocation)


@click.command(
    cls=LazyGroup,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.option("--config", "config_file", metavar="FILE", help="The TOML file to read.")
@click.option("--once", is_flag=True, help="Bring the catalog up to date, then end.")
@click.option("--models-dir", metavar="DIR", help="The ComfyUI models directory.")
@click.option("--state-dir", metavar="DIR", help="Directory of syncd's own database.")
@click.option(
    "--log-level",
    metavar="LEVEL",
    type=click.Choice(["debug", "info", "warning", "error"]),
    help="debug, info, warning or error.",
)
@click.option(
    "--log-format", metavar="FORMAT", type=click.Choice(["auto", "console", "json"]),
    help="auto, console or json.",
)  # fmt: skip
@click.version_option(__version__, message="syncd %(version)s")
@click.pass_context
def main(
    ctx: click.Context,
    config_file: str | None,
    once: bool,
    models_dir: str | None,
    state_dir: str | None,
    log_level: str | None,
    log_format: str | None,
) -> int | None:
    """
    Keep a ComfyUI models directory and a team's model catalog in step.

    Without a command, syncd runs in the foreground until it is stopped.
    """
    if log_level == "debug":  # so that a bug on the way to the configuration shows where it is
        logging.getLogger().setLevel(logging.DEBUG)
    if once and ctx.invoked_subcommand not in (None, "run"):
        raise click.UsageError(f"--once has no meaning for {ctx.invoked_subcommand}")
    flags = {
        "models_dir": models_dir,
        "state_dir": state_dir,
        "log.level": log_level,
        "log.format": log_format,
    }
    ctx.obj = Invocation(config_file, once, MappingProxyType(flags))
    return _run(ctx.obj, once) if ctx.invoked_subcommand is None else None


@click.command("run")
@click.option("--once", is_flag=True, help="Bring the catalog up to date, then end.")
@pass_invocation
def run_command(invocation: Invocation, once: bool) -> int:
    """Keep the catalog in step, in the foreground, until stopped."""
    return _run(invocation, once or invocation.once)


def _run(invocation: Invocation, once: bool) -> int:
    from syncd.daemon.process import reduce_memory_footprint

    reduce_memory_footprint()
    loaded = invocation.load()
    from syncd.cli.run import run

    return run(loaded, once, invocation.read)


def status_of(args: Sequence[str]) -> int:
    """Run the command line *args* and return its exit code; whatever went wrong is on stderr."""
    try:
        return main.main(list(args), prog_name="syncd", standalone_mode=False) or 0
    except click.Abort:
        _say("interrupted; progress is kept")
        return INTERRUPTED
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except SyncdError as error:
        _say(str(error))
        return error.exit_code
    except Exception as error:
        _say_bug(error)
        return OUR_BUG


def _say(text: str) -> None:
    from syncd.monitoring.log import scrub

    click.echo(f"syncd: {scrub(text)}", err=True)


def _say_bug(error: Exception) -> None:
    """What a report needs; the traceback (never with local variables) only at level debug."""
    from syncd.monitoring.log import digest
    from syncd.types import printable

    debug = logging.getLogger().isEnabledFor(logging.DEBUG)
    if debug:
        lines = "".join(traceback.format_exception(error)).splitlines()
        _say("traceback\n" + "\n".join(map(printable, lines)))
    _say(
        f"a bug of its own: {type(error).__name__}: {printable(str(error))[:300]} "
        f"(syncd {__version__}, digest {digest(error)}). Progress is kept. "
        f"{'Please report it.' if debug else 'Please report it, with what --log-level debug says.'}"
    )


def leave(code: int) -> NoReturn:
    """End now: all is committed, and threads that still wait for a server would be waited for."""
    if threading.active_count() == 1:
        sys.exit(code)
    logging.shutdown()  # it may owe a line
    with contextlib.suppress(OSError):  # whoever read our output may have gone
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)
