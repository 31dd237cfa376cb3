"""A sandbox in front of a real S3 server, which checks the signatures itself."""

import asyncio
import hashlib
import re
import socket
import ssl
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import unescape
from urllib.parse import parse_qsl, urlencode, urlsplit
from xml.sax.saxutils import escape

import httpx
from starlette.types import ASGIApp

from syncd.sandbox.answers import StoreRefusal
from syncd.sandbox.server import Sandbox
from syncd.sandbox.sigv4 import (
    ALGORITHM,
    Grants,
    Keys,
    amz_date,
    canonical_request,
    scope,
    sign,
)
from syncd.sandbox.switches import Switches

TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class S3Endpoint:
    """A real S3 server to put the objects into; *url* has no path, *ca* is trusted for it."""

    url: str
    bucket: str
    keys: Keys
    ca: str | None = None


class S3Sandbox(Sandbox):
    """A sandbox whose objects go to *s3*; PUTs bypass its history and its faults."""

    def __init__(self, s3: S3Endpoint, switches: Switches) -> None:
        super().__init__(switches=switches)
        self._s3 = s3

    def _open_store(self) -> list[tuple[socket.socket, ASGIApp]]:
        grants = self._grants(self._s3.url.rstrip("/"), self._s3.bucket, self._s3.keys)
        self._store = remote = RemoteObjects(grants, self._s3.ca)
        self._closing.callback(remote.close)
        return []


class RemoteObjects:
    """
    The bucket that *grants* signs for, created if it is not there; *ca* is a PEM file to trust.

    Raises:
        StoreRefusal: The endpoint refuses; ``status`` and ``code`` are its own.
    """

    def __init__(self, grants: Grants, ca: str | None = None) -> None:
        self.grants = grants
        trust = ssl.create_default_context(cafile=ca) if ca else True
        self._client = httpx.Client(timeout=TIMEOUT_S, trust_env=False, verify=trust)
        bucket = f"{grants.endpoint}/{grants.bucket}"
        if self._send("HEAD", bucket).status_code == 404:
            _checked(self._send("PUT", bucket))

    async def open_upload(self, key: str) -> str:
        answer = await self._ask("POST", f"{self.grants.url(key)}?uploads=")
        return _tag(_checked(answer).text, "UploadId")

    async def complete(self, key: str, upload_id: str, parts: Sequence[tuple[int, str]]) -> None:
        listed = "".join(
            f"<Part><PartNumber>{number}</PartNumber><ETag>{escape(etag)}</ETag></Part>"
            for number, etag in parts
        )
        body = f"<CompleteMultipartUpload>{listed}</CompleteMultipartUpload>"
        answer = await self._ask("POST", self._upload_url(key, upload_id), body.encode())
        if "<Error>" in _checked(answer).text:  # S3 may find out after it has said 200
            raise _refusal(answer)

    async def abort(self, key: str, upload_id: str) -> None:
        _checked(await self._ask("DELETE", self._upload_url(key, upload_id)))

    async def size(self, key: str) -> int | None:
        answer = await self._ask("HEAD", self.grants.url(key))
        return (
            None if answer.status_code == 404 else int(_checked(answer).headers["content-length"])
        )

    def sizes(self) -> dict[str, int]:
        sizes: dict[str, int] = {}
        query = {"list-type": "2"}
        while True:
            url = f"{self.grants.endpoint}/{self.grants.bucket}?{urlencode(query)}"
            text = _checked(self._send("GET", url)).text
            for item in re.findall(r"<Contents>(.*?)</Contents>", text, re.DOTALL):
                sizes[_tag(item, "Key")] = int(_tag(item, "Size"))
            if _tag(text, "IsTruncated") != "true":
                return sizes
            query["continuation-token"] = _tag(text, "NextContinuationToken")

    def read(self, key: str) -> Iterator[bytes]:
        url = self.grants.url(key)
        signed = sign_headers(self.grants.keys, "GET", url, at_s=self.grants.now())
        with self._client.stream("GET", url, headers=signed) as answer:
            if answer.status_code != 200:
                answer.read()
            yield from _checked(answer).iter_bytes()

    def close(self) -> None:
        self._client.close()

    def _upload_url(self, key: str, upload_id: str) -> str:
        return f"{self.grants.url(key)}?{urlencode({'uploadId': upload_id})}"

    async def _ask(self, method: str, url: str, body: bytes = b"") -> httpx.Response:
        return await asyncio.to_thread(self._send, method, url, body)

    def _send(self, method: str, url: str, body: bytes = b"") -> httpx.Response:
        signed = sign_headers(self.grants.keys, method, url, at_s=self.grants.now(), payload=body)
        return self._client.request(method, url, headers=signed, content=body or None)


def _checked(answer: httpx.Response) -> httpx.Response:
    if answer.is_success:
        return answer
    raise _refusal(answer)


def _refusal(answer: httpx.Response) -> StoreRefusal:
    code = _tag(answer.text, "Code") or str(answer.status_code)
    return StoreRefusal(
        answer.status_code, code, _tag(answer.text, "Message") or answer.reason_phrase
    )


def _tag(text: str, name: str) -> str:
    """The text of the first element *name*; empty if there is none."""
    found = re.search(rf"<{name}>(.*?)</{name}>", text, re.DOTALL)
    return unescape(found[1]) if found else ""


def sign_headers(
    keys: Keys, method: str, url: str, *, at_s: float, payload: bytes = b""
) -> dict[str, str]:
    """The ``x-amz-*`` and Authorization headers that sign the whole request."""
    parts = urlsplit(url)
    stamp = amz_date(at_s)
    digest = hashlib.sha256(payload).hexdigest()
    sent = {"x-amz-content-sha256": digest, "x-amz-date": stamp}
    signed = {"host": parts.netloc, **sent}
    pairs = parse_qsl(parts.query, keep_blank_values=True)
    request = canonical_request(method, parts.path, pairs, signed, digest)
    authorization = (
        f"{ALGORITHM} Credential={keys.access}/{scope(keys, stamp)},"
        f"SignedHeaders={';'.join(sorted(signed))},Signature={sign(keys, stamp, request)}"
    )
    return {**sent, "authorization": authorization}
