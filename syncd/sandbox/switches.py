"""
What the documentation leaves open, as switches.

A fresh ``Switches()`` is the strict reading: everything inferred is there, nothing forgiving is.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import Any, Self

from pydantic import TypeAdapter, ValidationError

from syncd.sandbox.answers import explain


class Unique(StrEnum):
    """Whether one model_path is one record."""

    NO = "no"
    EXACT = "exact"
    IGNORING_CASE = "ignoring_case"


@dataclass(frozen=True, slots=True)
class MultipartPaths:
    """Paths of the four multipart calls below the API's prefix."""

    initiate: str = "/uploads/multipart/initiate"
    sign_part: str = "/uploads/multipart/presign"
    complete: str = "/uploads/multipart/complete"
    abort: str = "/uploads/multipart/abort"


@dataclass(frozen=True, slots=True)
class Switches:
    """
    How this cloud answers the open questions. Sizes are bytes; ``*_off`` is the status answered
    instead (404, 405, 501, or 403 for a feature the licence lacks), None where the call works.
    """

    listing_off: int | None = None
    list_omits: tuple[str, ...] = ()  # members a list item lacks: storage_key, file_hash
    update_off: int | None = None

    multipart_off: int | None = None
    multipart_paths: MultipartPaths = field(default_factory=MultipartPaths)
    part_size: int = 104_857_600
    min_part_size: int = 5_242_880
    sign_part_length: bool = True
    second_complete: int | None = None  # 200 or 404; None: by seed

    single_put_cap: int = 500_000_000  # the store answers 400 EntityTooLarge above it
    fresh_keys: bool = True  # False: every presign of one path gives the same storage_key
    if_none_match: bool = True
    url_lifetime_s: int = 900

    unique_paths: Unique = Unique.NO
    disabled_records_clash: bool = False
    register_repeats: bool = False  # a storage_key may be registered twice

    more_teams: tuple[str, ...] = ()  # names of the user's further teams; read once
    me_tells_role: bool = False
    features_off: tuple[str, ...] = ()  # by the licence; custom_models is what writes need
    reuse_ends_chain: bool = False  # a refresh token used twice ends all that followed from it
    agents: int = 0  # connected, all idle
    agents_off: int | None = None

    role: str = "owner"
    writers: tuple[str, ...] = ("owner", "admin")
    access_token_lifetime_s: int = 3600
    pairing_lifetime_s: int = 300
    pairing_interval_s: int = 2

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Self:
        """
        Switches by name, as a command line or a JSON document gives them.

        Raises:
            ValueError: An unknown name, or a value of the wrong type.
        """
        known = sorted(f.name for f in fields(cls))
        for name in values.keys() - known:
            raise ValueError(f"no such switch: {name}; there are {', '.join(known)}")
        try:
            return TypeAdapter(cls).validate_python(dict(values))
        except ValidationError as error:
            raise ValueError(explain(error)) from None
