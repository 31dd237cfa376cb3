"""
Binds the state directory to one cloud and one team.

A credential of another team is never used, at the start or after a replacement: the records of one
state directory would otherwise be in two catalogs.
"""

import os
from dataclasses import dataclass, field
from functools import partial

from syncd.clock import Clock
from syncd.cloud.credentials import Credentials
from syncd.cloud.factory import build_cloud_client, build_credentials
from syncd.cloud.listing import PROOFS, shows
from syncd.cloud.transport import Transport
from syncd.config.credential import CredentialSource
from syncd.config.settings import Settings, require_claimed
from syncd.core.jobs.error_mapping import to_error
from syncd.errors import ConfigError, JobError
from syncd.executors import Executors
from syncd.store.store import Store
from syncd.types import Kind, Session, printable


@dataclass(slots=True)
class TeamGuard:
    """
    Keeps the state directory to one cloud and one team.

    Args:
        source: Where the credential comes from.
    """

    settings: Settings
    source: CredentialSource
    store: Store
    lanes: Executors
    clock: Clock
    _team_id: str | None = field(default=None, init=False)
    _foreign_key: str | None = field(default=None, init=False)

    def use_source(self, source: CredentialSource) -> None:
        """Read the credential from *source* from now on."""
        self.source = source

    async def bind_state_dir(self, session_team: str | None) -> None:
        """Bind the state directory to the cloud and team. Raises as ``require_same_cloud``."""
        self._team_id = await self.lanes.db(
            require_same_cloud, self.store, self.settings, session_team
        )

    def session_team(self) -> str | None:
        """The team of the configured session; None for other credentials."""
        found = self.source.current()
        return found.team_id if isinstance(found, Session) else None

    def credentials(self, transport: Transport) -> Credentials:
        """The credentials for *transport*; each device key is verified before its first use."""
        return build_credentials(
            transport,
            self._current,
            self.source.stored,
            clock=self.clock,
            verify=partial(self.verify, transport),
        )

    async def verify(self, transport: Transport, key: str | None) -> None:
        """
        Check that a device key belongs to the team whose catalog the records here are in.

        Args:
            key: None for a session, whose team is known.

        Raises:
            JobError: The key shows none of the records, or the cloud could not be asked.
        """
        servers = self.store.servers
        if key is not None and not await self.lanes.db(servers.trusts_key, key):
            records = await self.lanes.db(self.store.report.newest_records, PROOFS)
            credentials = Credentials(lambda: key, clock=self.clock)
            api = build_cloud_client(self.settings, transport, credentials, clock=self.clock)
            if key == self._foreign_key or not await shows(api, records):
                self._foreign_key = key  # asked only once
                raise self._foreign()
        await self.lanes.db(servers.trust_key, key)

    def _current(self) -> str | Session | None:
        """The configured credential, unless it is a session of another team than before."""
        found = self.source.current()
        if isinstance(found, Session) and self._team_id not in (None, found.team_id):
            raise ConfigError(f"the session is for the team {found.team_id}, not {self._team_id}")
        return found

    def _foreign(self) -> JobError:
        return to_error(
            Kind.DEVICE_KEY_REFUSED,
            "the device key shows none of the newest records that were registered from "
            f"{printable(os.fspath(self.settings.state_dir))}: they are in the catalog of another "
            "team, or were deleted there",
            advice="Put a key of that team in its place, or give each team a state_dir of its own. "
            "If they were deleted, stop syncd and say so: syncd login --team ID",
        )


def require_same_cloud(
    store: Store, settings: Settings, session_team: str | None = None
) -> str | None:
    """
    Bind the state directory to the configured cloud and team; return the team, None if unknown.

    Args:
        session_team: The team of a stored session; it has precedence over ``api.team_id``.

    Raises:
        ConfigError: It belongs to another cloud or team.
    """
    wanted = session_team or settings.api.team_id
    claimed = store.servers.claim_state(settings.api.base_url, wanted)
    require_claimed(settings, claimed, wanted)
    return claimed[1]
