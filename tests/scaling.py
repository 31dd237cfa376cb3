"""Leaves, pieces and parts made small, in every room that reckons with them."""

import contextlib
from collections.abc import Iterator
from unittest import mock

from syncd.cloud import validation
from syncd.core.jobs import parts
from syncd.fs import hashing, page_cache
from syncd.upload import file_steps, hash_window


@contextlib.contextmanager
def scaled_down(*, leaf: int, piece: int, part: int) -> Iterator[None]:
    """
    Leaves, pieces and parts of so many bytes.

    Nothing but what is on the wire may be hashed ahead, so that both wait for each other at times.
    """
    with contextlib.ExitStack() as stack:

        def put(module: object, name: str, value: int) -> None:
            stack.enter_context(mock.patch.object(module, name, value))

        for module in (hashing, hash_window, page_cache, parts):
            put(module, "LEAF_SIZE", leaf)
        put(file_steps, "STRETCH", leaf)
        put(hash_window, "PARTS_AHEAD", 0)
        put(hashing, "PIECE_SIZE", piece)
        put(validation, "PART_SIZE_MIN", part)
        yield
