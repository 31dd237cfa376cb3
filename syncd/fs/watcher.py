"""
Turns what the kernel says about the roots into hints, and nothing more.

Events get lost: when the kernel's queue overflows, when a limit leaves folders unwatched, on network
file systems always. So a hint only says where to look, and rescans find what no hint spoke of.

Linked folders are followed here and not by watchdog, which walks a cycle of links 40 levels deep
(with two links to the root that is 2^40 folders, and it never comes back) and knows a folder that
two links lead to by the later name only. Each linked folder gets a watch of its own, on the place it
leads to, whose events are told under the name of the link.
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

LINKS_MAX = 256
"""Linked folders watched; each costs a thread. What lies behind more is left to rescans."""

STOP_S = 10.0
"""Seconds that the observer is given to end."""

# Modifications are left out: one event a write would be millions a file, and watchdog's own walk
# would overflow the queue from some 4,000 folders on.
_EVENTS: list[type[FileSystemEvent]] = [
    DirCreatedEvent, DirDeletedEvent, DirMovedEvent,
    FileClosedEvent, FileCreatedEvent, FileDeletedEvent, FileMovedEvent,
]  # fmt: skip

_KINDS = {"created": HintKind.CREATED, "closed": HintKind.CLOSED, "moved": HintKind.MOVED}

# Told apart by number: the system's own words for the first are "No space left on device".
_LIMITS = {
    errno.ENOSPC: "the limit of watched folders is reached: raise it with"
    " sysctl -w fs.inotify.max_user_watches=...",
    errno.EMFILE: "a limit is reached: raise fs.inotify.max_user_instances, or that of open files"
    " (ulimit -n)",
}
_UNTIL_THEN = "; until then only rescans find what changes there"


@dataclass(frozen=True, slots=True)
class _Place:
    """
    A directory under watch: ``real`` without links, and the ``rel_path`` that it is known by.

    ``via`` holds the real folders of the links that lead here, for finding cycles.
    """

    root_id: int
    rel_path: str
    real: str
    via: tuple[str, ...] = ()

    def named(self, path: str) -> str:
        """The rel_path of *path*, which is at or below this place."""
        below = path[len(self.real) :].strip("/")
        return "/".join(part for part in (self.rel_path, below) if part)

    def linked(self, link: str) -> "_Place | None":
        """The place that *link*, a path below this one, leads to; None if that is a cycle."""
        target, via = os.path.realpath(link), (*self.via, os.path.dirname(link))
        if any(is_within(folder, {target.rstrip("/")}) for folder in via):
            return None
        return _Place(self.root_id, self.named(link), target, via)


class Watcher:
    """
    Watches roots, and the folders that links in them lead to.

    Args:
        roots: Directory by root id, in any spelling. The first has to be there, a further one that
            is missing is watched from the next start (``moved`` tells when).
        on_hint: Called with each hint, from threads of the watcher; it must not block.
        follow_links: Watch linked folders too.
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
        self._troubles: list[str] = []
        self._alarm = _Alarm(lambda: self._safely(self._on_alarm))
        self._log = structlog.get_logger("syncd.fs.watcher")

    @property
    def degraded(self) -> str | None:
        """Why some changes come without a hint, and what to do; None if none should."""
        return "; ".join(dict.fromkeys(self._troubles)) or None

    def start(self) -> None:
        """
        Begin to watch; may be called again after ``stop``.

        Where a root cannot be watched, ``degraded`` says why and ``alive`` is false: no error.
        """
        _silence_watchdog()
        self._troubles, self._unwatched = [], set()
        self._watched = self._folders()
        self._alarm.attach()
        try:
            self._observer = InotifyObserver(generate_full_events=True)
            self._observer.start()
        except OSError as error:
            self._troubles.append(_trouble("file events", error))
            return
        places = [
            _Place(id_, "", os.path.realpath(path))
            for number, (id_, path) in enumerate(self._roots.items())
            if number == 0 or os.path.isdir(path)
        ]
        self._check_limit(self._watch(places))

    def stop(self) -> None:
        """End all watches and wait for the threads; no hint comes afterwards."""
        self._alarm.detach()
        observer, self._observer = self._observer, None
        if observer is not None:
            observer.stop()
            if observer.ident is not None:
                observer.join(STOP_S)
        self._links.clear()

    def alive(self) -> bool:
        """Is every root that was there watched, and does every thread behind that still run?"""
        threads = self._threads()
        return bool(threads) and not self._unwatched and all(t.is_alive() for t in threads)

    def moved(self) -> bool:
        """Is a root gone, back, or another folder than when ``start`` was called? Asks the disk."""
        return self._watched != self._folders()

    def _folders(self) -> list[list[int]]:
        """Which folder each root leads to; an empty list for none."""
        return [list(_identity(path)) for path in self._roots.values()]

    def _threads(self) -> list[threading.Thread]:
        """One that dispatches, one that reads from the kernel, and one a watched place."""
        if self._observer is None:
            return []
        # The reader has no public name, but when it dies everything else looks well.
        return [self._observer, self._observer._inotify_fd, *self._observer.emitters]

    # -- watching --------------------------------------------------------------------------------

    def _watch(self, places: list[_Place]) -> set[int]:
        """Watch *places* and what links in them lead to; identities of all folders met."""
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
            self._troubles.append(f"more than {LINKS_MAX} linked folders; rescans find the rest")
            return False
        handler = _Handler(lambda event: self._safely(lambda: self._on_event(place, event)))
        try:
            watch = self._observer.schedule(
                handler, place.real, recursive=True, event_filter=_EVENTS
            )
        except OSError as error:
            self._troubles.append(_trouble(printable(place.real), error))
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
        """Unwatch the links at and below a path; was the path itself one?"""
        known = list(self._links)  # a copy: start() may still be adding in its own thread
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
        # watchdog says nothing when the limit is reached below a root.
        missing = len(folders) - watches_in_use()
        if missing > 0 and not self._troubles:
            reason = _LIMITS[errno.ENOSPC]
            self._troubles.append(f"{missing} folders are not watched, {reason}{_UNTIL_THEN}")

    # -- events (in watchdog's threads) ----------------------------------------------------------

    def _safely(self, act: Callable[[], None]) -> None:
        try:
            act()
        except Exception:  # it would end the thread, and with it all hints
            self._log.exception("watch.event_lost")

    def _on_event(self, place: _Place, event: FileSystemEvent) -> None:
        gone, come = _ends(event)
        if gone:
            self._on_gone(place, gone, event)
        if come:
            self._on_come(place, come, event)

    def _on_gone(self, place: _Place, path: str, event: FileSystemEvent) -> None:
        rel_path = place.named(path)
        was_link = self._forget(place.root_id, rel_path)
        if not event.is_synthetic:
            folder = event.is_directory or was_link
            self._on_hint(Hint(place.root_id, rel_path, HintKind.DELETED, folder))

    def _on_come(self, place: _Place, path: str, event: FileSystemEvent) -> None:
        rel_path = place.named(path)
        # Nobody writes to a link itself and closes it.
        may_be_link = event.event_type != "closed"
        if may_be_link and os.path.islink(path) and os.path.isdir(path):  # noqa: PTH114, bytes
            self._follow(place, path)
            self._on_hint(Hint(place.root_id, rel_path, HintKind.RESCAN, folder=True))
        elif not event.is_synthetic:  # those only spell out what is below a folder already told
            kind = _KINDS[event.event_type]
            self._on_hint(Hint(place.root_id, rel_path, kind, event.is_directory))

    def _on_alarm(self) -> None:
        for root_id in self._roots:
            self._on_hint(Hint(root_id, "", HintKind.RESCAN, folder=True))


