"""
AWS Signature Version 4: presigned PUTs are made and checked.

Source: "Authenticating Requests: Using Query Parameters" (Amazon S3 API Reference).
"""

import calendar
import hashlib
import hmac
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

from starlette.datastructures import Headers

from syncd.sandbox.answers import StoreRefusal
from syncd.sandbox.switches import Switches

ALGORITHM = "AWS4-HMAC-SHA256"
UNSIGNED_PAYLOAD = "UNSIGNED-PAYLOAD"
SKEW_S = 900
MAX_EXPIRES_S = 604_800


@dataclass(frozen=True, slots=True)
class Keys:
    """An access key pair and the region it signs for."""

    access: str
    secret: str = field(repr=False)
    region: str = "us-east-1"


@dataclass(frozen=True, slots=True)
class SignedPut:
    """A presigned URL and the headers that its signature covers, except Host."""

    url: str
    headers: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Grants:
    """
    Signs PUTs into one bucket.

    ``endpoint`` is a URL without a trailing slash, ``now`` returns Unix seconds.
    """

    endpoint: str
    bucket: str
    keys: Keys
    now: Callable[[], float]
    switches: Callable[[], Switches]

    def url(self, key: str) -> str:
        """The plain URL of an object."""
        return f"{self.endpoint}/{self.bucket}/{quote(key)}"

    def body(self, key: str, size: int) -> SignedPut:
        """A PUT of a whole object of *size* bytes where none is yet."""
        condition = {"If-None-Match": "*"} if self.switches().if_none_match else {}
        return self._signed(self.url(key), {"Content-Length": str(size), **condition})

    def part(self, key: str, upload_id: str, number: int, size: int) -> SignedPut:
        """A PUT of one part; its length is signed only where a switch says so."""
        query = urlencode({"partNumber": number, "uploadId": upload_id})
        headers = {"Content-Length": str(size)} if self.switches().sign_part_length else {}
        return self._signed(f"{self.url(key)}?{query}", headers)

    def _signed(self, url: str, headers: Mapping[str, str]) -> SignedPut:
        lifetime_s = self.switches().url_lifetime_s
        signed = presign(
            self.keys, "PUT", url, at_s=self.now(), expires_s=lifetime_s, headers=headers
        )
        return SignedPut(signed, headers)


def presign(
    keys: Keys, method: str, url: str, *, at_s: float, expires_s: int, headers: Mapping[str, str]
) -> str:
    """
    *url* with a query signature that also covers *headers* and its own query.

    Args:
        url: Absolute; its path already percent-encoded.
        at_s: Unix seconds when the URL starts to be valid.
        expires_s: Seconds of validity, 1 to 604800.
        headers: Headers that the caller must send unchanged, except Host.
    """
    parts = urlsplit(url)
    signed = {"host": parts.netloc, **{name.lower(): value for name, value in headers.items()}}
    stamp = amz_date(at_s)
    pairs = [
        *parse_qsl(parts.query, keep_blank_values=True),
        ("X-Amz-Algorithm", ALGORITHM),
        ("X-Amz-Credential", f"{keys.access}/{scope(keys, stamp)}"),
        ("X-Amz-Date", stamp),
        ("X-Amz-Expires", str(expires_s)),
        ("X-Amz-SignedHeaders", ";".join(sorted(signed))),
    ]
    digest = sign(keys, stamp, canonical_request(method, parts.path, pairs, signed))
    query = _canonical_query(pairs)
    return f"{parts.scheme}://{parts.netloc}{parts.path}?{query}&X-Amz-Signature={digest}"


def check_signature(
    keys: Keys, method: str, path: str, query: str, headers: Headers, now_s: float
) -> None:
    """
    Verify that *keys* signed this request and that the signature is still valid.

    Args:
        path: As received, percent-encoded.

    Raises:
        StoreRefusal: 400 or 403, as Amazon S3 answers.
    """
    given = dict(parse_qsl(query, keep_blank_values=True))
    signature = given.pop("X-Amz-Signature", "")
    stamp = given.get("X-Amz-Date", "")
    signed_names = given.get("X-Amz-SignedHeaders", "").split(";")
    if given.get("X-Amz-Algorithm") != ALGORITHM or not signature or "host" not in signed_names:
        raise StoreRefusal(403, "AccessDenied", "Access Denied")
    if given.get("X-Amz-Credential") != f"{keys.access}/{scope(keys, stamp)}":
        raise StoreRefusal(403, "InvalidAccessKeyId", "The access key does not exist")
    _check_time(stamp, given.get("X-Amz-Expires", ""), now_s)
    for name in headers:
        if name.startswith("x-amz-") and name not in signed_names:
            text = f"There were headers present in the request which were not signed: {name}"
            raise StoreRefusal(403, "AccessDenied", text)
    signed = {name: ",".join(headers.getlist(name)) for name in signed_names}
    expected = sign(keys, stamp, canonical_request(method, path, given.items(), signed))
    if not hmac.compare_digest(expected.encode(), signature.encode()):
        raise StoreRefusal(403, "SignatureDoesNotMatch", "The signature does not match")


def amz_date(at_s: float) -> str:
    """Unix seconds as ``YYYYMMDDTHHMMSSZ``."""
    return time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(at_s))


def _check_time(stamp: str, expires: str, now_s: float) -> None:
    try:
        start_s = calendar.timegm(time.strptime(stamp, "%Y%m%dT%H%M%SZ"))
        lifetime_s = int(expires)
    except ValueError:
        raise StoreRefusal(400, "AuthorizationQueryParametersError", "Bad date or expiry") from None
    if not 1 <= lifetime_s <= MAX_EXPIRES_S:
        raise StoreRefusal(400, "AuthorizationQueryParametersError", "Expiry out of range")
    if now_s > start_s + lifetime_s:
        raise StoreRefusal(403, "AccessDenied", "Request has expired")
    if now_s < start_s - SKEW_S:
        raise StoreRefusal(403, "AccessDenied", "Request is not valid yet")


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
    query = _canonical_query(pairs)
    return "\n".join([method, path or "/", query, *lines, "", ";".join(names), payload])


def _canonical_query(pairs: Iterable[tuple[str, str]]) -> str:
    encoded = sorted((quote(k, safe="-_.~"), quote(v, safe="-_.~")) for k, v in pairs)
    return "&".join(f"{k}={v}" for k, v in encoded)


def sign(keys: Keys, stamp: str, request: str) -> str:
    """The signature, 64 hex digits, of a canonical request at *stamp* (``amz_date``)."""
    digest = hashlib.sha256(request.encode()).hexdigest()
    text = "\n".join([ALGORITHM, stamp, scope(keys, stamp), digest])
    key = f"AWS4{keys.secret}".encode()
    for step in scope(keys, stamp).split("/"):
        key = hmac.digest(key, step.encode(), "sha256")
    return hmac.digest(key, text.encode(), "sha256").hex()


def scope(keys: Keys, stamp: str) -> str:
    """What a signature at *stamp* is valid for."""
    return f"{stamp[:8]}/{keys.region}/s3/aws4_request"
