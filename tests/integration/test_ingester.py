"""From a file to a job, with real files, a real store and a clock that the test advances."""

import os
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from syncd.core.files import settling
from syncd.core.files.search_paths import Tree
from syncd.core.files.selection import Patterns, Rules
from syncd.executors import Executors
from syncd.ingest import settle_tracker
from syncd.ingest.comparer import Comparer, Root
from syncd.ingest.ingester import BATCH, Ingester
from syncd.ingest.settle_tracker import BLOCKED_RETRY_S, CONFLICT_RETRY_S, SettleTracker
from syncd.monitoring.progress import Meter, Settling
from syncd.store.files import Admission, Wanted
from syncd.store.store import Store
from syncd.types import Hint, HintKind, Verdict
from tests.accounts import as_other_account
from tests.weights import write_safetensors

NAME = "loras/x.safetensors"
WINDOWS = settling.Windows(quiet_s=30, closed_s=10, network_s=90)


class HandClock:
    passed_s = 0.0

    def now_ms(self) -> int:
        return int((time.time() + self.passed_s) * 1000)

    def boottime_s(self) -> float:
        return self.passed_s

    def suspended_s(self) -> float:
        return 0.0

    async def sleep(self, seconds: float) -> None:
        self.passed_s += seconds


@dataclass
class Scene:
    """``during_judgement`` maps a path to what happens while it is judged for the first time."""

    models: Path
    clock: HandClock
    intake: Ingester
    root: Root
    store: Store
    queued: list[None] = field(default_factory=list)
    freed: list[Hint] = field(default_factory=list)
    during_judgement: dict[str, Callable[[], object]] = field(default_factory=dict)

    async def after(self, seconds: float) -> int:
        """Let time pass and process; return how often something was queued so far."""
        self.clock.passed_s += seconds
        await self.intake.process([])
        return len(self.queued)


def scene_in(folder: Path, store: Store, lanes: Executors, clock: HandClock) -> Scene:
    models = folder / "models"
    root = Root(store.files.root_id(os.fspath(models)), os.fspath(models), network=False)
    queued, freed, meter = list[None](), list[Hint](), Meter()
    during_judgement = dict[str, Callable[[], object]]()

    def judged(rel_path: str) -> None:
        during_judgement.pop(rel_path, lambda: None)()

    intake = Ingester(
        {root.id: root},
        comparer=Comparer(
            {root.id: root},
            files=store.seen,
            symlinks="follow",
            tree=Tree(root.id, []),
            rules_of=lambda _: Rules(
                ignore=Patterns("during judgement", judged), bundles=frozenset({"diffusers"})
            ),
        ),
        store=store,
        lanes=lanes,
        clock=clock,
        tracker=SettleTracker({root.id: root}, clock=clock, meter=meter, windows=lambda: WINDOWS),
        meter=meter,
        read_lease=lambda: True,
        on_queued=lambda: queued.append(None),
        on_freed=freed.append,
    )
    return Scene(models, clock, intake, root, store, queued, freed, during_judgement)


def states(scene: Scene) -> dict[str, str]:
    return {file.path: file.state for file in scene.store.report.files()}


