"""Batches of webhook messages, their text, and their signature."""

import base64
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
    Hold,
    Item,
    NotificationBatch,
    Topic,
    headers_for,
    message,
    signing_key,
)

SCHEMA = json.loads(
    (Path(__file__).parents[2] / "docs/schemas/webhook.schema.json").read_text("utf-8")
)
KEY = bytes(range(32))
SECRET = f"whsec_{base64.b64encode(KEY).decode()}"
OFFLINE = Hold("offline", since=1000, reason="no route", advice="Check the network.")
OVER = Hold("offline", since=1000, reason="no route", advice="Check the network.", until=9000)


def failure(number: int = 1) -> Failure:
    return Failure(f"loras/{number}.pt", "failed", "refused", "Rename it.")


def topics(items: list[Item]) -> list[str]:
    return [item.topic for item in items]


def document(item: Item) -> dict[str, object]:
    body = message(item, machine="box", now_ms=5, files_by_state={"failed": 1})
    parsed: dict[str, object] = json.loads(body)
    jsonschema.validate(parsed, SCHEMA)
    return parsed


def test_thousand_failures_become_one_message_that_lists_first_files() -> None:
    batch = NotificationBatch()
    for number in range(1000):
        batch.add_failure(number, failure(number), now_s=100 + number / 1000)

    assert not batch.is_due(100 + GATHER_S - 0.1)
    assert batch.is_due(100 + GATHER_S)

    (item,) = batch.take(100 + GATHER_S)
    sent = document(item)

    assert sent["count"] == 1000
    assert sent["files"] == [
        {"path": f"loras/{n}.pt", "state": "failed", "reason": "refused", "advice": "Rename it."}
        for n in range(FILES_MOST)
    ]


def test_batches_are_a_minute_apart() -> None:
    batch = NotificationBatch()
    batch.add_failure(1, failure(), 100)
    batch.take(105)
    batch.add_failure(2, failure(), 106)

    assert not batch.is_due(105 + PERIOD_S - 0.1)
    assert batch.is_due(105 + PERIOD_S)


def test_hold_that_ends_before_its_start_was_sent_is_dropped() -> None:
    batch = NotificationBatch()
    batch.add_hold_start(OFFLINE, 100)
    batch.add_hold_end(OVER, 102)

    assert not batch.is_due(1e9)


def test_hold_that_returns_before_its_end_was_sent_is_one_hold() -> None:
    batch = NotificationBatch()
    batch.add_hold_start(OFFLINE, 100)
    batch.take(110)
    batch.add_hold_end(OVER, 120)
    batch.add_hold_start(OFFLINE, 130)

    assert not batch.is_due(1e9)

    batch.add_hold_end(OVER, 200)

    assert topics(batch.take(210)) == ["hold.ended"]


def test_empty_queue_is_reported_once_after_work() -> None:
    batch = NotificationBatch()
    batch.add_queue_empty(100)
    batch.add_finished("registered")
    batch.add_finished("registered")
    batch.add_finished("adopted")
    batch.add_failure(1, failure(), 101)
    batch.add_queue_empty(102)
    batch.add_queue_empty(103)

    failed, done = batch.take(110)
    sent = document(done)

    assert failed.topic is Topic.FILES_FAILED
    assert sent["work"] == {"registered": 2, "adopted": 1, "failed": 1, "needs_sign_in": 0}
    assert sent["text"] == "syncd on box: the queue is empty: 2 registered, 1 adopted, 1 failed"

    batch.add_queue_empty(200)

    assert not batch.is_due(1e9)


def test_message_is_bounded_and_escapes_mentions() -> None:
    batch = NotificationBatch()
    for number in range(FILES_MOST):
        long = Failure("p" * 9999, "failed", "<!channel>" + "w" * 9999, "a" * 9999)
        batch.add_failure(number, long, 0)
    batch.add_hold_start(Hold("operator", 0, "<!channel> & co", None), 0)
    hold, failed = batch.take(1)

    assert document(hold)["text"] == (
        "syncd on box: uploads are on hold: &lt;!channel&gt; &amp; co"
    )
    assert document(failed)["count"] == FILES_MOST
    assert len(message(failed, machine="b", now_ms=0, files_by_state={})) < (
        FILES_MOST * (3 * TEXT_MOST + 200) + 1000
    )


def test_signature_matches_test_vector_of_public_libraries() -> None:
    headers = headers_for(
        b'{"test": 2432232314}',
        id="msg_p5jXN8AQM9LWM0D4loKWxJek",
        now_ms=1_614_265_330_000,
        key=signing_key("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"),
    )

    assert headers["webhook-signature"] == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


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
def test_signing_key_of_wrong_form_is_refused_and_not_quoted(text: str) -> None:
    with pytest.raises(ValueError, match="is not whsec_") as raised:
        signing_key(text)

    assert signing_key(SECRET) == KEY
    assert str(raised.value) == "is not whsec_ and 24 to 64 bytes in base64"
