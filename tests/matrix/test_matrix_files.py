"""Faults 3 to 10 and 14 of ``matrix.md``: time that jumps, and files that change under the daemon."""

import asyncio
import os
from collections.abc import Callable, Mapping
from unittest import mock

import httpx
import pytest

from syncd.fs import hashing
from syncd.types import Call, Fingerprint, HintKind
from tests.matrix.stage import (
    LARGE,
    OTHER,
    SIZES,
    SMALL,
    Stage,
    call_of,
    cells,
    play,
    staged,
    whole_file,
)
from tests.oracle import check

Change = Callable[[Stage, str], str | None]
"""Does something to a file; where its bytes are now, None if they are gone."""

MOMENTS: Mapping[str, tuple[Call, str]] = {
    "presign": (Call.PRESIGN, SMALL),
    "part": (Call.PUT_PART, LARGE),
    "complete": (Call.COMPLETE, LARGE),
    "register": (Call.REGISTER, SMALL),
}


def grow(stage: Stage, path: str) -> str | None:
    stage.put(path, whole_file(SIZES[path] + 700, "grown"))
    return path


def replace_by_rename(stage: Stage, path: str) -> str | None:
    fresh = stage.root / f"{path}.tmp"
    fresh.write_bytes(whole_file(SIZES[path], "replaced"))
    fresh.replace(stage.root / path)
    stage.note(path)
    stage.hint(path, HintKind.MOVED)
    return path


