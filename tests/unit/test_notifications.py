"""What is told of what happened, how often, and how it is signed."""

import base64
import hashlib
import hmac
import json
from pathlib import Path

import jsonschema
import pytest

from syncd.core.notifications import (
    FILES_MOST,
    GATHER_S,
    PERIOD_S,
    TEXT_MOST,
    Failure,
    Item,
    NotificationBatch,
    Topic,
    Waiting,
    message,
    signed,
    signing_key,
)
from syncd.types import FileState

SCHEMA = json.loads(
    (Path(__file__).parents[2] / "docs/schemas/webhook.schema.json").read_text("utf-8")
)
KEY = bytes(range(32))
SECRET = f"whsec_{base64.b64encode(KEY).decode()}"
OFFLINE = Waiting("offline", since=1000, reason="no route", advice="Check the network.")
OVER = Waiting("offline", since=1000, reason="no route", advice="Check the network.", until=9000)


def failure(number: int = 1) -> Failure:
    return Failure(f"loras/{number}.pt", "failed", "refused", "Rename it.")


def topics(items: list[Item]) -> list[str]:
    return [item.topic for item in items]


def document(item: Item) -> dict[str, object]:
    body = message(item, machine="box", now_ms=5, files_by_state={"failed": 1})
    told: dict[str, object] = json.loads(body)
    jsonschema.validate(told, SCHEMA)
    return told


def test_nothing_is_due_when_nothing_happened() -> None:
    news = NotificationBatch()
    news.came("registered")

    assert not news.is_due(1e9)
    assert news.take(1e9) == []


def test_a_thousand_failures_are_one_message_that_names_the_first() -> None:
    news = NotificationBatch()
    for number in range(1000):
        news.failed(number, failure(number), now_s=100 + number / 1000)

    assert not news.is_due(100 + GATHER_S - 0.1)
    assert news.is_due(100 + GATHER_S)

    (item,) = news.take(100 + GATHER_S)
    told = document(item)

    assert told["count"] == 1000
    assert told["files"] == [
        {"path": f"loras/{n}.pt", "state": "failed", "reason": "refused", "advice": "Rename it."}
        for n in range(FILES_MOST)
    ]


def test_rounds_are_a_minute_apart() -> None:
    news = NotificationBatch()
    news.failed(1, failure(), 100)
    news.take(105)
    news.failed(2, failure(), 106)

    assert not news.is_due(105 + PERIOD_S - 0.1)
    assert news.is_due(105 + PERIOD_S)


def test_what_is_given_back_did_not_fail() -> None:
    news = NotificationBatch()
    for number in range(5):
        news.failed(number, failure(number), 100)
    news.given_back(range(5))
    news.queue_empty(100)

    assert not news.is_due(1e9)


def test_a_hold_is_told_when_it_began_and_when_it_ended() -> None:
    news = NotificationBatch()
    news.hold_began(OFFLINE, 100)

    (began,) = news.take(110)
    told = document(began)

    assert told["event"] == "hold.started"
    assert told["hold"] == {
        "kind": "offline", "since": 1000, "until": None, "reason": "no route",
        "advice": "Check the network.",
    }  # fmt: skip
    assert told["text"] == "syncd on box: everything waits: no route (Check the network.)"

    news.hold_ended(OVER, 200)
    (ended,) = news.take(210)
    told = document(ended)

    assert told["event"] == "hold.ended"
    assert told["text"] == "syncd on box: work goes on after: no route"


def test_a_hold_that_was_over_before_anybody_was_told_is_no_news() -> None:
    news = NotificationBatch()
    news.hold_began(OFFLINE, 100)
    news.hold_ended(OVER, 102)

    assert not news.is_due(1e9)


