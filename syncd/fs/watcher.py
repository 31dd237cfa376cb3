"""
Turns the kernel's file events in the roots into hints.

Events can be lost: when the kernel's queue overflows, when a limit leaves folders unwatched, and always on
network file systems. A hint therefore only names a path to examine, and rescans find the rest.

This module follows linked folders itself, because watchdog descends a cycle of links 40 levels deep and
reports a folder that two links lead to under one name only. Each linked folder gets its own watch on the
target, whose events are reported under the name of the link.
"""

import contextlib
import errno
import logging
import os
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import structlog
from watchdog.events import (
    DirCreatedEvent,
    DirDeletedEvent,
    DirMovedEvent,
    FileClosedEvent,
    FileCreatedEvent,
    FileDeletedEvent,
    FileMovedEvent,
    FileSystemEvent,
    FileSystemEventHandler,
)
from watchdog.observers.api import ObservedWatch
from watchdog.observers.inotify import InotifyObserver

from syncd.core.files.naming import is_within
from syncd.types import Hint, HintKind, printable

LINKS_MAX = 256  # linked folders that are watched; each costs a thread
STOP_S = 10.0  # to wait for the end of the observer's thread

# Without modifications: an event per write would be millions per file, and watchdog's own scan would
# overflow the queue from about 4,000 folders on.
_EVENTS: list[type[FileSystemEvent]] = [
    DirCreatedEvent, DirDeletedEvent, DirMovedEvent,
    FileClosedEvent, FileCreatedEvent, FileDeletedEvent, FileMovedEvent,
]  # fmt: skip

_KINDS = {"created": HintKind.CREATED, "closed": HintKind.CLOSED, "moved": HintKind.MOVED}

# The system's own message for the first is "No space left on device".
_LIMITS = {
    errno.ENOSPC: "the limit of watched folders is reached: raise it with"
    " sysctl -w fs.inotify.max_user_watches=...",
    errno.EMFILE: "a limit is reached: raise fs.inotify.max_user_instances, or that of open files"
    " (ulimit -n)",
}
_UNTIL_THEN = "; until then only rescans find changes there"


@dataclass(frozen=True, slots=True)
class _Place:
    """
    A watched directory: its ``real`` path without links, and its ``rel_path`` in the root.

    ``via`` holds the real folders of the links that lead here, to detect cycles.
    """

    root_id: int
    rel_path: str
    real: str
    via: tuple[str, ...] = ()

    def rel_path_of(self, path: str) -> str:
        below = path[len(self.real) :].strip("/")
        return "/".join(part for part in (self.rel_path, below) if part)

    def linked(self, link: str) -> "_Place | None":
        """Return the target of *link*, a path below this directory; None if that is a cycle."""
        target, via = os.path.realpath(link), (*self.via, os.path.dirname(link))
        if any(is_within(folder, {target.rstrip("/")}) for folder in via):
            return None
        return _Place(self.root_id, self.rel_path_of(link), target, via)


