"""
What the letters of the matrix promise, one function a letter.

Each waits until the fault has led to what is promised, and fails if it does not or if more is lost
than that. *path* is the file that meets the fault, *call* the request at which it does.
"""

from collections.abc import Awaitable, Callable
from itertools import pairwise

from syncd.core.jobs.retry_policy import row_of
from syncd.types import Call, Kind
from tests.matrix.stage import OTHER, Stage

Letter = Callable[[Stage, str, Call], Awaitable[None]]


JITTER = 0.75
"""What every draw gives where waits are measured, as a share of the longest wait."""

REQUEST_WAIT_S = 1.0
"""The longest wait after the first try of a request, where the retry table names no other."""

SLACK_S = 2.5
"""On top of a wait: the way to the server and back, and the other parts."""


def _failures(stage: Stage, call: Call) -> list[tuple[int, int | None]]:
    """When *call* was made and went wrong, Unix milliseconds, and of which part; in order."""
    on_the_way = [
        (int((stage.clock.EPOCH_S + each.at_s) * 1000), each.part)
        for each in stage.line.failed
        if each.call is call
    ]
    return sorted(
        on_the_way + [(e.at_ms, e.part) for e in stage.hit() if e.call == call],
        key=lambda failure: failure[0],
    )


def _failure_times(stage: Stage, call: Call) -> list[int]:
    """When *call* was made and went wrong, Unix milliseconds."""
    return [at_ms for at_ms, _ in _failures(stage, call)]


def repeats(
    wait_s: float = REQUEST_WAIT_S, *, fails_after_s: float = 0.0, at_once: int = 0
) -> Letter:
    """
    R: the same request again, after the wait that the retry table names.

    Args:
        wait_s: The longest wait after the first try.
        fails_after_s: How long a try takes to fail.
        at_once: Tries on a new connection that come before any wait.
    """

    async def repeated(stage: Stage, path: str, call: Call) -> None:
        def tries() -> list[int]:
            failures = _failures(stage, call)
            return [at_ms for at_ms, part in failures if part == failures[0][1]]

        await stage.until(lambda: len(tries()) > 1 + at_once, "a repeat after a wait")
        first, second = tries()[at_once : at_once + 2]
        gap_s, least_s = (second - first) / 1000, fails_after_s + JITTER * wait_s

        assert least_s - 0.001 <= gap_s <= least_s + SLACK_S, (gap_s, least_s)

    return repeated


def job_wait_s(kind: Kind, call: Call, attempt: int) -> float:
    """The wait after *attempt* failed attempts of *kind*, by the retry table."""
    wait = row_of(kind, call).job
    return wait.base_s if wait.fixed else JITTER * min(wait.cap_s, wait.base_s * 2 ** (attempt - 1))


async def waits(stage: Stage, path: str, call: Call) -> None:
    """Q: the job waits in the queue for the time that the retry table names, with the reason."""

    def waiting() -> bool:
        job = stage.job(path)
        later = job is not None and job["state"] == "queued" and job["last_error"] is not None
        return bool(later and job["run_after"] > stage.clock.now_ms())

    await stage.until(waiting, "a job that waits")
    job = stage.job(path)
    kind, waited_s = Kind(job["last_kind"]), (job["run_after"] - job["updated_at"]) / 1000
    allowed_s = [job_wait_s(kind, call, attempt) for attempt in range(1, 4)]

    assert any(abs(waited_s - allowed) < 0.01 for allowed in allowed_s), (waited_s, allowed_s)
    assert "reject" not in stage.events(path)


def holds(kind: str) -> Letter:
    """H: everything waits; since when, why and what to do can be read; a probe comes by itself."""

    async def held(stage: Stage, path: str, call: Call) -> None:
        (hold,) = await stage.until(stage.holds, "a hold")

        assert hold["kind"] == kind
        assert stage.injected_ms <= hold["since"] <= stage.clock.now_ms()
        assert hold["reason"]
        assert hold["advice"]
        assert 5_000 <= hold["probe_at"] - hold["since"] <= 3_960_000
        assert stage.job(path)["state"] in ("queued", "leased")
        assert "reject" not in stage.events(path)

    return held


async def presigns_again(stage: Stage, path: str, call: Call) -> None:
    """P: a fresh URL for the same upload, the attempt is not spent."""
    asked = Call.SIGN_PART if call is Call.PUT_PART else Call.PRESIGN
    (first, *_) = await stage.until(lambda: _failure_times(stage, call), "the fault")
    part = next((e.part for e in stage.hit() if e.call == call), None)

    def again() -> bool:
        return any(e.at_ms >= first and e.part == part and e.seq > stage.hit()[0].seq
                   for e in stage.calls(asked, path=path))  # fmt: skip

    await stage.until(again, "a fresh URL")


async def uploads_anew(stage: Stage, path: str, call: Call) -> None:
    """I: another upload under another key, from its first part on."""
    first, second = await stage.until(
        lambda: len(opened := stage.calls(Call.INITIATE, path=path)) == 2 and opened, "a new upload"
    )

    assert first.storage_key != second.storage_key
    await stage.until(
        lambda: (
            {e.part for e in stage.calls(Call.PUT_PART) if e.upload_id == second.upload_id}
            == {1, 2, 3}
        ),
        "all parts once more",
    )


async def looks_first(stage: Stage, path: str, call: Call) -> None:
    """V: what became of it is found out before a register is repeated; complete tells by itself."""
    await stage.until(lambda: _failure_times(stage, call), "the fault")
    if call is not Call.REGISTER:
        return
    await stage.until(lambda: stage.registered(path), "the record")
    sent = stage.calls(call, path=path)
    lookups = [e.seq for e in stage.calls(Call.LIST_MODELS)]
    for before, after in pairwise(sent):
        assert any(before.seq < seq < after.seq for seq in lookups)
    assert len([e for e in sent if e.ok]) == 1


async def fails(stage: Stage, path: str, call: Call) -> None:
    """F: it has failed, with a reason and advice, is not tried again, and blocks no other file."""
    job = await stage.until(lambda: (j := stage.job(path)) and j["state"] == "failed" and j, "F")
    failures = len(_failure_times(stage, call))

    assert job["last_error"]
    assert job["last_advice"]
    stage.clear_faults()
    stage.write(OTHER)
    await stage.until(lambda: stage.registered(OTHER), "another file")
    assert len(_failure_times(stage, call)) == failures
    stage.write(path, salt="another version")


async def holds_large(stage: Stage, path: str, call: Call) -> None:
    """K: this class of files waits, the others go on."""
    job = await stage.until(
        lambda: (j := stage.job(path)) and j["held_class"] == "large" and j, "a held class"
    )

    assert job["state"] == "queued"
    assert job["last_error"]
    assert job["last_advice"]
    stage.write(OTHER)
    await stage.until(lambda: stage.registered(OTHER), "another file")
    assert not stage.holds()
    stage.clear_faults()
    stage.give(stage.far.session.access_token)
    await stage.restart()


async def goes_in_parts(stage: Stage, path: str, call: Call) -> None:
    """ "multipart": the size that was refused in one request goes in parts."""
    await stage.until(lambda: stage.registered(path), "the record")

    assert stage.calls(Call.COMPLETE, path=path)
