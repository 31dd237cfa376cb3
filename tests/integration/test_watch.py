import logging
import os
import queue
import resource
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from syncd.fs import watcher as watch
from syncd.fs.watcher import Watcher, watches_in_use
from syncd.types import Hint, HintKind

WAIT_S = 60.0


class ChangeQueue:
    """The hints of a watcher, in order."""

    def __init__(self) -> None:
        self._queue: queue.Queue[Hint] = queue.Queue()
        self.seen: list[Hint] = []

    def __call__(self, hint: Hint) -> None:
        self._queue.put(hint)

    def until(self, *wanted: Hint) -> None:
        """Wait until all of *wanted* arrived."""
        while missing := set(wanted) - set(self.seen):
            self._take(missing)

    def _take(self, missing: object) -> None:
        try:
            self.seen.append(self._queue.get(timeout=WAIT_S))
        except queue.Empty:
            raise AssertionError(f"missing: {missing}; seen: {self.seen}") from None

    def forget(self) -> None:
        self.seen.clear()


def closed(rel_path: str) -> Hint:
    return Hint(1, rel_path, HintKind.CLOSED)


def created(rel_path: str, *, folder: bool = False) -> Hint:
    return Hint(1, rel_path, HintKind.CREATED, folder)


def moved(rel_path: str, *, folder: bool = False) -> Hint:
    return Hint(1, rel_path, HintKind.MOVED, folder)


def deleted(rel_path: str, *, folder: bool = False) -> Hint:
    return Hint(1, rel_path, HintKind.DELETED, folder)


def rescan(rel_path: str) -> Hint:
    return Hint(1, rel_path, HintKind.RESCAN, folder=True)


def eventually(what: Callable[[], bool]) -> bool:
    """For what no hint announces: a thread that ends."""
    until = time.monotonic() + WAIT_S
    while not what() and time.monotonic() < until:
        threading.Event().wait(0.01)
    return what()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    path = tmp_path / "models"
    (path / "loras").mkdir(parents=True)
    return path


@pytest.fixture
def hints() -> ChangeQueue:
    return ChangeQueue()


Start = Callable[..., Watcher]


@pytest.fixture
def start(hints: ChangeQueue) -> Iterator[Start]:
    """Starts a watcher that adds to ``hints``, and stops it at the end."""
    watchers: list[Watcher] = []

    def started(root: Path, on_hint: Callable[[Hint], None] = hints, **options: Any) -> Watcher:
        watcher = Watcher({1: str(root)}, on_hint, **options)
        watchers.append(watcher)
        watcher.start()
        return watcher

    yield started
    for watcher in watchers:
        watcher.stop()


def test_written_file_gives_created_and_closed(
    start: Start, root: Path, hints: ChangeQueue
) -> None:
    watcher = start(root)

    (root / "loras" / "x.pt").write_bytes(b"model")

    hints.until(created("loras/x.pt"), closed("loras/x.pt"))
    assert watcher.alive()
    assert watcher.degraded is None


def test_renamed_download_gives_hints_for_both_names(
    start: Start, root: Path, hints: ChangeQueue
) -> None:
    start(root)
    (root / "loras" / "x.pt.part").write_bytes(b"model")

    (root / "loras" / "x.pt.part").rename(root / "loras" / "x.pt")

    hints.until(deleted("loras/x.pt.part"), moved("loras/x.pt"))


def test_a_folder_moved_in_is_one_hint_and_watched_from_then_on(
    start: Start, root: Path, tmp_path: Path, hints: ChangeQueue
) -> None:
    (tmp_path / "new" / "sub").mkdir(parents=True)
    (tmp_path / "new" / "sub" / "x.pt").write_bytes(b"model")
    start(root)

    (tmp_path / "new").rename(root / "loras" / "new")
    hints.until(moved("loras/new", folder=True))
    (root / "loras" / "new" / "sub" / "y.pt").write_bytes(b"model")
    hints.until(closed("loras/new/sub/y.pt"))

    assert not any(hint.rel_path.startswith("loras/new/sub/x") for hint in hints.seen)