class Watcher:
    """
    Watches roots, and the folders that links in them lead to.

    Args:
        roots: Directory by root id. The first must exist; another one that is missing is watched after the
            next start, which is due when ``moved`` returns true.
        on_hint: Called with each hint, in threads of the watcher; must not block.
    """

    def __init__(
        self,
        roots: Mapping[int, str],
        on_hint: Callable[[Hint], None],
        *,
        follow_links: bool = True,
    ) -> None:
        self._roots = roots
        self._on_hint = on_hint
        self._follow_links = follow_links
        self._observer: InotifyObserver | None = None
        self._links: dict[tuple[int, str], tuple[_Handler, ObservedWatch]] = {}
        self._unwatched: set[int] = set()
        self._watched: list[list[int]] = []
        self._problems: list[str] = []
        self._alarm = _Alarm(lambda: self._safely(self._on_alarm))
        self._log = structlog.get_logger("syncd.fs.watcher")

    @property
    def degraded(self) -> str | None:
        """Why hints are missing for some changes, and what to do; None if hints are complete."""
        return "; ".join(dict.fromkeys(self._problems)) or None

    def start(self) -> None:
        """
        Start watching; may be called again after ``stop``.

        If a root cannot be watched, ``degraded`` names the reason and ``alive`` returns false.
        """
        # Its warning about a folder that is watched twice is harmless.
        warnings.filterwarnings("ignore", message="Callback with id", category=RuntimeWarning)
        self._problems, self._unwatched = [], set()
        self._watched = self._folders()
        self._alarm.attach()
        try:
            self._observer = InotifyObserver(generate_full_events=True)
            self._observer.start()
        except OSError as error:
            self._problems.append(_problem("file events", error))
            return
        places = [
            _Place(id_, "", os.path.realpath(path))
            for number, (id_, path) in enumerate(self._roots.items())
            if number == 0 or os.path.isdir(path)
        ]
        self._check_limit(self._watch(places))

    def stop(self) -> None:
        self._alarm.detach()
        observer, self._observer = self._observer, None
        if observer is not None:
            observer.stop()
            if observer.ident is not None:
                observer.join(STOP_S)
        self._links.clear()

    def alive(self) -> bool:
        """Return whether every root that existed is watched and every thread still runs."""
        threads = self._threads()
        return bool(threads) and not self._unwatched and all(t.is_alive() for t in threads)

    def moved(self) -> bool:
        """Return whether a root was removed, restored or replaced since ``start``; reads the disk."""
        return self._watched != self._folders()

    def _folders(self) -> list[list[int]]:
        return [list(_identity(path)) for path in self._roots.values()]

    def _threads(self) -> list[threading.Thread]:
        if self._observer is None:
            return []
        # The reading thread has no public name, but its death shows nowhere else.
        return [self._observer, self._observer._inotify_fd, *self._observer.emitters]

    # -- watching --------------------------------------------------------------------------------

    def _watch(self, places: list[_Place]) -> set[int]:
        """Watch *places* and the targets of links in them; return the identities of all folders."""
        folders: set[int] = set()
        while places:
            place = places.pop()
            if not self._schedule(place):
                continue
            for path, is_link in _folders_below(place.real):
                if not is_link:
                    folders.update(_identity(path))
                elif self._follow_links and (linked := place.linked(path)) is not None:
                    places.append(linked)
        return folders

    def _schedule(self, place: _Place) -> bool:
        if self._observer is None or (place.root_id, place.rel_path) in self._links:
            return False
        if len(self._links) >= LINKS_MAX:
            self._problems.append(f"more than {LINKS_MAX} linked folders; rescans find the rest")
            return False
        handler = _Handler(lambda event: self._safely(lambda: self._on_event(place, event)))
        try:
            watch = self._observer.schedule(
                handler, place.real, recursive=True, event_filter=_EVENTS
            )
        except OSError as error:
            self._problems.append(_problem(printable(place.real), error))
            if not place.rel_path:
                self._unwatched.add(place.root_id)
            return False
        if place.rel_path:
            self._links[place.root_id, place.rel_path] = handler, watch
        return True

    def _follow(self, place: _Place, link: str) -> None:
        linked = place.linked(link) if self._follow_links else None
        if linked is not None:
            self._watch([linked])

    def _forget(self, root_id: int, rel_path: str) -> bool:
        """Unwatch the links at and below a path; return whether the path itself was a link."""
        known = list(self._links)  # a copy: start() may still add links in its own thread
        gone = [key for key in known if key[0] == root_id and is_within(key[1], {rel_path})]
        for key in gone:
            handler, watch = self._links.pop(key)
            if self._observer is None:
                continue
            if any(watch == other for _, other in self._links.values()):
                self._observer.remove_handler_for_watch(handler, watch)
            else:
                self._observer.unschedule(watch)
        return (root_id, rel_path) in gone

    def _check_limit(self, folders: set[int]) -> None:
        # watchdog does not report a limit that is reached below a root.
        missing = len(folders) - watches_in_use()
        if missing > 0 and not self._problems:
            reason = _LIMITS[errno.ENOSPC]
            self._problems.append(f"{missing} folders are not watched, {reason}{_UNTIL_THEN}")

    # -- events (in watchdog's threads) ----------------------------------------------------------

    def _safely(self, act: Callable[[], None]) -> None:
        try:
            act()
        except Exception:  # it would end the thread and with it all hints
            self._log.exception("watch.event_lost")

    def _on_event(self, place: _Place, event: FileSystemEvent) -> None:
        removed, added = _removed_and_added(event)
        if removed:
            self._on_removed(place, removed, event)
        if added:
            self._on_added(place, added, event)

    def _on_removed(self, place: _Place, path: str, event: FileSystemEvent) -> None:
        rel_path = place.rel_path_of(path)
        was_link = self._forget(place.root_id, rel_path)
        if not event.is_synthetic:
            folder = event.is_directory or was_link
            self._on_hint(Hint(place.root_id, rel_path, HintKind.DELETED, folder))

    def _on_added(self, place: _Place, path: str, event: FileSystemEvent) -> None:
        rel_path = place.rel_path_of(path)
        may_be_link = event.event_type != "closed"  # a link itself is never opened
        if may_be_link and os.path.islink(path) and os.path.isdir(path):  # noqa: PTH114, bytes
            self._follow(place, path)
            self._on_hint(Hint(place.root_id, rel_path, HintKind.RESCAN, folder=True))
        elif not event.is_synthetic:  # synthetic events repeat what is below a reported folder
            kind = _KINDS[event.event_type]
            self._on_hint(Hint(place.root_id, rel_path, kind, event.is_directory))

    def _on_alarm(self) -> None:
        for root_id in self._roots:
            self._on_hint(Hint(root_id, "", HintKind.RESCAN, folder=True))


