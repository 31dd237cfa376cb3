"""Settling against a model that keeps every look and goes through all of them each time (T3)."""

import math
from dataclasses import dataclass

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from syncd.core.files import settling
from syncd.core.files.settling import Watching, Windows
from syncd.types import Fingerprint, FoundFile, HintKind
from tests.scale import MACHINE_STEPS, SCALE

WINDOWS = Windows(quiet_s=30, closed_s=10, network_s=90)
LONGEST_S = 180


@dataclass(frozen=True)
class Look:
    """What one look saw."""

    at_s: int
    found: FoundFile
    hint: HintKind | None
    companion: str | None

    @property
    def blocked(self) -> bool:
        return self.companion is not None or self.found.fingerprint.mtime_ns < settling.SECOND_NS


class Settling(RuleBasedStateMachine):
    """Rules are what programs do to one file, and the looks at it."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 0
        self.file: FoundFile | None = None
        self.companion: str | None = None
        self.hint: HintKind | None = None
        self.network = False
        self.looks: list[Look] = []
        self.watching: Watching | None = None
        self.written_s = 0

    # -- what happens to the file ----------------------------------------------------------------

    @rule(size=st.integers(1, 3), old=st.booleans(), sparse=st.booleans())
    def write(self, size: int, old: bool, sparse: bool) -> None:
        ctime_ns = 1 if self.file is None else self.file.fingerprint.ctime_ns + 1
        print_ = Fingerprint(1, 2, size, 7 if old else ctime_ns * settling.SECOND_NS, ctime_ns)
        self.file = FoundFile(1, "loras/x.pt", print_, 0 if sparse else size)
        self.written_s = self.now_s

    @precondition(lambda self: self.file is not None)
    @rule()
    def remove(self) -> None:
        self.file = None

    @rule(name=st.sampled_from([None, "x.pt.aria2", "x.pt.part"]))
    def downloader(self, name: str | None) -> None:
        self.companion = name

    @rule(kind=st.sampled_from(HintKind))
    def kernel(self, kind: HintKind) -> None:
        self.hint = kind

    @rule()
    def other_file_system(self) -> None:
        self.network = not self.network

    @rule(seconds=st.integers(0, 100))
    def time_passes(self, seconds: int) -> None:
        self.now_s += seconds

    # -- looks -----------------------------------------------------------------------------------

    @rule()
    def look(self) -> None:
        self.watching = settling.look(
            self.watching,
            self.file,
            now_s=self.now_s,
            hint=self.hint,
            windows=WINDOWS,
            network=self.network,
            companion=self.companion,
        )
        if self.file is None:
            self.looks.clear()
        else:
            self.looks.append(Look(self.now_s, self.file, self.hint, self.companion))
            if self.began() == len(self.looks) - 1:
                self.window_s = self.window_of(self.looks[-1])
        self.hint = None
        if self.watching is not None and settling.is_settled(self.watching, self.now_s):
            assert self.now_s - self.written_s >= 0
            assert self.watching.fingerprint == self.looks[-1].found.fingerprint

    @precondition(lambda self: self.watching is not None and self.file is not None)
    @rule()
    def nothing_happens_for_long(self) -> None:
        self.companion = None
        self.look()
        self.time_passes(LONGEST_S)
        self.look()

        assert self.watching is not None
        assert settling.is_settled(self.watching, self.now_s) != self.looks[-1].blocked

    # -- the model -------------------------------------------------------------------------------

    def began(self) -> int:
        """The look from which on every one saw the same; all are compared again each time."""
        last = self.looks[-1]
        for number in range(len(self.looks) - 1, 0, -1):
            here, before = self.looks[number], self.looks[number - 1]
            obstacle = here.companion != before.companion or here.blocked != before.blocked
            if here.hint or before.found.fingerprint != last.found.fingerprint or obstacle:
                return number
        return 0

    def window_of(self, look: Look) -> float:
        closed = look.hint in (HintKind.CLOSED, HintKind.MOVED)
        window_s = WINDOWS.closed_s if closed else WINDOWS.quiet_s
        window_s = WINDOWS.network_s if self.network else window_s
        return window_s * (2 if look.found.allocated < look.found.fingerprint.size else 1)

    @invariant()
    def it_settles_when_the_model_says(self) -> None:
        assert (self.watching is None) == (not self.looks)
        if self.watching is None:
            return
        settles_s = (
            math.inf if self.looks[-1].blocked else self.looks[self.began()].at_s + self.window_s
        )
        assert settling.settles_at_s(self.watching) == settles_s
        assert settling.is_settled(self.watching, self.now_s) == (self.now_s >= settles_s)


TestSettling = Settling.TestCase
TestSettling.settings = settings(
    max_examples=SCALE.machine_runs, stateful_step_count=MACHINE_STEPS, deadline=None
)
