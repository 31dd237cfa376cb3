"""
How many repeats a host gets: a brown-out must not be answered with a storm of retries.

A repeat costs tokens, a request that works at the first try earns one back. Who has no tokens left
does not repeat; the job waits in the queue instead.
"""

from dataclasses import dataclass

FULL = 100
REPEAT_COSTS = 5
TIMEOUT_COSTS = 10
"""A repeat after a timeout costs more: that request held a connection all the while."""


@dataclass(slots=True)
class Budget:
    """The tokens of one host."""

    tokens: int = FULL

    def worked(self) -> None:
        """A request was answered as it should be at its first try."""
        self.tokens = min(FULL, self.tokens + 1)

    def spend(self, *, timeout: bool) -> bool:
        """Pay for one repeat; False, and nothing is taken, if the tokens do not suffice."""
        price = TIMEOUT_COSTS if timeout else REPEAT_COSTS
        if self.tokens < price:
            return False
        self.tokens -= price
        return True