def truncate(stage: Stage, path: str) -> str | None:
    stage.put(path, whole_file(SIZES[path] // 2, "cut"))
    return path


def delete(stage: Stage, path: str) -> str | None:
    (stage.root / path).unlink()
    stage.hint(path, HintKind.DELETED)
    return None


def rename(stage: Stage, path: str) -> str | None:
    to = path.replace(".safetensors", "-renamed.safetensors")
    (stage.root / path).rename(stage.root / to)
    stage.note(to)
    stage.hint(path, HintKind.DELETED)
    stage.hint(to, HintKind.MOVED)
    return to


CHANGES: Mapping[int, Change] = {
    5: grow, 7: replace_by_rename, 8: truncate, 9: delete, 10: rename,
}  # fmt: skip


async def ends_well(stage: Stage, path: str, left: str | None) -> None:
    """What is there now is registered, and what was there before in no record."""
    if left is None:
        gone = ("superseded", None)
        await stage.until(lambda: (j := stage.job(path)) is None or j["state"] in gone, "S")
        await stage.until(lambda: not stage._busy(), "an empty queue")
    else:
        await stage.arrives(left)
    await stage.stop()
    still = {} if left is None else {f"models/{left}": stage.sha256(left)}
    assert {r.model_path for r in stage.far.cloud.records()} == still.keys()
    assert len(stage.far.cloud.records()) == len(still)
    check(stage.evidence(still))


@pytest.mark.parametrize("watched", [True, False])
@cells(CHANGES, "presign", "part", "complete", "register")
@staged()
async def test_S_file_changed_before_a_call_is_superseded(
    stage: Stage, fault: int, phase: str, watched: bool
) -> None:
    """The job ends, an open upload is aborted, and only what is there now is registered."""
    call, path = MOMENTS[phase]

    left: list[str | None] = []
    before = {Call.COMPLETE: Call.PUT_PART, Call.REGISTER: Call.PUT_BODY}.get(call, call)

    def trigger(request: httpx.Request) -> None:
        if call_of(request) is before and not left:
            last = request.url.params.get("partNumber", "3") == "3"
            if call is not Call.COMPLETE or last:
                left.append(None)
                asyncio.get_running_loop().call_later(after_s, change)

    def change() -> None:
        life, stage.life = stage.life, stage.life if watched else None
        left[0] = CHANGES[fault](stage, path)
        stage.life = life

    # In flight: the part is on its way. Before complete and register: the last body has left.
    after_s = 0.0 if call in (Call.PRESIGN, Call.PUT_PART) else 0.01
    stage.line.on_request = trigger
    stage.write(path)
    stage.start()
    await stage.until(lambda: left, "the moment")
    await asyncio.sleep(1)
    await stage.until(lambda: "replace" in stage.events(path), "S: superseded")
    if path == LARGE:
        aborted = "SELECT 1 FROM upload WHERE state IN ('unwanted', 'aborted', 'gone')"
        await stage.until(lambda: stage.query(aborted), "the abort row")
    await ends_well(stage, path, left[0])


QUIET_CLOSED_S = 2
"""The settle window of the stage after a hint that a file was closed or moved."""


@cells(CHANGES, "watch", "settle")
@staged()
async def test_file_changed_while_it_settles_is_only_examined_again(
    stage: Stage, fault: int, phase: str
) -> None:
    """No byte is sent before it has stood still; a hint or the next walk brings what is there."""

    stage.write(SMALL)
    stage.start()
    await asyncio.sleep(4)  # one second before the first window ends
    if phase == "watch":
        await stage.until(lambda: stage.registered(SMALL), "the first version")
        await stage.until(lambda: not stage._busy(), "an empty queue")
    sent = len(stage.calls(Call.PRESIGN))
    left = CHANGES[fault](stage, SMALL)
    changed_s = stage.loop.time()
    if left is not None:
        await stage.until(lambda: _queued_since(stage, left, changed_s), "a job")
        assert QUIET_CLOSED_S <= _queued_since(stage, left, changed_s) < QUIET_CLOSED_S + 2
    if phase == "settle":
        await ends_well(stage, SMALL, left)
        assert len(stage.calls(Call.PRESIGN)) == (0 if left is None else 1)
        return
    if left is not None:
        await stage.arrives(left)
        assert stage.loop.time() - changed_s < 30
    await asyncio.sleep(10)
    moved = fault == 10  # its record goes with it
    assert len(stage.calls(Call.PRESIGN)) == sent + (left is not None and not moved)
    await stage.stop()
    check(stage.evidence({} if left is None else {f"models/{left}": stage.sha256(left)}))


def _queued_since(stage: Stage, path: str, changed_s: float) -> float:
    """Seconds from a change to the job that was made for it; 0 while there is none."""
    job, changed_at = stage.job(path), stage.clock.EPOCH_S + changed_s
    return max(0.0, job["created_at"] / 1000 - changed_at) if job is not None else 0.0


@cells(CHANGES, "hash")
@staged()
async def test_S_file_changed_while_it_is_hashed_is_superseded(
    stage: Stage, fault: int, phase: str
) -> None:
    left: list[str | None] = []

    def trigger(path: str) -> None:
        if not left:
            left.append(CHANGES[fault](stage, SMALL))

    stage.while_read = trigger
    stage.write(SMALL)
    stage.start()
    await stage.until(lambda: left, "the moment")
    await stage.until(lambda: "replace" in stage.events(SMALL), "S: superseded")
    await ends_well(stage, SMALL, left[0])
    assert len(stage.calls(Call.PRESIGN)) == (0 if left[0] is None else 1)


@pytest.mark.parametrize("watched", [True, False])
@cells(CHANGES, "commit")
@staged()
async def test_S_file_changed_before_its_commit_is_uploaded_again(
    stage: Stage, fault: int, phase: str, watched: bool
) -> None:
    """
    Its record tells the truth of what it was: it stays, and what is there now follows.

    Only of a file that moved untold the commit goes through, and then its record moves after it.
    """

    left: list[str | None] = []

    async def between_answer_and_commit() -> None:
        while len(stage.far.cloud.records()) < 2:
            await asyncio.sleep(0.001)
        life, stage.life = stage.life, stage.life if watched else None
        left.append(CHANGES[fault](stage, SMALL))
        stage.life = life

    stage.settings["scan"] = {"interval_s": 300}
    await stage.begin(OTHER)
    changing = asyncio.create_task(between_answer_and_commit())
    stage.write(SMALL)
    before = stage.sha256(SMALL)
    await changing
    assert stage.job(SMALL)["record_id"] is None
    if left[0] is not None:
        await stage.arrives(left[0])
    await stage.until(lambda: not stage._busy(), "an empty queue")
    await asyncio.sleep(400)
    await stage.stop()
    still = {f"models/{OTHER}": stage.sha256(OTHER)}
    still |= {} if left[0] is None else {f"models/{left[0]}": stage.sha256(left[0])}
    records = {(r.model_path, r.file_hash) for r in stage.far.cloud.records()}
    stays = {} if fault == 10 and not watched else {(f"models/{SMALL}", before)}
    assert records == {(path, f"sha256:{sha256}") for path, sha256 in {*stays, *still.items()}}
    known = {row["rel_path"].decode() for row in stage.query("SELECT rel_path FROM file")}
    assert known == {OTHER, left[0]} - {None}
    check(stage.evidence(still))


def pipe(stage: Stage, path: str) -> None:
    (stage.root / path).unlink()
    os.mkfifo(stage.root / path)


def device(stage: Stage, path: str) -> None:
    (stage.root / path).unlink()
    (stage.root / path).symlink_to("/dev/zero")


def link_out(stage: Stage, path: str) -> None:
    outside = stage.folder / "outside"
    outside.write_bytes(whole_file(SIZES[path], "outside"))
    (stage.root / path).unlink()
    (stage.root / path).symlink_to(outside)


@pytest.mark.parametrize("put", [pipe, device, link_out])
@pytest.mark.cell("F17-hash")
@staged()
async def test_F17_hash_special_file_in_place_of_a_model_is_not_read(
    stage: Stage, put: Callable[[Stage, str], None]
) -> None:
    """Neither a pipe, nor a device, nor a link against the rule; the job ends, others go on."""

    stage.settings["scan"] = {"symlinks": "skip"}
    await stage.begin(OTHER)
    stage.while_read = lambda path: stage.life.kill() if stage.life else None
    stage.write(SMALL)
    assert await stage.ended() is None
    assert stage.job(SMALL)["state"] == "leased"
    put(stage, SMALL)  # the job is there, and its file is not
    stage.while_read = lambda path: None
    stage.start()
    await stage.until(lambda: "replace" in stage.events(SMALL), "S")
    stage.write(OTHER, salt="another version")
    await stage.arrives(OTHER)
    await stage.stop()
    assert not [call for call in stage.calls() if call.model_path == f"models/{SMALL}"]
    check(stage.evidence({f"models/{OTHER}": stage.sha256(OTHER)}))


@pytest.mark.cell("F06-part")
@staged()
async def test_F06_part_other_bytes_under_the_same_stat_are_never_stored(stage: Stage) -> None:
    done: list[int] = []

    def trigger(request: httpx.Request) -> None:
        if call_of(request) is Call.PUT_PART and not done:
            before = (stage.root / LARGE).stat()
            data = bytearray((stage.root / LARGE).read_bytes())
            data[-1] ^= 1
            (stage.root / LARGE).write_bytes(data)
            os.utime(stage.root / LARGE, ns=(before.st_atime_ns, before.st_mtime_ns))
            stage.note(LARGE)
            done.append(1)

    stage.line.on_request = trigger
    stage.write(LARGE)
    stage.start()
    await stage.until(lambda: "replace" in stage.events(LARGE), "S: the leaf differs")
    await ends_well(stage, LARGE, LARGE)


@cells(14, "watch", "settle", "hash", "part")
@pytest.mark.parametrize("how", ["gone", "emptied"])
@staged()
async def test_H_missing_or_empty_root_is_a_hold_that_ends_by_itself(
    stage: Stage, phase: str, how: str
) -> None:
    """Nothing is concluded from it: no file is forgotten, no job fails, and it goes on by itself."""

    away = stage.folder / "away"
    gone: list[int] = []

    def take_away() -> None:
        if not gone:
            gone.append(1)
            stage.root.rename(away)
            if how == "emptied":
                stage.root.mkdir()
            stage.hint("", HintKind.RESCAN)  # the watcher reports its root

    await stage.begin(SMALL)
    if phase == "hash":
        stage.while_read = lambda path: take_away()
    elif phase == "part":
        stage.line.on_request = lambda r: take_away() if call_of(r) is Call.PUT_PART else None
    if phase != "watch":
        stage.write(LARGE)
    if phase == "settle":
        await asyncio.sleep(0.5)
    if phase in ("watch", "settle"):
        take_away()
    await stage.until(lambda: gone, "the moment")
    (hold,) = await stage.until(stage.holds, "H", 2 * 3600)
    assert hold["kind"] == "root"
    assert str(stage.root) in hold["reason"]
    assert "reject" not in stage.events(LARGE)
    stage.while_read = lambda path: None
    if how == "emptied":
        stage.root.rmdir()
    away.rename(stage.root)
    last = SMALL if phase == "watch" else LARGE
    await stage.arrives(last)
    await stage.stop()
    assert len(stage.calls(Call.PRESIGN, path=SMALL)) == 1
    check(stage.evidence({f"models/{last}": stage.sha256(last)}))


# -- a remount gives the file system another device number ------------------------------------------


def test_I20_device_number_that_changes_at_a_remount_costs_no_second_read() -> None:
    """The fence compares what stays the same, as every walk does."""
    fingerprint_of, remounted = hashing.fingerprint_of, False

    def seen(fd: int) -> Fingerprint:
        found = fingerprint_of(fd)
        return found._replace(dev=found.dev + 1) if remounted else found

    async def scenario(stage: Stage) -> None:
        def remount(request: httpx.Request) -> None:
            nonlocal remounted
            remounted = remounted or call_of(request) is Call.PUT_BODY

        stage.line.on_request = remount
        stage.write(SMALL)
        stage.start()
        assert stage.life is not None
        meter = stage.life.service._meter
        await stage.arrives(SMALL)
        hashed = meter.snapshot().hashed
        await stage.stop()

        assert remounted
        assert hashed == SIZES[SMALL]
        check(stage.evidence({f"models/{SMALL}": stage.sha256(SMALL)}))

    with mock.patch.object(hashing, "fingerprint_of", seen):
        play(scenario)
