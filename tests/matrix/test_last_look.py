"""What is done in the last moments before a registration: by a stop, and with a file that changes."""

import asyncio
import os
import signal
import sqlite3

import httpx
import pytest

from syncd.types import Call
from tests.matrix.stage import LARGE, SMALL, Stage, call_of, staged
from tests.oracle import check

STORED = {SMALL: (Call.PUT_BODY, 1), LARGE: (Call.PUT_PART, 3)}
"""The call that stores the bytes of a file, and how many of them do."""


def rewrite(stage: Stage, path: str) -> None:
    """Change the last byte in place and put mtime back: only ctime moves."""
    file = stage.root / path
    before = file.stat()
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    stage.note(path)


def touch(stage: Stage, path: str) -> None:
    """Move ctime alone."""
    (stage.root / path).chmod(0o600)


async def when_stored(stage: Stage, path: str) -> None:
    """Wait until the store has all bytes, and the program has not acted on it yet."""
    call, count = STORED[path]
    while len([entry for entry in stage.calls(call) if entry.ok]) < count:
        await asyncio.sleep(0.001)


# -- only ctime moved ------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [SMALL, LARGE])
@staged()
async def test_I02_bytes_rewritten_before_register_with_mtime_put_back_are_not_registered(
    stage: Stage, path: str
) -> None:
    stage.write(path)
    first = stage.sha256(path)
    stage.start()
    await when_stored(stage, path)
    rewrite(stage, path)
    await stage.until(lambda: "replace" in stage.events(path), "a superseded job")
    await stage.arrives(path)
    await stage.stop()

    assert f"sha256:{first}" not in {r.file_hash for r in stage.far.cloud.records()}
    check(stage.evidence({f"models/{path}": stage.sha256(path)}))


@pytest.mark.parametrize("path", [SMALL, LARGE])
@staged()
async def test_I02_file_whose_ctime_alone_moved_is_read_again_and_registered(
    stage: Stage, path: str
) -> None:
    call, count = STORED[path]
    stage.write(path)
    stage.start()
    await when_stored(stage, path)
    touch(stage, path)
    await stage.arrives(path)
    await stage.stop()

    assert "replace" not in stage.events(path)
    assert len(stage.calls(call)) == count
    check(stage.evidence({f"models/{path}": stage.sha256(path)}))


# -- parts that were sent before the file's digest was known ---------------------------------------


def forget_digests(stage: Stage, path: str) -> None:
    """Leave the facts of a process that died after its last part, before it noted the digests."""
    job = stage.job(path)
    with sqlite3.connect(stage.state / "syncd.db") as connection:
        connection.execute(
            "UPDATE job SET sha256 = NULL, complete_sent_at = NULL WHERE id = ?", (job["id"],)
        )
        connection.execute("DELETE FROM plan WHERE job_id = ?", (job["id"],))
    connection.close()


@pytest.mark.parametrize("offset", [200, 5000, -1])
@staged()
async def test_I01_leaf_that_changed_after_it_was_sent_is_found_before_complete(
    stage: Stage, offset: int
) -> None:
    """The last leaf of a file is shorter than the others."""

    stage.write(LARGE)
    first = stage.sha256(LARGE)

    def kill(request: httpx.Request) -> None:
        if call_of(request) is Call.COMPLETE and stage.life is not None:
            stage.life.kill()

    stage.line.on_request = kill
    stage.start()
    assert await stage.ended() is None
    assert len([e for e in stage.calls(Call.PUT_PART) if e.ok]) == 3
    stage.clear_faults()
    forget_digests(stage, LARGE)
    file = stage.root / LARGE
    before, data = file.stat(), bytearray(file.read_bytes())
    data[offset] ^= 1
    file.write_bytes(data)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    stage.note(LARGE)
    stage.start()
    await stage.arrives(LARGE)
    await stage.stop()

    hashes = {record.file_hash for record in stage.far.cloud.records()}
    assert hashes == {f"sha256:{stage.sha256(LARGE)}"} != {f"sha256:{first}"}
    assert len(stage.calls(Call.INITIATE)) == 2
    check(stage.evidence({f"models/{LARGE}": stage.sha256(LARGE)}))


# -- SIGTERM ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [SMALL, LARGE])
@staged()
async def test_I18_stop_while_the_last_bytes_are_sent_completes_and_registers(
    stage: Stage, path: str
) -> None:
    call, count = STORED[path]
    began: list[httpx.Request] = []

    def stop(request: httpx.Request) -> None:
        if call_of(request) is call:
            began.append(request)
            if len(began) == count:
                stage.loop.send_signal(signal.SIGTERM)  # type: ignore[attr-defined]

    stage.line.on_request = stop
    stage.write(path)
    stage.start()
    assert await stage.ended() == 128 + signal.SIGTERM

    assert stage.job(path)["state"] == "done"
    assert stage.registered(path)


@staged()
async def test_I18_stop_while_the_catalog_is_asked_adopts_what_it_lists(stage: Stage) -> None:
    def stop(request: httpx.Request) -> None:
        job = stage.job(SMALL)
        if call_of(request) is Call.LIST_MODELS and job is not None and job["sha256"]:
            stage.loop.send_signal(signal.SIGTERM)  # type: ignore[attr-defined]

    stage.line.on_request = stop
    stage.write(SMALL)
    stage.register_elsewhere(SMALL)
    stage.start()
    assert await stage.ended() == 128 + signal.SIGTERM

    assert stage.job(SMALL)["state"] == "done"
    assert not stage.calls(Call.PRESIGN)
