"""Faults 11 to 13 and 19 to 22 of ``matrix.md``: the disk of the models, and that of the state."""

import asyncio
import errno
import sqlite3
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from syncd.errors import StateError
from syncd.types import Call
from tests.matrix.broken_disk import Disk, Ledger, model_disk, state_disk
from tests.matrix.stage import OTHER, SMALL, Stage, cells, play, staged
from tests.matrix.test_matrix_life import at, ended, path_of
from tests.oracle import check

NUMBERS = {11: errno.EIO, 12: errno.ESTALE, 13: errno.EACCES}


def on(disk: Disk, number: int, *calls: str, name: str = "small.safetensors") -> Callable[[], None]:
    """From now on these calls fail for this file."""

    def break_down() -> None:
        disk.fail = lambda call, at: number if call in calls and at == name else None

    return break_down


def mend(disk: Disk) -> None:
    disk.fail = lambda call, name: None


@cells((11, 12, 13), "watch")
@staged()
async def test_D_W_unreadable_folder_is_logged_and_its_files_are_not_gone(
    stage: Stage, fault: int, phase: str
) -> None:
    """The next walk that can look finds what is there; the other folders go on meanwhile."""

    stage.settings["scan"] = {"interval_s": 300}
    with model_disk() as disk:
        await stage.begin(SMALL)
        on(disk, NUMBERS[fault], "list", name="loras")()
        stage.write(OTHER)
        await stage.arrives(OTHER)
        await stage.until(lambda: disk.failed, "a walk")
        await asyncio.sleep(1)
        assert '"path": "loras"' in stage.log.getvalue()
        known = [row["rel_path"].decode() for row in stage.query("SELECT rel_path FROM file")]
        assert SMALL in known
        with stage.without_events():
            stage.write(SMALL, salt="another version")  # no event
        mend(disk)
        await stage.finish(SMALL, OTHER)


@cells((11, 12), "settle")
@staged()
async def test_Q_file_that_cannot_be_opened_while_it_settles_is_queued_later(
    stage: Stage, fault: int, phase: str
) -> None:
    stage.settings["scan"] = {"interval_s": 300}
    with model_disk() as disk:
        stage.write(SMALL)
        stage.start()
        await asyncio.sleep(2)
        on(disk, NUMBERS[fault], "open", "read")()
        await stage.until(lambda: disk.failed, "an examination")
        await asyncio.sleep(1)
        assert stage.job(SMALL) is None
        mend(disk)
        await stage.finish(SMALL)
        assert stage.events(SMALL) == ["claim", "finish"]


@cells((11, 12), "hash", "part")
@pytest.mark.parametrize("passes", [True, False])
@staged()
async def test_Q_F5_unreadable_file_fails_after_five_attempts(
    stage: Stage, fault: int, phase: str, passes: bool
) -> None:
    """Each time later; then it has failed, with the disk named, until it changes."""

    path = path_of(phase)
    name = path.rpartition("/")[2]
    with model_disk() as disk:
        break_down = on(disk, NUMBERS[fault], "read", name=name)
        if phase == "hash":  # before its first byte
            break_down()
        else:
            at(stage, phase, break_down)
        stage.write(path)
        stage.start()
        await stage.until(lambda: disk.failed, "the moment")
        job = await stage.until(
            lambda: (j := stage.job(path)) and j["last_error"] and j, "an error"
        )
        assert job["state"] == "queued"
        assert "cannot be read" in job["last_error"]
        assert "disk" in job["last_advice"]
        if not passes:
            await stage.until(lambda: stage.events(path)[-1] == "reject", "F")
            assert stage.events(path).count("claim") == 5
            stage.write(OTHER)
            await stage.arrives(OTHER)
            mend(disk)
            stage.write(path, salt="another version")
        mend(disk)
        await stage.finish(path)


@cells((12,), "hash", "part")
@staged()
async def test_reopen_stale_file_is_opened_again_once(stage: Stage, fault: int, phase: str) -> None:
    """No attempt is spent, and no byte is sent twice."""

    path = path_of(phase)
    name = path.rpartition("/")[2]

    def once(call: str, of: str) -> int | None:
        stale = call == "read" and of == name and not disk.failed
        return errno.ESTALE if stale else None

    with model_disk() as disk:

        def break_down() -> None:
            disk.fail = once

        at(stage, phase, break_down)
        stage.write(path)
        stage.start()
        await stage.finish(path)
        assert disk.failed == ["read"]
        assert stage.events(path) == ["claim", "finish"]
        parts = [(e.part, e.ok) for e in stage.calls(Call.PUT_PART)]
        assert sorted(parts) == [(n, True) for n in (1, 2, 3) if phase == "part"]


@pytest.mark.cell("F12-register")
@staged()
async def test_F12_register_Q_file_that_cannot_be_opened_is_not_registered(
    stage: Stage,
) -> None:
    with model_disk() as disk:

        def fail_open(request: httpx.Request) -> None:
            if request.method == "PUT":  # once the body has been read
                stage.loop.call_later(0.01, on(disk, errno.ESTALE, "open"))

        stage.line.on_request = fail_open
        stage.write(SMALL)
        stage.start()
        job = await stage.until(
            lambda: (j := stage.job(SMALL)) and j["last_error"] and j, "an error"
        )
        assert job["state"] == "queued"
        assert job["stored_at"] is not None
        assert job["run_after"] > stage.clock.now_ms()
        assert not stage.calls(Call.REGISTER)
        mend(disk)
        await stage.finish(SMALL)
        assert len(stage.calls(Call.PUT_BODY)) == 1


