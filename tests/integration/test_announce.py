"""``syncd`` tells a webhook and a heartbeat how it goes, and nothing they do harms it."""

import base64
import hashlib
import hmac
import json
import os
import socket
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from syncd.executors import Executors
from syncd.monitoring.webhook import RETRY_FIRST_S, TRIES, Receiver, Receivers, WebhookNotifier
from syncd.sandbox.faults import Fault, Rule
from syncd.sandbox.server import Sandbox
from syncd.store.outline import HoldRow
from syncd.store.store import Store
from syncd.types import Call, HoldKind
from tests.fakes import LOST, FakeClock, Reply, ScriptedServer, Seen, endless, reply
from tests.integration.harness import PROJECT, Finished, Home, records, until
from tests.weights import weights

SCHEMA = json.loads((PROJECT / "docs/schemas/webhook.schema.json").read_text("utf-8"))
KEY = bytes(range(32))
SECRET = f"whsec_{base64.b64encode(KEY).decode()}"
SECRET_PATH = "CANARY-hook-path-0123456789"
ONE, TWO, BAD = "loras/one.safetensors", "vae/two.pt", "loras/bad.safetensors"
REFUSED = Rule(Fault.ANSWER, call=Call.PRESIGN, contains="bad", status=422, body="{}", count=None)


class Listener(ScriptedServer):
    """Takes messages and heartbeats, and answers as it is told to."""

    def __init__(self, *answers: Reply) -> None:
        super().__init__([*answers, *[reply(204)] * 50])

    def told(self, home: Home) -> None:
        """From now on *home* tells it everything."""
        home.env |= {
            "SYNCD_NOTIFY__WEBHOOK_URL": f"{self.url}/{SECRET_PATH}?token=CANARY",
            "SYNCD_NOTIFY__WEBHOOK_SECRET": SECRET,
            "SYNCD_NOTIFY__HEARTBEAT_URL": f"{self.url}/beat/{SECRET_PATH}",
        }

    @property
    def posts(self) -> list[Seen]:
        """Messages that came in whole."""
        return [each for each in self.seen if each.request_line.startswith("POST") and each.whole]

    @property
    def messages(self) -> list[dict[str, Any]]:
        """What they say, held to their schema and their signature."""
        return [checked(post) for post in self.posts]

    @property
    def events(self) -> list[str]:
        return [each["event"] for each in self.messages]

    @property
    def beats(self) -> int:
        line = f"GET /beat/{SECRET_PATH} HTTP/1.1"
        return sum(each.request_line == line for each in self.seen)


def checked(post: Seen) -> dict[str, Any]:
    assert post.request_line == f"POST /{SECRET_PATH}?token=CANARY HTTP/1.1"
    assert post.header("authorization") is None
    content = f"{post.header('webhook-id')}.{post.header('webhook-timestamp')}.".encode()
    digest = hmac.digest(KEY, content + post.body, hashlib.sha256)
    assert post.header("webhook-signature") == f"v1,{base64.b64encode(digest).decode()}"
    document: dict[str, Any] = json.loads(post.body)
    jsonschema.validate(document, SCHEMA)
    assert document["machine"] == socket.gethostname()
    return document


@pytest.fixture
def listener() -> Iterator[Listener]:
    with Listener() as running:
        yield running


@pytest.fixture
def quiet(nursery: Any, tmp_path: Path, cloud: Sandbox, listener: Listener) -> Home:
    """A home with two files whose listener takes everything."""
    home: Home = nursery.home(tmp_path / "home", cloud)
    listener.told(home)
    return home


def add(home: Home, rel_path: str) -> None:
    """A model that has been there for a while, as far as its time says."""
    os.utime(home.write(rel_path, weights(b"x" * 1000 + rel_path.encode())), (1e9, 1e9))


def says_no_secret(done: Finished) -> bool:
    return not any(word in done.out + done.err for word in ("CANARY", SECRET[6:]))


def test_a_backfill_that_succeeds_says_so_and_beats_once(quiet: Home, listener: Listener) -> None:
    done = quiet.once()

    assert done.code == 0, done.err
    assert listener.events == ["batch.done"]
    assert listener.messages[0]["work"]["registered"] == 2
    assert listener.messages[0]["files_by_state"]["registered"] == 2
    assert listener.beats == 1
    assert says_no_secret(done)

    assert quiet.once().code == 0
    assert listener.events == ["batch.done"]
    assert listener.beats == 2


def test_a_plan_that_was_applied_is_told_and_is_no_heartbeat(
    quiet: Home, listener: Listener, tmp_path: Path
) -> None:
    plan = os.fspath(tmp_path / "plan.jsonl")

    assert quiet.run("plan", "--out", plan).code == 0
    assert quiet.run("apply", plan).code == 0
    assert listener.events == ["batch.done"]
    assert listener.messages[0]["work"]["registered"] == 2
    assert listener.beats == 0


def test_a_failure_is_told_with_its_reason_and_silences_the_heartbeat(
    quiet: Home, cloud: Sandbox, listener: Listener
) -> None:
    add(quiet, BAD)
    cloud.faults.add(REFUSED)

    assert quiet.once().code == 1
    assert listener.events == ["files.failed", "batch.done"]

    failed, done = listener.messages
    (file,) = failed["files"]

    assert (failed["count"], file["path"], file["state"]) == (1, BAD, "failed")
    assert "422" in file["reason"]
    assert done["work"] == {"registered": 2, "adopted": 0, "failed": 1, "needs_sign_in": 0}
    assert listener.beats == 0


