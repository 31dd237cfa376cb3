"""
Has this file stopped changing?

No event, no size and no header proves that a file is finished. So a path is looked at again and
again, and it settles once its fingerprint has stood still for a window. Looks are compared with
each other, never with the wall clock: many programs set the modification time to the past at the
end.
"""

import math
from dataclasses import dataclass

from syncd.types import Fingerprint, FoundFile, HintKind, printable


@dataclass(frozen=True, slots=True)
class Windows:
    """
    Seconds a fingerprint must stand still.

    ``closed_s`` after a close or a rename, ``quiet_s`` otherwise, ``network_s`` on file systems
    where other hosts write without our kernel knowing.
    """

    quiet_s: float
    closed_s: float
    network_s: float


SECOND_NS = 1_000_000_000

OLD_S = 600.0
"""A file that its own kernel saw change last so long ago has stood still all that time..."""

OLD_WINDOW_S = 2.0
"""...so that two looks so far apart are enough."""


@dataclass(frozen=True, slots=True)
class Watching:
    """
    A path under observation: what was last seen, since when, and how long it must last.

    ``since_s`` is on the caller's monotonic clock. ``blocked_by`` says why standing still is not
    enough, or is None.
    """

    fingerprint: Fingerprint
    since_s: float
    window_s: float
    blocked_by: str | None = None


def look(
    before: Watching | None,
    found: FoundFile | None,
    *,
    now_s: float,
    hint: HintKind | None,
    windows: Windows,
    network: bool,
    companion: str | None,
    old: bool = False,
) -> Watching | None:
    """
    What is known of a path after one more look at it; None once it is gone.

    Any hint, a moved fingerprint, and the coming or going of an obstacle restart the window.

    Args:
        before: The result of the previous look; None at the first.
        found: What is on disk now; None if nothing is.
        now_s: Monotonic seconds, never less than at the previous look.
        hint: What the kernel said since the previous look; None if nothing.
        network: The file lies on a network file system.
        companion: A name beside it that a downloader keeps while it writes; None if there is none.
        old: By its ctime it has stood still for ``OLD_S``, and that clock can be relied upon.
    """
    if found is None:
        return None
    obstacle = blocked_by(found, companion)
    if (
        before is not None
        and hint is None
        and before.fingerprint == found.fingerprint
        and before.blocked_by == obstacle
    ):
        return before
    window_s = _window_s(found, hint, windows, network)
    if old and not network:
        window_s = min(window_s, OLD_WINDOW_S)
    return Watching(found.fingerprint, now_s, window_s, obstacle)


def blocked_by(found: FoundFile, companion: str | None) -> str | None:
    """What keeps a file from settling however long it stands still."""
    if companion is not None:
        return f"a downloader is at work: {printable(companion)}"
    if found.fingerprint.mtime_ns // SECOND_NS == 0:  # some leave the original's part of a second
        return "modification time 0: an interrupted rsync leaves that"
    return None


def _window_s(found: FoundFile, hint: HintKind | None, windows: Windows, network: bool) -> float:
    if network:
        window_s = windows.network_s
    elif hint in (HintKind.CLOSED, HintKind.MOVED):
        window_s = windows.closed_s
    else:
        window_s = windows.quiet_s
    # Sparse: somebody may be filling it out of order.
    return window_s * 2 if found.allocated < found.fingerprint.size else window_s


def settles_at_s(watching: Watching) -> float:
    """When the file settles if nothing moves until then, monotonic seconds; infinite if blocked."""
    return math.inf if watching.blocked_by else watching.since_s + watching.window_s


def is_settled(watching: Watching, now_s: float) -> bool:
    """Has it stood still long enough? Meaningful right after a look at *now_s*."""
    return now_s >= settles_at_s(watching)
