"""``syncd`` and ``syncd --once``: runs the service and shows how it goes."""

import asyncio
import gc
import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

import structlog

from syncd.cli.reading import read_summary
from syncd.config.loader import Loaded
from syncd.config.sources import DEFAULT
from syncd.daemon.notify import SystemdNotifier
from syncd.errors import SyncdError
from syncd.monitoring.progress import Meter

if TYPE_CHECKING:
    from syncd.daemon.service import Service


class NoCredential(SyncdError):
    """There is no token to speak to the cloud with."""

    exit_code = 77

    def __init__(self) -> None:
        super().__init__(
            "No credential: syncd cannot speak to the cloud. Run: syncd login, or put a device key "
            "(dk-...) into a file that only its owner can read and name it in api.token_file "
            "(SYNCD_API__TOKEN_FILE)."
        )


def run(loaded: Loaded, once: bool, reread: Callable[[], Loaded] | None = None) -> int:
    """
    Run the daemon, or with *once* one backfill, with bars on a terminal and a summary at its end.

    Args:
        reread: Reads the configuration again, from where *loaded* came; None: there is no reload.

    Raises:
        SyncdError: It could not be started.
    """
    from syncd.upload.comfyui_throttle import lower_priority

    require_credential(loaded)
    lower_priority(nice=loaded.settings.guest.nice, idle_io=loaded.settings.guest.idle_io)
    return asyncio.run(_run(loaded, once, reread))


def require_credential(loaded: Loaded) -> Loaded:
    """
    *loaded*, where it has a credential.

    Raises:
        NoCredential: It has none.
    """
    if loaded.credential.current() is None:
        raise NoCredential
    return loaded


async def _run(loaded: Loaded, once: bool, reread: Callable[[], Loaded] | None) -> int:
    # What is imported stays: looking for garbage in it costs a tenth of the start, and later a tenth
    # of a second each time.
    gc.disable()
    from syncd.daemon.service import Service

    gc.freeze()
    gc.enable()

    meter = Meter()
    notifier = SystemdNotifier.taken_from(os.environ)
    service = Service(
        loaded.settings,
        loaded.credential,
        meter=meter,
        once=once,
        notifier=notifier,
        reread=reread and (lambda: require_credential(reread())),
    )
    if not once:
        return await service.run()
    if sys.stderr.isatty():
        code = await _with_bars(service, loaded, meter)
    else:
        code = await service.run()
    _summary(service, loaded, meter)
    return code


async def _with_bars(service: "Service", loaded: Loaded, meter: Meter) -> int:
    """Bars instead of log lines; only errors are still logged, unless a level was asked for."""
    from rich.console import Console

    from syncd.cli import render
    from syncd.monitoring import log

    if loaded.origins["log.level"] == DEFAULT:
        log.configure(format=loaded.settings.log.format, level="error", stream=sys.stderr)
    with render.drawn(meter, Console(stderr=True)):
        return await service.run()


def _summary(service: "Service", loaded: Loaded, meter: Meter) -> None:
    from syncd.cli import render, tables

    if service.ending.root_error is not None:
        sys.stderr.write(f"syncd: {service.ending.root_error}\n")
        return
    summary = read_summary(
        os.fspath(loaded.settings.state_dir), registered=tables.LISTED, on_the_way=tables.LISTED
    )
    files = sum(amount.files for amount in summary.standing.amounts.values())
    structlog.get_logger("syncd.run").debug("run.ended", files=files)
    told = tables.summary(
        summary,
        unsettled=service.ending.unsettled,
        problems=service.ending.problems,
        snapshot=meter.snapshot(),
    )
    render.show(render.console(), told)