def test_deleted_files_and_folders_give_hints(
    start: Start, root: Path, tmp_path: Path, hints: ChangeQueue
) -> None:
    (root / "loras" / "x.pt").write_bytes(b"model")
    (root / "loras" / "y.pt").write_bytes(b"model")
    start(root)

    (root / "loras" / "x.pt").unlink()
    (root / "loras" / "y.pt").rename(tmp_path / "y.pt")
    (root / "loras").rmdir()

    hints.until(deleted("loras/x.pt"), deleted("loras/y.pt"), deleted("loras", folder=True))


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    path = tmp_path / "elsewhere"
    (path / "sub").mkdir(parents=True)
    return path


def test_folder_behind_two_links_gives_hints_under_both(
    start: Start, root: Path, elsewhere: Path, hints: ChangeQueue
) -> None:
    (root / "vae").symlink_to(elsewhere)
    (root / "loras" / "more").symlink_to(elsewhere)
    start(root)

    (elsewhere / "sub" / "x.pt").write_bytes(b"model")

    hints.until(closed("vae/sub/x.pt"), closed("loras/more/sub/x.pt"))


def test_a_folder_linked_later_is_rescanned_and_watched(
    start: Start, root: Path, elsewhere: Path, hints: ChangeQueue
) -> None:
    start(root)

    (root / "vae").symlink_to(elsewhere)
    hints.until(rescan("vae"))
    (elsewhere / "sub" / "x.pt").write_bytes(b"model")

    hints.until(closed("vae/sub/x.pt"))


def test_a_removed_link_is_no_longer_watched_and_the_other_one_still_is(
    start: Start, root: Path, elsewhere: Path, hints: ChangeQueue
) -> None:
    (root / "vae").symlink_to(elsewhere)
    (root / "clip").symlink_to(elsewhere)
    watcher = start(root)

    (root / "vae").unlink()
    hints.until(deleted("vae", folder=True))
    (elsewhere / "sub" / "x.pt").write_bytes(b"model")
    hints.until(closed("clip/sub/x.pt"))
    (root / "clip").unlink()
    hints.until(deleted("clip", folder=True))

    assert closed("vae/sub/x.pt") not in hints.seen
    assert watcher.alive()
    assert watches_in_use() == 2  # the root and loras


@pytest.mark.cell("F17-watch")
def test_links_are_not_followed_if_the_rule_says_so(
    start: Start, root: Path, elsewhere: Path, hints: ChangeQueue
) -> None:
    (root / "vae").symlink_to(elsewhere)

    start(root, follow_links=False)

    assert watches_in_use() == 2


def test_cycles_of_links_end(start: Start, root: Path, hints: ChangeQueue) -> None:
    for link in ("one", "two", "loras/up"):  # watchdog itself never comes back from these
        (root / link).symlink_to(root)
    (root / "loras" / "disk").symlink_to("/")

    watcher = start(root)
    (root / "loras" / "x.pt").write_bytes(b"model")

    hints.until(closed("loras/x.pt"))
    assert watcher.alive()
    assert watches_in_use() == 2


def test_failing_receiver_does_not_stop_the_watcher(
    start: Start, root: Path, hints: ChangeQueue
) -> None:
    def fails_at_x(hint: Hint) -> None:
        hints(hint)
        if hint.rel_path.endswith("x.pt") or hint.kind is HintKind.RESCAN:
            raise RuntimeError("planted")

    watcher = start(root, fails_at_x)

    (root / "loras" / "x.pt").write_bytes(b"model")
    hints.until(closed("loras/x.pt"))
    logging.getLogger("watchdog.observers.inotify_c").warning("planted")
    hints.until(rescan(""))
    (root / "loras" / "y.pt").write_bytes(b"model")
    hints.until(closed("loras/y.pt"))

    assert watcher.alive()


@pytest.mark.parametrize("name", ["inotify_c", "inotify"])
def test_F15_a_warning_of_lost_events_asks_for_a_rescan(
    start: Start, root: Path, hints: ChangeQueue, name: str
) -> None:
    watcher = start(root)

    logging.getLogger(f"watchdog.observers.{name}").warning("Inotify queue overflowed; planted")
    hints.until(rescan(""))

    watcher.stop()
    hints.forget()
    logging.getLogger(f"watchdog.observers.{name}").warning("after the end")
    hints(closed("the end"))
    hints.until(closed("the end"))
    assert hints.seen == [closed("the end")]


