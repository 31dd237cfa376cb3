"""
An event loop whose time is made up: when no task is ready it jumps to the next timer at once.

What the program gives to threads runs here, in the loop's own thread and in the order of the calls.
"""

import asyncio
import contextvars
import selectors
from collections.abc import Callable, Coroutine
from typing import Any

LIFE: contextvars.ContextVar["Tasks | None"] = contextvars.ContextVar("life", default=None)
"""Which life of the daemon a task belongs to; None for the world around it."""

Tasks = dict[asyncio.Task[Any], None]
"""A set in order of insertion: one seed must give one history."""


TURN_S = 1e-6
"""What a turn of the loop takes at least, so that a wait of no length ends."""

TURNS_A_SECOND = 20_000
"""More turns of the loop than that within a simulated second are a program running in circles."""


class Stuck(AssertionError):
    """Nothing would ever happen again: all wait for each other, or one goes round without a pause."""


class _Jumping(selectors.SelectSelector):
    """Waits for no descriptor: the time that a wait would take has passed."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 0.0
        self._second, self._turns = 0, 0

    def select(self, timeout: float | None = None) -> list[Any]:
        if timeout is None:
            raise Stuck("nothing is ready and no timer is set")
        self._turns += 1
        if int(self.now_s) != self._second:
            self._second, self._turns = int(self.now_s), 0
        if self._turns > TURNS_A_SECOND:
            raise Stuck(f"{TURNS_A_SECOND} turns of the loop and still second {self._second}")
        self.now_s += max(timeout, TURN_S)
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """Time starts at 0 and passes only between timers."""

    def __init__(self) -> None:
        self._jumping = _Jumping()
        self.wrong_s = 0.0
        """Seconds that this machine's wall clock is ahead of the true time."""
        self._on_signal: dict[int, Callable[[], Any]] = {}
        super().__init__(self._jumping)
        self.set_task_factory(_owned)  # type: ignore[arg-type]

    def time(self) -> float:
        return self._jumping.now_s

    def skip(self, seconds: float) -> None:
        """Let time pass without running any task: in a thread that is busy, or with the machine asleep."""
        self._jumping.now_s += seconds

    def _write_to_self(self) -> None:
        """The loop never sleeps, so it needs no wake-up."""

    def run_in_executor(  # type: ignore[override]
        self, executor: Any, func: Callable[..., Any], *args: Any
    ) -> Any:
        future = self.create_future()
        try:
            future.set_result(func(*args))
        except Exception as error:
            future.set_exception(error)
        return future

    def add_signal_handler(  # type: ignore[override]
        self, sig: int, callback: Callable[..., Any], *args: Any
    ) -> None:
        """The process's signals are the test runner's; ``send_signal`` sends the program one."""
        self._on_signal[sig] = lambda: callback(*args)

    def remove_signal_handler(self, sig: int) -> bool:
        return self._on_signal.pop(sig, None) is not None

    def send_signal(self, sig: int) -> None:
        """What the program has asked to be done on this signal."""
        self._on_signal[sig]()


def _owned(
    loop: asyncio.AbstractEventLoop,
    coroutine: Coroutine[Any, Any, Any],
    context: contextvars.Context | None = None,
) -> asyncio.Task[Any]:
    """A task, remembered by the life of the daemon that made it, if one did."""
    life = LIFE.get() if context is None else context.get(LIFE, None)
    task = asyncio.Task(coroutine, loop=loop, context=context)
    if life is not None:
        life[task] = None
        task.add_done_callback(lambda done: life.pop(done, None))
    return task


class VirtualClock:
    """
    The daemon's clock on a virtual loop.

    The year is one in which no kernel that runs this will stamp a file.
    """

    EPOCH_S = 4_000_000_000.0

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        assert isinstance(loop, VirtualLoop)
        self._loop = loop
        self.asleep_s = 0.0

    @property
    def wrong_s(self) -> float:
        """Seconds that the daemon's wall clock is ahead of the true time."""
        return self._loop.wrong_s

    @wrong_s.setter
    def wrong_s(self, seconds: float) -> None:
        self._loop.wrong_s = seconds

    def now_s(self) -> float:
        """Unix seconds; the stand-in cloud goes by this clock whatever the daemon's own says."""
        return self.EPOCH_S + self._loop.time()

    def now_ms(self) -> int:
        return int((self.now_s() + self.wrong_s) * 1000)

    def boottime_s(self) -> float:
        return self._loop.time()

    def suspended_s(self) -> float:
        return self.asleep_s

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
