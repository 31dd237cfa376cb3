"""What the runs at real sockets share."""

import gc
import sys
from collections.abc import Iterator

import pytest

from tests.sockets.wire import Wire, wires


@pytest.fixture(scope="session")
def both() -> Iterator[tuple[Wire, Wire]]:
    """A proxy before the API and one before the store."""
    with wires(2) as (api, store):
        yield api, store


@pytest.fixture(scope="module", autouse=True)
def _few_collections() -> Iterator[None]:
    """Each run makes much and leaves nothing: looking through it all the time would cost a tenth."""
    before = gc.get_threshold()
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000)
    yield
    gc.set_threshold(*before)
    gc.unfreeze()


@pytest.fixture(scope="module", autouse=True)
def _nothing_is_looked_for() -> Iterator[None]:
    """httpcore looks for sniffio on the whole path at each request; here it is known to be absent."""
    with pytest.MonkeyPatch.context() as patch:
        if "sniffio" not in sys.modules:
            patch.setitem(sys.modules, "sniffio", None)
        yield
