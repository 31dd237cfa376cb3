"""
Checks the answers of the cloud API, which are untrusted.

Bodies are bounded and parsed strictly. Every value that syncd uses is checked for type, size and
plausibility. A violation is an ``INVALID_ANSWER`` error; no value is shortened, repaired or guessed.
"""

import json
import math
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeVar
from urllib.parse import parse_qs, urlsplit

from syncd.cloud.host_policy import HostPolicy
from syncd.core.jobs.error_mapping import to_error
from syncd.core.jobs.parts import MAX_PARTS
from syncd.errors import JobError
from syncd.types import Grant, Kind, Multipart, Pairing, Profile, Record, Team, Tokens, printable

T = TypeVar("T")

BODY_MAX = 1024 * 1024
DEPTH_MAX = 32
INTEGER_MAX = 2**53
HEADER_VALUE_MAX = 8 * 1024
STORAGE_KEY_MAX = 1024
UPLOAD_ID_MAX = 2048
TEXT_MAX = 4096
PART_SIZE_MIN = 5 * 1024**2
PART_SIZE_MAX = 5 * 1024**3
SESSION_MAX_S = 366 * 24 * 3600
PAIRING_MAX_S = 24 * 3600
PAIRING_URL_MAX = 1024
URL_LIFETIME_ASSUMED_MS = 15 * 60 * 1000
URL_LIFETIME_MAX_S = 7 * 24 * 3600

HEADERS_ALLOWED = frozenset({
    "host", "content-disposition", "content-length", "content-type", "content-md5", "if-none-match",
    "cache-control",
})  # fmt: skip
"""And ``x-amz-*``. Anything else could carry a credential or change how the body is framed."""

_HEADER_NAME = re.compile(r"[A-Za-z0-9-]{1,128}")
_HEADER_VALUE = re.compile(r"[!-~](?:[ -~]*[!-~])?")
_SECRET = re.compile(r"[!-~]{1,16384}")
_SHOWN_URL = re.compile(r"https?://[!-~]+")
_USER_CODE = re.compile(r"[A-Za-z0-9][A-Za-z0-9 -]{3,31}")
TEAM_ID = re.compile(r"[!-~]{1,200}")
"""A team id is sent in a header."""

_IDENTIFIER = re.compile(r"(?!\.{1,2}$)[A-Za-z0-9._-]{1,128}")


def _bad(what: str) -> JobError:
    return to_error(Kind.INVALID_ANSWER, f"the server's answer cannot be used: {what}")


def parse_json(body: bytes) -> dict[str, Any]:
    """
    Parse the JSON object in *body*.

    Raises:
        Retryable: ``INVALID_ANSWER``: more than 1 MiB, not UTF-8, not one JSON object, a member named
            twice, deeper than 32, not a finite number, or an integer beyond 2^53.
    """
    if len(body) > BODY_MAX:
        raise _bad(f"more than {BODY_MAX} bytes")
    try:
        value = json.loads(
            body.decode("utf-8"),
            object_pairs_hook=_members,
            parse_int=_integer,
            parse_float=_number,
            parse_constant=_number,
        )
    except (ValueError, RecursionError):
        raise _bad("not JSON") from None
    if not isinstance(value, dict):
        raise _bad("not a JSON object")
    if not _within_depth(value, DEPTH_MAX):
        raise _bad(f"nested deeper than {DEPTH_MAX}")
    return value


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise _bad("a member occurs twice")
    return members


def _integer(text: str) -> int:
    if len(text) > len(str(-INTEGER_MAX)) or abs(int(text)) > INTEGER_MAX:
        raise _bad("an integer beyond 2^53")
    return int(text)


