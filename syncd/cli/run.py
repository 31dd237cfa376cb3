"""``syncd`` and ``syncd --once``: runs the service and shows how it goes."""

import asyncio
import contextlib
import os
import sys
from typing import TYPE_CHECKING

import structlog

from syncd.cli.reading import read_files
from syncd.config import DEFAULT, Loaded
from syncd.errors import SyncdError
from syncd.progress import Meter

if TYPE_CHECKING:
    from syncd.service import Service


class NoCredential(SyncdError):
    """There is no token to speak to the cloud with."""

    exit_code = 77


def run(loaded: Loaded, once: bool) -> int:
    """
    Run the daemon, or with *once* one backfill, with bars on a terminal and a summary at its end.

    Raises:
        SyncdError: It could not be started.
    """
    require_credential(loaded)
    return asyncio.run(_run(loaded, once))


def require_credential(loaded: Loaded) -> None:
    """
    Go on only where there is a token.

    Raises:
        NoCredential: There is none.
    """
    if loaded.credential.read()[0] is None:
        raise NoCredential(
            "No credential: syncd cannot speak to the cloud. Put a device key (dk-...) into a file "
            "that only its owner can read and name it in api.token_file, or set SYNCD_API__TOKEN."
        )


async def _run(loaded: Loaded, once: bool) -> int:
    from syncd.service import Service

    meter = Meter()
    service = Service(loaded.settings, loaded.credential, meter=meter)
    if not once:
        return await service.run(once=False)
    if sys.stderr.isatty():
        code = await _with_bars(service, loaded, meter)
    else:
        code = await service.run(once=True)
    _summary(service, loaded, meter)
    return code


async def _with_bars(service: "Service", loaded: Loaded, meter: Meter) -> int:
    """Bars instead of log lines; only errors are still logged, unless a level was asked for."""
    from rich.console import Console

    from syncd import log
    from syncd.cli import render

    if loaded.origins["log.level"] == DEFAULT:
        log.configure(format=loaded.settings.log.format, level="error", stream=sys.stderr)
    drawing = asyncio.create_task(render.draw(meter, Console(stderr=True)))
    try:
        return await service.run(once=True)
    finally:
        drawing.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await drawing


def _summary(service: "Service", loaded: Loaded, meter: Meter) -> None:
    from syncd.cli import render

    if service.ending.root_error is not None:
        sys.stderr.write(f"syncd: {service.ending.root_error}\n")
        return
    reading = read_files(os.fspath(loaded.settings.state_dir))
    structlog.get_logger("syncd.run").debug("run.ended", files=len(reading.files))
    render.summary(
        render.console(),
        reading.files,
        unsettled=service.ending.unsettled,
        problems=service.ending.problems,
        holds=reading.holds,
        snapshot=meter.snapshot(),
    )
