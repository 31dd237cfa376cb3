"""
The content of webhook messages: events are collected and sent in batches.

A thousand failed files become one message that lists the first of them. A hold that ends before its start
was sent is dropped. Memory use is bounded. Messages are signed according to "Standard Webhooks"
(standardwebhooks.com, version 1).
"""

import base64
import hashlib
import hmac
import html
import json
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from typing import Any, TypeVar

GATHER_S = 5.0  # events are collected for this long before a batch is sent
PERIOD_S = 60.0  # the shortest time between two batches
FILES_MOST = 20  # the largest number of files that a message lists
TEXT_MOST = 500  # the largest number of characters of a path or a reason in a message
KEY_LEAST, KEY_MOST = 24, 64  # bounds for the size of a signing key, from Standard Webhooks
_KEY_PREFIX = "whsec_"

T = TypeVar("T", str, str | None)


class Topic(StrEnum):
    FILES_FAILED = "files.failed"
    HOLD_STARTED = "hold.started"
    HOLD_ENDED = "hold.ended"
    BATCH_DONE = "batch.done"


@dataclass(frozen=True, slots=True)
class Failure:
    """A file that is not in the catalog and is not retried without user action."""

    path: str
    state: str
    reason: str
    advice: str | None


@dataclass(frozen=True, slots=True)
class Hold:
    """A hold; ``since`` and ``until`` are Unix milliseconds, ``until`` is None while it lasts."""

    kind: str
    since: int
    reason: str
    advice: str | None
    until: int | None = None


@dataclass(frozen=True, slots=True)
class Item:
    topic: Topic
    text: str
    details: Mapping[str, Any]


class NotificationBatch:
    """The events that have not been sent yet. ``now_s`` is seconds on a monotonic clock."""

    def __init__(self) -> None:
        self._failed: dict[int, Failure] = {}
        self._unnamed = 0
        self._started: dict[str, Hold] = {}
        self._ended: dict[str, Hold] = {}
        self._work: Counter[str] = Counter()
        self._queue_empty = False
        self._since_s = 0.0
        self._next_s = 0.0

    def add_finished(self, how: str) -> None:
        self._work[how] += 1

    def add_failure(self, job_id: int, failure: Failure, now_s: float) -> None:
        self._start_batch(now_s)
        self._work[failure.state] += 1
        if job_id in self._failed or len(self._failed) < FILES_MOST:
            self._failed[job_id] = failure
        else:
            self._unnamed += 1

    def remove_failures(self, job_ids: Collection[int]) -> None:
        """Take back failures of jobs that are retried after all."""
        for job_id in job_ids:
            failure = self._failed.pop(job_id, None)
            if failure is not None:
                self._work[failure.state] -= 1

    def add_hold_start(self, hold: Hold, now_s: float) -> None:
        """Add the start of a hold, or cancel the end of the same kind if that was not sent yet."""
        if self._ended.pop(hold.kind, None) is None:
            self._start_batch(now_s)
            self._started[hold.kind] = hold

    def add_hold_end(self, hold: Hold, now_s: float) -> None:
        """Add the end of a hold, or cancel its start if that was not sent yet."""
        if self._started.pop(hold.kind, None) is None:
            self._start_batch(now_s)
            self._ended[hold.kind] = hold

    def add_queue_empty(self, now_s: float) -> None:
        """Add that the queue is empty, if any job ended since the last time."""
        if not self._queue_empty and self._work.total() > 0:
            self._start_batch(now_s)
            self._queue_empty = True

    def is_due(self, now_s: float) -> bool:
        return self.pending and now_s >= max(self._since_s + GATHER_S, self._next_s)

    def take(self, now_s: float) -> list[Item]:
        items = [
            *map(_hold_item, self._started.values()),
            *self._failures(),
            *map(_hold_item, self._ended.values()),
            *self._batch(),
        ]
        self._failed, self._unnamed, self._started, self._ended = {}, 0, {}, {}
        self._next_s = now_s + PERIOD_S
        return items

    @property
    def pending(self) -> bool:
        return bool(
            self._failed or self._unnamed or self._started or self._ended or self._queue_empty
        )

    def _start_batch(self, now_s: float) -> None:
        if not self.pending:
            self._since_s = now_s

    def _failures(self) -> Iterator[Item]:
        count = len(self._failed) + self._unnamed
        if count:
            files = [
                {name: _short(value) for name, value in asdict(failure).items()}
                for failure in self._failed.values()
            ]
            text = f"{count} {'file' if count == 1 else 'files'} failed to upload"
            yield Item(Topic.FILES_FAILED, text, {"count": count, "files": files})

    def _batch(self) -> Iterator[Item]:
        if self._queue_empty:
            names = ("registered", "adopted", "failed", "needs_sign_in")
            work = {name: self._work[name] for name in names}
            text = ", ".join(f"{n} {name.replace('_', ' ')}" for name, n in work.items() if n)
            yield Item(Topic.BATCH_DONE, f"the queue is empty: {text or 'nothing'}", {"work": work})
            self._work, self._queue_empty = Counter(), False


def _hold_item(hold: Hold) -> Item:
    over = hold.until is not None
    text = "uploads resumed after: " if over else "uploads are on hold: "
    advice = "" if over or hold.advice is None else f" ({_short(hold.advice)})"
    details = asdict(replace(hold, reason=_short(hold.reason), advice=_short(hold.advice)))
    topic = Topic.HOLD_ENDED if over else Topic.HOLD_STARTED
    return Item(topic, f"{text}{_short(hold.reason)}{advice}", {"hold": details})


def message(item: Item, *, machine: str, now_ms: int, files_by_state: Mapping[str, int]) -> bytes:
    """
    Return the JSON body of *item*, which docs/schemas/webhook.schema.json describes.

    ``&``, ``<`` and ``>`` in ``text`` are escaped as Slack requires, so that a file name or a server
    message cannot mention a user or a channel.
    """
    document = {
        "schema": 1,
        "event": item.topic,
        "time": now_ms,
        "machine": machine,
        "text": html.escape(f"syncd on {machine}: {item.text}", quote=False),
        "files_by_state": dict(files_by_state),
        **item.details,
    }
    return json.dumps(document, ensure_ascii=True).encode("ascii")


def signing_key(text: str) -> bytes:
    """Decode ``whsec_`` and base64. Raises ValueError, whose message does not quote the key."""
    try:
        key = base64.b64decode(text.removeprefix(_KEY_PREFIX), validate=True)
    except ValueError:
        key = b""
    if not text.startswith(_KEY_PREFIX) or not KEY_LEAST <= len(key) <= KEY_MOST:
        raise ValueError("is not whsec_ and 24 to 64 bytes in base64")
    return key


def headers_for(body: bytes, *, id: str, now_ms: int, key: bytes | None) -> dict[str, str]:
    """Return the headers that identify and, with a *key*, sign *body*."""
    seconds = str(now_ms // 1000)
    headers = {"webhook-id": id, "webhook-timestamp": seconds}
    if key is not None:
        content = b".".join((id.encode(), seconds.encode(), body))
        digest = hmac.new(key, content, hashlib.sha256).digest()
        headers["webhook-signature"] = f"v1,{base64.b64encode(digest).decode()}"
    return headers


def _short(text: T) -> T:
    if text is None or len(text) <= TEXT_MOST:
        return text
    return f"{text[: TEXT_MOST - 1]}…"
