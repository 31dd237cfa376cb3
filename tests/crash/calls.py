"""System calls of a run, as strace writes them down."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

STORAGE = ("pwrite64", "fdatasync", "fsync", "ftruncate", "rename", "unlink")
SEND = ("sendto", "sendmsg")

_ENTERED = re.compile(r"(?:(?P<thread>\d+) +)?(?P<name>\w+)\((?P<rest>.*)")


@dataclass(frozen=True, slots=True)
class Entered:
    """A thread enters a system call; *arguments* are as strace writes them."""

    thread: int
    name: str
    arguments: str


def entered(log: Path) -> Iterator[Entered]:
    """The calls of ``strace -o`` in the order in which they were entered; one thread has no number."""
    with log.open(encoding="ascii") as lines:
        for line in lines:
            match = _ENTERED.match(line)
            if match:
                yield Entered(int(match["thread"] or 0), match["name"], match["rest"])


def most_in_a_thread(calls: Iterable[Entered]) -> dict[str, int]:
    """How often the thread that makes most of a call makes it: strace counts by thread."""
    counts = Counter((call.name, call.thread) for call in calls)
    most: Counter[str] = Counter()
    for (name, _), count in counts.items():
        most[name] = max(most[name], count)
    return dict(most)
