"""
Decide when a file has stopped changing.

No event, size or header proves that a file is complete. A path is therefore examined repeatedly, and it
settles once its fingerprint has not changed for a window. Fingerprints are never compared with the wall
clock, because many programs set the modification time to the past when they finish.
"""

import math
from dataclasses import dataclass

from syncd.types import Fingerprint, FoundFile, HintKind, printable


@dataclass(frozen=True, slots=True)
class Windows:
    """
    Seconds for which a fingerprint must not change.

    ``closed_s`` applies after a close or a rename, ``network_s`` on file systems where other hosts write
    without events, and ``quiet_s`` otherwise.
    """

    quiet_s: float
    closed_s: float
    network_s: float


SECOND_NS = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Observation:
    """
    The last fingerprint of a path, the time since when it has not changed, and its window.

    ``blocked_by`` is the reason why the file cannot settle even if it does not change, or None.
    """

    fingerprint: Fingerprint
    since_s: float
    window_s: float
    blocked_by: str | None = None


def observe(
    before: Observation | None,
    found: FoundFile,
    *,
    now_s: float,
    hint: HintKind | None,
    windows: Windows,
    network: bool,
    companion: str | None,
) -> Observation:
    """
    Return the observation of a path after it was examined again.

    A hint, a changed fingerprint, and the appearance or removal of a blocker restart the window.

    Args:
        hint: The last file system event since the examination before; None if there was none.
        companion: The name of a file that a downloader keeps next to it while it writes, or None.
    """
    blocker = blocked_by(found, companion)
    if (
        before is not None
        and hint is None
        and before.fingerprint == found.fingerprint
        and before.blocked_by == blocker
    ):
        return before
    window_s = _window_s(found, hint, windows, network)
    return Observation(found.fingerprint, now_s, window_s, blocker)


def blocked_by(found: FoundFile, companion: str | None) -> str | None:
    if companion is not None:
        return f"a download is in progress: {printable(companion)}"
    if found.fingerprint.mtime_ns // SECOND_NS == 0:  # the fraction may be that of the source
        return "modification time 0, which an interrupted rsync leaves"
    return None


def _window_s(found: FoundFile, hint: HintKind | None, windows: Windows, network: bool) -> float:
    if network:
        window_s = windows.network_s
    elif hint in (HintKind.CLOSED, HintKind.MOVED):
        window_s = windows.closed_s
    else:
        window_s = windows.quiet_s
    # A sparse file may be written out of order.
    return window_s * 2 if found.allocated < found.fingerprint.size else window_s


def settles_at_s(observation: Observation) -> float:
    return math.inf if observation.blocked_by else observation.since_s + observation.window_s


def is_settled(observation: Observation, now_s: float) -> bool:
    return now_s >= settles_at_s(observation)
