"""``syncd`` and ``syncd --once``: runs the service and shows its progress."""

import asyncio
import gc
import os
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

import structlog

from syncd.cli import status_text, tables
from syncd.cli.status_data import read_summary
from syncd.config.loader import Loaded
from syncd.config.sources import DEFAULT
from syncd.daemon.systemd import SystemdNotifier
from syncd.errors import SyncdError
from syncd.monitoring.progress import Meter

if TYPE_CHECKING:
    from syncd.daemon.service import Service


class NoCredential(SyncdError):
    exit_code = 77


def run(loaded: Loaded, once: bool, reread: Callable[[], Loaded] | None = None) -> int:
    """
    Run the daemon; with *once*, upload what is missing and print a summary.

    Args:
        reread: Reads the configuration again on a reload; None: reloads are not supported.

    Raises:
        SyncdError: The daemon could not start.
    """
    from syncd.upload.comfyui_throttle import lower_priority

    require_credential(loaded)
    lower_priority(nice=loaded.settings.guest.nice, idle_io=loaded.settings.guest.idle_io)
    return asyncio.run(_run(loaded, once, reread))


def require_credential(loaded: Loaded) -> Loaded:
    """Return *loaded* if it has a credential, otherwise raise ``NoCredential``."""
    if loaded.credential.current() is None:
        raise NoCredential(
            "No credential: syncd cannot use the Cyberun API. Run: syncd login, or put a device key "
            "(dk-...) into a file that only its owner can read and name it in api.token_file "
            "(SYNCD_API__TOKEN_FILE)."
        )
    return loaded


async def _run(loaded: Loaded, once: bool, reread: Callable[[], Loaded] | None) -> int:
    # Imported modules are never garbage: scanning them would take a tenth of the start, and a tenth
    # of a second on each collection.
    gc.disable()
    from syncd.daemon.service import Service

    gc.freeze()
    gc.enable()

    meter = Meter()
    service = Service(
        loaded.settings,
        loaded.credential,
        meter=meter,
        once=once,
        notifier=SystemdNotifier.taken_from(os.environ),
        reread=reread and (lambda: require_credential(reread())),
    )
    if not once:
        return await service.run()
    with _live_view(loaded, meter) if sys.stderr.isatty() else nullcontext():
        code = await service.run()
    _summary(service, loaded, meter)
    return code


def _live_view(loaded: Loaded, meter: Meter) -> AbstractContextManager[object]:
    """Show progress instead of log lines; log errors only, unless log.level is set."""
    from syncd.cli import live_view
    from syncd.monitoring import log

    if loaded.origins["log.level"] == DEFAULT:
        log.configure(format=loaded.settings.log.format, level="error", stream=sys.stderr)
    return live_view.run_view(meter)


def _summary(service: "Service", loaded: Loaded, meter: Meter) -> None:
    if service.ending.root_error is not None:
        sys.stderr.write(f"syncd: {service.ending.root_error}\n")
        return
    state_dir, listed = os.fspath(loaded.settings.state_dir), status_text.LISTED
    summary = read_summary(state_dir, registered=listed, to_do=listed)
    files = sum(amount.files for amount in summary.status.amounts.values())
    structlog.get_logger("syncd.run").debug("run.ended", files=files)
    unsettled, problems = service.ending.unsettled, service.ending.problems
    snapshot = meter.snapshot()
    items = status_text.summary_text(
        summary, unsettled=unsettled, problems=problems, snapshot=snapshot
    )
    tables.show(items)
