"""
What somebody elsewhere is to be told: gathered as it happens, told in few messages.

A thousand files that fail are one message with the first of them, and there is at most one round of
messages a minute. What passed before anybody was told of it is not told at all. However much
happens, what is kept here stays small.

Messages are signed as "Standard Webhooks" (standardwebhooks.com, version 1) has it.
"""

import base64
import binascii
import hashlib
import hmac
import html
import json
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

GATHER_S = 5.0
"""What happens so soon after something else is told together with it."""

PERIOD_S = 60.0
"""Between two rounds of messages, at least."""

FILES_MOST = 20
"""Files that a message names."""

TEXT_MOST = 500
"""Characters of a path or a reason that a message quotes."""

KEY_LEAST, KEY_MOST = 24, 64
"""Bytes of a signing key, as Standard Webhooks wants it."""

_KEY_PREFIX = "whsec_"


class Topic(StrEnum):
    """What a message is about."""

    FILES_FAILED = "files.failed"
    HOLD_BEGAN = "hold.started"
    HOLD_ENDED = "hold.ended"
    BATCH_DONE = "batch.done"


@dataclass(frozen=True, slots=True)
class Failure:
    """A file that will not be in the catalog unless somebody does something."""

    path: str
    state: str
    reason: str
    advice: str | None


@dataclass(frozen=True, slots=True)
class Waiting:
    """A hold; ``since`` and ``until`` are Unix milliseconds, ``until`` None while it lasts."""

    kind: str
    since: int
    reason: str
    advice: str | None
    until: int | None = None


@dataclass(frozen=True, slots=True)
class Item:
    """One message to be: a sentence for people, and what a program wants to know."""

    topic: Topic
    text: str
    details: Mapping[str, Any]


class NotificationBatch:
    """What happened and was not told yet. ``now_s`` is seconds on a clock that never goes back."""

    def __init__(self) -> None:
        self._failed: dict[int, Failure] = {}
        self._unnamed = 0
        self._began: dict[str, Waiting] = {}
        self._ended: dict[str, Waiting] = {}
        self._work: Counter[str] = Counter()
        self._done = False
        self._since_s = 0.0
        self._next_s = 0.0

    def came(self, how: str) -> None:
        """A file is in the catalog now: ``registered`` or ``adopted``."""
        self._work[how] += 1

    def failed(self, job_id: int, failure: Failure, now_s: float) -> None:
        """A file failed, or waits for somebody to sign in."""
        self._note(now_s)
        self._work[failure.state] += 1
        if job_id in self._failed or len(self._failed) < FILES_MOST:
            self._failed[job_id] = failure
        else:
            self._unnamed += 1

    def given_back(self, job_ids: Collection[int]) -> None:
        """These did not fail after all: they are tried again."""
        for job_id in job_ids:
            failure = self._failed.pop(job_id, None)
            if failure is not None:
                self._work[failure.state] -= 1

    def hold_began(self, hold: Waiting, now_s: float) -> None:
        """From now on everything waits."""
        if self._ended.pop(hold.kind, None) is None:  # else it never ended as far as anybody knows
            self._note(now_s)
            self._began[hold.kind] = hold

    def hold_ended(self, hold: Waiting, now_s: float) -> None:
        """Work goes on. Of a hold that nobody was told of, nobody is told that it is over."""
        if self._began.pop(hold.kind, None) is None:
            self._note(now_s)
            self._ended[hold.kind] = hold

    def queue_empty(self, now_s: float) -> None:
        """Nothing is queued or under way; that is news if there was work."""
        if not self._done and self._work.total() > 0:
            self._note(now_s)
            self._done = True

    def is_due(self, now_s: float) -> bool:
        """Is there something to tell, and is it time?"""
        return self.pending and now_s >= max(self._since_s + GATHER_S, self._next_s)

    def take(self, now_s: float) -> list[Item]:
        """All there is to tell, due or not; the next round is due in a minute at the earliest."""
        items = [
            *map(_hold_item, self._began.values()),
            *self._failures(),
            *map(_hold_item, self._ended.values()),
            *self._batch(),
        ]
        self._failed, self._unnamed, self._began, self._ended = {}, 0, {}, {}
        self._next_s = now_s + PERIOD_S
        return items

    @property
    def pending(self) -> bool:
        """Is there something to tell?"""
        return bool(self._failed or self._unnamed or self._began or self._ended or self._done)

    def _note(self, now_s: float) -> None:
        if not self.pending:
            self._since_s = now_s

    def _failures(self) -> Iterator[Item]:
        count = len(self._failed) + self._unnamed
        if count:
            files = [
                {
                    "path": _short(failure.path),
                    "state": failure.state,
                    "reason": _short(failure.reason),
                    "advice": _short(failure.advice),
                }
                for failure in self._failed.values()
            ]
            text = f"{_files(count)} could not be brought into the catalog"
            yield Item(Topic.FILES_FAILED, text, {"count": count, "files": files})

    def _batch(self) -> Iterator[Item]:
        if self._done:
            names = ("registered", "adopted", "failed", "needs_sign_in")
            work = {name: self._work[name] for name in names}
            text = ", ".join(f"{n} {name.replace('_', ' ')}" for name, n in work.items() if n)
            yield Item(Topic.BATCH_DONE, f"the queue is empty: {text or 'nothing'}", {"work": work})
            self._work, self._done = Counter(), False


def _hold_item(hold: Waiting) -> Item:
    over = hold.until is not None
    text = "work goes on after: " if over else "everything waits: "
    advice = "" if over or hold.advice is None else f" ({_short(hold.advice)})"
    details = {
        "kind": hold.kind,
        "since": hold.since,
        "until": hold.until,
        "reason": _short(hold.reason),
        "advice": _short(hold.advice),
    }
    topic = Topic.HOLD_ENDED if over else Topic.HOLD_BEGAN
    return Item(topic, f"{text}{_short(hold.reason)}{advice}", {"hold": details})


def message(item: Item, *, machine: str, now_ms: int, files_by_state: Mapping[str, int]) -> bytes:
    """
    The body of *item*: JSON as docs/schemas/webhook.schema.json describes it.

    ``text`` is for chat services that show it: ``&``, ``<`` and ``>`` are written as Slack wants
    them, so that no file name or answer of a server calls anybody there.
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
    """
    The key that *text* (``whsec_`` and base64) stands for.

    Raises:
        ValueError: It is none; the message does not quote it.
    """
    wrong = ValueError("is not whsec_ and 24 to 64 bytes in base64")
    if not text.startswith(_KEY_PREFIX):
        raise wrong
    try:
        key = base64.b64decode(text.removeprefix(_KEY_PREFIX), validate=True)
    except (binascii.Error, ValueError):
        raise wrong from None
    if not KEY_LEAST <= len(key) <= KEY_MOST:
        raise wrong
    return key


def signed(body: bytes, *, id: str, now_ms: int, key: bytes | None) -> dict[str, str]:
    """The headers that go with *body*; without a *key* they say which message it is and no more."""
    seconds = str(now_ms // 1000)
    headers = {"webhook-id": id, "webhook-timestamp": seconds}
    if key is not None:
        content = b".".join((id.encode(), seconds.encode(), body))
        digest = hmac.new(key, content, hashlib.sha256).digest()
        headers["webhook-signature"] = f"v1,{base64.b64encode(digest).decode()}"
    return headers


def _files(count: int) -> str:
    return "1 file" if count == 1 else f"{count} files"


def _short(text: str | None) -> str | None:
    if text is None or len(text) <= TEXT_MOST:
        return text
    return f"{text[: TEXT_MOST - 1]}…"
