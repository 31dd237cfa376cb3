"""What may go wrong, and how much of it in one run."""

import random
from dataclasses import replace
from typing import Any

from syncd.sandbox.faults import Fault, Rule
from syncd.sandbox.switches import Switches, Unique
from syncd.types import Call

API_CALLS = (
    Call.PRESIGN, Call.REGISTER, Call.LIST_MODELS, Call.INITIATE, Call.SIGN_PART, Call.COMPLETE, Call.ABORT,
    Call.UPDATE_MODEL, Call.DELETE_MODEL,
)  # fmt: skip
STORE_CALLS = (Call.PUT_BODY, Call.PUT_PART)
LATE_CALLS = (Call.REGISTER, Call.REGISTER, Call.COMPLETE, Call.UPDATE_MODEL, Call.DELETE_MODEL)

RARELY = 2
"""How often faults strike that end a job when they strike too often."""


def api_faults(draw: random.Random) -> list[Rule]:
    """Faults of the API that pass by themselves, one of each kind."""
    wait = {"Retry-After": str(draw.choice([0, 1, 20, 90, 600, 3000]))}
    return [
        *(Rule(Fault.ANSWER, status=status) for status in (408, 425, 500, 502, 503, 504, 520)),
        *(Rule(Fault.ANSWER, status=status, performed=True) for status in (500, 502, 504)),
        Rule(Fault.ANSWER, status=429),
        Rule(Fault.ANSWER, status=429, headers=wait),
        Rule(Fault.ANSWER, status=503, headers=wait),
        Rule(Fault.RESET),
        Rule(Fault.RESET, performed=True),
        Rule(Fault.LOST_ANSWER),
        Rule(Fault.LOST_ANSWER),
        Rule(Fault.TRUNCATED, after_bytes=3),
        Rule(Fault.DELAY, delay_s=draw.uniform(1, 25)),
        Rule(Fault.DELAY, delay_s=draw.uniform(31, 60)),
        Rule(Fault.MALFORMED_JSON),
        Rule(Fault.HTML),
        Rule(Fault.REDIRECT),
        Rule(Fault.ANSWER, status=200, body="[]", performed=True),
        Rule(Fault.HUGE, after_bytes=1_100_000, count=1),
        *(Rule(Fault.ANSWER, status=status, count=RARELY) for status in (402, 403, 507, 511)),
    ]


def late_faults(draw: random.Random) -> list[Rule]:
    """Answers before the effect: with two slow ways of 15 s, less than 90 s after the request."""
    late_s = draw.uniform(0.5, 60)
    return [
        *(Rule(Fault.ANSWER, status=status, late_s=late_s) for status in (500, 502, 504)),
        Rule(Fault.RESET, late_s=late_s),
        Rule(Fault.DELAY, delay_s=late_s),
    ]


def store_faults(draw: random.Random) -> list[Rule]:
    """Faults of the object store that pass by themselves, one of each kind."""
    codes = (
        (400, "RequestTimeout"), (400, "IncompleteBody"), (500, "InternalError"),
        (503, "SlowDown"), (503, "ServiceUnavailable"), (409, "OperationAborted"),
        (409, "ConditionalRequestConflict"), (403, "ExpiredToken"), (400, "BadDigest"),
        (403, "RequestTimeTooSkewed"), (404, "NoSuchBucket"),
    )  # fmt: skip
    return [
        *(_refused(status, code) for status, code in codes),
        # After a body of ours was on its way, this says, like the 200 below, that it is stored.
        replace(_refused(412, "PreconditionFailed"), count=RARELY),
        Rule(Fault.ANSWER, status=429),
        Rule(Fault.ANSWER, status=200, performed=False, count=RARELY),
        Rule(Fault.ANSWER, status=502, performed=True),
        Rule(Fault.RESET),
        Rule(Fault.RESET, performed=True),
        Rule(Fault.LOST_ANSWER),
        Rule(Fault.LOST_ANSWER),
        Rule(Fault.CUT, after_bytes=draw.randrange(1, 9000)),
        Rule(Fault.NO_ETAG),
        Rule(Fault.HTML),
        Rule(Fault.REDIRECT),
        replace(_refused(404, "NoSuchUpload"), call=Call.PUT_PART, count=RARELY),
    ]


def grave_faults() -> list[Rule]:
    """Faults after which a person has to act: a job has failed, or the server lacks something."""
    api = [
        Rule(Fault.ANSWER, status=status)
        for status in (400, 401, 404, 405, 409, 413, 418, 422, 501)
    ]
    store = [
        *(_refused(403, code) for code in ("AccessDenied", "SignatureDoesNotMatch")),
        _refused(400, "EntityTooLarge"),
        _refused(400, "InvalidArgument"),
        Rule(Fault.WRONG_ETAG),
    ]
    return [*(replace(r, call=c) for r in api for c in API_CALLS)] + [
        replace(r, call=c) for r in store for c in STORE_CALLS
    ]


def rules(draw: random.Random, *, grave: bool) -> list[Rule]:
    """The faults of one run: from none to many, each seldom or often."""
    chosen = [_aimed(draw, _any(draw)) for _ in range(draw.choice([0, 1, 1, 2, 3, 5, 8]))]
    if draw.random() < 0.5:
        chosen.insert(0, _aimed(draw, (draw.choice(late_faults(draw)), LATE_CALLS)))
    if grave:
        faults = [replace(rule, count=3) for rule in draw.sample(grave_faults(), 2)]
        chosen += [rule for rule in faults if not _denies_listing(rule)]
    return chosen


def _denies_listing(rule: Rule) -> bool:
    """Whether the server says that it has no list; syncd believes that (``Switches.listing_off``)."""
    return rule.call is Call.LIST_MODELS and rule.status in (404, 405, 501)


def _any(draw: random.Random) -> tuple[Rule, tuple[Call, ...]]:
    if draw.random() < 0.6:
        return draw.choice(api_faults(draw)), API_CALLS
    return draw.choice(store_faults(draw)), STORE_CALLS


def _aimed(draw: random.Random, shot: tuple[Rule, tuple[Call, ...]]) -> Rule:
    rule, calls = shot
    aimed: dict[str, Any] = {} if rule.call else {"call": draw.choice(calls)}
    count = None if rule.count == 1 else rule.count
    return replace(rule, **aimed, count=count, probability=draw.choice([0.05, 0.2, 0.5, 1.0]))


def _refused(status: int, code: str) -> Rule:
    body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>no</Message></Error>"
    return Rule(Fault.ANSWER, status=status, body=body)


def switches(draw: random.Random, part_size: int) -> Switches:
    """A cloud that answers the open questions in one way or another."""
    return Switches(
        listing_off=draw.choice([None, None, None, 404, 405]),
        list_omits=draw.choice([(), ("storage_key",), ("storage_key", "file_hash")]),
        part_size=part_size,
        min_part_size=part_size,
        sign_part_length=draw.random() < 0.7,
        url_lifetime_s=draw.choice([20, 120, 900]),
        if_none_match=draw.random() < 0.8,
        unique_paths=Unique.NO,
        register_repeats=draw.random() < 0.5,
        access_token_lifetime_s=10**7,
    )