class _Handler(FileSystemEventHandler):
    """What watchdog calls."""

    def __init__(self, on_event: Callable[[FileSystemEvent], None]) -> None:
        self._on_event = on_event

    def dispatch(self, event: FileSystemEvent) -> None:
        self._on_event(event)


class _Alarm(logging.Handler):
    """
    Hears watchdog warn that events were lost, which it tells its log and nobody else.

    Every warning counts: of its observers, none is harmless.
    """

    _logger = logging.getLogger("watchdog.observers")

    def __init__(self, on_alarm: Callable[[], None]) -> None:
        super().__init__(logging.WARNING)
        self._on_alarm = on_alarm

    def attach(self) -> None:
        self._logger.setLevel(logging.WARNING)  # a quieter root logger must not silence it
        self._logger.addHandler(self)

    def detach(self) -> None:
        self._logger.removeHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        self._on_alarm()


def watches_in_use() -> int:
    """
    Folders that this process has under watch, each counted once; 0 where /proc does not tell.

    See "proc_pid_fdinfo(5)" for the format.
    """
    return sum(_watches_of(fd) for fd in os.listdir("/proc/self/fd"))


def watches_max() -> int | None:
    """Folders that this user's processes may watch together; None where /proc does not tell."""
    try:
        with open("/proc/sys/fs/inotify/max_user_watches", encoding="ascii") as file:
            return int(file.read())
    except (OSError, ValueError):
        return None


def folders_at(top: str) -> int:
    """How many folders a watch of *top* covers, those behind links not counted."""
    return sum(not is_link for _, is_link in _folders_below(top))


def _watches_of(fd: str) -> int:
    try:
        with open(f"/proc/self/fdinfo/{fd}", "rb") as file:
            return sum(line.startswith(b"inotify wd:") for line in file)
    except OSError:  # closed meanwhile, such as the one that listed them
        return 0


def _folders_below(top: str) -> Iterator[tuple[str, bool]]:
    """*top*, the folders below it, and the links to folders (True); nothing behind those."""
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
    except OSError:  # the scanner says so
        return []


def _identity(folder: str) -> Iterator[int]:
    """One, or none if the folder vanished or may not be watched."""
    with contextlib.suppress(OSError):
        if os.access(folder, os.R_OK):
            found = os.stat(folder)
            yield found.st_dev << 64 | found.st_ino  # one number: there may be many thousands


def _ends(event: FileSystemEvent) -> tuple[str, str]:
    """The path that is no longer there and the one that is; empty for none."""
    path, to = os.fsdecode(event.src_path), os.fsdecode(event.dest_path)
    if event.event_type == "moved":
        return path, to
    return (path, "") if event.event_type == "deleted" else ("", path)


def _trouble(what: str, error: OSError) -> str:
    number = error.errno or 0
    return f"cannot watch {what}: {_LIMITS.get(number, os.strerror(number))}{_UNTIL_THEN}"


def _silence_watchdog() -> None:
    # It warns, at length, when it meets a folder again that is already watched: harmless.
    warnings.filterwarnings("ignore", message="Callback with id", category=RuntimeWarning)
