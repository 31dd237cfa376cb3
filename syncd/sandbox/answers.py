"""Answers and refusals: JSON as the API says them, XML as an object store does."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from xml.sax.saxutils import escape

from pydantic import ValidationError
from starlette.requests import Request
from starlette.responses import Response


class ApiRefusal(Exception):
    """The API says no: a status and one human sentence."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class StoreRefusal(Exception):
    """The object store says no: a status and S3's error code."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


def explain(error: ValidationError) -> str:
    """What is wrong with each member, in one line."""
    return "; ".join(": ".join([*map(str, each["loc"]), each["msg"]]) for each in error.errors())


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer, held back until it is clear what the client will see of it."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""


def json_answer(status: int, document: object) -> Response:
    """*document* as the API sends it; none for 204."""
    if status == 204:
        return Response(status_code=204)
    text = json.dumps(document, separators=(",", ":"))
    return Response(text, status_code=status, media_type="application/json")


async def api_refused(request: Request, refusal: Exception) -> Response:
    """An ``ApiRefusal`` as JSON."""
    assert isinstance(refusal, ApiRefusal)
    request.state.draft.note(error=str(refusal))
    return json_answer(refusal.status, {"error_message": str(refusal)})


async def store_refused(request: Request, refusal: Exception) -> Response:
    """A ``StoreRefusal`` as S3's XML."""
    assert isinstance(refusal, StoreRefusal)
    request.state.draft.note(error=refusal.code)
    text = (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        f"<Error><Code>{refusal.code}</Code><Message>{escape(str(refusal))}</Message>"
        f"<Resource>{escape(request.url.path)}</Resource></Error>"
    )
    return Response(text, status_code=refusal.status, media_type="application/xml")
