"""T9: many files, and every fault that passes by itself."""

import random
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from syncd.sandbox.faults import Fault, Rule
from syncd.types import Call
from tests.oracle import check
from tests.sockets.rig import SINGLE_PUT_LIMIT, Rig, rigged
from tests.sockets.wire import Accident, Break, Wire
from tests.weights import write_safetensors

FILES = 200
LARGE_EVERY = 10
FOLDERS = ("checkpoints", "loras", "vae", "text_encoders", "upscale_models")
SEEN_OFTEN = 0.03
"""Of the calls that a rule can hit, the share that it does."""


def xml(code: str) -> str:
    return f"<?xml version='1.0'?><Error><Code>{code}</Code></Error>"


PAUSE = {"Retry-After": "7"}
RULES = (
    *(Rule(Fault.RESET, call=call) for call in (Call.PRESIGN, Call.PUT_BODY, Call.PUT_PART)),
    *(Rule(Fault.LOST_ANSWER, call=call) for call in (Call.PUT_BODY, Call.PUT_PART)),
    *(Rule(Fault.LOST_ANSWER, call=call) for call in (Call.COMPLETE, Call.REGISTER)),
    *(
        Rule(Fault.ANSWER, call=call, status=503)
        for call in (Call.PRESIGN, Call.SIGN_PART, Call.COMPLETE, Call.REGISTER, Call.PUT_BODY)
    ),
    *(
        Rule(Fault.ANSWER, call=call, status=429, headers=PAUSE)
        for call in (Call.PRESIGN, Call.REGISTER, Call.PUT_BODY)
    ),
    *(
        Rule(Fault.ANSWER, call=call, status=403, body=xml("ExpiredToken"))
        for call in (Call.PUT_BODY, Call.PUT_PART)
    ),
    Rule(Fault.CUT, call=Call.PUT_BODY, after_bytes=500),
    Rule(Fault.TRUNCATED, call=Call.PRESIGN, after_bytes=20),
)
STALLS = {
    "api": [Accident(Break.ANSWER_STALL, nth, 40 * nth) for nth in (1, 4, 7)],
    "store": [Accident(Break.REQUEST_STALL, nth, 700 * nth) for nth in (0, 3, 6)],
}


def plant(models: Path) -> None:
    for number in range(FILES):
        size = SINGLE_PUT_LIMIT + 2000 if number % LARGE_EVERY == 0 else 500 + 31 * number
        folder = FOLDERS[number % len(FOLDERS)]
        write_safetensors(models / folder / f"{number}.safetensors", size)


def require_allowed(rig: Rig) -> None:
    """The oracle's rules, and no second body where the first one was acknowledged."""
    check(rig.evidence())
    taken = Counter(
        (call.call, call.storage_key, call.part)
        for call in rig.cloud.as_seen()
        if call.call in (Call.PUT_BODY, Call.PUT_PART) and call.answered == 200 and not call.lost
    )
    assert set(taken.values()) == {1}
    registered = Counter(e.model_path for e in rig.cloud.history.entries(Call.REGISTER) if e.ok)
    assert set(registered.values()) == {1}


def test_200_files_through_resets_stalls_503_429_expired_urls_lost_answers_and_412(
    tmp_path: Path, both: tuple[Wire, Wire], request: pytest.FixtureRequest
) -> None:
    plant(tmp_path / "models")
    with rigged(
        tmp_path / "models", both, accidents=STALLS, jitter=random.Random(200).random
    ) as rig:
        rig.cloud.faults.add(*(replace(rule, count=None, probability=SEEN_OFTEN) for rule in RULES))
        rig.run()
        stalled = sum(wire.met for wire in both)
        codes = rig.settle()

        assert codes[-1] == 0, rig.said.getvalue()
        require_allowed(rig)
        seen = rig.cloud.history.entries()
        hit = Counter(call.fault for call in seen if call.fault)
        assert stalled
        assert {rule.fault.value for rule in RULES} <= hit.keys()
        assert {412, 403, 429, 503} <= {call.answered for call in seen}
        claimed = {r["model_path"]: r["file_hash"][7:] for r in rig.cloud.records()}
        assert claimed == rig.local()
        assert len(rig.cloud.records()) == FILES
        request.node.user_properties.append(("cases", FILES))
