"""The store on a real disk: lock, schema, queue, facts, conflicts, and what a reader sees."""

import os
import sqlite3
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from syncd.errors import AlreadyRunning, LeaseLost, StateError
from syncd.monitoring import status
from syncd.store.db import Database, migrations, reading
from syncd.store.files import Files, RootRow, Wanted
from syncd.store.jobs import JobQueue
from syncd.store.lock import is_locked
from syncd.store.outline import Outline
from syncd.store.reports import Report
from syncd.store.store import Store
from syncd.types import (
    FileDigests,
    FileState,
    Fingerprint,
    FoundFile,
    HoldKind,
    Job,
    Kind,
    KnownFile,
    Mount,
    Multipart,
    Part,
    Priority,
    State,
    StatKey,
    Target,
    UploadState,
    Verdict,
)
from tests.claims import claim_one

NOW = 1_700_000_000_000
TTL = 60_000
SHA = "5" * 64
DIGESTS = FileDigests(100, SHA, b"l" * 16)
UPLOAD = Multipart("up-1", "key-1", 50, 2)
LEAVES = b"l" * 16
PATH = "loras/a.safetensors"


def found(rel_path: str = PATH, *, root_id: int = 1, mtime_ns: int = 1) -> FoundFile:
    return FoundFile(root_id, rel_path, Fingerprint(2**63 + 1, 2**64 - 1, 100, mtime_ns, 7), 100)


def target(rel_path: str = PATH) -> Target:
    name = rel_path.rpartition("/")[2].encode("utf-8", "replace").decode()
    return Target(f"models/loras/{name}", "loras", name, name)


def admit(store: Store, rel_path: str = PATH, *, now_ms: int = NOW, mtime_ns: int = 1) -> int:
    to = target(rel_path)
    wanted = Wanted(found(rel_path, mtime_ns=mtime_ns), to, to.model_path.casefold())
    (job_id,) = store.files.admit([wanted], now_ms).jobs.values()
    return job_id


def claim(store: Store, *, now_ms: int = NOW) -> Job:
    job = claim_one(store, "me", now_ms)
    assert job is not None
    return job


def uploading(store: Store) -> Job:
    """A leased job with a plan, an open upload and its first part."""
    job = hashed(store)
    job, _ = store.uploads.note_key(job, UPLOAD.storage_key, NOW)
    job = store.uploads.note_upload(job, UPLOAD, NOW)
    store.uploads.note_part(job, Part(1, 0, 50), '"etag-1"', LEAVES, NOW)
    return job


def make_store(state_dir: str) -> Store:
    store = Store(state_dir)
    store.files.root_id("/models")
    return store


def hashed(store: Store) -> Job:
    """A leased job whose file was hashed."""
    admit(store)
    return store.jobs.note_digests(claim(store), DIGESTS, NOW)


@pytest.fixture
def state_dir(tmp_path: Path) -> str:
    return str(tmp_path / "state")


@pytest.fixture
def store(state_dir: str) -> Iterator[Store]:
    store = make_store(state_dir)
    yield store
    store.close()


def rows(state_dir: str, sql: str, *values: object) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(os.path.join(state_dir, "syncd.db"))) as raw:
        return raw.execute(sql, values).fetchall()


def read(state_dir: str) -> None:
    with reading(state_dir, Report) as report:
        assert report is not None


def uploads(state_dir: str) -> list[tuple[str, str]]:
    return rows(state_dir, "SELECT upload_id, state FROM upload ORDER BY upload_id")


# -- the lock ------------------------------------------------------------------------------------


def test_store_second_instance_in_one_process_is_refused(store: Store, state_dir: str) -> None:
    with pytest.raises(AlreadyRunning, match="Another syncd") as caught:
        Store(state_dir)

    assert caught.value.exit_code == 75
    assert is_locked(state_dir)


HOLDER = """
import sys
from syncd.store.store import Store
Store(sys.argv[1])
print("held", flush=True)
sys.stdin.read()
"""


def test_lock_of_another_process_ends_with_its_kill(state_dir: str) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, state_dir], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(AlreadyRunning):
            Store(state_dir)
        locked = is_locked(state_dir)
        holder.kill()

    assert locked
    Store(state_dir).close()


@pytest.mark.parametrize("suffix", ["", "-wal", "-shm"])
def test_I06_commit_into_a_removed_file_is_refused(
    store: Store, state_dir: str, tmp_path: Path, suffix: str
) -> None:
    path = Path(state_dir, f"syncd.db{suffix}")
    admit(store)
    kept = tmp_path / "kept"
    kept.hardlink_to(path)
    content = kept.read_bytes()
    path.unlink()
    with pytest.raises(StateError, match="was removed, renamed or replaced"):
        claim(store)

    assert kept.read_bytes() == content


