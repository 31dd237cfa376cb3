"""
AWS Signature Version 4, as far as an object store needs it.

Query signatures are made and checked, header signatures are made. Relied on: "Authenticating
Requests: Using Query Parameters" and "Using the Authorization Header" (Amazon S3 API Reference).
"""

import hashlib
import hmac
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, quote, urlsplit

ALGORITHM = "AWS4-HMAC-SHA256"
UNSIGNED_PAYLOAD = "UNSIGNED-PAYLOAD"
EMPTY_SHA256 = hashlib.sha256(b"").hexdigest()


@dataclass(frozen=True, slots=True)
class Keys:
    """An access key pair and the region it signs for."""

    access: str
    secret: str = field(repr=False)
    region: str = "us-east-1"


def presign(
    keys: Keys,
    method: str,
    url: str,
    *,
    at_s: float,
    expires_s: int,
    headers: Mapping[str, str] | None = None,
) -> str:
    """
    *url* with a query signature that also covers *headers* and its own query.

    Args:
        url: Absolute; its path already percent-encoded.
        at_s: Unix seconds when the URL starts to be valid.
        expires_s: Seconds of validity, 1 to 604800.
        headers: What the caller will have to send unchanged, beside Host.
    """
    parts = urlsplit(url)
    signed = {"host": parts.netloc, **_lowered(headers or {})}
    stamp = amz_date(at_s)
    pairs = [
        *parse_qsl(parts.query, keep_blank_values=True),
        ("X-Amz-Algorithm", ALGORITHM),
        ("X-Amz-Credential", f"{keys.access}/{_scope(keys, stamp)}"),
        ("X-Amz-Date", stamp),
        ("X-Amz-Expires", str(expires_s)),
        ("X-Amz-SignedHeaders", ";".join(sorted(signed))),
    ]
    digest = sign(keys, stamp, canonical_request(method, parts.path, pairs, signed))
    query = canonical_query(pairs)
    return f"{parts.scheme}://{parts.netloc}{parts.path}?{query}&X-Amz-Signature={digest}"


def sign_headers(
    keys: Keys,
    method: str,
    url: str,
    *,
    at_s: float,
    headers: Mapping[str, str] | None = None,
    payload_sha256: str = EMPTY_SHA256,
) -> dict[str, str]:
    """*headers* with the ``x-amz-*`` and Authorization headers that sign the whole request."""
    parts = urlsplit(url)
    stamp = amz_date(at_s)
    sent = {**_lowered(headers or {}), "x-amz-content-sha256": payload_sha256, "x-amz-date": stamp}
    signed = {"host": parts.netloc, **sent}
    pairs = parse_qsl(parts.query, keep_blank_values=True)
    request = canonical_request(method, parts.path, pairs, signed, payload_sha256)
    authorization = (
        f"{ALGORITHM} Credential={keys.access}/{_scope(keys, stamp)},"
        f"SignedHeaders={';'.join(sorted(signed))},Signature={sign(keys, stamp, request)}"
    )
    return {**sent, "authorization": authorization}


def canonical_request(
    method: str,
    path: str,
    pairs: Iterable[tuple[str, str]],
    signed: Mapping[str, str],
    payload: str = UNSIGNED_PAYLOAD,
) -> str:
    """The text that is signed; *signed* holds the signed headers under lower-case names."""
    names = sorted(signed)
    lines = [f"{name}:{' '.join(signed[name].split())}" for name in names]
    query = canonical_query(pairs)
    return "\n".join([method, path or "/", query, *lines, "", ";".join(names), payload])


def canonical_query(pairs: Iterable[tuple[str, str]]) -> str:
    """*pairs* percent-encoded and sorted as the signature wants them."""
    encoded = sorted((quote(k, safe="-_.~"), quote(v, safe="-_.~")) for k, v in pairs)
    return "&".join(f"{k}={v}" for k, v in encoded)


def sign(keys: Keys, stamp: str, request: str) -> str:
    """The signature, 64 hex digits, of a canonical request at *stamp* (``amz_date``)."""
    digest = hashlib.sha256(request.encode()).hexdigest()
    text = "\n".join([ALGORITHM, stamp, _scope(keys, stamp), digest])
    key = f"AWS4{keys.secret}".encode()
    for step in _scope(keys, stamp).split("/"):
        key = hmac.digest(key, step.encode(), "sha256")
    return hmac.digest(key, text.encode(), "sha256").hex()


def amz_date(at_s: float) -> str:
    """Unix seconds as ``YYYYMMDDTHHMMSSZ``."""
    return time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(at_s))


def _scope(keys: Keys, stamp: str) -> str:
    return f"{stamp[:8]}/{keys.region}/s3/aws4_request"


def _lowered(headers: Mapping[str, str]) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}
