"""``syncd login``, ``logout`` and ``whoami``, at a terminal and in scripts, against a real socket."""

import itertools
import json
import os
import pty
import re
import select
import signal
import stat
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import httpx
import jsonschema
import pytest

from syncd.config.credential_files import Stored
from syncd.sandbox.faults import Fault, Rule
from syncd.sandbox.server import Sandbox
from syncd.sandbox.switches import Switches
from syncd.types import Call, Session
from tests.integration.harness import (
    COMMAND,
    DEADLINE_S,
    PROJECT,
    Finished,
    Home,
    Nursery,
    records,
    until,
)
from tests.ports import free_ports

QUICK = Switches(pairing_interval_s=1, part_size=5 * 1024 * 1024)


@pytest.fixture
def cloud(tmp_path: Path) -> Iterator[Sandbox]:
    with Sandbox(tmp_path / "cloud", switches=replace(QUICK, more_teams=("Second",))) as sandbox:
        yield sandbox


@pytest.fixture
def box(tmp_path: Path, cloud: Sandbox) -> Home:
    """A machine without any credential, and with no keyring."""
    return unsigned(Home.at(tmp_path / "home", cloud))


def unsigned(home: Home) -> Home:
    home.env.pop("SYNCD_API__TOKEN", None)
    home.env["PYTHON_KEYRING_BACKEND"] = "keyring.backends.null.Keyring"
    return home


@dataclass
class Terminal:
    """A command at a terminal of its own."""

    process: "subprocess.Popen[bytes]"
    fd: int
    seen: str = ""
    at: int = field(default=0)

    def wait_for(self, pattern: str) -> re.Match[str]:
        """What it writes next that fits; the text before it counts as read."""
        deadline_s = time.monotonic() + DEADLINE_S
        while (found := re.compile(pattern).search(self.seen, self.at)) is None:
            assert time.monotonic() < deadline_s, f"{pattern!r} did not come:\n{self.seen}"
            assert self._read() or re.search(pattern, self.seen[self.at :]), self.seen
        self.at = found.end()
        return found

    def type(self, text: str) -> None:
        os.write(self.fd, text.encode())

    def end(self) -> int:
        """Its exit code, once it has said everything."""
        while self._read():
            pass
        return self.process.wait(DEADLINE_S)

    def _read(self) -> bool:
        ready, _, _ = select.select([self.fd], [], [], DEADLINE_S)
        assert ready, f"nothing more comes:\n{self.seen}"
        try:
            data = os.read(self.fd, 4096)
        except OSError:  # the other end is closed
            return False
        self.seen += data.decode()
        return bool(data)


@contextmanager
def terminal(home: Home, *args: str) -> Iterator[Terminal]:
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        ["setsid", "--ctty", *COMMAND, *args],
        cwd=PROJECT,
        env={**home.environment(), "TERM": "xterm"},
        stdin=follower,
        stdout=follower,
        stderr=follower,
    )
    os.close(follower)
    try:
        yield Terminal(process, leader)
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        os.close(leader)


def approve(address: str, **more: str) -> None:
    """What the user does in a browser."""
    httpx.get(address, params=httpx.URL(address).params.merge(more), trust_env=False, verify=False)


def pair(home: Home, *args: str, code: int = 0, **more: str) -> str:
    """Run ``syncd login``, approve it, and return what it prints, without line breaks."""
    with terminal(home, "login", *args) as screen:
        approve(screen.wait_for(r"http://\S+user_code=[A-Z0-9-]+")[0], **more)
        assert screen.end() == code, screen.seen
    return re.sub(r"\s+", " ", screen.seen)


def sign_in(home: Home, cloud: Sandbox, *args: str, password: str | None = None) -> Finished:
    done = subprocess.run(
        [*COMMAND, "login", "--large-files", "--email", cloud.email, "--password-stdin", *args],
        cwd=PROJECT,
        env=home.environment(),
        input=f"{cloud.password if password is None else password}\n",
        text=True,
        capture_output=True,
        check=False,
    )
    return Finished(done.returncode, done.stdout, done.stderr, 0)


