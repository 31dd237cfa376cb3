"""A stored session is renewed in time, by one process at a time, and is on disk before it is used."""

import asyncio
import json
import os
import stat
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from syncd.cloud.client import CloudClient
from syncd.cloud.factory import build_credentials
from syncd.cloud.host_policy import HostPolicy
from syncd.cloud.transport import Transport, build_client
from syncd.config.credential_files import Stored
from syncd.errors import ConfigError, JobError, NeedsOperator
from syncd.sandbox.faults import Fault, Rule
from syncd.sandbox.history import Entry
from syncd.sandbox.server import Sandbox
from syncd.sandbox.switches import Switches
from syncd.types import Call, Kind, Session
from tests.fakes import FakeClock
from tests.visitor import Visitor, good

HOUR_S = 3600
STRICT = Switches(reuse_ends_chain=True)


@dataclass
class Installation:
    """A state directory with a session, and a clock of its own."""

    cloud: Sandbox
    stored: Stored
    clock: FakeClock = field(default_factory=FakeClock)

    def sign_in(self, *, left_s: float = HOUR_S) -> Session:
        """Keep a fresh session that has *left_s* of an hour left by this machine's clock."""
        with Visitor(self.cloud) as visitor:
            said = {"email_address": self.cloud.email, "user_password": self.cloud.password}
            pair = good(visitor.post("/auth/login", **said))
        now_ms = self.clock.now_ms()
        session = Session(
            base_url=self.cloud.base_url,
            team_id=self.cloud.team_id,
            access=pair["access_token"],
            refresh=pair["refresh_token"],
            begun_at=now_ms - int((HOUR_S - left_s) * 1000),
            expires_at=now_ms + int(left_s * 1000),
        )
        self.stored.prepare()
        held = self.stored.try_lock()
        assert held is not None
        with held:
            self.stored.write_session(session)
        return session

    @asynccontextmanager
    async def running(self) -> AsyncIterator[CloudClient]:
        """A syncd that uses the session."""
        url, clock = self.cloud.base_url, self.clock
        async with build_client() as http:
            transport = Transport(url, http, clock=clock, jitter=lambda: 1.0)
            credentials = build_credentials(
                transport, self.stored.session, self.stored, clock=clock
            )
            hosts = HostPolicy.of(url, (), allow_http=False)
            try:
                yield CloudClient(transport, credentials, hosts=hosts, clock=clock)
            finally:
                await credentials.close()

    def kept(self) -> Session:
        session = self.stored.session()
        assert session is not None
        return session

    def refreshes(self) -> list[int | None]:
        """What the cloud answered to each renewal."""
        history = self.cloud.history.entries()
        renewals = [entry for entry in history if entry.call == Call.REFRESH]
        return [entry.answered if entry.status is None else entry.status for entry in renewals]


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Installation]:
    with Sandbox(tmp_path / "cloud", switches=STRICT) as cloud:
        yield Installation(cloud, Stored(tmp_path / "state", cloud.base_url))


async def failure(call: object) -> JobError:
    with pytest.raises(JobError) as caught:
        await call  # type: ignore[misc]
    return caught.value


@pytest.mark.parametrize(("left_s", "renewals"), [(301, 0), (299, 1), (-HOUR_S, 1)])
async def test_a_session_is_renewed_five_minutes_before_it_ends(
    place: Installation, left_s: float, renewals: int
) -> None:
    before = place.sign_in(left_s=left_s)
    async with place.running() as api:
        await api.me()
        await api.me()

    assert place.refreshes() == [200] * renewals
    assert (place.kept() != before) == bool(renewals)


async def test_a_machine_that_slept_renews_before_it_asks_for_anything(place: Installation) -> None:
    place.sign_in()
    async with place.running() as api:
        await api.me()
        place.clock.suspend(2 * HOUR_S)
        place.cloud.skip(2 * HOUR_S)
        await api.me()

    asked = [entry.call for entry in place.cloud.history.entries()]
    assert asked == ["login", Call.ME, Call.REFRESH, Call.ME]


async def test_a_401_renews_once_and_repeats_once(place: Installation) -> None:
    place.sign_in()
    place.cloud.skip(HOUR_S + 1)
    async with place.running() as api:
        await api.me()
        place.cloud.faults.add(Rule(Fault.ANSWER, call=Call.ME, status=401, count=None))
        error = await failure(api.me())

    asked = [entry.call for entry in place.cloud.history.entries()]
    assert error.kind is Kind.SESSION_REFUSED
    assert asked == ["login", *[Call.ME, Call.REFRESH, Call.ME] * 2]
    assert place.refreshes() == [200, 200]


async def test_I13_the_new_pair_is_on_disk_before_its_first_use(tmp_path: Path) -> None:
    on_disk: list[str] = []
    place: Installation

    def listen(entry: Entry) -> None:
        if entry.call == Call.ME:
            on_disk.append(json.loads(place.stored.session_file.read_text())["access"])

    with Sandbox(tmp_path / "cloud", switches=STRICT, listener=listen) as cloud:
        place = Installation(cloud, Stored(tmp_path / "state", cloud.base_url))
        before = place.sign_in(left_s=10)
        async with place.running() as api:
            await api.me()

    assert on_disk == [place.kept().access]
    assert on_disk != [before.access]
    assert stat.S_IMODE(place.stored.session_file.stat().st_mode) == 0o600


async def test_I13_many_requests_and_two_processes_renew_once(place: Installation) -> None:
    place.sign_in(left_s=10)
    async with place.running() as one, place.running() as other:
        await asyncio.gather(*(api.me() for api in (one, other) for _ in range(5)))

    assert place.refreshes() == [200]


