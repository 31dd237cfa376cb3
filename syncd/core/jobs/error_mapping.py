"""
Map a response to a kind of failure: (call, status, S3 code) to a row of the retry table.

The message text is never used. The API sends no code, so only its status counts. The code of an object
store is more specific than its status, so it takes precedence.
"""

import re
from collections.abc import Collection, Iterable, Mapping
from typing import Literal

from syncd.core.jobs import retry_policy
from syncd.errors import JobError
from syncd.types import Call, Kind, printable

CredentialKind = Literal["device", "session"]
DEVICE_KEY = re.compile(r"dk-[!-~]+")
SESSION_TOKEN = re.compile(r"[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+){2}")

STORE_CALLS = frozenset({Call.PUT_BODY, Call.PUT_PART})
MULTIPART_CALLS = frozenset({Call.INITIATE, Call.SIGN_PART, Call.COMPLETE, Call.ABORT})

SHOWN_MAX = 300  # characters of a server message that are shown
SCAN_MAX = 4096  # characters of a server message that are searched for URLs
S3_SCAN_MAX = 4096  # bytes of an error document that are scanned, from ``<Error>`` on

BY_STATUS: Mapping[int, Kind] = {
    **dict.fromkeys((301, 302, 303, 307, 308), Kind.REDIRECTED),
    400: Kind.REQUEST_REFUSED,
    402: Kind.NOT_ALLOWED,
    403: Kind.NOT_ALLOWED,
    405: Kind.ROUTE_UNKNOWN,
    407: Kind.CAPTIVE_PORTAL,
    408: Kind.SERVER_TRANSIENT,
    409: Kind.CONFLICT,
    412: Kind.OBJECT_EXISTS,
    413: Kind.TOO_LARGE,
    422: Kind.REQUEST_REFUSED,
    425: Kind.SERVER_TRANSIENT,
    429: Kind.API_THROTTLED,
    500: Kind.SERVER_FAULT,
    501: Kind.ROUTE_UNKNOWN,
    502: Kind.SERVER_TRANSIENT,
    503: Kind.SERVER_TRANSIENT,
    504: Kind.SERVER_TRANSIENT,
    505: Kind.ROUTE_UNKNOWN,
    507: Kind.NOT_ALLOWED,
    511: Kind.CAPTIVE_PORTAL,
    **dict.fromkeys(range(520, 528), Kind.SERVER_TRANSIENT),
}

BY_STORE_STATUS: Mapping[int, Kind] = {
    401: Kind.SIGNATURE_REFUSED,
    403: Kind.SIGNATURE_REFUSED,
    409: Kind.STORE_CONFLICT,
    429: Kind.STORE_THROTTLED,
    509: Kind.STORE_THROTTLED,
}

BY_CALL: Mapping[tuple[Call, int], Kind] = {
    (Call.REGISTER, 404): Kind.OBJECT_MISSING,
    **{(call, 404): Kind.UPLOAD_GONE for call in (*MULTIPART_CALLS, Call.PUT_PART)},
    **{(call, 409): Kind.STORE_CONFLICT for call in MULTIPART_CALLS},
}

BY_CODE: Mapping[str, Kind] = {
    "RequestTimeout": Kind.STORE_IDLE,
    "IncompleteBody": Kind.STORE_IDLE,
    "SlowDown": Kind.STORE_THROTTLED,
    "RequestLimitExceeded": Kind.STORE_THROTTLED,
    "BandwidthLimitExceeded": Kind.STORE_THROTTLED,
    "ConditionalRequestConflict": Kind.STORE_CONFLICT,
    "OperationAborted": Kind.STORE_CONFLICT,
    "EntityTooLarge": Kind.TOO_LARGE,
    "ExpiredToken": Kind.URL_EXPIRED,
    "InvalidToken": Kind.URL_EXPIRED,
    "RequestTimeTooSkewed": Kind.CLOCK_SKEW,
    "AllAccessDisabled": Kind.STORE_ACCESS_DENIED,
    "AccountProblem": Kind.STORE_ACCESS_DENIED,
    "NoSuchBucket": Kind.STORE_ACCESS_DENIED,
    "PreconditionFailed": Kind.OBJECT_EXISTS,
    "NoSuchUpload": Kind.UPLOAD_GONE,
    "BadDigest": Kind.DIGEST_MISMATCH,
    "InvalidDigest": Kind.DIGEST_MISMATCH,
    "XAmzContentSHA256Mismatch": Kind.DIGEST_MISMATCH,
    "XAmzContentChecksumMismatch": Kind.DIGEST_MISMATCH,
    "InvalidPart": Kind.PARTS_REFUSED,
    "InvalidPartOrder": Kind.PARTS_REFUSED,
    "EntityTooSmall": Kind.PARTS_REFUSED,
}