def test_a_hold_that_came_back_before_its_end_was_told_never_ended() -> None:
    news = NotificationBatch()
    news.hold_began(OFFLINE, 100)
    news.take(110)
    news.hold_ended(OVER, 120)
    news.hold_began(OFFLINE, 130)

    assert not news.is_due(1e9)

    news.hold_ended(OVER, 200)

    assert topics(news.take(210)) == ["hold.ended"]


def test_the_end_of_a_hold_from_before_the_start_is_told() -> None:
    news = NotificationBatch()
    news.hold_ended(OVER, 100)

    assert topics(news.take(110)) == ["hold.ended"]


def test_a_batch_is_done_when_the_queue_is_empty_after_work_and_once() -> None:
    news = NotificationBatch()
    news.queue_empty(100)
    news.came("registered")
    news.came("registered")
    news.came("adopted")
    news.failed(1, failure(), 101)
    news.queue_empty(102)
    news.queue_empty(103)

    failed, done = news.take(110)
    told = document(done)

    assert failed.topic is Topic.FILES_FAILED
    assert told["work"] == {"registered": 2, "adopted": 1, "failed": 1, "needs_sign_in": 0}
    assert told["text"] == "syncd on box: the queue is empty: 2 registered, 1 adopted, 1 failed"

    news.queue_empty(200)

    assert not news.is_due(1e9)


def test_a_message_stays_small_and_calls_nobody_in_a_chat() -> None:
    news = NotificationBatch()
    for number in range(FILES_MOST):
        long = Failure("p" * 9999, "failed", "<!channel>" + "w" * 9999, "a" * 9999)
        news.failed(number, long, 0)
    news.hold_began(Waiting("operator", 0, "<!channel> & co", None), 0)
    hold, failed = news.take(1)

    assert document(hold)["text"] == ("syncd on box: everything waits: &lt;!channel&gt; &amp; co")
    assert document(failed)["count"] == FILES_MOST
    assert len(message(failed, machine="b", now_ms=0, files_by_state={})) < (
        FILES_MOST * (3 * TEXT_MOST + 200) + 1000
    )


def test_the_schema_knows_every_state_of_a_file() -> None:
    known = SCHEMA["properties"]["files_by_state"]["propertyNames"]["enum"]

    assert sorted(known) == sorted(FileState)


def test_a_message_is_signed_as_standard_webhooks_says() -> None:
    headers = signed(b'{"a":1}', id="msg_1", now_ms=1_614_265_330_999, key=KEY)
    expected = hmac.digest(KEY, b'msg_1.1614265330.{"a":1}', hashlib.sha256)

    assert headers == {
        "webhook-id": "msg_1",
        "webhook-timestamp": "1614265330",
        "webhook-signature": f"v1,{base64.b64encode(expected).decode()}",
    }


def test_the_test_vector_of_the_public_libraries_comes_out() -> None:
    headers = signed(
        b'{"test": 2432232314}',
        id="msg_p5jXN8AQM9LWM0D4loKWxJek",
        now_ms=1_614_265_330_000,
        key=signing_key("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"),
    )

    assert headers["webhook-signature"] == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_without_a_key_nothing_is_signed() -> None:
    assert signed(b"{}", id="msg_1", now_ms=0, key=None).keys() == {
        "webhook-id", "webhook-timestamp",
    }  # fmt: skip


def test_a_signing_key_is_read_as_it_is_written() -> None:
    assert signing_key(SECRET) == KEY


@pytest.mark.parametrize(
    "text",
    [
        "",
        "whsec_",
        "secret",
        SECRET.removeprefix("whsec_"),
        SECRET.replace("A", "*A", 1),
        f"whsec_{base64.b64encode(bytes(23)).decode()}",
        f"whsec_{base64.b64encode(bytes(65)).decode()}",
    ],
)
def test_what_is_no_signing_key_is_refused_and_not_quoted(text: str) -> None:
    with pytest.raises(ValueError, match="is not whsec_") as raised:
        signing_key(text)

    assert str(raised.value) == "is not whsec_ and 24 to 64 bytes in base64"