@pytest.fixture
def scene() -> Iterator[Scene]:
    """A tree with one file, in a folder that every account may enter."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        write_safetensors(folder / "models" / NAME, 5000)
        store, lanes = Store(os.fspath(folder / "state")), Executors(files=1, slots=1)
        yield scene_in(folder, store, lanes, HandClock())
        lanes.close()
        store.close()


async def test_file_that_cannot_be_examined_is_examined_again(
    scene: Scene,
) -> None:
    await scene.intake.scan(scene.root)
    folder = (scene.models / NAME).parent
    folder.chmod(0)
    with as_other_account():
        assert await scene.after(30) == 0
    folder.chmod(0o755)

    (observation,) = scene.intake.tracker.unsettled().values()
    assert "Permission denied" in (observation.blocked_by or "")
    assert await scene.after(BLOCKED_RETRY_S) == 0
    assert await scene.after(30) == 1


async def test_file_open_for_writing_is_queued_once_it_is_closed(scene: Scene) -> None:
    await scene.intake.scan(scene.root)
    with (scene.models / NAME).open("r+b"):
        assert await scene.after(30) == 0
        (observation,) = scene.intake.tracker.unsettled().values()

    assert observation.blocked_by == "a program has it open for writing"
    assert await scene.after(BLOCKED_RETRY_S) == 0
    assert await scene.after(30) == 1


# -- what is shown of files that still change -------------------------------------------------------


async def test_settling_file_is_shown_with_size_and_seconds_left(scene: Scene) -> None:
    await scene.intake.scan(scene.root)
    scene.clock.passed_s += 12

    size = (scene.models / NAME).stat().st_size
    assert list(scene.intake.tracker.progress()) == [Settling(NAME, size, 18.0, None)]
    scene.clock.passed_s += 20
    assert [file.seconds_left for file in scene.intake.tracker.progress()] == [0.0]


# -- empty files -----------------------------------------------------------------------------------


async def test_empty_file_that_grows_within_its_window_is_never_recorded_as_empty(
    scene: Scene,
) -> None:
    (scene.models / NAME).write_bytes(b"")
    await scene.intake.scan(scene.root)

    assert states(scene) == {}
    assert list(scene.intake.tracker.unsettled()) == [(scene.root.id, NAME)]

    write_safetensors(scene.models / NAME, 5000)

    assert await scene.after(30) == 0
    assert states(scene) == {}
    assert await scene.after(30) == 1
    assert states(scene) == {NAME: "queued"}


async def test_empty_file_that_stays_empty_is_ignored_after_its_window(scene: Scene) -> None:
    (scene.models / NAME).write_bytes(b"")
    await scene.intake.scan(scene.root)

    assert await scene.after(30) == 0
    (file,) = scene.store.report.files()
    assert (file.state, file.reason) == ("ignored", "empty file")
    await scene.intake.scan(scene.root)
    assert scene.intake.tracker.unsettled() == {}


# -- what is heard together ------------------------------------------------------------------------


def closed(scene: Scene, *paths: str) -> list[Hint]:
    return [Hint(scene.root.id, path, HintKind.CLOSED) for path in paths]


async def test_more_hints_than_a_batch_are_all_processed(scene: Scene) -> None:
    names = [f"vae/{number:04}.safetensors" for number in range(BATCH + 1)]
    for name in names:
        write_safetensors(scene.models / name, 200)
    await scene.intake.examine(closed(scene, *names))

    assert await scene.after(WINDOWS.closed_s) == 1
    assert len(list(scene.store.seen.known(scene.root.id, "vae"))) == len(names)


async def test_I17_settled_files_are_queued_in_batches_with_clashes_and_bundles_together(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settle_tracker, "SETTLED_MAX", 3)
    plain = [f"loras/{name}.safetensors" for name in ("a", "b", "d", "e", "f", "g", "x")]
    clash = ["loras/C.safetensors", "loras/c.safetensors"]
    bundle = [f"diffusers/m/{number}.safetensors" for number in range(5)]
    for rel_path in (*plain, *clash, *bundle):
        write_safetensors(scene.models / rel_path, 1000)
    goes: list[list[str]] = []
    admit = scene.store.files.admit

    def admitted(wanted: Iterable[Wanted], now_ms: int) -> Admission:
        items = list(wanted)
        goes.append(sorted(item.found.rel_path for item in items))
        return admit(items, now_ms)

    monkeypatch.setattr(scene.store.files, "admit", admitted)
    await scene.intake.scan(scene.root)
    await scene.after(WINDOWS.quiet_s)
    for _ in range(10):
        await scene.after(CONFLICT_RETRY_S)

    assert scene.intake.tracker.unsettled() == {}
    assert sorted(path for each in goes for path in each) == sorted((*plain, *clash, *bundle))
    assert [each for each in goes if clash[0] in each] == [
        each for each in goes if clash[1] in each
    ]
    assert [set(bundle) <= set(each) for each in goes if set(each) & set(bundle)] == [True]
    assert max(len(set(each) - set(bundle)) for each in goes) <= 4
    assert {path for path, state in states(scene).items() if state == "conflict"} == set(clash)


@pytest.mark.parametrize(
    ("sizes", "is_watched", "verdicts"),
    [
        ((None, 300), True, [Verdict.WANTED]),
        ((0, 300), True, [Verdict.WANTED]),
        ((300, None), False, []),
    ],
    ids=["gone, then here", "empty, then whole", "changed, then gone"],
)
async def test_later_of_two_results_for_a_path_in_one_batch_counts(
    scene: Scene,
    sizes: tuple[int | None, int | None],
    is_watched: bool,
    verdicts: list[Verdict],
) -> None:
    await scene.intake.scan(scene.root)
    assert await scene.after(WINDOWS.quiet_s) == 1
    path, between = scene.models / NAME, "vae/between.safetensors"

    def become(size: int | None) -> None:
        path.unlink(missing_ok=True)
        if size is not None:
            write_safetensors(path, size) if size else path.touch()

    write_safetensors(scene.models / between, 200)
    become(sizes[0])
    scene.during_judgement[between] = lambda: become(sizes[1])
    await scene.intake.examine(closed(scene, NAME, between, "loras"))

    assert not scene.during_judgement
    assert ((scene.root.id, NAME) in scene.intake.tracker.unsettled()) is is_watched
    known = scene.store.seen.known(scene.root.id, NAME)
    assert [file.verdict for file in known] == verdicts


async def test_shadowed_file_is_judged_again_although_its_hint_is_lost(
    scene: Scene,
) -> None:
    first, second = "text_encoders/t.safetensors", "clip/t.safetensors"
    for name in (first, second):
        write_safetensors(scene.models / name, 200)
    await scene.intake.scan(scene.root)
    (scene.models / first).unlink()
    await scene.intake.scan(scene.root)
    assert [hint.rel_path for hint in scene.freed][-1:] == [second]
    await scene.intake.scan(scene.root)  # the hint is not processed

    assert (scene.root.id, second) in scene.intake.tracker.unsettled()
