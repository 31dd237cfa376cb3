"""What an object store checks of a presigned PUT before it reads the body."""

import calendar
import hmac
import time
from urllib.parse import parse_qsl

from starlette.datastructures import Headers

from syncd.sandbox.answers import StoreRefusal
from syncd.sandbox.sigv4 import ALGORITHM, Keys, canonical_request, sign

SKEW_S = 900
MAX_EXPIRES_S = 604_800


def check_framing(headers: Headers, chunked_status: int) -> int:
    """
    The body's length, which must be told beforehand.

    Raises:
        StoreRefusal: A second credential, a chunked body, or no length.
    """
    if "authorization" in headers:
        raise StoreRefusal(400, "InvalidArgument", "Only one auth mechanism allowed")
    if "transfer-encoding" in headers and chunked_status == 501:
        raise StoreRefusal(501, "NotImplemented", "Transfer-Encoding is not implemented")
    if "content-length" not in headers:
        raise StoreRefusal(411, "MissingContentLength", "You must provide Content-Length")
    return int(headers["content-length"])


def check_signature(
    keys: Keys, method: str, path: str, query: str, headers: Headers, now_s: float
) -> None:
    """
    Is this what *keys* signed, and still valid?

    Args:
        path: As it came, percent-encoded.

    Raises:
        StoreRefusal: 400 or 403, as Amazon S3 answers.
    """
    given = dict(parse_qsl(query, keep_blank_values=True))
    signature = given.pop("X-Amz-Signature", "")
    stamp = given.get("X-Amz-Date", "")
    signed_names = given.get("X-Amz-SignedHeaders", "").split(";")
    if given.get("X-Amz-Algorithm") != ALGORITHM or not signature or "host" not in signed_names:
        raise StoreRefusal(403, "AccessDenied", "Access Denied")
    _check_credential(keys, given.get("X-Amz-Credential", ""), stamp)
    _check_time(stamp, given.get("X-Amz-Expires", ""), now_s)
    _check_unsigned(headers, signed_names)
    signed = {name: ",".join(headers.getlist(name)) for name in signed_names}
    expected = sign(keys, stamp, canonical_request(method, path, given.items(), signed))
    if not hmac.compare_digest(expected.encode(), signature.encode()):
        raise StoreRefusal(403, "SignatureDoesNotMatch", "The signature does not match")


def _check_credential(keys: Keys, credential: str, stamp: str) -> None:
    access, _, scope = credential.partition("/")
    if access != keys.access:
        raise StoreRefusal(403, "InvalidAccessKeyId", "The access key does not exist")
    if scope != f"{stamp[:8]}/{keys.region}/s3/aws4_request":
        raise StoreRefusal(400, "AuthorizationQueryParametersError", "Wrong credential scope")


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


def _check_unsigned(headers: Headers, signed_names: list[str]) -> None:
    unsigned = [n for n in headers if n.startswith("x-amz-") and n not in signed_names]
    if unsigned:
        text = f"There were headers present in the request which were not signed: {unsigned[0]}"
        raise StoreRefusal(403, "AccessDenied", text)
