"""
How many cases are tried: ``SYNCD_TEST_SCALE`` is ``push`` (the default), ``soak``, ``nightly`` or, for
the planted bugs, ``taste``.

A push tries the same cases every time; ``soak`` and ``nightly`` draw others each time, from
``SYNCD_TEST_SEED``, which is shown at the end of a run and may be given.
"""

import os
import secrets

FACTORS = {"taste": 0.25, "push": 1.0, "soak": 8.0, "nightly": 40.0}
NAME = os.environ.get("SYNCD_TEST_SCALE", "push")
if NAME not in FACTORS:
    raise SystemExit(f"SYNCD_TEST_SCALE={NAME}: it is one of {', '.join(FACTORS)}")

FIXED = NAME in ("taste", "push")
"""Are the cases the same in every run?"""

# Set, not only read: the processes that share a run's tests have to agree on them.
SEED = os.environ.setdefault("SYNCD_TEST_SEED", "1" if FIXED else secrets.token_hex(4))


def scaled(push: int) -> int:
    """The number of cases at this scale, where a push tries *push* of them."""
    return max(1, round(push * FACTORS[NAME]))


def stride(push: int) -> int:
    """The distance between tried cases at this scale, where it is *push* in a push."""
    return max(1, round(push / FACTORS[NAME]))
