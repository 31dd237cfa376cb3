"""What the store has acknowledged is there after kill -9, however often and whenever it comes."""

import json
import random
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from itertools import islice
from pathlib import Path

import pytest

from syncd.store.store import Store
from syncd.types import State

ROUNDS = 10

# Works jobs through for ever, as a worker does, and says each fact once its commit has returned.
COMMITTER = """
import itertools, json, sys
from syncd.types import Fingerprint, FoundFile, Multipart, Part, FileDigests, Target
from syncd.store.files import Wanted
from syncd.store.store import Store

def say(*fact):
    print(json.dumps(fact), flush=True)

state_dir, run = sys.argv[1:]
store = Store(state_dir)
root = store.files.root_id("/models")
store.jobs.expire_all(1)
for number in itertools.count():
    path = f"loras/{run}-{number}"
    found = FoundFile(root, path, Fingerprint(1, 2, 3, 4, 5), 3)
    target = Target(path, "loras", "n", "n")
    say("admitted", store.files.admit([Wanted(found, target, path)], 1).jobs[root, path], path)
    job = store.jobs.claim(run, 1)
    say("claimed", job.id, job.attempt)
    if job.sha256 is None:
        job = store.jobs.note_digests(job, FileDigests(3, f"{job.id:064}", b"l" * 16), 1)
        say("sha256", job.id, job.sha256)
    if job.storage_key is None:
        job = store.uploads.note_key(job, f"key-{run}-{number}", 1)[0]
        say("storage_key", job.id, job.storage_key)
    if job.upload_id is None:
        job = store.uploads.note_upload(job, Multipart(f"up-{run}-{number}", job.storage_key, 1, 3), 1)
        say("upload_id", job.id, job.upload_id)
    for part in {1, 2, 3} - store.uploads.etags(job).keys():
        store.uploads.note_part(job, Part(part, part - 1, 1), f"etag-{run}-{part}", b"l" * 16, 1)
        say("part", job.id, part, f"etag-{run}-{part}")
    store.jobs.finish(job, f"rec-{job.id}", 1, adopted=False)
    say("record_id", job.id, f"rec-{job.id}")
"""

Fact = list[int | str]


def acknowledged(state_dir: str, run: int, lines: int) -> Iterator[Fact]:
    """Start the committer, kill it after so many lines; all that it had said by then."""
    with subprocess.Popen(
        [sys.executable, "-c", COMMITTER, state_dir, str(run)], stdout=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        said = list(islice(child.stdout, lines))
        child.kill()
        said += child.stdout.readlines()
    assert child.returncode == -signal.SIGKILL  # it did not fall over by itself
    for line in said:
        if line.endswith(b"\n"):
            yield json.loads(line)


def require_kept(store: Store, fact: Fact) -> None:
    name, job_id, *values = fact
    job = store.jobs.get(int(job_id))
    match name:
        case "admitted":
            assert [job.rel_path] == values
        case "claimed":
            assert job.attempt >= int(values[0])
        case "part":
            assert store.uploads.etags(job)[int(values[0])] == values[1]
        case _:
            assert [getattr(job, str(name))] == values
    if name == "record_id":
        assert job.state is State.DONE
        assert store.records.claim(job.target.model_path, job.sha256 or "") == values[0]


def require_whole(state_dir: str) -> None:
    """No page is torn, and no commit is there by half: a job's last event tells its state."""
    torn = "SELECT id FROM job WHERE state <> (SELECT to_state FROM job_event" + (
        " WHERE job_id = job.id ORDER BY id DESC LIMIT 1)"
    )
    with closing(sqlite3.connect(Path(state_dir, "syncd.db"))) as raw:
        assert raw.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert raw.execute("PRAGMA foreign_key_check").fetchall() == []
        assert raw.execute(torn).fetchall() == []


@pytest.mark.crash
@pytest.mark.parametrize("seed", [1, 2])
def test_I06_every_acknowledged_fact_survives_kill_after_kill(tmp_path: Path, seed: int) -> None:
    state_dir, moment = str(tmp_path / "state"), random.Random(seed)
    facts: list[Fact] = []
    for run in range(ROUNDS):
        said = list(acknowledged(state_dir, run, moment.randint(1, 120)))
        assert said
        facts += said
        require_whole(state_dir)
        store = Store(state_dir)
        for fact in facts:
            require_kept(store, fact)
        store.close()

    assert {str(fact[0]) for fact in facts} == {
        "admitted", "claimed", "sha256", "storage_key", "upload_id", "part", "record_id",
    }  # fmt: skip
