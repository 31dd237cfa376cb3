"""T4: what others do to records is noticed and not undone; of twins our own makes way, and only that."""

from dataclasses import replace
from functools import partial
from typing import Any

from syncd.sandbox.cloud import Registered
from syncd.types import Call
from tests.matrix.stage import OTHER, SMALL, Stage, staged

RECONCILE_S = 600
SETTINGS = {"catalog": {"reconcile_s": RECONCILE_S}}


def record_of(stage: Stage, path: str) -> Registered:
    """The record that the daemon made of a path."""
    return stage.far.cloud._records[stage.job(path)["record_id"]]


def put(stage: Stage, record: Registered, **changes: Any) -> None:
    """Somebody changes a record, or adds one."""
    stage.far.cloud._records[record.id] = replace(record, **changes)


def has_record(stage: Stage, path: str) -> bool:
    job = stage.job(path)
    return job is not None and job["record_id"] is not None


def drift(stage: Stage, path: str) -> str | None:
    (row,) = stage.query("SELECT drift FROM record WHERE model_path = ?", f"models/{path}")
    return row["drift"]  # type: ignore[no-any-return]


async def arrived(stage: Stage, *paths: str) -> None:
    """A running daemon whose files are registered and compared once."""
    for path in paths:
        stage.write(path)
    stage.start()
    for path in paths:
        await stage.until(partial(has_record, stage, path), "a record")
        await stage.arrives(path)
    unchecked = "SELECT 1 FROM record WHERE checked_at IS NULL"
    await stage.until(lambda: not stage.query(unchecked), "a comparison with the listing")


@staged(settings=SETTINGS)
async def test_disabled_record_is_drift_until_it_is_enabled(stage: Stage) -> None:
    await arrived(stage, SMALL)
    record = record_of(stage, SMALL)
    put(stage, record, model_status="disabled")
    await stage.until(lambda: drift(stage, SMALL) == "disabled", "the drift", 2 * RECONCILE_S)
    put(stage, record, model_status="active")
    await stage.until(lambda: drift(stage, SMALL) is None, "its end", 2 * RECONCILE_S)
    await stage.stop()

    assert len(stage.calls(Call.REGISTER)) == 1
    assert stage.calls(Call.UPDATE_MODEL) == []


@staged(settings=SETTINGS)
async def test_deleted_record_is_not_created_again_when_its_file_is_touched(stage: Stage) -> None:
    await arrived(stage, SMALL, OTHER)
    del stage.far.cloud._records[record_of(stage, SMALL).id]
    put(stage, record_of(stage, OTHER), model_path="models/vae/there.safetensors")
    await stage.until(lambda: drift(stage, SMALL) == "missing", "the drift", 2 * RECONCILE_S)
    await stage.until(lambda: drift(stage, OTHER) == "moved", "the other", 2 * RECONCILE_S)
    before = stage.job(SMALL)["id"]
    stage.stamp(SMALL)
    await stage.until(lambda: stage.job(SMALL)["id"] > before, "another job")
    await stage.until(lambda: stage.job(SMALL)["state"] == "done", "its end")
    await stage.until(lambda: not stage.query("SELECT 1 FROM record WHERE checked_at IS NULL"),
                      "another comparison")  # fmt: skip
    await stage.stop()

    assert drift(stage, SMALL) == "missing"
    assert len(stage.calls(Call.REGISTER)) == 2


@staged(settings=SETTINGS)
async def test_our_record_is_disabled_for_an_older_duplicate_only(
    stage: Stage,
) -> None:
    await arrived(stage, SMALL, OTHER)
    ours, others = record_of(stage, SMALL), record_of(stage, OTHER)
    put(stage, replace(ours, id="older", created_at="2001-01-01T00:00:00Z"))
    put(stage, replace(others, id="younger", created_at="2998-01-01T00:00:00Z"))
    await stage.until(lambda: stage.job(SMALL)["record_id"] == "older", "it", 2 * RECONCILE_S)
    await stage.stop()
    status = {r.id: r.model_status for r in stage.far.cloud.records()}

    assert status == {
        ours.id: "disabled", others.id: "active", "older": "active", "younger": "active",
    }  # fmt: skip
    assert [drift(stage, path) for path in (SMALL, OTHER)] == [None, None]
    assert len(stage.calls(Call.UPDATE_MODEL)) == 1


@staged(settings=SETTINGS)
async def test_adopted_record_is_never_disabled(stage: Stage) -> None:
    stage.write(SMALL)
    stage.register_elsewhere(SMALL)
    await arrived(stage, SMALL)
    theirs = record_of(stage, SMALL)
    put(stage, replace(theirs, id="0-older", created_at="2001-01-01T00:00:00Z"))
    listings = len(stage.calls(Call.LIST_MODELS))
    await stage.until(lambda: len(stage.calls(Call.LIST_MODELS)) > listings + 1, "two listings")
    await stage.stop()

    assert stage.calls(Call.UPDATE_MODEL, Call.REGISTER) == []


@staged(settings=SETTINGS, switches={"update_off": 405})
async def test_server_without_disable_keeps_both_duplicates(stage: Stage) -> None:
    await arrived(stage, SMALL)
    ours = record_of(stage, SMALL)
    put(stage, replace(ours, id="older", created_at="2001-01-01T00:00:00Z"))
    await stage.until(lambda: "record.duplicate_kept" in stage.log.getvalue(), "a log event")
    listings = len(stage.calls(Call.LIST_MODELS))
    await stage.until(lambda: len(stage.calls(Call.LIST_MODELS)) > listings + 1, "two listings")
    await stage.stop()

    assert stage.log.getvalue().count("record.duplicate_kept") == 1
    assert stage.job(SMALL)["record_id"] == ours.id
    assert drift(stage, SMALL) is None


@staged(settings=SETTINGS)
async def test_record_missing_from_the_list_is_requested_before_it_counts_as_gone(
    stage: Stage,
) -> None:
    await arrived(stage, SMALL)
    listed = stage.far.cloud.records
    stage.far.cloud.records = lambda: ()  # type: ignore[method-assign]
    await stage.until(lambda: len(stage.calls(Call.GET_MODEL)) > 1, "two listings")
    await stage.stop()
    stage.far.cloud.records = listed  # type: ignore[method-assign]

    assert drift(stage, SMALL) is None
