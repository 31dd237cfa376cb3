"""How a file is sent, in one request or in parts, and which parts are missing."""

from collections.abc import Collection
from enum import StrEnum

from syncd.errors import Permanent
from syncd.types import LEAF_DIGEST_SIZE, LEAF_SIZE, Kind, Part

# "Amazon S3 multipart upload limits"
MAX_PARTS = 10_000
STORE_PUT_CEILING = 5 * 1024**3  # the largest body of one PUT in bytes


class Route(StrEnum):
    PUT = "put"
    MULTIPART = "multipart"
    NEEDS_SIGN_IN = "needs_sign_in"


def choose_route(size: int, *, single_put_limit: int, session: bool, multipart: bool) -> Route:
    """
    Return the route for a file of *size* bytes.

    A device key, which is no *session*, must not use multipart calls. *multipart* is False if the server is
    known to lack them.
    """
    if size <= min(single_put_limit, STORE_PUT_CEILING):
        return Route.PUT
    return Route.MULTIPART if session and multipart else Route.NEEDS_SIGN_IN


def plan_parts(file_size: int, part_size: int) -> list[Part]:
    """Cut a file into parts, the last one possibly shorter. Raises Permanent above ``MAX_PARTS``."""
    assert file_size > 0, "empty files are not uploaded"
    assert part_size > 0, "checked when the response was read"
    if file_size > part_size * MAX_PARTS:
        raise Permanent(
            f"{file_size} bytes in parts of {part_size} are more than {MAX_PARTS} parts",
            kind=Kind.INVALID_ANSWER,
            advice="The server must offer larger parts for a file of this size.",
        )
    return [
        Part(number, offset, min(part_size, file_size - offset))
        for number, offset in enumerate(range(0, file_size, part_size), start=1)
    ]


def missing_parts(parts: Collection[Part], done: Collection[int]) -> list[Part]:
    finished = frozenset(done)
    return [part for part in parts if part.number not in finished]


def leaves_of(part: Part) -> slice:
    """Return the slice of a file's leaf digests that *part* overlaps."""
    first, last = part.offset // LEAF_SIZE, (part.offset + part.size - 1) // LEAF_SIZE
    return slice(first * LEAF_DIGEST_SIZE, (last + 1) * LEAF_DIGEST_SIZE)
