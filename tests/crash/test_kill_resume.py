"""``kill -9`` at every turn of an upload, then once more from the start."""

import sqlite3
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from syncd.sandbox.faults import Fault, Rule
from syncd.sandbox.server import Sandbox
from syncd.sandbox.switches import Switches
from syncd.types import Call
from tests.integration.harness import YOUNGEST_S, Home, records, until
from tests.trap import RUN_S, Facts, Trap, facts, nth, run, start
from tests.weights import MIB, sha256_of, write_safetensors

pytestmark = pytest.mark.crash

CAP = 8 * MIB
SMALL, LARGE = "models/loras/small.safetensors", "models/checkpoints/large.safetensors"
SIZES = {SMALL: 7 * MIB, LARGE: 11 * MIB}
SWITCHES = Switches(part_size=5 * MIB, second_complete=404, register_repeats=True)
"""The cloud that forgives least: a finished upload is unknown, a second register makes a record."""

NEVER_ARRIVED = (Call.LIST_MODELS, Call.PRESIGN, Call.PUT_BODY, Call.INITIATE, Call.COMPLETE)
UNANSWERED = (Call.PRESIGN, Call.PUT_BODY, Call.INITIATE, Call.PUT_PART)
MOMENTS = [
    *(pytest.param(call, False, id=f"{call}-sent") for call in (*NEVER_ARRIVED, Call.REGISTER)),
    *(pytest.param(call, True, id=f"{call}-done") for call in (*UNANSWERED, Call.COMPLETE)),
    pytest.param(Call.REGISTER, True, id=f"{Call.REGISTER}-done"),
]


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One file for a single PUT and one for parts, both old enough to be read at once."""
    models = tmp_path_factory.mktemp("tree") / "models"
    for path, size in SIZES.items():
        write_safetensors(models.parent / path, size)
    time.sleep(YOUNGEST_S)
    return models


@pytest.fixture
def trap() -> Trap:
    return Trap()


@pytest.fixture
def cloud(tmp_path: Path, trap: Trap) -> Iterator[Sandbox]:
    """A stand-in cloud that the trap listens to."""
    with Sandbox(tmp_path / "cloud", switches=SWITCHES, listener=trap) as sandbox:
        yield sandbox


@pytest.fixture
def home(tmp_path: Path, tree: Path, cloud: Sandbox) -> Home:
    """A signed-in user of ``tree``, which is never written to."""
    return signed_in(tmp_path / "home", tree, cloud, CAP)


def signed_in(folder: Path, models: Path, cloud: Sandbox, cap: int) -> Home:
    home = Home.at(folder, cloud)
    home.sign_in(cloud)
    home.models = models
    home.env |= {"SYNCD_MODELS_DIR": str(models), "SYNCD_API__SINGLE_PUT_LIMIT": str(cap)}
    return home


def require_all_there(cloud: Sandbox, models: Path, paths: set[str]) -> None:
    """Each file registered once, as it is on disk, and no register taken twice."""
    claimed = records(cloud)  # compares each record with its object, too

    assert set(claimed) == paths
    for path, sha256 in claimed.items():
        assert sha256 == sha256_of(models.parent / path)
    registered = [e.model_path for e in cloud.history.entries(Call.REGISTER) if e.ok]
    assert sorted(filter(None, registered)) == sorted(paths)


def require_nothing_twice(cloud: Sandbox, known: dict[str, Facts], after: int) -> None:
    """What was committed before the kill is not asked for or sent again after it."""
    later = [entry for entry in cloud.history.entries() if entry.seq > after]
    done = {(e.call, e.model_path, e.part) for e in later}
    for path, fact in known.items():
        presigned = (Call.PRESIGN, path, None) in done
        if path == LARGE and fact.storage_key is not None:
            assert not presigned
            assert fact.upload_id is None or (Call.INITIATE, path, None) not in done
        if fact.stored:
            assert not presigned
            assert not any(
                call in (Call.PUT_BODY, Call.PUT_PART) for call, of, _ in done if of == path
            )
        for number in fact.etags:
            assert (Call.PUT_PART, path, number) not in done


def claims(home: Home) -> set[str]:
    """The paths of leased jobs; empty while there is no database."""
    with suppress(sqlite3.Error):
        return {path for path, fact in facts(home).items() if fact.state == "leased"}
    return set()


@pytest.mark.parametrize(("call", "performed"), MOMENTS)
def test_I11_kill_at_any_call_loses_no_file_and_registers_none_twice(
    call: Call, performed: bool, cloud: Sandbox, trap: Trap, home: Home
) -> None:
    if not performed:  # the call arrives, nothing comes of it, and the caller gets no answer
        cloud.faults.add(Rule(Fault.RESET, call=call, performed=False))
    trap.kill(home, nth(call))
    known, seen = facts(home), cloud.history.next_seq()
    unheard = {e.upload_id for e in cloud.history.entries(Call.INITIATE) if e.ok}
    unheard -= {fact.upload_id for fact in known.values()}

    again = run(home, "--once")

    assert again.code == 0, again.err
    require_all_there(cloud, home.models, set(SIZES))
    require_nothing_twice(cloud, known, seen)
    assert {upload.upload_id for upload in cloud.open_uploads()} <= unheard


def test_I10_kill_after_a_part_resends_only_the_unanswered_part(
    cloud: Sandbox, trap: Trap, home: Home
) -> None:
    home.env |= {"SYNCD_UPLOAD__PARTS": "1", "SYNCD_UPLOAD__PARTS_MAX": "1"}
    trap.kill(home, nth(Call.PUT_PART, 2))

    assert facts(home)[LARGE].etags == {1}  # what the store answered, and that only

    again = run(home, "--once")

    assert again.code == 0, again.err
    assert [entry.part for entry in cloud.history.entries(Call.PUT_PART)] == [1, 2, 2, 3]
    require_all_there(cloud, home.models, set(SIZES))


def test_killed_run_leaves_its_claims_to_the_next(cloud: Sandbox, home: Home) -> None:
    cloud.faults.add(Rule(Fault.DELAY, call=Call.LIST_MODELS, count=None, delay_s=RUN_S))
    victim = start(home, "--once")
    until(lambda: claims(home) == set(SIZES), "both claims")
    victim.kill()
    victim.wait()
    cloud.faults.clear()

    assert claims(home) == set(SIZES)

    again = run(home, "--once")

    assert again.code == 0, again.err
    require_all_there(cloud, home.models, set(SIZES))
