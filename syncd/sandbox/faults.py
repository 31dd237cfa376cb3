"""
Faults by rule: which call is hit, how often, and what the client sees instead.

A fault is injected where the socket is, so that the client meets it as it would in real life. PUTs
to a real S3 server do not pass through the sandbox and cannot be hit.
"""

import random
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import ClassVar, Self

from pydantic import ConfigDict, TypeAdapter, ValidationError

from syncd.sandbox.answers import Answer, explain
from syncd.sandbox.history import Entry


class Fault(StrEnum):
    """What goes wrong."""

    ANSWER = "answer"  # ``status``, ``body``, ``headers`` in place of the real answer
    DELAY = "delay"  # nothing but ``delay_s``, which every other fault may have too
    RESET = "reset"  # RST before any answer
    CUT = "cut"  # the connection breaks after ``after_bytes`` of the request's body
    LOST_ANSWER = "lost_answer"  # done, but the connection closes without a word
    TRUNCATED = "truncated"  # done, but the answer's body ends after ``after_bytes``
    WRONG_ETAG = "wrong_etag"
    NO_ETAG = "no_etag"
    MALFORMED_JSON = "malformed_json"
    HTML = "html"  # a captive portal: 200 and a page
    HUGE = "huge"  # 200 and ``after_bytes`` of spaces
    REDIRECT = "redirect"  # ``status`` 307 unless set, to ``location``


PERFORMED = {
    Fault.DELAY, Fault.CUT, Fault.LOST_ANSWER, Fault.TRUNCATED, Fault.WRONG_ETAG, Fault.NO_ETAG,
    Fault.MALFORMED_JSON,
}  # fmt: skip
"""Faults before which the call takes effect, unless a rule says otherwise."""


@dataclass(frozen=True, slots=True)
class Rule:
    """
    When, then what.

    Args:
        call: A value of ``model.Call``, or login, refresh, revoke, pair_start, pair_poll,
            pair_confirm, agents, unknown; None is any.
        contains: Must occur in the request's path, model_path or storage_key.
        part: Part number.
        skip, count: Let this many matches pass, then hit *count* (None: all that follow).
        probability: Of each hit, drawn from the sandbox's seed.
        performed: Does the call take effect first? None: as the fault's nature is.
        delay_s: Seconds before anything happens.
        late_s: Seconds after the answer at which the call takes effect; 0: before it, if at all.
            Calls of the API only.
    """

    fault: Fault
    call: str | None = None
    contains: str | None = None
    part: int | None = None
    skip: int = 0
    count: int | None = 1
    probability: float = 1.0
    performed: bool | None = None
    status: int = 503
    body: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    delay_s: float = 0.0
    late_s: float = 0.0
    after_bytes: int = 0
    location: str = "http://127.0.0.1:9/"
    __pydantic_config__: ClassVar = ConfigDict(extra="forbid")

    def __post_init__(self) -> None:
        if not 0 <= self.probability <= 1:
            raise ValueError(f"probability must lie in [0, 1], not {self.probability}")
        if min(self.skip, self.delay_s, self.late_s, self.after_bytes) < 0:
            raise ValueError("skip, delay_s, late_s and after_bytes cannot be negative")
        if self.late_s and self.performs:
            raise ValueError(
                "late_s needs a fault that does not perform the call before its answer"
            )

    @classmethod
    def of(cls, values: object) -> Self:
        """
        A rule from a JSON object.

        Raises:
            ValueError: No object, an unknown member or fault, or a value of the wrong type.
        """
        try:
            return TypeAdapter(cls).validate_python(values)
        except ValidationError as error:
            raise ValueError(explain(error)) from None

    @property
    def performs(self) -> bool:
        """Does the call take effect before the answer is spoiled?"""
        return self.fault in PERFORMED if self.performed is None else self.performed

    def matches(self, entry: Entry) -> bool:
        """Is this the call that the rule means?"""
        where = f"{entry.path}\n{entry.model_path}\n{entry.storage_key}"
        return (
            self.call in (None, entry.call)
            and self.part in (None, entry.part)
            and (self.contains is None or self.contains in where)
        )

    def spoil(self, answer: Answer) -> Answer:
        """What the client gets to see of *answer*."""
        others = {k: v for k, v in answer.headers.items() if k.lower() != "etag"}
        match self.fault:
            case Fault.ANSWER:
                return Answer(self.status, self.headers, (self.body or "").encode())
            case Fault.WRONG_ETAG:
                return replace(answer, headers={**others, "ETag": f'"{"0" * 32}"'})
            case Fault.NO_ETAG:
                return replace(answer, headers=others)
            case Fault.MALFORMED_JSON:
                status = 200 if answer.status == 204 else answer.status  # 204 has no body to spoil
                return replace(answer, status=status, body=answer.body[:-1] + b",")
            case Fault.HTML:
                page = (self.body or "<html><body>Sign in to the network</body></html>").encode()
                return Answer(200, {"Content-Type": "text/html"}, page)
            case Fault.HUGE:
                return Answer(200, {"Content-Type": "application/json"}, b" " * self.after_bytes)
            case Fault.REDIRECT:
                status = self.status if 300 <= self.status < 400 else 307
                return Answer(status, {"Location": self.location})
        return answer


class Faults:
    """The active rules; the first match that is not used up applies."""

    def __init__(self, rules: Iterable[Rule] = (), *, seed: int = 0) -> None:
        self._lock = threading.Lock()
        self._random = random.Random(seed)  # noqa: S311 - repeatable on purpose
        self._rules: list[Rule] = list(rules)

    def add(self, *rules: Rule) -> None:
        """Append *rules* to the active ones."""
        with self._lock:
            self._rules.extend(rules)

    def clear(self) -> None:
        """No faults from here on."""
        with self._lock:
            self._rules.clear()

    def rules(self) -> tuple[Rule, ...]:
        """The active rules with what is left of their ``skip`` and ``count``."""
        with self._lock:
            return tuple(self._rules)

    def pick(self, entry: Entry) -> Rule | None:
        """The rule that hits *entry*, which is spent by one."""
        with self._lock:
            return next((r for i, r in enumerate(self._rules) if self._hits(i, r, entry)), None)

    def _hits(self, index: int, rule: Rule, entry: Entry) -> bool:
        if rule.count == 0 or not rule.matches(entry):
            return False
        if rule.skip:
            self._rules[index] = replace(rule, skip=rule.skip - 1)
            return False
        if self._random.random() >= rule.probability:
            return False
        if rule.count is not None:
            self._rules[index] = replace(rule, count=rule.count - 1)
        return True