# -- how the database is opened ------------------------------------------------------------------


def test_database_settings_make_commits_durable(state_dir: str) -> None:
    os.makedirs(state_dir)
    database = Database.open(state_dir)
    in_force = {
        name: database.all(f"PRAGMA {name}")[0][0]
        for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout", "mmap_size")
    }
    database.close()

    assert in_force == {
        "journal_mode": "wal",
        "synchronous": 3,  # EXTRA: with WAL the same as FULL
        "foreign_keys": 1,
        "busy_timeout": 5000,
        "mmap_size": 0,
    }


def test_state_files_are_readable_by_owner_only(store: Store, state_dir: str) -> None:
    admit(store)
    modes = {entry.name: stat.S_IMODE(entry.stat().st_mode) for entry in os.scandir(state_dir)}

    assert modes == dict.fromkeys(("syncd.db", "syncd.db-wal", "syncd.db-shm"), 0o600)
    assert stat.S_IMODE(os.stat(state_dir).st_mode) == 0o700


NEXT = """
BEGIN IMMEDIATE;
CREATE TABLE first (a INTEGER) STRICT;
CREATE TABLE later (x) STRICT;
PRAGMA user_version = {n};
COMMIT;
"""


def schema(state_dir: str) -> list[tuple[Any, ...]]:
    return rows(state_dir, "SELECT type, name, sql FROM sqlite_master ORDER BY name")


def version(state_dir: str) -> int:
    return int(rows(state_dir, "PRAGMA user_version")[0][0])


def test_migrated_database_equals_fresh_one_and_keeps_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fresh, older = str(tmp_path / "fresh"), str(tmp_path / "older")
    make_store(older).close()
    later = [*migrations(), NEXT.format(n=len(migrations()) + 1).replace("(x)", "(x INTEGER)")]
    monkeypatch.setattr("syncd.store.db.migrations", lambda: later)
    for state_dir in (fresh, older):
        Store(state_dir).close()

    assert schema(older) == schema(fresh)
    assert version(older) == version(fresh) == len(later)
    assert rows(older, "SELECT path FROM root") == [(b"/models",)]


def test_failed_migration_changes_nothing(state_dir: str, monkeypatch: pytest.MonkeyPatch) -> None:
    Store(state_dir).close()
    before = schema(state_dir), version(state_dir)
    broken = NEXT.format(n=len(migrations()) + 1)  # STRICT asks for a type
    monkeypatch.setattr("syncd.store.db.migrations", lambda: [*migrations(), broken])
    with pytest.raises(StateError):
        Store(state_dir)

    assert (schema(state_dir), version(state_dir)) == before
    assert not is_locked(state_dir)


def test_newer_database_is_refused_with_advice(state_dir: str) -> None:
    Store(state_dir).close()
    rows(state_dir, f"PRAGMA user_version = {len(migrations()) + 1}")
    for door in (Store, read):
        with pytest.raises(StateError, match=r"newer syncd.*Install that version") as caught:
            door(state_dir)

        assert caught.value.exit_code == 74


@pytest.mark.parametrize("damage", [b"not a database " * 100, b"SQLite format 3\0" + b"\xff" * 200])
def test_damaged_database_is_refused_with_advice(state_dir: str, damage: bytes) -> None:
    os.makedirs(state_dir)
    Path(state_dir, "syncd.db").write_bytes(damage)
    for door in (Store, read):
        with pytest.raises(StateError, match=r"syncd\.db is damaged.*Move the file aside"):
            door(state_dir)