def test_F15_a_quiet_log_does_not_hide_lost_events(
    start: Start, root: Path, hints: ChangeQueue
) -> None:
    start(root)
    level = logging.getLogger().level
    logging.getLogger().setLevel(logging.CRITICAL)

    try:
        logging.getLogger("watchdog.observers.inotify_c").warning("planted")
        hints.until(rescan(""))
    finally:
        logging.getLogger().setLevel(level)


@pytest.mark.cell("F15-watch")
def test_F15_a_real_overflow_asks_for_a_rescan(
    start: Start, root: Path, hints: ChangeQueue
) -> None:
    limit = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text(encoding="ascii"))
    watcher = start(root)
    one, two = root / "loras" / "1.pt", root / "loras" / "2.pt"
    one.write_bytes(b"model")
    two.write_bytes(b"model")

    with watcher._threads()[1]._lock:  # type: ignore[attr-defined]  # the reader falls behind
        for _ in range(limit):  # alike and in a row, two events would be one
            os.close(os.open(one, os.O_WRONLY))
            os.close(os.open(two, os.O_WRONLY))

    hints.until(rescan(""))


@pytest.mark.parametrize("which", [0, 1, 2])
def test_alive_is_false_after_the_death_of_any_thread(start: Start, root: Path, which: int) -> None:
    watcher = start(root)
    assert watcher.alive()

    thread = watcher._threads()[which]
    thread.stop()  # type: ignore[attr-defined]
    thread.join(WAIT_S)

    assert not watcher.alive()


def test_a_removed_root_is_noticed_and_watched_again_after_a_restart(
    start: Start, root: Path, hints: ChangeQueue
) -> None:
    watcher = start(root)

    (root / "loras").rmdir()
    root.rmdir()
    hints.until(deleted("", folder=True))
    assert eventually(lambda: not watcher.alive())
    watcher.stop()
    root.mkdir()
    watcher.start()
    (root / "x.pt").write_bytes(b"model")

    hints.until(closed("x.pt"))
    assert watcher.alive()


def test_missing_root_degrades_without_an_error(start: Start, root: Path) -> None:
    watcher = start(root / "missing")

    assert not watcher.alive()
    assert watcher.degraded is not None
    assert "missing" in watcher.degraded
    assert "rescans" in watcher.degraded


def test_a_further_root_may_be_missing_and_is_watched_from_the_next_start(
    root: Path, hints: ChangeQueue
) -> None:
    watcher = Watcher({1: str(root), 2: str(root.parent / "extra")}, hints)
    watcher.start()
    quiet = (watcher.alive(), watcher.degraded, watcher.moved())
    (root.parent / "extra").mkdir()
    noticed = watcher.moved()
    watcher.stop()
    watcher.start()
    (root.parent / "extra" / "a.pt").write_bytes(b"x")
    hints.until(Hint(2, "a.pt", HintKind.CLOSED))
    watcher.stop()

    assert quiet == (True, None, False)
    assert noticed


@pytest.mark.cell("F16-watch")
def test_F16_reached_limit_degrades_with_advice(
    start: Start, root: Path, hints: ChangeQueue
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.dup(0)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
    try:
        watcher = start(root)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    assert not watcher.alive()
    assert "fs.inotify.max_user_instances" in (watcher.degraded or "")
    watcher.stop()
    watcher.start()
    assert watcher.alive()
    assert watcher.degraded is None


def test_F16_folders_that_the_kernel_does_not_watch_are_counted(start: Start, root: Path) -> None:
    watcher = start(root)
    assert watches_in_use() == 2

    watcher._check_limit(set(range(10)))

    assert "8 folders are not watched" in (watcher.degraded or "")
    assert "fs.inotify.max_user_watches" in (watcher.degraded or "")


def test_linked_folders_beyond_the_limit_degrade_to_rescans(
    start: Start, root: Path, elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "LINKS_MAX", 2)
    for number in range(3):
        (elsewhere / str(number)).mkdir()
        (root / str(number)).symlink_to(elsewhere / str(number))

    watcher = start(root)

    assert watches_in_use() == 4
    assert watcher.degraded == "more than 2 linked folders; rescans find the rest"
    assert watcher.alive()
