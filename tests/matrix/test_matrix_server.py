"""
Faults 24 to 49 of ``matrix.md``: the network and the two servers.

One row a cell. A cell may be played in several ways (an answer that says no and one that never
comes, a call that took effect and one that did not): all of them have to keep the promise, and all
end with the file in the catalog and the oracle content.
"""

import asyncio
import ssl
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import httpx
import pytest

from syncd.sandbox.faults import Fault, Rule
from syncd.types import Call
from tests.matrix.letters import (
    JITTER,
    Letter,
    fails,
    goes_in_parts,
    holds,
    holds_large,
    looks_first,
    presigns_again,
    repeats,
    uploads_anew,
    waits,
)
from tests.matrix.stage import HOUR_S, LARGE, SMALL, Broken, Slow, Stage, call_of, play, staged
from tests.oracle import check

PHASES: Mapping[str, Sequence[tuple[Call, str]]] = {
    "presign": [(Call.PRESIGN, SMALL)],
    "part": [(Call.PUT_PART, LARGE), (Call.PUT_BODY, SMALL)],
    "complete": [(Call.COMPLETE, LARGE)],
    "register": [(Call.REGISTER, SMALL)],
}
ONCE, ALWAYS = 1, None
JOB_WAIT_S, THROTTLE_WAIT_S = 15.0, 30.0
"""The longest first waits of a job, and after 429: rows R2 and R6 of the retry table."""


@dataclass(frozen=True, slots=True)
class Way:
    """One way in which a fault shows: rules of the cloud, or a line that breaks or is slow."""

    rule: Rule | None = None
    broken: Broken | None = None
    slow: Slow | None = None

    def inject(self, stage: Stage, call: Call) -> None:
        rules = [] if self.rule is None else [replace(self.rule, call=call)]
        broken = None if self.broken is None else replace(self.broken, call=call)
        slow = None if self.slow is None else replace(self.slow, call=call)
        stage.inject(*rules, broken=broken, slow=slow)


@dataclass(frozen=True, slots=True)
class Cell:
    """
    One cell of the matrix.

    Args:
        calls: At which call, and which file meets it; None: as the phase says.
        answered: Routes that the server has shown before.
        prepare: What else has to be so.
    """

    fault: int
    phase: str
    ways: Sequence[Way]
    letters: Sequence[Letter]
    calls: Sequence[tuple[Call, str]] | None = None
    answered: Sequence[Call] = ()
    how: Mapping[str, Any] = field(default_factory=dict)
    prepare: Callable[[Stage], None] = lambda stage: None

    @property
    def name(self) -> str:
        return f"F{self.fault:02}-{self.phase}"


def answers(*statuses: int, code: str | None = None, count: int | None = ALWAYS) -> list[Way]:
    """The server says no, with the store's error document if *code* is given."""
    body = None if code is None else f"<?xml?><Error><Code>{code}</Code></Error>"
    return [Way(Rule(Fault.ANSWER, status=each, body=body, count=count)) for each in statuses]


def either(*rules: Rule) -> list[Way]:
    """Once each, with the call done and not done."""
    return [
        Way(replace(rule, count=ONCE, performed=done)) for rule in rules for done in (True, False)
    ]


def breaks(*errors: Callable[[], httpx.TransportError], **how: Any) -> list[Way]:
    """The line breaks before anything gets to the server."""
    return [Way(broken=Broken(Call.ME, error, **how)) for error in errors]


def always(*rules: Rule) -> list[Way]:
    return [Way(replace(rule, count=ALWAYS)) for rule in rules]


def slows(**how: Any) -> list[Way]:
    """Answers drip, or bodies trickle."""
    return [Way(slow=Slow(Call.ME, **how))]


def no_route() -> httpx.TransportError:
    return httpx.ConnectError("No route to host")


def no_name() -> httpx.TransportError:
    return httpx.ConnectError("Name or service not known")


def refused() -> httpx.TransportError:
    return httpx.ConnectError("Connection refused")


def timed_out() -> httpx.TransportError:
    return httpx.ConnectTimeout("timed out")


def untrusted() -> httpx.TransportError:
    error = httpx.ConnectError("certificate verify failed: Hostname mismatch")
    error.__cause__ = ssl.SSLCertVerificationError("certificate verify failed")
    return error


