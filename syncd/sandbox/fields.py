"""Field rules of the API's request bodies, read more strictly than a real server would."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from syncd.sandbox.answers import ApiRefusal

Check = Callable[[object], str | None]
"""What is wrong with a value, or None."""

MODEL_PATH = re.compile(r"(?!/)(?!.*\.\.)(?!.*\\)[\w./ -]+", re.ASCII)
FILE_HASH = re.compile(r"sha256:[0-9a-f]{64}")
MAX_PARTS = 10_000


@dataclass(frozen=True, slots=True)
class Shape:
    """The members of a JSON object, each with its check; nothing else may be there."""

    required: Mapping[str, Check] = field(default_factory=dict)
    optional: Mapping[str, Check] = field(default_factory=dict)

    def read(self, document: object) -> dict[str, Any]:
        """
        *document*, found to be right.

        Raises:
            ApiRefusal: 400 if it is no object, 422 with the member's name otherwise.
        """
        if not isinstance(document, dict):
            raise ApiRefusal(400, "the body must be a JSON object")
        checks = {**self.required, **self.optional}
        for name in self.required.keys() - document.keys():
            raise ApiRefusal(422, f"{name} is required")
        for name, value in document.items():
            trouble = checks[name](value) if name in checks else "is not a member of this request"
            if trouble is not None:
                raise ApiRefusal(422, f"{name} {trouble}")
        return document


def _text(least: int, most: int) -> Check:
    def check(value: object) -> str | None:
        if not isinstance(value, str):
            return "must be a string"
        return None if least <= len(value) <= most else f"must have {least} to {most} characters"

    return check


def _integer(least: int, most: int) -> Check:
    def check(value: object) -> str | None:
        if type(value) is not int:  # a bool is an int to isinstance
            return "must be an integer"
        return None if least <= value <= most else f"must lie in {least} to {most}"

    return check


def _file_name(value: object) -> str | None:
    if isinstance(value, str) and ("/" in value or "\\" in value):
        return "must be a name, not a path"
    return _text(1, 255)(value)


def _model_path(value: object) -> str | None:
    """Beyond the pattern: what a client has to refuse itself, since the pattern lets it through."""
    trouble = _text(1, 1000)(value)
    if trouble is not None or not isinstance(value, str):
        return trouble
    if MODEL_PATH.fullmatch(value) is None:
        return "has characters that are not allowed"
    for segment in value.split("/"):
        if segment in ("", ".") or segment != segment.strip() or len(segment) > 255:
            return "has an empty, padded or overlong segment"
    return None


def _file_hash(value: object) -> str | None:
    if isinstance(value, str) and FILE_HASH.fullmatch(value):
        return None
    return "must be sha256: and 64 lower-case hex digits"


def _status(value: object) -> str | None:
    return None if value in ("active", "disabled") else "must be active or disabled"


def _parts(value: object) -> str | None:
    if not isinstance(value, list) or not 1 <= len(value) <= MAX_PARTS:
        return f"must be a list of 1 to {MAX_PARTS} parts"
    for item in value:
        PART.read(item)
    return None


PART = Shape({"part_number": _integer(1, MAX_PARTS), "etag": _text(1, 1024)})
NOTHING = Shape()
LOGIN = Shape({"email_address": _text(3, 320), "user_password": _text(1, 1024)})
REFRESH = Shape({"refresh_token": _text(1, 4096)})
POLL = Shape({"device_code": _text(1, 1024)})
CONFIRM = Shape({"user_code": _text(8, 20)}, {"device_name": _text(1, 100)})
PRESIGN = Shape(
    {
        "file_name": _file_name,
        "file_size": _integer(1, 2**53),
        "model_type": _text(1, 50),
        "model_path": _model_path,
    }
)
REGISTER = Shape(
    {
        "display_name": _text(1, 255),
        "model_type": _text(1, 50),
        "storage_key": _text(1, 1024),
        "file_size": _integer(1, 2**53),
        "file_hash": _file_hash,
        "model_path": _model_path,
    }
)
UPDATE = Shape(
    optional={
        "display_name": _text(1, 255),
        "model_type": _text(1, 50),
        "model_path": _model_path,
        "model_status": _status,
    }
)
UPLOAD = {"storage_key": _text(1, 1024), "upload_id": _text(1, 2048)}
INITIATE = Shape({"storage_key": _text(1, 1024), "file_size": _integer(1, 2**53)})
SIGN_PART = Shape({**UPLOAD, "part_number": _integer(1, MAX_PARTS)})
COMPLETE = Shape({**UPLOAD, "parts": _parts})
ABORT = Shape(UPLOAD)