def _number(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise _bad("a number that is not finite")
    return number


def _within_depth(value: object, levels: int) -> bool:
    children: Collection[object] = ()
    if isinstance(value, dict | list):
        children = value.values() if isinstance(value, dict) else value
    return levels > 0 and all(_within_depth(child, levels - 1) for child in children)


def from_json(read: Callable[[dict[str, Any]], T]) -> Callable[[bytes], T]:
    """Return a reader of a body that parses it and gives the object to *read*."""
    return lambda body: read(parse_json(body))


def ignore_body(body: bytes) -> None:
    """Accept any body."""


def _text(answer: Mapping[str, Any], name: str, longest: int) -> str:
    value = answer.get(name)
    if not isinstance(value, str) or not value or not value.isprintable():
        raise _bad(f"{name} is missing or not text")
    if len(value.encode()) > longest:
        raise _bad(f"{name} is longer than {longest} bytes")
    return value


def _count(answer: Mapping[str, Any], name: str, low: int, high: int) -> int:
    value = answer.get(name)
    if type(value) is not int or not low <= value <= high:
        raise _bad(f"{name} is not a whole number from {low} to {high}")
    return value


def id_of(answer: Mapping[str, Any]) -> str:
    """Return the record id: 1 to 128 of ``A-Z a-z 0-9 . _ -``, so that it fits into a path."""
    value = answer.get("id")
    if not isinstance(value, str) or not _IDENTIFIER.fullmatch(value):
        raise _bad("id is missing or not an identifier")
    return value


def tokens_of(answer: Mapping[str, Any]) -> Tokens:
    """Return the tokens of a sign-in: plain ASCII, valid for a second to a year."""
    return Tokens(
        access=_secret(answer, "access_token"),
        refresh=_secret(answer, "refresh_token"),
        lifetime_s=_count(answer, "expires_in", 1, SESSION_MAX_S),
    )


def pairing_of(answer: Mapping[str, Any]) -> Pairing:
    """Return a started pairing; its address and code are safe to print."""
    address = _text(answer, "verification_uri", PAIRING_URL_MAX)
    code = _text(answer, "user_code", 64)
    if not _SHOWN_URL.fullmatch(address):
        raise _bad("verification_uri is not an http(s) URL of plain ASCII")
    if not _USER_CODE.fullmatch(code):
        raise _bad("user_code is not a code of letters and digits")
    return Pairing(
        device_code=_secret(answer, "device_code"),
        user_code=code,
        address=address,
        lifetime_s=_count(answer, "expires_in", 1, PAIRING_MAX_S),
        interval_s=_count(answer, "interval", 0, PAIRING_MAX_S),
    )


def device_key_of(answer: Mapping[str, Any]) -> str | None:
    """Return the device key of an approved pairing; None while it is pending."""
    if answer.get("status") == "pending":
        return None
    if answer.get("status") != "approved":
        raise _bad("status is neither pending nor approved")
    key = _secret(answer, "raw_key")
    if not key.startswith("dk-"):
        raise _bad("raw_key is not a device key")
    return key


def profile_of(answer: Mapping[str, Any]) -> Profile:
    """
    Return the owner of the credential; only the id is required.

    The member names of a team's role and of model features are not documented. A single member that
    ends with ``role``, and features that contain ``model``, are taken for them.
    """
    first_and_last = (_shown(answer, "first_name"), _shown(answer, "last_name"))
    email = _shown(answer, "email_address")
    name = _shown(answer, "display_name") or " ".join(filter(None, first_and_last)) or email
    user_id, teams = id_of(answer), answer.get("team_list") or []
    if not isinstance(teams, list):
        raise _bad("team_list is not a list")
    return Profile(
        user_id=user_id,
        name=name or user_id,
        email=email,
        teams=tuple(_team_of(_object(team)) for team in teams),
        switched_off=tuple(_switched_off(answer.get("feature_flags"))),
    )


def _team_of(item: Mapping[str, Any]) -> Team:
    team_id = item.get("id")
    if not isinstance(team_id, str) or not TEAM_ID.fullmatch(team_id):
        raise _bad("the id of a team is missing or not plain ASCII")
    roles = [name for name in item if name.endswith("role") and isinstance(item[name], str)]
    role = _shown(item, roles[0]) if len(roles) == 1 else None
    return Team(team_id, _shown(item, "display_name") or team_id, role)


def _switched_off(flags: object) -> Iterator[tuple[str, str]]:
    blocks = _members_of(flags)
    teams = _members_of(blocks.pop("teams", None))
    for name, block in {**blocks, **teams}.items():
        for feature, on in _members_of(_members_of(block).get("features")).items():
            if "model" in feature.lower() and on is False:
                yield printable(feature)[:64], printable(name)[:64]


def _members_of(value: object) -> dict[str, Any]:
    return dict(value) if isinstance(value, dict) else {}


def _secret(answer: Mapping[str, Any], name: str) -> str:
    value = answer.get(name)
    if not isinstance(value, str) or not _SECRET.fullmatch(value):
        raise _bad(f"{name} is missing or not plain ASCII")
    return value


@dataclass(frozen=True, slots=True)
class Page:
    """One page of a listing; ``total`` counts the records of all pages."""

    records: tuple[Record, ...]
    total: int


def record_of(answer: Mapping[str, Any]) -> Record:
    """
    Return a catalog record; members except the id may be missing. Control characters are escaped.

    ``created_at`` is normalized to UTC, so that two values compare as texts.
    """
    size = answer.get("file_size")
    if size is not None:
        size = _count(answer, "file_size", 0, INTEGER_MAX)
    return Record(
        id=id_of(answer),
        model_path=_shown(answer, "model_path"),
        model_type=_shown(answer, "model_type"),
        display_name=_shown(answer, "display_name"),
        storage_key=_shown(answer, "storage_key"),
        file_size=size,
        file_hash=_shown(answer, "file_hash"),
        model_status=_shown(answer, "model_status"),
        created_at=_stamp(answer.get("created_at")),
    )


def _shown(answer: Mapping[str, Any], name: str) -> str | None:
    value = answer.get(name)
    if value is None:
        return None
    if not isinstance(value, str) or len(value) > TEXT_MAX:
        raise _bad(f"{name} is not a text of at most {TEXT_MAX} characters")
    return printable(value)


def _stamp(value: object) -> str | None:
    """Return a timestamp in UTC; None for anything else."""
    try:
        at = datetime.fromisoformat(value) if isinstance(value, str) else None
        return None if at is None or at.tzinfo is None else at.astimezone(UTC).isoformat()
    except (ValueError, OverflowError):
        return None


def total_of(answer: Mapping[str, Any]) -> int:
    """Return how many items a listing has on all its pages."""
    meta = answer.get("page_meta")
    if not isinstance(meta, dict):
        raise _bad("page_meta is missing")
    return _count(meta, "total_count", 0, INTEGER_MAX)


def page_of(answer: Mapping[str, Any]) -> Page:
    """Return the records of a listing: the only array beside ``page_meta``."""
    total = total_of(answer)
    arrays = [value for value in answer.values() if isinstance(value, list)]
    if len(arrays) != 1:
        raise _bad("a listing must hold exactly one array")
    return Page(tuple(record_of(_object(item)) for item in arrays[0]), total)


def _object(value: object) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise _bad("an item of a listing is not an object")
    return value


def multipart_of(answer: Mapping[str, Any], *, size: int, storage_key: str) -> Multipart:
    """Return the upload that the server opened for *size* bytes under *storage_key*."""
    if answer.get("storage_key") != storage_key:
        raise _bad("storage_key is not the one asked for")
    part_size = _count(answer, "part_size", PART_SIZE_MIN, PART_SIZE_MAX)
    part_count = _count(answer, "part_count", 1, MAX_PARTS)
    if part_count != -(-size // part_size):
        raise _bad(f"{part_count} parts of {part_size} bytes do not make {size} bytes")
    upload_id = _text(answer, "upload_id", UPLOAD_ID_MAX)
    return Multipart(upload_id, storage_key, part_size, part_count)


def grant_of(
    answer: Mapping[str, Any], *, size: int, policy: HostPolicy, now_ms: int, keyed: bool = True
) -> Grant:
    """
    Return the presigned URL in *answer* and its headers, unchanged and in order.

    Args:
        size: Bytes that will be sent; a ``content-length`` header must equal it.
        now_ms: When the answer arrived, Unix milliseconds.
        keyed: The answer reserves a ``storage_key`` (presign does, signing a part does not).
    """
    url = answer.get("upload_url")
    if not isinstance(url, str):
        raise _bad("upload_url is missing or not text")
    if (reason := policy.refusal(url)) is not None:
        raise _bad(f"upload_url is {reason}")
    headers = answer.get("upload_headers")
    return Grant(
        url=url,
        headers=_headers({} if headers is None else headers, size=size, url=url),
        deadline_ms=url_deadline_ms(url, now_ms),
        storage_key=_text(answer, "storage_key", STORAGE_KEY_MAX) if keyed else None,
    )


def _headers(headers: object, *, size: int, url: str) -> Mapping[str, str]:
    if not isinstance(headers, dict):
        raise _bad("upload_headers is not an object")
    if len({name.lower() for name in headers}) != len(headers):
        raise _bad("upload_headers: a header occurs twice")
    for name, value in headers.items():
        lower = name.lower()
        known = lower in HEADERS_ALLOWED or lower.startswith("x-amz-")
        if not known or not _HEADER_NAME.fullmatch(name):
            raise _bad(f"upload_headers: {printable(name)[:64]} is not an allowed header")
        if not isinstance(value, str) or len(value) > HEADER_VALUE_MAX:
            raise _bad(f"upload_headers: {name} is not a text of at most {HEADER_VALUE_MAX} bytes")
        if not _HEADER_VALUE.fullmatch(value):
            raise _bad(f"upload_headers: {name} holds more than plain ASCII")
        if lower == "content-length" and value != str(size):
            raise _bad(f"upload_headers: content-length is {value[:20]}, the file has {size} bytes")
        if lower == "host" and value.lower() != urlsplit(url).netloc.lower():
            raise _bad("upload_headers: host is not the URL's")
    return headers


def url_deadline_ms(url: str, now_ms: int) -> int:
    """
    Return when *url* expires, in Unix milliseconds of this machine's clock.

    It is computed from ``X-Amz-Date`` and ``X-Amz-Expires`` (Amazon S3, "Authenticating requests: using
    query parameters"), or else 15 minutes. If the date is in the future, or the URL would have expired
    before it arrived, the clocks differ, and the URL counts as signed now.
    """
    query = parse_qs(urlsplit(url).query)
    expires, date = query.get("X-Amz-Expires", [""])[0], query.get("X-Amz-Date", [""])[0]
    lifetime_s = int(expires) if re.fullmatch(r"[0-9]{1,6}", expires) else 0
    if not 0 < lifetime_s <= URL_LIFETIME_MAX_S:
        return now_ms + URL_LIFETIME_ASSUMED_MS
    try:
        signed = datetime.strptime(date, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
        age_ms = now_ms - int(signed.timestamp() * 1000)
    except ValueError:
        age_ms = 0
    lifetime_ms = lifetime_s * 1000
    return now_ms + lifetime_ms - (age_ms if 0 <= age_ms < lifetime_ms else 0)