async def test_cancelled_request_does_not_cancel_the_renewal(
    place: Installation,
) -> None:
    before = place.sign_in(left_s=10)
    place.cloud.faults.add(Rule(Fault.DELAY, call=Call.REFRESH, delay_s=2))
    async with place.running() as api:
        request = asyncio.create_task(api.me())
        while place.kept().refresh_sent_at is None:
            await asyncio.sleep(0.01)
        request.cancel()
        await asyncio.gather(request, return_exceptions=True)

    assert place.refreshes() == [200]
    assert place.kept().refresh not in (None, before.refresh)


async def test_lost_renewal_answer_is_reported_and_the_spent_token_tried_once(
    place: Installation,
) -> None:
    place.sign_in(left_s=-1)
    place.cloud.faults.add(Rule(Fault.LOST_ANSWER, call=Call.REFRESH))
    async with place.running() as api:
        first = await failure(api.me())
        second = await failure(api.me())
        third = await failure(api.me())
    async with place.running() as api:
        fourth = await failure(api.me())

    assert (first.kind, first.unclear) == (Kind.NETWORK, False)
    for error in (second, third, fourth):
        assert isinstance(error, NeedsOperator)
        assert "the answer to its renewal of" in str(error)
        assert "was lost" in str(error)
        assert "syncd login --large-files" in str(error.advice)
    assert place.refreshes() == [200, 401]
    assert place.kept().refresh is None


async def test_session_is_used_until_its_end_if_renewal_fails(
    place: Installation,
) -> None:
    place.sign_in(left_s=200)
    place.cloud.faults.add(Rule(Fault.LOST_ANSWER, call=Call.REFRESH))
    async with place.running() as api:
        for _ in range(5):
            await api.me()
        place.clock.advance(40)
        for _ in range(5):
            await api.me()

    assert place.refreshes() == [200, 401]


@pytest.mark.parametrize(
    ("status", "kind"),
    [(429, Kind.API_THROTTLED), (403, Kind.NOT_ALLOWED), (400, Kind.NOT_ALLOWED)],
)
async def test_refusal_for_another_reason_keeps_the_session(
    place: Installation, status: int, kind: Kind
) -> None:
    before = place.sign_in(left_s=-1)
    place.cloud.faults.add(Rule(Fault.ANSWER, call=Call.REFRESH, status=status, body="{}"))
    async with place.running() as api:
        error = await failure(api.me())
        left = place.kept()
        await api.me()

    assert error.kind is kind
    assert left == before


async def test_new_sign_in_is_used_and_sign_out_detected(place: Installation) -> None:
    place.sign_in(left_s=-1)
    dead = replace(place.kept(), refresh=None)
    place.stored.write_session(dead)
    async with place.running() as api:
        ended = await failure(api.me())
        place.sign_in()
        await api._credentials.reread(dead.access)
        await api.me()
        place.stored.remove(place.stored.session_file)
        place.clock.advance(2 * HOUR_S)
        gone = await failure(api.me())

    assert "the server does not renew it" in str(ended)
    assert "signed out" in str(gone)
    assert place.refreshes() == []


# -- what is on disk ------------------------------------------------------------------------------


def test_what_is_kept_is_read_back_and_no_repr_shows_it(place: Installation) -> None:
    session = place.sign_in()

    assert place.kept() == session
    assert session.access not in repr(session)
    assert str(session.refresh) not in repr(session)


def test_of_all_modes_a_session_file_may_have_only_the_owners_own_are_accepted(
    place: Installation,
) -> None:
    place.sign_in()
    accepted, refused = set(), set()

    for mode in range(0o400, 0o777 + 1):
        place.stored.session_file.chmod(mode)
        try:
            place.stored.session()
            accepted.add(mode)
        except ConfigError as error:
            if f"chmod 600 {place.stored.session_file}" in str(error):
                refused.add(mode)

    assert accepted == {0o400, 0o500, 0o600, 0o700}
    assert len(refused) == 256 - 4


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"access": 1}', "not json", '{"team_id": "t"}'])
def test_a_damaged_session_is_refused_with_the_remedy_and_not_shown(
    place: Installation, text: str
) -> None:
    place.sign_in()
    place.stored.session_file.write_text(text)

    with pytest.raises(ConfigError, match="is damaged; remove it") as caught:
        place.stored.session()
    assert caught.value.__cause__ is None


def test_a_session_goes_to_the_cloud_and_for_the_team_it_was_made_for_only(
    place: Installation,
) -> None:
    place.sign_in()

    with pytest.raises(ConfigError, match="is a session at http"):
        replace(place.stored, base_url="https://other.example/api/v1").session()
    with pytest.raises(ConfigError, match="is a session for the team"):
        replace(place.stored, team_id="another").session()


def test_a_write_that_was_cut_short_leaves_nothing_that_counts(place: Installation) -> None:
    session = place.sign_in()
    half = place.stored.session_file.with_name("new")
    half.write_text('{"access": "')
    half.chmod(0o644)

    assert place.kept() == session
    place.stored.make_room()
    place.stored.write_session(replace(session, team_id="t2"))
    assert place.kept().team_id == "t2"
    assert not half.exists()
    assert stat.S_IMODE(place.stored.session_file.stat().st_mode) == 0o600


@pytest.mark.needs("root")
def test_the_state_directory_of_another_user_is_refused_with_the_command(
    place: Installation,
) -> None:
    place.stored.state_dir.mkdir()
    os.chown(place.stored.state_dir, 12345, 12345)

    with pytest.raises(Exception, match="run this as that user: sudo -u #12345 syncd"):
        place.stored.prepare()