def lost_then_out() -> list[Way]:
    """The answer is lost with the network, and then no request gets through."""
    gone = Broken(Call.LIST_MODELS, no_route, everything=True)
    return [Way(way.rule, gone) for way in either(Rule(Fault.LOST_ANSWER))]


RESET, LOST = Rule(Fault.RESET), Rule(Fault.LOST_ANSWER)
DRIP = Rule(Fault.DELAY, delay_s=650)
SILENT = Rule(Fault.DELAY, delay_s=100)
SPOILT = [Rule(Fault.MALFORMED_JSON), Rule(Fault.HUGE, after_bytes=1_100_000),
          Rule(Fault.ANSWER, status=200, body='{"a":' * 40 + "1" + "}" * 40),
          Rule(Fault.ANSWER, status=200, body="{}", headers={"Content-Encoding": "gzip"})]  # fmt: skip
ERROR_INSIDE = Rule(Fault.ANSWER, status=200, body='{"error_message": "it went wrong"}')
XML_INSIDE = Rule(Fault.ANSWER, status=200, body="<?xml?><Error><Code>InternalError</Code></Error>")
MULTIPART = (Call.INITIATE, Call.SIGN_PART, Call.COMPLETE)
PARTS_ONLY = [(Call.PUT_PART, LARGE)]
BODY_ONLY = [(Call.PUT_BODY, SMALL)]
OUT = holds("offline")
PERSON = holds("operator")
SLOW = holds("throttled")
TRANSIENT = (408, 425, 500, 502, 503, 504)
HTML = always(Rule(Fault.HTML))


def _same_bytes_registered(stage: Stage) -> None:
    """Another machine registers the same bytes just before the presign call arrives."""

    def register_first(request: httpx.Request) -> None:
        if call_of(request) is Call.PRESIGN and not stage.far.cloud.records():
            stage.register_elsewhere(SMALL)

    stage.line.on_request = register_first


def _one_at_a_time(stage: Stage) -> None:
    """The store serves one body at a time in virtual time, so a second one would add its wait."""
    stage.settings["upload"] = {"files": 1, "parts": 1, "parts_max": 1}


def _new_token(stage: Stage) -> None:
    """The refused token is replaced at the moment at which it is refused."""
    stage.line.on_request = lambda request: stage.give(stage.far.new_token())


async def refreshes(stage: Stage, path: str, call: Call) -> None:
    """ "refresh": a replaced token is read and the request repeated, once; no hold."""
    await stage.until(lambda: stage.registered(path), "the record")

    first, second = stage.calls(call, path=path)
    assert first.answered == 401
    assert second.ok
    assert stage.events(path).count("release") == 0


async def holds_till_new_token(stage: Stage, path: str, call: Call) -> None:
    """H: the same token is not tried again, a new one is found without a restart."""
    await PERSON(stage, path, call)
    sent = len(stage.calls(call, path=path))
    await asyncio.sleep(HOUR_S)
    assert len(stage.calls(call, path=path)) == sent
    stage.clear_faults()
    stage.give(stage.far.new_token())


def _only_a_device_key(stage: Stage) -> None:
    """The session is over when it is refused; what there is then is a device key."""
    device_key = stage.far.accounts.device_key
    stage.line.on_request = lambda request: stage.give(device_key)


async def adopts(stage: Stage, path: str, call: Call) -> None:
    """V: the catalog is asked what stands there: these very bytes are taken over, none is sent."""
    await stage.until(lambda: stage.events(path)[-1:] == ["finish"], "the job's end")

    assert not stage.calls(Call.PUT_BODY, Call.REGISTER)


async def takes_ours(stage: Stage, path: str, call: Call) -> None:
    """V, I3: an object under our key, sent for this plan, is ours; it is registered, not resent."""
    await stage.until(lambda: stage.registered(path), "the record")

    assert [e.answered for e in stage.calls(call, path=path)] == [None, 412]
    assert len(stage.calls(Call.PRESIGN, path=path)) == 1


async def leaves_foreign(stage: Stage, path: str, call: Call) -> None:
    """V, I3: what was there before anything of ours was sent is never registered: another key."""
    await stage.until(lambda: stage.registered(path), "the record")

    first, second = stage.calls(Call.PRESIGN, path=path)
    assert first.storage_key != second.storage_key
    tried = [entry.storage_key for entry in stage.calls(Call.REGISTER, path=path)]
    assert tried == [second.storage_key]