def test_damaged_page_is_found_before_any_write(state_dir: str) -> None:
    store = make_store(state_dir)
    for number in range(200):
        admit(store, f"loras/{number}.safetensors")
    store.close()
    path = Path(state_dir, "syncd.db")
    pages = bytearray(path.read_bytes())
    for page in range(len(pages) // 2 // 4096 * 4096, len(pages), 4096):  # rows, not the schema
        pages[page : page + 100] = b"\xee" * 100
    path.write_bytes(pages)

    with pytest.raises(StateError, match="is damaged"):
        Store(state_dir)
    assert path.read_bytes() == bytes(pages)


AS_NOBODY = """
import os, sys
from syncd.errors import StateError
from syncd.store.store import Store
if os.geteuid() == 0:  # root may write everywhere
    os.setgroups([]); os.setegid(65534); os.seteuid(65534)
try:
    Store(sys.argv[1])
except StateError as error:
    print(error.exit_code, error)
"""


def test_unwritable_state_directory_is_refused_with_advice() -> None:
    # Not below the folders of the tests, which the other account may not enter.
    with tempfile.TemporaryDirectory(prefix="syncd-store-", dir="/tmp") as folder:
        Path(folder).chmod(0o755)
        state_dir = os.path.join(folder, "state")
        os.makedirs(state_dir, mode=0o555)
        command = [sys.executable, "-c", AS_NOBODY, state_dir]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout

    assert said.startswith(f"74 The state directory {state_dir} cannot be used: Permission denied")
    assert "may write" in said


def test_full_database_advises_room_and_keeps_working(state_dir: str) -> None:
    os.makedirs(state_dir)
    database = Database.open(state_dir)
    pages = database.all("PRAGMA page_count")[0][0]
    database.all(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(StateError, match=r"is full\. Make room"), database.transaction():
        database.run("INSERT INTO root (path, real_path) VALUES (zeroblob(100000), X'2F')")
    with database.transaction():
        database.run("INSERT INTO root (path, real_path) VALUES (X'2F', X'2F')")
    kept = database.all("SELECT path FROM root")
    database.close()

    assert [row["path"] for row in kept] == [b"/"]


# -- readers -------------------------------------------------------------------------------------


def test_I17_query_reads_limited_pending_and_all_stuck_files(store: Store, state_dir: str) -> None:
    for number in range(60):
        admit(store, f"loras/{number:02}.safetensors")
    failed, uploading = claim(store), claim(store)
    store.jobs.reject(failed, NOW, kind=Kind.REQUEST_REFUSED, reason="no", advice=None)
    store.files.judge([(found("z/refused"), Verdict.REFUSED, "its name", None)], NOW)
    store.files.judge([(found("z/ignored"), Verdict.IGNORED, "a note", None)], NOW)
    read = 0

    def rows_of(all_rows: Callable[..., list[Any]]) -> Callable[..., list[Any]]:
        def counted(*asked: Any) -> list[Any]:
            nonlocal read
            rows = all_rows(*asked)
            read += len(rows)
            return rows

        return counted

    with reading(state_dir, Outline) as outline:
        assert outline is not None
        everything = outline.not_in_catalog(None)
        with mock.patch.object(outline._db, "all", rows_of(outline._db.all)):
            some = outline.not_in_catalog(3)
            amounts = outline.amounts()

    stuck = [failed.rel_path, "z/refused"]
    assert [file.path for file in some[:2]] == stuck
    assert [file.state for file in some[2:]] == ["uploading", "queued", "queued"]
    assert some[2].path == uploading.rel_path
    assert [file.path for file in everything[:2]] == stuck
    assert len(everything) == 61
    assert {file.state for file in everything[2:]} == {"uploading", "queued"} <= status.TO_DO
    assert read <= 5 + len(FileState)
    assert amounts["queued"].files == 58


@pytest.mark.parametrize("name", [b"st\xe9te", b"a?b#c%41", b"with\nnewline"])
def test_state_directory_with_special_bytes_is_readable(tmp_path: Path, name: bytes) -> None:
    state_dir = os.fsdecode(os.fsencode(tmp_path) + b"/" + name)
    make_store(state_dir).close()
    for spelling in (state_dir, "/" + state_dir):
        with reading(spelling, Report) as report:
            assert report is not None
            assert [root.path for root in report.roots()] == ["/models"]


# -- names are bytes -----------------------------------------------------------------------------


@pytest.mark.parametrize("page", [3, 10_000])
def test_known_files_below_folder_are_in_byte_order(
    store: Store, monkeypatch: pytest.MonkeyPatch, page: int
) -> None:
    monkeypatch.setattr("syncd.store.files.PAGE", page)
    paths = ["a/z", "loras!/x", "loras/a", "loras/sub/b", "loras0/x", "loras", "m"]
    for path in paths:
        store.files.judge([(found(path), Verdict.IGNORED, "reason", None)], NOW)
    other = store.files.root_id("/other")
    store.files.judge([(found("loras/a", root_id=other), Verdict.IGNORED, "reason", None)], NOW)

    def below(folder: str) -> list[str]:
        return [known.rel_path for known in store.files.known(1, folder)]

    assert [known.rel_path for known in store.files.known(1)] == sorted(paths)
    assert below("loras") == ["loras", "loras/a", "loras/sub/b"]
    assert below("loras/sub") == ["loras/sub/b"]
    assert below("nowhere") == []


def trace(rel_path: str, *, mtime_ns: int = 1) -> StatKey:
    return os.fsencode(rel_path), 100, mtime_ns, 7, str(2**64 - 1)


def test_pass_over_skips_unchanged_complete_files_only(store: Store) -> None:
    paths = ["a", "a-", "a/1", "a/2", "a/3", "b"]
    store.files.judge([(found(path), Verdict.IGNORED, "w", None) for path in paths], NOW)
    one, two, three = (trace(f"a/{number}") for number in (1, 2, 3))
    known = store.files.known(1, "a")

    assert not known.pass_over([one])  # "a" itself comes first
    assert [each.rel_path for each in known.through(b"a/1")] == ["a", "a/1"]
    assert not known.pass_over([trace("a/2", mtime_ns=2)])
    assert not known.pass_over([three])  # a/2 is gone
    assert not known.pass_over([two, trace("a/25")])
    assert known.pass_over([two])
    with pytest.raises(ValueError, match="out of path order"):
        known.pass_over([one])
    assert [each.rel_path for each in known] == ["a/3"]
    store.files.judge([(found("a/1"), Verdict.INCOMPLETE, "cut short", None)], NOW)
    known = store.files.known(1)
    list(known.through(b"a-"))
    assert not known.pass_over([one])


# -- roots ---------------------------------------------------------------------------------------


def test_root_keeps_id_mounts_and_model_until_accepted(
    store: Store,
) -> None:
    before = {"": Mount("ext4", "/dev/sda1", "/"), "vae": Mount("nfs4", "nas:/vae", "/")}
    mounts = {"": Mount("ext4", "/dev/sda1", "/"), "lo\udcffras": Mount("xfs", "/dev/\udcff", "/x")}
    fresh = store.files.root(1)
    store.files.mark_scanned(1, before, NOW, models=True)
    store.files.mark_scanned(1, mounts, NOW + 1, models=False, rules="digest")

    assert store.files.root_id("/models") == 1 != store.files.root_id("/other")
    assert fresh == RootRow({}, held_model=False, scanned=False, rules=None)
    assert store.files.root(1) == RootRow(mounts, held_model=True, scanned=True, rules="digest")
    assert [root.scanned_at for root in store.report.roots()] == [NOW + 1, None]
    store.files.accept()
    assert store.files.root(1) == RootRow({}, held_model=False, scanned=True, rules="digest")


def test_root_with_other_path_keeps_id_unless_type_differs(
    store: Store,
) -> None:
    first = store.files.root_id("/workspace/models", real_path="/volume/models")
    again = store.files.root_id("/mnt/models", real_path="/volume/models")
    typed = store.files.root_id("/mnt/models", real_path="/volume/models", type_key="loras")
    moved = store.files.root_id("/mnt/models", real_path="/elsewhere")

    assert first == again == moved != typed
    assert [(root.path, root.model_type) for root in store.report.roots()] == [
        ("/models", None),
        ("/mnt/models", None),
        ("/mnt/models", "loras"),
    ]


def test_unconfigured_root_forgets_its_files(store: Store) -> None:
    job_id = admit(store)
    other = store.files.root_id("/other")
    store.files.retire([other], NOW)
    retired = [root.path for root in store.report.roots()]
    again = store.files.root_id("/models")

    assert retired == ["/other"]
    assert store.jobs.get(job_id).state is State.SUPERSEDED
    assert list(store.report.files()) == []
    assert again == 1
    assert not store.files.root(1).scanned


def test_start_reads_no_rows_of_watched_roots(store: Store, state_dir: str) -> None:
    def steps_of_a_start() -> int:
        """Of SQLite's machine; it takes some for each row that it reads."""
        path, steps = os.path.join(state_dir, "syncd.db"), list[None]()
        with closing(sqlite3.connect(path, isolation_level=None)) as raw:
            database = Database(raw, path)
            raw.set_progress_handler(lambda: steps.append(None), 1)
            Files(database, JobQueue(database)).retire([1], NOW)
        return len(steps)

    admit(store)
    few = steps_of_a_start()
    ignored = [(found(f"vae/{n}.txt"), Verdict.IGNORED, "not a model", None) for n in range(500)]
    store.files.judge(ignored, NOW)

    assert 0 < few == steps_of_a_start()
    assert len(list(store.seen.known(1))) == 501


# -- claim and lease -----------------------------------------------------------------------------


def test_due_jobs_are_claimed_by_priority_size_and_age(
    store: Store,
) -> None:
    def queue(name: str, size: int, priority: Priority, now_ms: int = NOW) -> int:
        file = found(name)._replace(fingerprint=found().fingerprint._replace(size=size))
        (job_id,) = store.files.admit(
            [Wanted(file, target(name), name, priority)], now_ms
        ).jobs.values()
        return job_id

    large = queue("loras/large.ckpt", 40, Priority.BACKFILL)
    small = queue("loras/small.ckpt", 3, Priority.BACKFILL)
    twin = queue("loras/twin.ckpt", 3, Priority.BACKFILL)
    trained = queue("loras/trained.ckpt", 9, Priority.FRESH)
    late = queue("loras/late.ckpt", 1, Priority.FRESH, NOW + 10)
    claimed = [claim_one(store, "me", NOW) for _ in range(5)]

    assert [job and job.id for job in claimed] == [trained, small, twin, large, None]
    assert store.jobs.next_due_ms() == NOW + 10
    assert claim(store, now_ms=NOW + 10).id == late
    assert store.jobs.next_due_ms() is None


def test_I08_lease_of_a_running_process_does_not_end_with_time(store: Store) -> None:
    """Its thread may hang in a dead disk, and send once the disk answers."""
    admit(store)
    job = claim(store)

    assert claim_one(store, "another", NOW + 1000 * TTL) is None
    assert store.jobs.get(job.id) == job


def test_I19_start_ends_every_lease(store: Store) -> None:
    leased = admit(store)
    claim(store)

    assert store.jobs.expire_all(NOW) == 1
    job = store.jobs.get(leased)
    assert (job.state, job.attempt, job.lease_owner) == (State.QUEUED, 1, None)


def test_I31_wait_written_under_a_later_clock_begins_again_at_start(store: Store) -> None:
    job_id = admit(store)
    store.jobs.retry(
        claim(store),
        NOW,
        run_after=NOW + 1000,
        kind=Kind.NETWORK,
        reason="w",
        advice=None,
        free=False,
    )

    store.times.bound(NOW - 10**9)

    assert store.jobs.get(job_id).run_after == NOW - 10**9 + 1000
    assert claim_one(store, "me", NOW - 10**9 + 999) is None
    assert claim_one(store, "me", NOW - 10**9 + 1000) is not None


def writes(store: Store, job: Job) -> None:
    """Every write an owner can make (but ``note_upload``); each has to refuse one who is not."""
    jobs, uploads, plan = store.jobs, store.uploads, DIGESTS
    for write in (
        lambda: jobs.note(job, NOW, body_sent_at=NOW),
        lambda: jobs.note_digests(job, plan, NOW),
        lambda: uploads.note_part(job, Part(2, 50, 50), "e", LEAVES, NOW),
        lambda: uploads.note_stored(job, NOW),
        lambda: uploads.fresh_upload(job, NOW, gone=True),
        lambda: uploads.drop_parts(job, NOW),
        lambda: jobs.finish(job, "rec", NOW, adopted=False),
        lambda: jobs.retry(
            job, NOW, run_after=NOW, kind=Kind.NETWORK, reason="w", advice=None, free=False
        ),
        lambda: jobs.release(job, NOW, reason="w"),
        lambda: jobs.reject(job, NOW, kind=Kind.REQUEST_REFUSED, reason="w", advice=None),
        lambda: jobs.supersede(job, NOW, reason="w"),
    ):
        with pytest.raises(LeaseLost, match="no longer ours"):
            write()


TABLES = ("job", "part", "plan", "upload", "record", "job_event")


def everything(state_dir: str) -> list[list[tuple[Any, ...]]]:
    return [rows(state_dir, f"SELECT * FROM {table} ORDER BY 1, 2") for table in TABLES]


@pytest.mark.parametrize("how", ["replaced", "expired", "another's", "claimed again"])
@pytest.mark.cell("F23-commit")
def test_lost_lease_write_changes_nothing(store: Store, state_dir: str, how: str) -> None:
    job = uploading(store)
    if how == "replaced":
        admit(store, mtime_ns=2)
    else:
        store.jobs.expire_all(NOW + TTL)
    if how == "another's":
        claim_one(store, "another", NOW + TTL)
    if how == "claimed again":  # by the same process, after its clock jumped
        claim_one(store, "me", NOW + TTL)
    before = everything(state_dir)
    writes(store, job)

    assert everything(state_dir) == before


# -- one live job a path -------------------------------------------------------------------------


@pytest.mark.parametrize("state", ["queued", "leased"])
def test_schema_refuses_second_live_job_of_path(store: Store, state_dir: str, state: str) -> None:
    admit(store)
    columns = ", ".join(
        name
        for (name,) in rows(state_dir, "SELECT name FROM pragma_table_info('job')")
        if name not in ("id", "state", "lease_owner")
    )
    lease = "'me'" if state == "leased" else "NULL"
    copy = f"INSERT INTO job (state, lease_owner, {columns}) SELECT ?, {lease}, {columns} FROM job"

    with pytest.raises(sqlite3.IntegrityError, match=r"UNIQUE.*rel_path"):
        rows(state_dir, copy, state)


@pytest.mark.parametrize(
    "change",
    [
        "state = 'done'",  # without a record id
        "state = 'leased'",  # without an owner
        "lease_owner = 'me'",  # without a lease
        "state = 'odd'",
        "upload_id = 'u'",  # without its sizes and a storage key
        "sha256 = 'short'",
        "attempt = -1",
        "size = 0",
        "size = 'many'",  # STRICT
        "held_class = 'small'",
        "root_id = 99",
    ],
)
def test_schema_refuses_impossible_row(store: Store, state_dir: str, change: str) -> None:
    admit(store)
    with closing(sqlite3.connect(os.path.join(state_dir, "syncd.db"))) as raw:
        raw.execute("PRAGMA foreign_keys = ON")
        with pytest.raises(sqlite3.IntegrityError):
            raw.execute(f"UPDATE job SET {change}")


# -- facts and intents ---------------------------------------------------------------------------


def test_facts_and_intents_survive_a_reopened_store(state_dir: str) -> None:
    store = make_store(state_dir)
    job = uploading(store)
    job = store.jobs.note(job, NOW + 1, complete_sent_at=NOW + 1)
    store.close()
    store = Store(state_dir)
    kept, etags = store.jobs.get(job.id), store.uploads.etags(job)
    store.uploads.drop_parts(job, NOW)
    dropped, upload = store.uploads.etags(job), uploads(state_dir)
    stored = store.uploads.note_stored(job, NOW + 2)
    completed = uploads(state_dir)
    store.close()

    assert kept == job
    assert (job.sha256, job.upload_id, job.part_count) == (SHA, "up-1", 2)
    assert (etags, dropped) == ({1: '"etag-1"'}, {})
    assert (upload, completed) == ([("up-1", "open")], [("up-1", "completed")])
    assert stored.stored_at == NOW + 2


@pytest.mark.parametrize(("gone", "state"), [(False, "unwanted"), (True, "gone")])
def test_fresh_upload_keeps_digests_only(
    store: Store, state_dir: str, gone: bool, state: str
) -> None:
    job = store.uploads.fresh_upload(uploading(store), NOW, gone=gone)

    assert store.jobs.get(job.id) == job
    assert (job.sha256, job.leaves) == (SHA, DIGESTS.leaves)
    assert (job.storage_key, job.upload_id, job.part_size, job.part_count) == (None,) * 4
    assert store.uploads.etags(job) == {}
    assert uploads(state_dir) == [("up-1", state)]


def test_I12_upload_opened_for_a_lost_job_is_not_forgotten(store: Store, state_dir: str) -> None:
    job = hashed(store)
    job, _ = store.uploads.note_key(job, UPLOAD.storage_key, NOW)
    admit(store, mtime_ns=2)
    with pytest.raises(LeaseLost):
        store.uploads.note_upload(job, UPLOAD, NOW)

    assert uploads(state_dir) == [("up-1", "unwanted")]


def test_another_storage_key_voids_what_was_sent_to_the_last_one(
    store: Store, state_dir: str
) -> None:
    job = hashed(store)
    job, _ = store.uploads.note_key(job, "key-1", NOW)
    job = store.jobs.note(job, NOW, body_sent_at=NOW)

    same, _ = store.uploads.note_key(job, "key-1", NOW)
    job = store.uploads.note_upload(same, UPLOAD, NOW)
    other, _ = store.uploads.note_key(job, "key-2", NOW)

    assert (same.storage_key, same.body_sent_at) == ("key-1", NOW)
    assert store.jobs.get(job.id) == other
    assert (other.storage_key, other.body_sent_at, other.upload_id) == ("key-2", None, None)
    assert uploads(state_dir) == [("up-1", "unwanted")]


# -- ends ----------------------------------------------------------------------------------------


def test_finish_ends_job_and_writes_record(store: Store, state_dir: str) -> None:
    job = store.uploads.note_stored(uploading(store), NOW)
    store.jobs.finish(job, "rec-1", NOW, adopted=False)
    done = store.jobs.get(job.id)
    [shown] = store.report.files()

    assert (done.state, done.record_id, done.lease_owner) == (State.DONE, "rec-1", None)
    assert store.records.claim(job.target.model_path, SHA) == "rec-1"
    assert store.records.claim(job.target.model_path, "6" * 64) is None
    assert (shown.state, shown.record_id, shown.sha256) == ("registered", "rec-1", SHA)
    assert rows(state_dir, "SELECT storage_key, size, adopted FROM record") == [("key-1", 100, 0)]


@pytest.mark.parametrize("first_read", ["never", "before the key", "after the key"])
def test_storage_key_reserved_before_is_usable_for_the_same_bytes_only(
    store: Store, first_read: str
) -> None:
    admit(store)
    first = claim(store)
    if first_read == "before the key":
        first = store.jobs.note_digests(first, DIGESTS, NOW)
    first, usable = store.uploads.note_key(first, "key-1", NOW)
    if first_read == "after the key":
        store.jobs.note_digests(first, DIGESTS, NOW)
    store.jobs.supersede(first, NOW, reason="changed")
    admit(store)
    second = claim(store)

    assert usable
    assert store.uploads.note_key(second, "key-1", NOW) == (second, False)
    other = store.jobs.note_digests(second, replace(DIGESTS, sha256="b" * 64), NOW)
    assert store.uploads.note_key(other, "key-1", NOW) == (other, False)
    same = store.jobs.note_digests(second, DIGESTS, NOW)
    assert store.uploads.note_key(same, "key-1", NOW)[1] == (first_read != "never")


def test_adopting_a_record_gives_up_open_upload(store: Store, state_dir: str) -> None:
    job = uploading(store)
    store.jobs.finish(job, "rec", NOW, adopted=True)

    assert store.jobs.get(job.id).adopted
    assert uploads(state_dir) == [("up-1", "unwanted")]


def retry(store: Store, job: Job, *, free: bool) -> Job:
    store.jobs.retry(
        job, NOW, run_after=NOW + 50, kind=Kind.NETWORK, reason="reset", advice="wait", free=free
    )
    return store.jobs.get(job.id)


@pytest.mark.parametrize(("free", "attempt"), [(False, 1), (True, 0)])
def test_retried_job_waits_and_spends_attempt_unless_free(
    store: Store, free: bool, attempt: int
) -> None:
    admit(store)
    job = retry(store, claim(store), free=free)

    assert (job.state, job.attempt, job.run_after) == (State.QUEUED, attempt, NOW + 50)
    assert (job.last_error, job.last_kind) == ("reset", Kind.NETWORK)
    assert claim_one(store, "me", NOW + 49) is None
    [shown] = store.report.files()
    assert (shown.state, shown.reason, shown.run_after) == ("waiting", "reset", NOW + 50)
    assert shown.advice == "wait"


def reject(store: Store, job: Job) -> None:
    store.jobs.reject(job, NOW, kind=Kind.REQUEST_REFUSED, reason="refused", advice="rename")


def test_rejected_job_shows_reason_and_gives_up_upload(store: Store, state_dir: str) -> None:
    job = uploading(store)
    reject(store, job)
    [shown] = store.report.files()

    assert (shown.state, shown.reason, shown.advice) == ("failed", "refused", "rename")
    assert uploads(state_dir) == [("up-1", "unwanted")]
    assert claim_one(store, "me", NOW + 10**9) is None


def test_requeued_job_has_counters_reset(store: Store) -> None:
    admit(store)
    job = claim(store)
    assert [store.jobs.count_attempt(job, Kind.DIGEST_MISMATCH, NOW) for _ in range(2)] == [1, 2]
    reject(store, job)
    requeued = store.jobs.requeue_failed(NOW + 5, reason="asked to")
    again = claim(store, now_ms=NOW + 5)

    assert requeued == 1
    assert (again.id, again.attempt) == (job.id, 1)
    assert store.jobs.count_attempt(again, Kind.DIGEST_MISMATCH, NOW) == 1
    assert store.jobs.requeue_failed(NOW, reason="asked to") == 0


def test_state_changes_add_events_with_reason(store: Store, state_dir: str) -> None:
    admit(store)
    retry(store, claim(store), free=False)
    job = claim(store, now_ms=NOW + 50)
    store.jobs.supersede(job, NOW + 60, reason="moved")
    events = rows(
        state_dir, "SELECT from_state, to_state, event, reason, at - ? FROM job_event", NOW
    )

    assert events == [
        (None, "queued", None, None, 0),
        ("queued", "leased", "claim", None, 0),
        ("leased", "queued", "retry", "reset", 0),
        ("queued", "leased", "claim", None, 50),
        ("leased", "superseded", "replace", "moved", 60),
    ]


# -- uploads nobody wants ------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["file changed", "file gone", "worker saw it"])
def test_superseded_job_upload_is_to_be_aborted(store: Store, state_dir: str, how: str) -> None:
    job = uploading(store)
    match how:
        case "file changed":
            admit(store, mtime_ns=2)
        case "file gone":
            store.files.forget(list(store.files.known(1)), NOW)
        case _:
            store.jobs.supersede(job, NOW, reason="moved")

    assert store.uploads.next_unwanted(NOW) == Multipart("up-1", "key-1", 0, 0)


def test_I12_gc_keeps_upload_of_waiting_and_running_job(store: Store) -> None:
    job = uploading(store)
    store.upkeep.give_up_uploads(NOW)
    assert store.uploads.next_unwanted(NOW) is None

    store.jobs.retry(
        job, NOW, run_after=NOW + 10**6, kind=Kind.NETWORK, reason="w", advice=None, free=False
    )
    store.upkeep.give_up_uploads(NOW)

    assert store.jobs.get(job.id).state is State.QUEUED
    assert store.uploads.next_unwanted(NOW + 10**9) is None


def test_postponed_abort_is_due_later_until_ended(store: Store, state_dir: str) -> None:
    store.jobs.supersede(uploading(store), NOW, reason="moved")
    upload = store.uploads.next_unwanted(NOW)
    assert upload is not None
    store.uploads.postpone_abort(upload, NOW + 100, NOW)

    assert store.uploads.next_unwanted(NOW + 99) is None
    assert store.uploads.next_unwanted(NOW + 100) == upload
    store.uploads.end(upload, UploadState.ABANDONED, NOW)
    assert store.uploads.next_unwanted(NOW + 100) is None
    assert uploads(state_dir) == [("up-1", "abandoned")]
    assert store.report.abandoned_uploads() == 1


# -- conflicts and verdicts ----------------------------------------------------------------------

UPPER, LOWER = "loras/Model.safetensors", "loras/model.safetensors"


def admit_either(store: Store, rel_path: str) -> int | None:
    to = target(rel_path)
    wanted = Wanted(found(rel_path), to, to.model_path.casefold())
    return store.files.admit([wanted], NOW).jobs.get(wanted.key)


def verdicts(store: Store) -> dict[str, Verdict]:
    return {known.rel_path: known.verdict for known in store.files.known(1)}


def test_files_that_differ_in_case_conflict_and_name_each_other(
    store: Store,
) -> None:
    first = admit_either(store, UPPER)
    second = admit_either(store, LOWER)
    reasons = {known.rel_path: known.reason or "" for known in store.files.known(1)}

    assert first is not None
    assert second is None
    assert store.jobs.get(first).state is State.SUPERSEDED
    assert verdicts(store) == {UPPER: Verdict.CONFLICT, LOWER: Verdict.CONFLICT}
    assert LOWER in reasons[UPPER]
    assert UPPER in reasons[LOWER]
    assert claim_one(store, "me", NOW) is None


def known(store: Store, rel_path: str) -> KnownFile:
    return next(file for file in store.files.known(1) if file.rel_path == rel_path)


@pytest.mark.parametrize("how", ["gone", "not a model any more", "going elsewhere"])
def test_end_of_conflict_frees_the_other_file(store: Store, how: str) -> None:
    admit_either(store, UPPER)
    admit_either(store, LOWER)
    match how:
        case "gone":
            store.files.forget([known(store, UPPER)], NOW)
        case "not a model any more":
            store.files.judge([(found(UPPER), Verdict.IGNORED, "ignored", None)], NOW)
        case _:
            elsewhere = Wanted(found(UPPER), target("loras/new"), "models/loras/new")
            assert store.files.admit([elsewhere], NOW).freed == [(1, LOWER)]

    assert LOWER not in verdicts(store)  # so the next look meets it as new
    assert admit_either(store, LOWER) is not None
    assert verdicts(store)[LOWER] is Verdict.WANTED


def test_conflict_in_another_root_names_absolute_path(store: Store) -> None:
    other = store.files.root_id("/other", type_key="loras")
    mine = Wanted(found(PATH), target(), "one place")
    theirs = Wanted(found("a.safetensors", root_id=other), target(), "one place")
    admission = store.files.admit([mine, theirs], NOW)
    reasons = {file.path: file.reason or "" for file in store.report.files()}

    assert (admission.jobs, admission.conflicts) == ({}, {mine.key, theirs.key})
    assert "/other/a.safetensors would get" in reasons[PATH]
    assert f"/models/{PATH} would get" in reasons["a.safetensors"]


@pytest.mark.parametrize("state", ["queued", "leased", "failed"])
def test_refused_file_supersedes_its_job(store: Store, state: str) -> None:
    job_id = admit(store)
    if state != "queued":
        job = claim(store)
        if state == "failed":
            reject(store, job)
    store.files.judge([(found(), Verdict.REFUSED, "the name", None)], NOW)
    [shown] = store.report.files()

    assert store.jobs.get(job_id).state is State.SUPERSEDED
    assert verdicts(store) == {PATH: Verdict.REFUSED}
    assert (shown.state, shown.reason) == ("refused", "the name")


# -- holds and servers ---------------------------------------------------------------------------


def test_repeated_hold_keeps_start_and_counts_probes(store: Store) -> None:
    store.holds.put(HoldKind.OFFLINE, reason="dns", advice=None, probe_at=NOW + 5, now_ms=NOW)
    hold = store.holds.put(
        HoldKind.OFFLINE, reason="tcp", advice="cable", probe_at=NOW + 9, now_ms=NOW + 5
    )

    assert (hold.since, hold.reason, hold.advice, hold.probes) == (NOW, "tcp", "cable", 1)
    assert store.holds.all() == store.report.holds() == [hold]
    assert store.holds.clear(HoldKind.OFFLINE, HoldKind.THROTTLED) == [hold]
    assert store.holds.clear(HoldKind.OFFLINE) == []