def give_key(home: Home, cloud: Sandbox) -> str:
    """What an earlier ``syncd login`` has left."""
    place = Stored(home.state, cloud.base_url)
    place.prepare()
    place.write_device_key(cloud.device_key)
    return cloud.device_key


def give_session(home: Home, cloud: Sandbox) -> None:
    """What an earlier ``syncd login --large-files`` has left."""
    place, now_ms = Stored(home.state, cloud.base_url), time.time_ns() // 1_000_000
    place.prepare()
    place.write_session(
        Session(
            base_url=cloud.base_url,
            team_id=cloud.team_id,
            access=cloud.session_token,
            refresh=cloud.refresh_token,
            begun_at=now_ms,
            expires_at=now_ms + 3_600_000,
        )
    )


def with_keyring(home: Home, folder: Path) -> Path:
    """Give *home* a keyring; the file that it is in."""
    ring = folder / "ring.json"
    home.env |= {
        "PYTHON_KEYRING_BACKEND": "tests.integration.keyrings.InFile",
        "TEST_KEYRING": str(ring),
    }
    return ring


def key_of(home: Home) -> str:
    return (home.state / "credentials/api_token").read_text()


def session_of(home: Home) -> dict[str, object]:
    return dict(json.loads((home.state / "credentials/session.json").read_text()))


def everything(home: Home) -> str:
    files = [path for path in home.state.rglob("*") if path.is_file()]
    return "".join(path.read_bytes().decode("latin-1") for path in files)


def whoami(home: Home, code: int = 0) -> dict[str, object]:
    done = home.run("whoami", "--json")
    assert done.code == code, done.err
    document: dict[str, object] = json.loads(done.out)
    schema = json.loads((PROJECT / "docs/schemas/whoami.schema.json").read_text())
    jsonschema.validate(document, schema)
    return document


# -- pairing --------------------------------------------------------------------------------------


def test_pairing_shows_address_code_and_qr_and_keeps_only_the_device_key(
    box: Home, cloud: Sandbox
) -> None:
    seen = pair(box)
    key = key_of(box)
    agent_keys = [each for each in cloud._accounts._keys if each.startswith("ak-")]
    again = box.run("login")

    assert "▀" in seen
    assert re.search(r"confirm the code [A-Z0-9]{4}-[A-Z0-9]{4} there", seen)
    assert "Signed in as Ada Example <ada@example.org>" in seen
    assert cloud._accounts.identify(key) is not None
    assert stat.S_IMODE((box.state / "credentials/api_token").stat().st_mode) == 0o600
    assert stat.S_IMODE((box.state / "credentials").stat().st_mode) == 0o700
    for secret in (key, *agent_keys):
        assert secret not in seen
    for secret in agent_keys:
        assert secret not in everything(box)
    assert (again.code, cloud.history.count("pair_start")) == (0, 1)
    assert "has a device key" in again.out


def test_polls_keep_the_interval_and_a_429_doubles_it(box: Home, cloud: Sandbox) -> None:
    cloud.faults.add(Rule(Fault.ANSWER, call=Call.PAIR_POLL, status=429, body="{}"))
    with terminal(box, "login") as screen:
        address = screen.wait_for(r"http://\S+user_code=[A-Z0-9-]+")[0]
        while cloud.history.count(Call.PAIR_POLL) < 2:
            time.sleep(0.05)
        approve(address)
        assert screen.end() == 0, screen.seen

    times = [entry.at_ms for entry in cloud.history.entries(Call.PAIR_START, Call.PAIR_POLL)]
    gaps = [round((after - before) / 1000) for before, after in itertools.pairwise(times)]
    assert gaps[0] >= 1
    assert all(gap >= 2 for gap in gaps[1:])