async def does_not_go_round(stage: Stage, path: str, call: Call) -> None:
    """V, I3: a store that says so of every key is asked for two now and then, ever more seldom."""
    await stage.until(lambda: len(stage.hit()) >= 16, "eight rounds", 9 * HOUR_S)

    tried = [entry.at_ms for entry in stage.hit()]
    assert tried[-1] - tried[0] > HOUR_S * 1000
    assert not stage.registered(path)


async def parts_again(stage: Stage, path: str, call: Call) -> None:
    """ "resend": the parts go again within the same upload, once."""
    await stage.until(lambda: len(stage.calls(Call.PUT_PART, path=path)) >= 6, "the parts again")

    assert len({e.upload_id for e in stage.calls(Call.PUT_PART, path=path)[:6]}) == 1


async def at_most_three_a_day(stage: Stage, path: str, call: Call) -> None:
    """ "x3": after three fresh uploads within a day it has failed."""
    await fails(stage, path, call)

    assert len({e.upload_id for e in stage.hit() if e.call == call}) == 4


async def breaks_off(stage: Stage, path: str, call: Call) -> None:
    """Nobody waits for the last byte of an answer that drips."""
    (dripped,) = await stage.until(lambda: stage.calls(call, path=path)[:1], "the call")
    patience_ms = 1000 * (660 if call is Call.COMPLETE else 75)

    def went_on() -> bool:
        return any(e.seq > dripped.seq for e in stage.calls())

    await stage.until(went_on, "the next call")
    next_at_ms = min(e.at_ms for e in stage.calls() if e.seq > dripped.seq)
    assert next_at_ms - dripped.at_ms < patience_ms


async def loses_one(stage: Stage, path: str, call: Call) -> None:
    """W-1: a body that trickles is broken off; after it one fewer is under way at once."""
    await stage.until(lambda: stage.registered(path), "the record")

    assert stage.calls(call)[0].answered is None
    stalled = stage.line.slowed[0].url.params["partNumber"]
    later = [e.at_ms for e in stage.calls(call) if e.ok]
    assert len([e for e in stage.calls(call) if e.part == int(stalled)]) == 2
    assert max(sum(at <= other < at + 500 for other in later) for at in later) == 3


async def halves(stage: Stage, path: str, call: Call) -> None:
    """W/2: after SlowDown no more than half as many bodies are under way at once."""
    await stage.until(lambda: stage.registered(path), "the record")

    slow = stage.hit()[-1].at_ms
    # What was on its way when the answer came is not called back.
    later = [e.at_ms for e in stage.calls(call) if e.at_ms > slow + 100]
    assert len(later) > 4
    assert max(sum(at <= other < at + 1000 for other in later) for at in later) <= 2


