"""What the API needs of an object store, and the signed URLs it hands out."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol
from urllib.parse import quote, urlencode

from syncd.sandbox.sigv4 import Keys, presign
from syncd.sandbox.switches import Switches


@dataclass(frozen=True, slots=True)
class SignedPut:
    """A presigned URL and the headers its signature covers, beside Host."""

    url: str
    headers: Mapping[str, str] = field(default_factory=dict)


class Grants:
    """Signs PUTs into one bucket; *endpoint* is a URL without a slash at its end."""

    def __init__(
        self,
        endpoint: str,
        bucket: str,
        keys: Keys,
        now: Callable[[], float],
        switches: Callable[[], Switches],
    ) -> None:
        self.endpoint = endpoint
        self.bucket = bucket
        self.keys = keys
        self.now = now
        self._switches = switches

    def url(self, key: str) -> str:
        """The plain URL of an object."""
        return f"{self.endpoint}/{self.bucket}/{quote(key)}"

    def body(self, key: str, size: int) -> SignedPut:
        """A PUT of a whole object of *size* bytes where none is yet."""
        headers = {"Content-Length": str(size)}
        if self._switches().if_none_match:
            headers["If-None-Match"] = "*"
        return self._signed(self.url(key), headers)

    def part(self, key: str, upload_id: str, number: int, size: int) -> SignedPut:
        """A PUT of one part; its length is signed only where a switch says so."""
        query = urlencode({"partNumber": number, "uploadId": upload_id})
        headers = {"Content-Length": str(size)} if self._switches().sign_part_length else {}
        return self._signed(f"{self.url(key)}?{query}", headers)

    def _signed(self, url: str, headers: Mapping[str, str]) -> SignedPut:
        lifetime_s = self._switches().url_lifetime_s
        signed = presign(
            self.keys, "PUT", url, at_s=self.now(), expires_s=lifetime_s, headers=headers
        )
        return SignedPut(signed, headers)


class ObjectStore(Protocol):
    """
    Where the bytes are. Asynchronous methods are for the API's loop, the others for any thread.

    All raise ``StoreRefusal`` with S3's status and code.
    """

    def grant_body(self, key: str, size: int) -> SignedPut:
        """A URL for one PUT of a whole object."""
        ...

    def grant_part(self, key: str, upload_id: str, number: int, size: int) -> SignedPut:
        """A URL for the PUT of one part."""
        ...

    async def open_upload(self, key: str) -> str:
        """Begin a multipart upload; its id."""
        ...

    async def complete(self, key: str, upload_id: str, parts: Sequence[tuple[int, str]]) -> None:
        """Make an object of *parts*, pairs of number and etag."""
        ...

    async def abort(self, key: str, upload_id: str) -> None:
        """Drop an unfinished upload."""
        ...

    async def size(self, key: str) -> int | None:
        """Bytes of the object, None if there is none."""
        ...

    async def delete(self, key: str) -> None:
        """Remove the object, if there is one."""
        ...

    def sizes(self) -> dict[str, int]:
        """All objects with their sizes."""
        ...

    def read(self, key: str) -> Iterator[bytes]:
        """The object's bytes, in pieces."""
        ...

    def close(self) -> None:
        """Let go of connections; stored bytes stay."""
        ...
