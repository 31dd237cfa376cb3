"""Loads a replaced credential while the daemon runs, and keeps an idle session alive."""

from dataclasses import dataclass, field

import structlog

from syncd.clock import Clock
from syncd.cloud.credentials import Credentials
from syncd.daemon.team_guard import TeamGuard
from syncd.errors import JobError
from syncd.executors import Executors
from syncd.store.store import Store
from syncd.types import HeldClass, HoldKind
from syncd.upload.hold_tracker import HoldTracker

_log = structlog.get_logger(__name__)


@dataclass(slots=True)
class CredentialCheck:
    """Checks the credential between requests; each distinct error is logged once."""

    credentials: Credentials
    team_guard: TeamGuard
    holds: HoldTracker
    store: Store
    lanes: Executors
    clock: Clock
    _logged: str | None = field(default=None, init=False)

    async def run(self) -> None:
        """Load a replaced credential, verify it, and renew a session that is about to end."""
        await self.reload()
        try:
            await self.credentials.ready()
        except JobError as error:
            fields = {"error": str(error), "advice": error.advice}
            if str(error) == self._logged:
                pass
            elif self.credentials.is_session:
                _log.error("session.ended", **fields)
            else:
                _log.error("credential.unverified", **fields)
            self._logged = str(error)
        else:
            self._logged = None

    async def reload(self) -> None:
        """If the credential was replaced, load it and let the jobs that waited for one continue."""
        credentials = self.credentials
        if not await credentials.reload():
            return
        _log.info("credential.replaced", kind=credentials.kind)
        await self.team_guard.bind_state_dir(credentials.team_id)
        if credentials.is_session:
            await self.lanes.db(self.store.jobs.free_class, HeldClass.LARGE, self.clock.now_ms())
        await self.holds.end(HoldKind.OPERATOR)
