"""
A retry budget for each host, so that an overloaded server does not get a storm of retries.

A retry costs tokens, and a request that succeeds at the first try earns one. Without tokens a request is
not retried, and the job waits in the queue instead.
"""

from dataclasses import dataclass

FULL = 100
REPEAT_COSTS = 5
TIMEOUT_COSTS = 10
"""A retry after a timeout costs more, because the request occupied a connection."""


@dataclass(slots=True)
class Budget:
    """The tokens of one host."""

    tokens: int = FULL

    def worked(self) -> None:
        """Earn a token for a request that succeeded at the first try."""
        self.tokens = min(FULL, self.tokens + 1)

    def spend(self, *, timeout: bool) -> bool:
        """Pay for one retry. Return False and take nothing if there are not enough tokens."""
        price = TIMEOUT_COSTS if timeout else REPEAT_COSTS
        if self.tokens < price:
            return False
        self.tokens -= price
        return True