BY_CODE_BEFORE_DEADLINE: Mapping[str, Kind] = {
    "SignatureDoesNotMatch": Kind.SIGNATURE_REFUSED,
    "InvalidAccessKeyId": Kind.SIGNATURE_REFUSED,
    "AccessDenied": Kind.SIGNATURE_REFUSED,
}
"""Codes that a store also sends for a URL that has merely expired."""

PORTAL_STATUSES = frozenset({*range(200, 300), 400, 401, 403, 422})
"""Statuses with which an HTML page means a captive portal. Gateways use HTML with the others."""

NOT_A_ROUTE_404 = frozenset({Call.REGISTER, Call.GET_MODEL, Call.PAIR_POLL})
"""Documented calls whose 404 always refers to the requested object, never to the route."""

ADVICE: Mapping[Kind, str] = {
    Kind.API_THROTTLED: "Nothing to do: syncd slows down and continues by itself.",
    Kind.SESSION_REFUSED: "Sign in again: syncd login --large-files (or replace the session token "
    "that api.token or api.token_file gives).",
    Kind.DEVICE_KEY_REFUSED: "Pair this device again: syncd logout, then syncd login (or replace the "
    "device key that api.token or api.token_file gives).",
    Kind.NOT_ALLOWED: "Ask the owner of the team: the role, the licence or the quota does not allow it.",
    Kind.NEEDS_SIGN_IN: "Large files need a user session: syncd login --large-files.",
    Kind.REQUEST_REFUSED: "Rename or replace the file, or check api.team_id if every file is refused.",
    Kind.ROUTE_UNKNOWN: "Check api.base_url; the server does not have this call.",
    Kind.TOO_LARGE: "Files of this size need a user session: syncd login --large-files.",
    Kind.SIGNATURE_REFUSED: "Check for a proxy that changes requests, and this machine's clock.",
    Kind.CLOCK_SKEW: "Set the clock of this machine; the object store refuses its time.",
    Kind.STORE_ACCESS_DENIED: "Contact the operator of the object store: the account or bucket is unusable.",
    Kind.OBJECT_EXISTS: "Contact the operator of the cloud: it reports a new object as existing.",
    Kind.UPLOAD_GONE: "Contact the operator of the object store: it discards incomplete uploads.",
    Kind.OTHER_CLIENT_ERROR: "Ask the operator of the cloud what this answer means.",
    Kind.INTERNAL_ERROR: "Please report it with the relevant part of the log.",
    Kind.PARTS_REFUSED: "Nothing to do: the upload starts again.",
    Kind.REDIRECTED: "Check api.base_url; redirects are never followed.",
    Kind.TLS_ERROR: "Check the host name, network.ca_bundle, and this machine's clock.",
    Kind.CAPTIVE_PORTAL: "Check the network: a proxy or sign-in page answers instead of the server.",
}

LISTING_ADVICE = "Ask the operator of the cloud why it refuses to list models; syncd tries again."


def classify(
    call: Call,
    status: int,
    *,
    s3_code: str | None = None,
    credential: CredentialKind = "device",
    past_deadline: bool = False,
    route_answered: bool = True,
    retry_after_s: float | None = None,
    html: bool = False,
) -> Kind | None:
    """
    Return the kind of failure of a response; None for a success.

    Args:
        s3_code: ``<Code>`` of an object store's error document, which may come with status 200.
        past_deadline: The presigned URL has expired.
        route_answered: The server has answered this call with 2xx before.
        html: The body is a web page.
    """
    if html and status in PORTAL_STATUSES:
        return Kind.CAPTIVE_PORTAL
    if s3_code is not None and s3_code in BY_CODE:
        return BY_CODE[s3_code]
    if 200 <= status < 300:
        return None if s3_code is None else Kind.SERVER_FAULT
    if call in STORE_CALLS:
        return _store_kind(call, status, s3_code, past_deadline=past_deadline)
    if status == 404 and not route_answered and call not in NOT_A_ROUTE_404:
        return Kind.ROUTE_UNKNOWN
    if status == 503 and retry_after_s is not None:
        return Kind.API_THROTTLED
    return _credential_kind(call, status, credential) or _status_kind(call, status)