CELLS = [
    *(Cell(24, p, lost_then_out(), [OUT]) for p in ("complete", "register")),
    *(Cell(31, p, answers(401, count=ONCE), [refreshes], prepare=_new_token)
      for p in ("presign", "complete", "register")),
    Cell(36, "presign", answers(409, count=ONCE), [adopts], prepare=_same_bytes_registered),
    Cell(43, "part", answers(503, code="SlowDown", count=ONCE), [halves], calls=PARTS_ONLY,
         prepare=lambda stage: stage.write(LARGE, 12 * 5120)),
    Cell(49, "complete", [*answers(400, code="InvalidPart"), *answers(400, code="InvalidPartOrder"),
                          *answers(400, code="EntityTooSmall")], [parts_again, uploads_anew, fails]),
    Cell(24, "presign", breaks(no_route, no_name, everything=True),
         [repeats(JOB_WAIT_S, at_once=1), OUT]),
    Cell(24, "part", breaks(no_route, no_name, everything=True), [repeats(), OUT]),
    Cell(25, "presign", breaks(refused), [repeats(JOB_WAIT_S, at_once=1), OUT]),
    Cell(25, "presign", breaks(timed_out), [repeats(), OUT]),
    Cell(25, "part", breaks(refused, timed_out), [repeats(), OUT]),
    *(Cell(25, p, breaks(refused), [repeats(JOB_WAIT_S), OUT]) for p in ("complete", "register")),
    *(Cell(25, p, breaks(timed_out), [repeats(), OUT]) for p in ("complete", "register")),
    Cell(26, "presign", always(RESET, LOST), [repeats(JOB_WAIT_S, at_once=1)]),
    Cell(26, "part", always(RESET), [repeats()]),
    *(Cell(26, p, either(RESET, LOST), [looks_first]) for p in ("complete", "register")),
    Cell(27, "presign", always(SILENT), [repeats(fails_after_s=30)]),
    Cell(27, "part", slows(silent=True), [repeats(fails_after_s=30)],
         prepare=_one_at_a_time),
    Cell(27, "complete", either(DRIP), [looks_first]),
    Cell(27, "register", either(SILENT), [looks_first]),
    Cell(28, "presign", slows(drip_s=29), [repeats(fails_after_s=70)]),
    Cell(28, "part", slows(piece_s=110), [repeats(fails_after_s=330)],
         prepare=_one_at_a_time),
    *(Cell(28, p, slows(drip_s=29, once=True), [breaks_off, looks_first])
      for p in ("complete", "register")),
    Cell(51, "presign", slows(drip_s=5), [repeats(fails_after_s=70)]),
    *(Cell(51, p, slows(drip_s=5, once=True), [breaks_off, looks_first])
      for p in ("complete", "register")),
    *(Cell(29, p, breaks(untrusted), [PERSON]) for p in PHASES),
    *(Cell(30, p, always(Rule(Fault.REDIRECT)), [PERSON])
      for p in ("presign", "complete", "register")),
    Cell(30, "part", always(Rule(Fault.REDIRECT)), [presigns_again, waits]),
    Cell(31, "part", answers(401, count=ONCE), [presigns_again]),
    *(Cell(32, p, answers(402, 403, 507), [PERSON]) for p in ("presign", "complete", "register")),
    Cell(33, "presign", [Way()], [holds_large], calls=[(Call.PRESIGN, LARGE)],
         how={"session": False}),
    Cell(33, "part", answers(401, count=ONCE), [holds_large], calls=[(Call.SIGN_PART, LARGE)],
         prepare=_only_a_device_key),
    Cell(33, "complete", answers(401, count=ONCE), [holds_large], prepare=_only_a_device_key),
    Cell(34, "presign", answers(400, 422), [fails]),
    Cell(34, "part", answers(400), [fails]),
    Cell(34, "complete", answers(400, 422), [uploads_anew, fails]),
    Cell(34, "register", answers(400, 422), [fails]),
    *(Cell(35, p, answers(405, 501), [PERSON]) for p in ("presign", "register")),
    Cell(35, "part", answers(404, 405, 501), [holds_large], calls=[(Call.SIGN_PART, LARGE)]),
    Cell(35, "complete", answers(404, 405, 501), [holds_large]),
    Cell(36, "part", [*answers(409, code="ConditionalRequestConflict"),
                      *answers(409, code="OperationAborted")], [repeats(), waits]),
    Cell(36, "complete", answers(409), [uploads_anew, waits]),
    Cell(36, "register", [Way(Rule(Fault.ANSWER, status=409, performed=True))], [looks_first]),
    Cell(37, "presign", answers(413, count=ONCE), [goes_in_parts]),
    Cell(37, "part", answers(400, code="EntityTooLarge", count=ONCE), [goes_in_parts],
         calls=BODY_ONLY),
    *(Cell(37, p, answers(413), [fails]) for p in ("complete", "register")),
    Cell(38, "part", answers(403, code="ExpiredToken", count=3), [presigns_again]),
    Cell(39, "part", answers(403, code="SignatureDoesNotMatch"), [presigns_again, fails]),
    Cell(40, "part", answers(403, code="RequestTimeTooSkewed"), [presigns_again, PERSON]),
    Cell(41, "complete", [Way(Rule(Fault.ANSWER, status=412, performed=True))], [looks_first]),
    Cell(41, "register", either(Rule(Fault.ANSWER, status=412)), [looks_first]),
    Cell(42, "part", answers(404, code="NoSuchUpload", count=ONCE), [uploads_anew],
         calls=PARTS_ONLY),
    Cell(42, "complete", answers(404, count=ONCE), [uploads_anew], answered=MULTIPART),
    *(Cell(43, p, answers(429), [repeats(THROTTLE_WAIT_S), SLOW]) for p in ("presign", "register")),
    Cell(43, "complete", answers(429), [repeats(THROTTLE_WAIT_S)]),
    *(Cell(44, p, answers(*TRANSIENT), [repeats(), waits]) for p in ("presign", "part")),
    *(Cell(44, p, either(*(Rule(Fault.ANSWER, status=s) for s in TRANSIENT)), [looks_first])
      for p in ("complete",)),
    Cell(44, "register", either(*(Rule(Fault.ANSWER, status=s) for s in TRANSIENT if s != 425)),
         [looks_first]),
    Cell(45, "presign", always(ERROR_INSIDE), [repeats(), waits]),
    Cell(45, "part", always(XML_INSIDE), [repeats()]),
    Cell(45, "complete", [*either(ERROR_INSIDE, XML_INSIDE), *always(XML_INSIDE)], [looks_first]),
    Cell(45, "register", either(ERROR_INSIDE), [looks_first]),
    Cell(46, "presign", always(*SPOILT), [repeats(), waits]),
    Cell(46, "part", always(Rule(Fault.HUGE, after_bytes=1_100_000)), [repeats(), waits],
         calls=PARTS_ONLY),
    *(Cell(46, p, either(*SPOILT), [looks_first]) for p in ("complete", "register")),
    Cell(47, "part", answers(400, code="BadDigest"), [repeats(0), waits]),
    Cell(47, "complete", answers(400, code="BadDigest"), [uploads_anew]),
    Cell(48, "part", always(Rule(Fault.NO_ETAG)), [repeats(), waits], calls=PARTS_ONLY),
]  # fmt: skip