class _Handler(FileSystemEventHandler):
    def __init__(self, on_event: Callable[[FileSystemEvent], None]) -> None:
        self._on_event = on_event

    def dispatch(self, event: FileSystemEvent) -> None:
        self._on_event(event)


class _Alarm(logging.Handler):
    """Calls *on_alarm* for each warning of watchdog's observers: they mean that events were lost."""

    _logger = logging.getLogger("watchdog.observers")

    def __init__(self, on_alarm: Callable[[], None]) -> None:
        super().__init__(logging.WARNING)
        self._on_alarm = on_alarm

    def attach(self) -> None:
        self._logger.setLevel(logging.WARNING)  # even if the root logger's level is higher
        self._logger.addHandler(self)

    def detach(self) -> None:
        self._logger.removeHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        self._on_alarm()


def watches_in_use() -> int:
    """Count the folders that this process watches; 0 if /proc does not show them."""
    return sum(_watches_of(fd) for fd in os.listdir("/proc/self/fd"))


def watches_max() -> int | None:
    """Return the number of folders that all processes of this user may watch, if known."""
    try:
        with open("/proc/sys/fs/inotify/max_user_watches", encoding="ascii") as file:
            return int(file.read())
    except (OSError, ValueError):
        return None


def folders_at(top: str) -> int:
    return sum(not is_link for _, is_link in _folders_below(top))


def _watches_of(fd: str) -> int:
    try:
        with open(f"/proc/self/fdinfo/{fd}", "rb") as file:
            return sum(line.startswith(b"inotify wd:") for line in file)
    except OSError:  # closed since the listing
        return 0


def _folders_below(top: str) -> Iterator[tuple[str, bool]]:
    """Yield *top*, the folders below it, and the links to folders (True) without following them."""
    pending = [top]
    while pending:
        folder = pending.pop()
        yield folder, False
        for entry in _entries(folder):
            if entry.is_symlink():
                if os.path.isdir(entry.path):
                    yield entry.path, True
            elif entry.is_dir(follow_symlinks=False):
                pending.append(entry.path)


def _entries(folder: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError:  # the scanner reports it
        return []


def _identity(folder: str) -> Iterator[int]:
    """Yield the identity of *folder*, or nothing if it does not exist or cannot be watched."""
    with contextlib.suppress(OSError):
        if os.access(folder, os.R_OK):
            found = os.stat(folder)
            yield found.st_dev << 64 | found.st_ino  # one number to save memory


def _removed_and_added(event: FileSystemEvent) -> tuple[str, str]:
    """Return the path that no longer exists and the path that now exists; empty for none."""
    path, to = os.fsdecode(event.src_path), os.fsdecode(event.dest_path)
    if event.event_type == "moved":
        return path, to
    return (path, "") if event.event_type == "deleted" else ("", path)


def _problem(what: str, error: OSError) -> str:
    number = error.errno or 0
    return f"cannot watch {what}: {_LIMITS.get(number, os.strerror(number))}{_UNTIL_THEN}"