def test_a_void_code_is_explained_and_followed_by_a_new_one(box: Home, cloud: Sandbox) -> None:
    with terminal(box, "login") as screen:
        screen.wait_for(r"http://\S+user_code=[A-Z0-9-]+")
        cloud.skip(301)
        screen.wait_for("The code is void")
        approve(screen.wait_for(r"http://\S+user_code=[A-Z0-9-]+")[0])

        assert screen.end() == 0, screen.seen
    assert "Access page" not in screen.seen


def test_a_code_that_nobody_confirms_ends_with_77(box: Home, cloud: Sandbox) -> None:
    cloud.switches = replace(QUICK, pairing_lifetime_s=2)
    done = box.run("login")

    assert done.code == 77
    assert "The code was not confirmed" in done.said
    assert not (box.state / "credentials/api_token").exists()


def test_a_key_that_comes_from_elsewhere_is_not_paired_over(box: Home, cloud: Sandbox) -> None:
    box.env["SYNCD_API__TOKEN"] = cloud.device_key
    done = box.run("login")

    assert done.code == 78
    assert "SYNCD_API__TOKEN takes precedence" in done.said
    assert not cloud.history.entries()


def test_a_revoked_key_is_paired_anew(box: Home, cloud: Sandbox) -> None:
    before = give_key(box, cloud)
    cloud.revoke(before)
    refused = whoami(box, 77)
    pair(box)

    assert refused["says"] == "nothing, until the credential is accepted again"
    assert key_of(box) != before


def test_a_usable_keyring_keeps_the_key_and_a_file_does_not(box: Home, tmp_path: Path) -> None:
    ring = with_keyring(box, tmp_path)
    pair(box)
    said = whoami(box)
    shown = box.run("config", "show").out
    kept = list(json.loads(ring.read_text()).values())
    out = box.run("logout")

    assert [each[:3] for each in kept] == ["dk-"]
    assert not (box.state / "credentials/api_token").exists()
    assert said["keyring"] == "keyrings"
    assert re.search(r"api\.token +\*\*\* +keyring \(keyrings\)", shown)
    assert (out.code, json.loads(ring.read_text())) == (0, {})


# -- a session ------------------------------------------------------------------------------------


def test_large_files_are_signed_in_for_at_a_terminal_and_the_password_is_nowhere(
    box: Home, cloud: Sandbox
) -> None:
    with terminal(box, "login", "--large-files") as screen:
        screen.wait_for("E-mail: ")
        screen.type(f"{cloud.email}\r")
        screen.wait_for("Password: ")
        screen.type(f"{cloud.password}\r")
        screen.wait_for(r"1  Sandbox  \S+\s+2  Second  \S+\s+Team \(1-2\): ")
        screen.type("2\r")
        assert screen.end() == 0, screen.seen

    kept = session_of(box)
    assert kept["team_id"] == [*cloud.teams][1]
    assert "until you run syncd logout" in screen.seen
    assert "for the team Second" in screen.seen
    for secret in (cloud.password, str(kept["access"]), str(kept["refresh"])):
        assert secret not in screen.seen
    assert cloud.password not in everything(box)
    assert stat.S_IMODE((box.state / "credentials/session.json").stat().st_mode) == 0o600


def test_a_wrong_password_ends_with_77_and_says_what_it_may_be(box: Home, cloud: Sandbox) -> None:
    done = sign_in(box, cloud, password="wrong CANARY")

    assert done.code == 77
    assert "Google" in done.said
    assert "CANARY" not in done.said + done.out
    assert not (box.state / "credentials/session.json").exists()


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--password-stdin"], "--email"),
        (["--email", "a@b"], "--password-stdin"),
    ],
)
def test_a_password_is_asked_for_where_somebody_can_answer(
    box: Home, args: list[str], said: str
) -> None:
    done = box.run("login", "--large-files", *args)

    assert done.code == 2
    assert said in done.err