def _store_kind(call: Call, status: int, code: str | None, *, past_deadline: bool) -> Kind:
    if status == 403 and past_deadline:
        return Kind.URL_EXPIRED
    if code is not None and code in BY_CODE_BEFORE_DEADLINE:
        return BY_CODE_BEFORE_DEADLINE[code]
    return BY_STORE_STATUS.get(status) or _status_kind(call, status)


def _credential_kind(call: Call, status: int, credential: CredentialKind) -> Kind | None:
    if status in (401, 403) and credential == "device" and call in MULTIPART_CALLS:
        return Kind.NEEDS_SIGN_IN
    if status != 401:
        return None
    return Kind.SESSION_REFUSED if credential == "session" else Kind.DEVICE_KEY_REFUSED


def _status_kind(call: Call, status: int) -> Kind:
    kind = BY_CALL.get((call, status)) or BY_STATUS.get(status)
    if kind is not None:
        return kind
    if status >= 500:
        return Kind.SERVER_FAULT
    return Kind.OTHER_CLIENT_ERROR if status >= 400 else Kind.INVALID_ANSWER


def leaves_doubt(status: int) -> bool:
    """Return whether a request may have taken effect. 2xx: the response was not usable."""
    return status >= 500 or status == 408 or 200 <= status < 300


def died_on_reused_connection(events: Collection[str]) -> bool:
    """
    Return whether a request got no response byte on a connection that an earlier request opened.

    *events* are the trace events of the request ("HTTPX, request extensions: trace").
    """
    return (
        "http11.send_request_headers.started" in events
        and "connection.connect_tcp.started" not in events
        and "http11.receive_response_headers.complete" not in events
    )


def caused_by(error: BaseException | None, kind: type[BaseException]) -> bool:
    while error is not None and not isinstance(error, kind):
        error = error.__cause__ or error.__context__
    return error is not None


def to_error(
    kind: Kind,
    message: str,
    *,
    call: Call | None = None,
    retry_after_s: float | None = None,
    advice: str | None = None,
    unclear: bool = False,
    timed_out: bool = False,
) -> JobError:
    """Return an error of the class in the row of *kind*, with advice if the user must act."""
    listing_refused = call is Call.LIST_MODELS and kind in retry_policy.LISTING_REFUSED
    return retry_policy.row_of(kind, call).error(
        message,
        kind=kind,
        retry_after_s=retry_after_s,
        advice=advice or (LISTING_ADVICE if listing_refused else ADVICE.get(kind)),
        unclear=unclear,
        timed_out=timed_out,
        call=call,
    )


def s3_code(body: bytes) -> str | None:
    """Return the first ``<Code>`` after the first ``<Error`` in *body*, or None. Does not parse XML."""
    start = body.find(b"<Error")
    if start < 0:
        return None
    scanned = body[start : start + S3_SCAN_MAX]
    found = re.search(rb"<Code>\s{0,16}([A-Za-z0-9.]{1,64})\s{0,16}</Code>", scanned)
    return found[1].decode("ascii") if found else None


def looks_like_html(content_type: str | None, body: bytes) -> bool:
    if content_type is not None and content_type.lstrip().lower().startswith("text/html"):
        return True
    return re.match(rb"\s{0,64}<(!doctype html|html)\b", body, re.IGNORECASE) is not None


def server_message(text: str, *, secrets: Iterable[str] = ()) -> str:
    """Make a server's message safe to show: one short line without URL queries and *secrets*."""
    for secret in secrets:  # first, because the cut could split a secret
        text = text.replace(secret, "***")
    start = text.strip()[:SCAN_MAX]
    shown = _URL.sub(lambda url: url[1] if url[2] is None else f"{url[1]}?...", start)
    return printable(shown)[:SHOWN_MAX]


# The query is optional because a pattern that fails after a long URL would restart inside it, at
# quadratic cost.
_URL = re.compile(r"(https?://[^\s?\"'<>]*+)(\?[^\s\"'<>]*+)?")
