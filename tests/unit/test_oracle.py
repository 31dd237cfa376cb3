"""The oracle itself: each rule lets a good history pass and names a bad one."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from syncd.sandbox.history import Entry
from syncd.store.files import Wanted
from syncd.store.store import Store
from syncd.types import Fingerprint, FoundFile, Multipart, Part, Plan, Target
from tests.oracle import (
    COMMIT_MS,
    RULES,
    Content,
    Evidence,
    Violation,
    check,
    o10_one_seed_one_history,
)

PATH, KEY, SHA = "models/loras/a.safetensors", "models/team/key", "a" * 64
HASH = f"sha256:{SHA}"
START = 1_000_000


def call(seq: int, name: str, status: int | None = 200, **facts: Any) -> Entry:
    """A call that took effect and was answered so, a second after the one before."""
    said = {"answered": status, "model_path": PATH, "storage_key": KEY, **facts}
    headers = ("content-length", "host")
    return Entry(seq, START + 1000 * seq, name, "POST", "/", headers, status=status, **said)


def part(seq: int, **facts: Any) -> Entry:
    return call(seq, "put_part", **{"upload_id": "up-1", "part": 1, "sha256": SHA, **facts})


def register(seq: int, status: int | None = 201, **facts: Any) -> Entry:
    return call(seq, "register", status, file_hash=HASH, **facts)


RECORD = {
    "id": "rec-1",
    "model_path": PATH,
    "storage_key": KEY,
    "file_size": 3,
    "file_hash": HASH,
    "model_status": "active",
}
GOOD = (
    call(1, "list_models", model_path=None, storage_key=None),
    call(2, "presign"),
    call(3, "initiate", upload_id="up-1"),
    part(4),
    call(6, "complete", upload_id="up-1"),
    register(7),
)


@pytest.fixture
def state_dir(tmp_path: Path) -> Path:
    """A state directory that knows upload ``up-1``, and its part 1 since the fifth second."""
    found = FoundFile(1, "loras/a.safetensors", Fingerprint(1, 1, 3, 1, 1), 3)
    target = Target(PATH, "loras", "a.safetensors", "a")
    store = Store(str(tmp_path))
    store.files.root_id("models")
    store.files.admit([Wanted(found, target, PATH)], START)
    job = store.jobs.claim("me", START, 60_000)
    assert job is not None
    job = store.jobs.note_plan(job, Plan(3, SHA, b"l" * 16), START)
    job, _ = store.jobs.note_key(job, KEY, START)
    job = store.jobs.note_upload(job, Multipart("up-1", KEY, 3, 1), START + 3000)
    store.jobs.note_part(job, Part(1, 0, 3), '"e"', b"l" * 16, START + 5000)
    job = store.jobs.note_stored(job, START + 6000)
    store.jobs.finish(job, "rec-1", START + 7000, adopted=False)
    store.close()
    return tmp_path


@pytest.fixture
def good(state_dir: Path) -> Evidence:
    """What a run without any trouble leaves behind."""
    return Evidence(
        history=GOOD,
        records=[RECORD],
        objects={KEY: Content(3, SHA)},
        open_uploads=[],
        versions={PATH: {SHA}},
        still={PATH: SHA},
        state_dir=state_dir,
        started=[START],
        said="job.ended end=registered\n",
        secrets=["dk-canary-1234"],
    )


def broken(evidence: Evidence) -> list[str]:
    """The numbers of the rules that *evidence* breaks."""
    try:
        check(evidence)
    except Violation as violation:
        return [line.partition(":")[0] for line in str(violation).splitlines() if line[:1] == "O"]
    return []


def test_a_run_without_trouble_breaks_no_rule(good: Evidence) -> None:
    assert broken(good) == []
    assert [rule.__name__.partition("_")[0] for rule in RULES] == [
        f"o{n}" for n in (*range(1, 10), 11)
    ]


@pytest.mark.parametrize(
    "stored",
    [{}, {KEY: Content(3, "b" * 64)}, {KEY: Content(4, SHA)}],
    ids=["none", "other", "more"],
)
def test_O1_a_record_of_what_is_not_stored_is_found(
    good: Evidence, stored: dict[str, Content]
) -> None:
    assert "O1" in broken(replace(good, objects=stored))


def test_O2_an_object_that_the_file_never_was_is_found(good: Evidence) -> None:
    assert broken(replace(good, versions={PATH: {"b" * 64}})) == ["O2"]
    assert broken(replace(good, versions={"models/loras/other": {SHA}})) == ["O2"]


def test_O3_a_part_that_comes_again_after_its_commit_is_found(good: Evidence) -> None:
    assert broken(replace(good, history=[*GOOD[:4], part(5), *GOOD[4:]])) == []
    assert broken(replace(good, history=[*GOOD, part(8)])) == ["O3"]
    assert broken(replace(good, history=[*GOOD, part(8, status=404)])) == []


def test_O4_two_records_of_one_file_are_found(good: Evidence) -> None:
    looked = call(8, "list_models", model_path=None)
    assert broken(replace(good, history=[*GOOD, looked, register(9)])) == ["O4"]


@pytest.mark.parametrize(
    "first",
    [register(7, None), register(7, lost=True), register(7, None, answered=503), register(7)],
    ids=["no answer", "lost", "in doubt", "done"],
)
def test_O4_a_register_that_is_repeated_without_a_look_is_found(
    good: Evidence, first: Entry
) -> None:
    looked = call(8, "list_models", model_path=None)
    again = register(9, 409)

    assert broken(replace(good, history=[*GOOD[:5], first, again])) == ["O4"]
    assert broken(replace(good, history=[*GOOD[:5], first, looked, again])) == []


def test_O4_a_register_that_was_refused_may_be_repeated(good: Evidence) -> None:
    assert broken(replace(good, history=[*GOOD[:5], register(7, 404), register(8)])) == []


def test_O4_without_a_listing_one_may_not_look(good: Evidence) -> None:
    unseen = [*GOOD[:5], register(7, lost=True), register(8, 409)]
    told = [call(1, "list_models", 405, model_path=None), *unseen[1:]]

    assert broken(replace(good, history=unseen, listing=False)) == []
    assert broken(replace(good, history=told)) == []
    assert broken(replace(good, history=told, started=[START, START + 7500])) == ["O4"]


@pytest.mark.parametrize(
    ("killed", "found"),
    [([], ["O4"]), ([START + 7000 + COMMIT_MS], ["O4"]), ([START + 7050], [])],
    ids=["never", "after the commit", "before the commit"],
)
def test_O4_without_a_listing_an_answer_that_was_not_committed_is_unknown(
    good: Evidence, killed: list[int], found: list[str]
) -> None:
    twice = [*GOOD, call(8, "list_models", 405, model_path=None), register(9)]

    assert broken(replace(good, history=twice, listing=False, killed=killed)) == found
    assert broken(replace(good, history=twice, killed=killed)) == ["O4"]


@pytest.mark.parametrize("name", ["authorization", "cookie", "x-team-id", "proxy-authorization"])
def test_O5_a_credential_at_the_store_is_found(good: Evidence, name: str) -> None:
    leaked = replace(GOOD[3], header_names=("content-length", name))
    assert broken(replace(good, history=[*GOOD[:3], leaked, *GOOD[4:]])) == ["O5"]


def test_O6_a_still_file_that_is_not_registered_is_found(good: Evidence) -> None:
    assert broken(replace(good, still={PATH: "b" * 64})) == ["O6"]
    assert broken(replace(good, still={"models/loras/b.gguf": SHA})) == ["O6"]


def test_O7_an_upload_that_is_left_open_is_found(good: Evidence) -> None:
    unknown = [*GOOD, call(8, "initiate", upload_id="up-2")]

    assert broken(replace(good, open_uploads=["up-1"])) == ["O7"]
    assert broken(replace(good, history=unknown, open_uploads=["up-2"])) == ["O7"]


@pytest.mark.parametrize(
    "facts", [{"lost": True}, {"answered": None}, {"fault": "malformed_json"}, {"answered": 502}]
)
def test_O7_an_upload_that_nobody_was_told_of_may_stay(
    good: Evidence, facts: dict[str, Any]
) -> None:
    history = [*GOOD, call(8, "initiate", upload_id="up-2", **facts)]
    assert broken(replace(good, history=history, open_uploads=["up-2"])) == []


def test_O7_a_kill_excuses_only_what_was_under_way(good: Evidence) -> None:
    history = [*GOOD, call(8, "initiate", upload_id="up-2")]
    left = replace(good, history=history, open_uploads=["up-2"])

    assert broken(replace(left, killed=[START + 9000])) == []
    assert broken(replace(left, killed=[START + 7000])) == ["O7"]
    assert broken(replace(left, killed=[START + 99_000])) == ["O7"]


@pytest.mark.parametrize("status", [429, 503])
def test_O8_a_call_before_the_asked_pause_is_over_is_found(good: Evidence, status: int) -> None:
    told = call(8, "presign", None, answered=status, retry_after="3")

    assert broken(replace(good, history=[*GOOD, told, call(9, "presign")])) == ["O8"]
    assert broken(replace(good, history=[*GOOD, told, call(11, "presign")])) == []
    assert (
        broken(replace(good, history=[*GOOD, replace(told, lost=True), call(9, "presign")])) == []
    )


def test_O8_a_restart_forgets_what_was_asked(good: Evidence) -> None:
    told = call(8, "presign", None, answered=429, retry_after="3")
    history = [*GOOD, told, call(9, "presign")]
    assert broken(replace(good, history=history, started=[START, START + 8500])) == []


def test_O8_a_flood_of_failures_is_found_wherever_they_fail(good: Evidence) -> None:
    refused = [call(seq, "presign", None, answered=502) for seq in range(8, 258)]
    unreached = [(START + 1000 * n, "store") for n in range(250)]
    slowly = [(START + 4000 * n, "store") for n in range(250)]

    assert broken(replace(good, history=[*GOOD, *refused])) == ["O8"]
    assert broken(replace(good, unreached=unreached)) == ["O8"]
    assert broken(replace(good, unreached=slowly)) == []


@pytest.mark.parametrize(("apart_s", "found"), [(1, ["O8"]), (2, [])])
def test_O8_a_file_that_is_asked_for_again_and_again_is_found(
    good: Evidence, apart_s: int, found: list[str]
) -> None:
    asked = [call(seq, "presign") for seq in range(8, 100)]
    at = {entry.seq: START + 1000 * apart_s * entry.seq for entry in asked}
    spread = [replace(entry, at_ms=at[entry.seq]) for entry in asked]

    assert broken(replace(good, history=[*GOOD, *spread])) == found


def test_O9_a_secret_in_the_log_or_on_disk_is_found(good: Evidence) -> None:
    assert broken(replace(good, said="why=dk-canary-1234")) == ["O9"]
    (good.state_dir / "notes").write_bytes(b"\0dk-canary-1234\0")
    assert broken(good) == ["O9"]


@pytest.mark.parametrize("character", ["\x1b", "\r", "\x00", "\x9b"])
def test_O9_a_control_character_that_is_shown_is_found(good: Evidence, character: str) -> None:
    assert broken(replace(good, said=f"file.queued path=a{character}[31m\n")) == ["O9"]


def test_O10_two_ways_of_one_seed_are_found(good: Evidence) -> None:
    o10_one_seed_one_history(good, replace(good, history=list(GOOD)))

    with pytest.raises(Violation, match="went another way"):
        o10_one_seed_one_history(good, replace(good, history=[*GOOD[:5], register(7, 409)]))
    with pytest.raises(Violation, match="6 calls, then 5"):
        o10_one_seed_one_history(good, replace(good, history=GOOD[:5]))


def test_a_violation_shows_the_calls(good: Evidence) -> None:
    with pytest.raises(Violation, match=r"O4: .* registered twice\n +7 .* register .*\n +9 "):
        check(replace(good, history=[*GOOD, call(8, "list_models"), register(9)]))


def test_all_broken_rules_are_told_at_once(good: Evidence) -> None:
    assert broken(replace(good, objects={}, still={"models/x": SHA}, said="\x1b")) == [
        "O1",
        "O6",
        "O9",
    ]


def test_O11_two_active_records_of_one_file_are_found(good: Evidence) -> None:
    twin = {**RECORD, "id": "rec-2"}
    disabled = {**twin, "model_status": "disabled"}

    assert broken(replace(good, records=[RECORD, twin])) == ["O11"]
    assert broken(replace(good, records=[RECORD, disabled])) == []
    assert broken(replace(good, records=[RECORD, twin], listing=False)) == []