def test_a_team_is_named_where_nobody_can_be_asked(box: Home, cloud: Sandbox) -> None:
    unnamed = sign_in(box, cloud)
    foreign = sign_in(box, cloud, "--team", "nobody's")
    named = sign_in(box, cloud, "--team", cloud.team_id)

    assert [unnamed.code, foreign.code, named.code] == [77, 77, 0]
    assert cloud.team_id in unnamed.said
    assert "is not in the team nobody's" in foreign.said


def test_whoami_tells_both_credentials_and_that_the_session_counts(
    box: Home, cloud: Sandbox
) -> None:
    cloud.switches = replace(cloud.switches, me_tells_role=True)
    nobody = box.run("whoami")
    give_key(box, cloud)
    device = whoami(box)
    give_session(box, cloud)
    both = whoami(box)
    shown = box.run("whoami").out
    cloud.switches = replace(cloud.switches, role="viewer")
    viewer = box.run("whoami").out

    assert nobody.code == 77
    assert "syncd login" in nobody.said
    assert (device["team"], device["sends_large_files"]) == (None, False)
    assert both["team"] == {"id": cloud.team_id, "name": "Sandbox", "role": "owner"}
    assert both["sends_large_files"]
    listed = both["credentials"]
    assert isinstance(listed, list)
    assert [(each["kind"], each["in_force"]) for each in listed] == [
        ("session", True),
        ("device", False),
    ]
    assert "60 min left, renewed automatically" in shown
    assert "not used: the session takes precedence" in shown
    assert "only owners and admins may write models" in viewer


def test_logout_revokes_and_removes_even_if_the_cloud_does_not_answer(
    box: Home, cloud: Sandbox
) -> None:
    pair(box)
    first = key_of(box)
    give_session(box, cloud)
    done = box.run("logout")
    second = give_key(box, cloud)
    cloud.faults.add(Rule(Fault.RESET, call=Call.REVOKE, count=None))
    cut_off = box.run("logout")
    nothing = box.run("logout")

    assert (done.code, cloud._accounts.identify(first)) == (0, None)
    assert (cut_off.code, cloud._accounts.identify(second) is not None) == (75, True)
    assert "could not be revoked" in cut_off.err
    assert "Access page" in cut_off.err
    assert sorted(path.name for path in (box.state / "credentials").iterdir()) == ["lock"]
    assert nothing.out == "No credential is stored here.\n"


def test_logout_ends_the_key_in_a_keyring_that_a_named_file_keeps_from_counting(
    box: Home, cloud: Sandbox, tmp_path: Path
) -> None:
    ring, named = with_keyring(box, tmp_path), tmp_path / "token"
    pair(box)
    (own,) = json.loads(ring.read_text()).values()
    named.write_text(cloud.device_key)
    named.chmod(0o600)
    box.env["SYNCD_API__TOKEN_FILE"] = str(named)
    done = box.run("logout")
    again = box.run("logout")

    assert (done.code, again.code) == (0, 0)
    assert cloud._accounts.identify(own) is None
    assert json.loads(ring.read_text()) == {}
    stays = f"The device key in {named} does not come from syncd login and is not removed"
    assert done.out.splitlines()[:2] == [
        "The device key is revoked.",
        "The device key is removed from keyring (keyrings).",
    ]
    assert stays in done.out
    assert again.out.startswith(stays)
    assert cloud._accounts.identify(cloud.device_key) is not None
    assert whoami(box)["credentials"]


def test_logout_tells_of_a_keyring_that_does_not_answer(box: Home, tmp_path: Path) -> None:
    ring = with_keyring(box, tmp_path)
    pair(box)
    kept = ring.read_text()
    box.env["PYTHON_KEYRING_BACKEND"] = "tests.integration.keyrings.Locked"
    done = box.run("logout")

    assert done.code == 74
    assert "the keyring does not answer: KeyringLocked. A device key in it stays" in done.err
    assert "No credential is stored here" not in done.out
    assert ring.read_text() == kept


