"""
What the documentation leaves open, as switches.

A fresh ``Switches()`` is the strict reading: everything inferred is there, nothing forgiving is.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import Any, Self


class Cap(StrEnum):
    """Where the cap on a single PUT is enforced."""

    PRESIGN = "presign"  # 413 for device keys; a session presigns as first step of a multipart
    STORE = "store"  # 400 EntityTooLarge
    REGISTER = "register"  # 413
    NOWHERE = "nowhere"


class Unique(StrEnum):
    """Is one model_path one record?"""

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
    list_member: str = "model_list"
    list_omits: tuple[str, ...] = ()  # members a list item lacks: storage_key, file_hash
    update_off: int | None = None
    update_method: str = "PUT"
    delete_off: int | None = None
    delete_removes_object: bool = False

    multipart_off: int | None = None
    multipart_paths: MultipartPaths = field(default_factory=MultipartPaths)
    device_key_multipart: bool = False
    part_size: int = 104_857_600
    min_part_size: int = 5_242_880
    sign_part_length: bool = True
    second_complete: int | None = None  # 200 or 404; None: by seed

    single_put_cap: int = 500_000_000
    cap_at: Cap = Cap.STORE
    fresh_keys: bool = True  # False: every presign of one path gives the same storage_key
    if_none_match: bool = True
    url_lifetime_s: int = 900
    opaque_urls: bool = False  # no X-Amz-Date and no X-Amz-Expires to read; own store only
    chunked_status: int = 501  # 501 NotImplemented or 411 MissingContentLength

    unique_paths: Unique = Unique.NO
    disabled_records_clash: bool = False
    clash_at_presign: bool = False
    register_repeats: bool = False  # a storage_key may be registered twice

    more_teams: tuple[str, ...] = ()  # names of the user's teams beside the first; read once
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
            ValueError: A name that is none, or a value of the wrong type.
        """
        known = {f.name: getattr(cls(), f.name) for f in fields(cls)}
        for name in values.keys() - known.keys():
            raise ValueError(f"no such switch: {name}; there are {', '.join(sorted(known))}")
        return cls(**{name: _fitted(name, value, known[name]) for name, value in values.items()})


def _fitted(name: str, value: Any, default: Any) -> Any:
    """*value* in the type that *default* has."""
    if isinstance(default, MultipartPaths) and isinstance(value, Mapping):
        return MultipartPaths(**value)
    if isinstance(default, StrEnum):
        return type(default)(value)
    if isinstance(default, tuple) and isinstance(value, list):
        return tuple(value)
    wanted = int if default is None else type(default)
    if type(value) is not wanted and not (default is None and value is None):
        raise ValueError(f"switch {name} wants {wanted.__name__}, not {value!r}")
    return value
