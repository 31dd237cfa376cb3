"""Reloads the configuration of a running daemon: all of it that can change, or nothing."""

import asyncio
from collections.abc import Callable
from dataclasses import replace

import structlog

from syncd.config.loader import Loaded
from syncd.config.reload import LiveSettings, reloaded
from syncd.daemon.components import Components
from syncd.daemon.systemd import SystemdNotifier
from syncd.errors import SyncdError
from syncd.monitoring import log

_log = structlog.get_logger(__name__)


class Reloader:
    """
    Replaces the current settings on request.

    Args:
        reread: Reads the configuration again; None: a reload cannot be requested.
    """

    def __init__(
        self,
        live: LiveSettings,
        *,
        reread: Callable[[], Loaded] | None,
        notifier: SystemdNotifier,
    ) -> None:
        self._live = live
        self._reread = reread
        self._notifier = notifier
        self._requested = asyncio.Event()

    @property
    def available(self) -> bool:
        return self._reread is not None

    def request(self) -> None:
        """Reload as soon as possible."""
        self._requested.set()

    async def run(self, components: Components) -> None:
        """Carry out requests until cancelled."""
        while True:
            await self._requested.wait()
            self._requested.clear()
            assert self._reread is not None, "checked before a reload is requested"
            self._notifier.reloading()
            try:
                loaded = await asyncio.to_thread(self._reread)
            except SyncdError as error:
                _log.error("config.reload_refused", reason=str(error))
            else:
                await self._apply(components, loaded)
            self._notifier.ready()

    async def _apply(self, components: Components, loaded: Loaded) -> None:
        result = reloaded(self._live.settings, loaded.settings)
        settings = self._live.settings = result.settings
        log.configure(format=settings.log.format, level=settings.log.level)
        components.on_reload()
        components.ingest.on_settings_changed(result.changed)
        components.team_guard.use_source(replace(loaded.credential, team_id=settings.api.team_id))
        await components.credential_check.reload()
        _log.info("config.reloaded", changed=result.changed)
        if result.left:
            _log.warning("config.reload_needs_restart", keys=result.left)