def test_a_session_file_of_a_wider_mode_stops_every_command_with_the_remedy(
    box: Home, cloud: Sandbox
) -> None:
    give_session(box, cloud)
    file = box.state / "credentials/session.json"
    file.chmod(0o644)
    done = box.run("whoami")

    assert done.code == 78
    assert f"run: chmod 600 {file}" in done.said


@pytest.mark.needs("root")
def test_root_uses_the_session_of_another_user_and_leaves_its_renewal_to_that_one(
    box: Home, cloud: Sandbox
) -> None:
    give_session(box, cloud)
    folder = box.state / "credentials"
    for path in (box.state, folder, *folder.iterdir()):
        os.chown(path, 12345, 12345)
    used = box.run("whoami")
    kept = Stored(box.state, cloud.base_url)
    session = kept.session()
    assert session is not None
    (folder / "session.json").write_text(json.dumps(asdict(replace(session, expires_at=0))))
    left = box.run("whoami")

    assert (used.code, left.code) == (0, 74), left.err
    assert "run this as that user: sudo -u #12345 syncd" in left.said
    assert cloud.history.count(Call.REFRESH) == 0
    assert kept.session() == replace(session, expires_at=0)
    assert {path.stat().st_uid for path in folder.iterdir()} == {12345}


# -- one tree, one catalog ------------------------------------------------------------------------


def test_a_tree_never_splits_over_the_catalogs_of_two_teams(
    nursery: Nursery, tmp_path: Path, cloud: Sandbox
) -> None:
    box = unsigned(nursery.home(tmp_path / "home", cloud, large=True))
    own, other = cloud.teams
    give_key(box, cloud)
    assert box.once().code == 77, "the large file waits"
    refused = sign_in(box, cloud, "--team", other)
    taken = sign_in(box, cloud, "--team", own)
    done = box.once()

    assert refused.code == 77
    assert "in the catalog of another team" in refused.said
    assert (taken.code, done.code) == (0, 0), taken.said + done.err
    assert len(records(cloud)) == 3
    assert {record["storage_key"].split("/")[1] for record in cloud.records()} == {own}

    box.run("logout")
    assert "in the catalog of another team" in pair(box, code=77, team_id=other)
    assert not (box.state / "credentials/api_token").exists()


def register(home: Home, name: str) -> Finished:
    home.write(f"loras/{name}.safetensors", b"\x08\0\0\0\0\0\0\0{}      " + name.encode())
    home.let_age()
    return home.once()


def teams_written(cloud: Sandbox) -> list[str]:
    return [record["storage_key"].split("/")[1] for record in cloud.records()]


def test_a_key_of_another_team_than_the_session_before_it_sends_nothing(
    box: Home, cloud: Sandbox
) -> None:
    _, other = cloud.teams
    assert sign_in(box, cloud, "--team", other).code == 0
    assert register(box, "a").code == 0
    assert box.run("logout").code == 0
    box.env["SYNCD_API__TOKEN"] = cloud.device_key
    done = register(box, "b")
    (hold,) = box.status()["holds"]
    again = box.once()
    sent = cloud.history.count(Call.PRESIGN)
    del box.env["SYNCD_API__TOKEN"]
    assert sign_in(box, cloud).code == 0, "of the team that is remembered"
    mended = box.once()

    assert (done.code, again.code, sent) == (77, 77, 1)
    assert hold["kind"] == "operator"
    assert f"registered from {box.state}" in hold["reason"]
    assert "in the catalog of another team" in hold["reason"]
    assert "Put a key of that team in its place" in hold["advice"]
    assert "was deleted from the catalog" not in done.out + done.err
    assert (mended.code, teams_written(cloud)) == (0, [other, other])