EXTRA = [
    *(Cell(31, p, answers(401), [holds_till_new_token]) for p in ("presign", "complete", "register")),
    Cell(28, "part", slows(piece_s=110, once=True), [loses_one], calls=PARTS_ONLY,
         prepare=lambda stage: stage.write(LARGE, 12 * 5120)),
    Cell(41, "part", either(LOST)[:1], [takes_ours], calls=BODY_ONLY),
    Cell(41, "part", answers(412, code="PreconditionFailed", count=ONCE), [leaves_foreign],
         calls=BODY_ONLY),
    Cell(41, "part", answers(412, code="PreconditionFailed"), [does_not_go_round],
         calls=BODY_ONLY),
    Cell(42, "part", answers(404, code="NoSuchUpload"), [at_most_three_a_day], calls=PARTS_ONLY),
    *(Cell(46, p, HTML, [OUT]) for p in PHASES),
]  # fmt: skip
"""What a cell promises beside its first reading."""


def _params() -> Iterator[Any]:
    seen: Counter[str] = Counter()
    for cell in (*CELLS, *EXTRA):
        seen[cell.name] += 1
        again = "" if seen[cell.name] == 1 else f"-{seen[cell.name]}"
        yield pytest.param(cell, id=cell.name + again, marks=pytest.mark.cell(cell.name))


@pytest.mark.parametrize("cell", [*_params()])
def test_fault_leads_to_the_letters_of_its_cell(cell: Cell) -> None:
    for call, path in cell.calls or PHASES[cell.phase]:
        for way in cell.ways:
            play(_scenario(cell, way, call, path), jitter=lambda: JITTER, **cell.how)


def _scenario(cell: Cell, way: Way, call: Call, path: str) -> Any:
    async def scenario(stage: Stage) -> None:
        stage.knows_routes(*cell.answered)
        stage.write(path)
        cell.prepare(stage)
        way.inject(stage, call)
        stage.start()
        for letter in cell.letters:
            await letter(stage, path, call)
        stage.clear_faults()
        await stage.finish(path)

    return scenario


@pytest.mark.parametrize("call", [Call.PUT_BODY, Call.REGISTER])
@staged()
async def test_backfill_ends_when_every_path_is_taken(stage: Stage, call: Call) -> None:
    stage.inject(Rule(Fault.ANSWER, call=call, status=412, count=ALWAYS))
    stage.write(SMALL)
    stage.start(once=True)
    code = await stage.ended()

    assert code == 75
    assert 2 <= len(stage.hit()) <= 10


@staged(switches={"single_put_cap": 8000})
async def test_files_refused_as_too_large_at_once_all_go_in_parts(stage: Stage) -> None:
    paths = ["loras/a.safetensors", "loras/b.safetensors"]
    for path in paths:
        stage.write(path, 9000)
    stage.start()
    for path in paths:
        await stage.arrives(path)
    await stage.stop()

    assert [len(stage.calls(Call.PUT_BODY, path=path)) for path in paths] == [1, 1]
    assert all(stage.calls(Call.COMPLETE, path=path) for path in paths)
    check(stage.evidence({f"models/{path}": stage.sha256(path) for path in paths}))