def test_a_hold_is_told_once_and_its_end_by_a_later_run(
    quiet: Home, cloud: Sandbox, listener: Listener
) -> None:
    cloud.faults.add(Rule(Fault.ANSWER, call=Call.PRESIGN, status=403, body="{}", count=None))

    assert (quiet.once().code, quiet.once().code) == (77, 77)

    (began,) = listener.messages

    assert began["event"] == "hold.started"
    assert began["hold"]["kind"] == "operator"
    assert "403" in began["hold"]["reason"]
    assert began["hold"]["advice"]
    assert listener.beats == 0

    cloud.faults.clear()

    assert quiet.once().code == 0
    assert listener.events == ["hold.started", "hold.ended", "batch.done"]
    assert listener.messages[1]["hold"]["until"] >= began["hold"]["since"]
    assert listener.beats == 1


def test_a_daemon_tells_its_batches_beats_and_says_the_rest_when_it_is_stopped(
    quiet: Home, cloud: Sandbox, listener: Listener
) -> None:
    with quiet.daemon() as daemon:
        until(lambda: listener.beats, "a heartbeat")

        assert records(cloud).keys() == {f"models/{ONE}", f"models/{TWO}"}

        until(lambda: listener.events, "the first batch")
        add(quiet, "loras/three.safetensors")
        until(lambda: len(records(cloud)) == 3, "the third file in the catalog")
        until(lambda: quiet.counts() == {"registered": 3}, "its record in the store")

        assert listener.events == ["batch.done"]  # the next round is due in a minute
        assert daemon.stop() == 143

    assert [each["work"]["registered"] for each in listener.messages] == [2, 1]
    assert listener.beats == 1
    assert "CANARY" not in daemon.log.read_text()


# -- receivers that are not there, or not friendly ---------------------------------------------------

TARGET = "/somewhere-else"


def moved() -> Reply:
    return reply(307, headers={"Location": TARGET})


def hostile(case: str) -> AbstractContextManager[Any]:
    match case:
        case "refuses":
            return nullcontext()
        case "never answers":  # the kernel takes the connection, and nobody reads
            return socket.create_server(("127.0.0.1", 0))
        case "answers without end":
            return Listener(*[endless(200)] * 50)
        case "answers nonsense":
            echo = Reply(f"HTTP/9 {SECRET_PATH}\r\n\r\n".encode())
            return Listener(*[echo] * 50)
        case "redirects":
            return Listener(*[moved()] * 50)
        case "fails":
            return Listener(*[reply(500, "x" * 100_000)] * 50)
        case _:
            raise AssertionError(case)


@pytest.mark.parametrize(
    "case",
    ["refuses", "never answers", "answers without end", "answers nonsense", "redirects", "fails"],
)
def test_no_receiver_harms_a_run(nursery: Any, tmp_path: Path, cloud: Sandbox, case: str) -> None:
    home: Home = nursery.home(tmp_path / "home", cloud)
    with hostile(case) as receiver:
        if isinstance(receiver, Listener):
            receiver.told(home)
        else:
            port = receiver.getsockname()[1] if receiver else 9
            for name in ("WEBHOOK_URL", "HEARTBEAT_URL"):
                home.env[f"SYNCD_NOTIFY__{name}"] = f"http://127.0.0.1:{port}/{SECRET_PATH}"
        done = home.once()

    assert done.code == 0, done.err
    assert len(records(cloud)) == 2
    assert says_no_secret(done)
    warned = {event["event"] for event in done.events() if event["event"].startswith("webhook.")}
    if case == "answers without end":  # its status was good, and nobody wanted more
        assert warned == set()
    else:
        cut = case == "never answers"
        assert ("webhook.cut_short" if cut else "webhook.dropped") in warned
        assert all(e["to"].endswith("/***") for e in done.events("webhook.dropped"))
    if case == "redirects":
        assert not any(TARGET in each.request_line for each in receiver.seen)
        assert len(receiver.seen) == 2  # another try would end up at the same place


# -- tries -------------------------------------------------------------------------------------------


async def tell(tmp_path: Path, listener: ScriptedServer, clock: FakeClock, *, rounds: int) -> None:
    lanes = Executors(files=1, slots=1)
    store = Store(os.fspath(tmp_path / "state"))
    receiver = Receiver("notify.webhook_url", f"{listener.url}/hook", "http://there/***")
    announcer = WebhookNotifier(
        Receivers(receiver, heartbeat=None, key=KEY, machine="box"),
        store=store,
        lanes=lanes,
        clock=clock,
        jitter=lambda: 1.0,
        shown_of=lambda job: job.rel_path,
        ca_bundle=None,
        proxy=None,
    )
    for number in range(rounds):
        announcer.hold_started(HoldRow(HoldKind.OFFLINE, 0, f"no route {number}", None, 0, 0))
        await announcer.flush(well=True, within_s=20)
    await lanes.db(store.close)
    lanes.close()


async def test_a_message_is_tried_again_under_the_same_id(tmp_path: Path) -> None:
    clock = FakeClock()
    with Listener(reply(503), LOST, reply(200)) as listener:
        await tell(tmp_path, listener, clock, rounds=1)

    assert len(listener.posts) == TRIES
    assert len({post.header("webhook-id") for post in listener.posts}) == 1
    assert len({post.body for post in listener.posts}) == 1
    assert clock.slept == [RETRY_FIRST_S, 2 * RETRY_FIRST_S]
    times = [post.header("webhook-timestamp") for post in listener.posts]
    assert len(set(times)) == TRIES


async def test_what_is_dropped_is_said_once_and_one_try_a_message_is_enough_from_then_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Listener(*[reply(503)] * (TRIES + 2)) as listener:
        await tell(tmp_path, listener, FakeClock(), rounds=4)

    assert len(listener.posts) == TRIES + 1 + 1 + 1
    told = capsys.readouterr().out

    assert told.count("webhook.dropped") == 1
    assert "webhook.recovered" in told