def test_a_daemon_that_falls_back_to_a_key_of_another_team_sends_nothing(
    box: Home, cloud: Sandbox, tmp_path: Path
) -> None:
    _, other = cloud.teams
    handed_over = tmp_path / "handed-over"
    handed_over.mkdir()
    (handed_over / "api_token").write_text(cloud.device_key)
    box.env["CREDENTIALS_DIRECTORY"] = str(handed_over)
    assert sign_in(box, cloud, "--team", other).code == 0
    assert register(box, "a").code == 0
    with box.daemon() as daemon:
        daemon.started()
        (box.state / "credentials/session.json").unlink()
        daemon.process.send_signal(signal.SIGHUP)
        until(lambda: daemon.events("credential.replaced"), "the key")
        box.write("loras/b.safetensors", b"\x08\0\0\0\0\0\0\0{}      b")
        (hold,) = until(lambda: box.status()["holds"], "a hold")
        daemon.stop()

    assert "in the catalog of another team" in hold["reason"]
    assert teams_written(cloud) == [other]


def delete_records(cloud: Sandbox) -> None:
    """A visitor who changes the cloud."""
    for record in cloud.records():
        gone = httpx.delete(
            f"{cloud.base_url}/models/{record['id']}",
            headers={"Authorization": f"Bearer {cloud.device_key}"},
            trust_env=False,
        )
        assert gone.is_success, gone.text


def test_a_box_whose_records_were_deleted_in_the_cloud_signs_in_by_naming_the_team(
    box: Home, cloud: Sandbox
) -> None:
    own, _ = cloud.teams
    give_key(box, cloud)
    assert register(box, "a").code == 0
    delete_records(cloud)
    (box.state / "credentials/api_token").unlink()
    unnamed = pair(box, code=77)
    pair(box, "--team", own)
    kept = cloud._accounts.identify(key_of(box))
    done = register(box, "b")
    state_of_b = box.file("loras/b.safetensors")["state"]
    session = sign_in(box, cloud, "--team", own)

    assert "in the catalog of another team, or was deleted" in unnamed
    assert "The new key is removed" in unnamed
    assert kept is not None
    assert (done.code, state_of_b) == (1, "registered"), "a is in drift"
    assert session.code == 0, session.said


def test_a_403_is_explained_by_the_role_with_one_look_at_the_account(
    box: Home, cloud: Sandbox
) -> None:
    cloud.switches = replace(
        cloud.switches, role="viewer", me_tells_role=True, features_off=("custom_models",)
    )
    give_session(box, cloud)
    asked = cloud.history.count(Call.ME)
    for name in ("a", "b", "c"):
        box.write(f"loras/{name}.safetensors", b"\x08\0\0\0\0\0\0\0{}      ")
    box.let_age()
    done = box.once()
    (hold,) = box.status()["holds"]

    assert done.code == 77
    assert "role viewer may not manage models" in hold["reason"]
    assert "viewer in the team Sandbox: only owners and admins" in hold["advice"]
    assert "custom_models (global)" in hold["advice"]
    assert cloud.history.count(Call.ME) == asked + 1


# -- the cloud is away -----------------------------------------------------------------------------

REFUSED = "cannot connect to 127.0.0.1: Connection refused"
UNKNOWN = "cannot connect to no-such-host.invalid: "
CHECK = "Check the network, api.base_url and network.proxy, then run the command again."


@pytest.mark.parametrize(
    ("url", "reason"),
    [("http://127.0.0.1:{port}/api", REFUSED), ("https://no-such-host.invalid/api", UNKNOWN)],
)
def test_network_errors_of_login_and_whoami_say_what_failed_and_what_to_do(
    box: Home, tmp_path: Path, url: str, reason: str
) -> None:
    (port,) = free_ports(1)
    box.env["SYNCD_API__BASE_URL"] = url.format(port=port)
    paired = box.run("login")
    box.env["SYNCD_API__TOKEN"] = f"dk-{40 * 'a'}"
    who = box.run("whoami")

    assert (paired.code, who.code) == (75, 75)
    assert f"The pairing could not be started: {reason}" in paired.err
    assert f"the cloud could not be asked: {reason}" in who.out
    assert paired.err.rstrip().endswith(CHECK)
    assert CHECK in who.out
    assert "pair_start" not in paired.err
    assert "ConnectError" not in paired.err + who.out
