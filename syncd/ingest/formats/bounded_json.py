"""Parses JSON of an untrusted file in bounded memory."""

import json
from collections.abc import Callable
from typing import Any, NoReturn

from syncd.ingest.formats.window import Fault, Undecided, read_at

MAX_SIZE = 10_000_000  # bytes; a header of 80,000 tensors takes 8 MB
MAX_COMMAS = 500_000  # bounds the values, and so the memory: at most 128 MiB together with the text


def load_json(
    fd: int,
    position: int,
    size: int,
    *,
    object_pairs_hook: Callable[[list[tuple[str, Any]]], Any] | None = None,
) -> Any:
    """
    Parse *size* bytes of JSON (RFC 8259, UTF-8) at *position*.

    Raises ``Fault`` if it is not JSON, ``Undecided`` beyond ``MAX_SIZE`` or ``MAX_COMMAS``, and
    ``OSError``.
    """
    if size > MAX_SIZE:
        raise Undecided(f"{size:,} bytes of JSON are more than the {MAX_SIZE:,} that are parsed")
    try:
        text = read_at(fd, position, size).decode()
        if text.count(",") > MAX_COMMAS:
            raise Undecided(f"the JSON text has more than {MAX_COMMAS:,} values")
        return json.loads(
            text, object_pairs_hook=object_pairs_hook, parse_constant=_refuse_constant
        )
    except (ValueError, RecursionError):
        raise Fault("damaged: the header is not valid JSON") from None


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")