@cells((13,), "settle", "hash", "part")
@staged()
async def test_F_file_without_permission_has_failed_until_chmod(
    stage: Stage, fault: int, phase: str
) -> None:
    """It is called unreadable, with the command that helps; a chmod is enough."""

    path = path_of(phase)
    name = path.rpartition("/")[2]
    with model_disk() as disk:
        forbid = on(disk, errno.EACCES, "open", "read", name=name)
        at(stage, phase, forbid)
        stage.write(path)
        stage.start()
        if phase == "settle":
            await asyncio.sleep(2)
            forbid()
        (row,) = await stage.until(
            lambda: stage.query("SELECT reason FROM file WHERE verdict = 'unreadable'"), "F"
        )
        job = stage.job(path)  # none if it could not even be looked at
        assert (job is None) == (phase == "settle")
        assert "chmod" in (row["reason"] if job is None else job["last_advice"])
        assert stage.events(path).count("claim") == (job is not None)
        mend(disk)
        (stage.root / path).chmod(0o600)
        stage.stamp(path)
        await stage.finish(path)


# -- the state disk -------------------------------------------------------------------------------

FULL, READONLY = sqlite3.SQLITE_FULL, sqlite3.SQLITE_READONLY


def on_state_disk(scenario: Callable[[Stage, Ledger], Any]) -> None:
    async def acted(stage: Stage) -> None:
        with state_disk() as ledger:
            await scenario(stage, ledger)

    play(acted)


async def holds_and_goes_on(stage: Stage, ledger: Ledger, phase: str, code: int) -> None:
    """H: the answer that came is kept in memory until it can be kept on disk; nothing is lost."""
    path = path_of(phase)
    at(stage, phase, lambda: setattr(ledger, "code", code))
    stage.write(path)
    stage.start()
    await stage.until(lambda: ledger.refused > 3, "the hold")
    calls = len(stage.calls())
    await asyncio.sleep(600)
    assert len(stage.calls()) == calls
    assert not stage.living.done()  # type: ignore[union-attr]
    assert stage.log.getvalue().count('"kind": "state"') == 1
    assert '"hold.started"' in stage.log.getvalue()
    ledger.code = 0
    await stage.arrives(path)
    assert '"hold.ended"' in stage.log.getvalue()
    await stage.stop()
    for call in (Call.PRESIGN, Call.PUT_BODY, Call.INITIATE, Call.COMPLETE, Call.REGISTER):
        assert len(stage.calls(call, path=path)) <= 1
    assert len(stage.calls(Call.PUT_PART)) in (0, 3)
    assert stage.events(path) == ["claim", "finish"]
    check(stage.evidence({f"models/{path}": stage.sha256(path)}))


@cells(19, "hash", "presign", "part", "complete", "register", "commit")
def test_H_full_state_disk_is_a_hold_that_ends_by_itself(phase: str) -> None:
    on_state_disk(lambda stage, ledger: holds_and_goes_on(stage, ledger, phase, FULL))


@cells(21, "part", "complete", "register", "commit")
def test_H_read_only_state_disk_is_a_hold_that_ends_by_itself(phase: str) -> None:
    on_state_disk(lambda stage, ledger: holds_and_goes_on(stage, ledger, phase, READONLY))


async def ends_and_starts_again(stage: Stage, ledger: Ledger, phase: str, code: int) -> None:
    """X74: it says what is wrong and ends; what it had committed is where the next start goes on."""
    path = path_of(phase)
    at(stage, phase, lambda: setattr(ledger, "code", code))
    stage.write(path)
    stage.start()
    with pytest.raises(StateError) as caught:
        await stage.ended()
    assert caught.value.exit_code == 74
    assert "syncd.db" in str(caught.value)
    stage.life = stage.living = None
    stage.killed.append(stage.clock.now_ms())
    ledger.code = 0
    before = {call: ended(stage, call, path) for call in Call}
    if code == sqlite3.SQLITE_CORRUPT:  # as the text advises
        assert "Move the file aside" in str(caught.value)
        for file in stage.state.iterdir():
            file.unlink()
    stage.start()
    await stage.arrives(path)
    await stage.stop()
    if before[Call.REGISTER]:
        assert ended(stage, Call.REGISTER, path) == before[Call.REGISTER]
        assert ended(stage, Call.PUT_BODY, path) == before[Call.PUT_BODY]
    check(stage.evidence({f"models/{path}": stage.sha256(path)}))


@cells(20, "hash", "presign", "part", "complete", "register", "commit")
def test_X74_V_state_disk_error_ends_the_daemon_and_loses_no_commit(phase: str) -> None:
    code = sqlite3.SQLITE_IOERR_WRITE
    on_state_disk(lambda stage, ledger: ends_and_starts_again(stage, ledger, phase, code))


@pytest.mark.cell("F22-commit")
def test_F22_commit_damaged_database_ends_the_daemon_and_repeats_no_call() -> None:
    """With a new database the catalog's own listing tells what it holds."""
    code = sqlite3.SQLITE_CORRUPT
    on_state_disk(lambda stage, ledger: ends_and_starts_again(stage, ledger, "commit", code))
