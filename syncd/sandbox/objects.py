"""The sandbox's own object store: files in a directory, the S3 subset a presigned URL can reach."""

import asyncio
import base64
import hashlib
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn
from urllib.parse import parse_qs, urlsplit

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from syncd.sandbox.answers import StoreRefusal, store_refused
from syncd.sandbox.sigv4 import Grants, check_signature
from syncd.sandbox.switches import Switches
from syncd.types import Call

PUT_LIMIT = 5 * 1024**3
"""Bytes that S3 takes in one PUT, of an object or of a part."""

MAX_PARTS = 10_000
BATCH = 1024 * 1024
"""Bytes collected before a thread hashes and writes them, while receiving continues."""

READ_SIZE = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Body:
    """A received body on disk."""

    path: Path
    size: int
    etag: str


@dataclass(slots=True)
class Upload:
    """An open multipart upload."""

    key: str
    parts: dict[int, Body] = field(default_factory=dict)


class _Sink:
    """A file that is hashed while it is written."""

    def __init__(self, path: Path) -> None:
        self.size = 0
        self.md5 = hashlib.md5(usedforsecurity=False)
        self.sha256 = hashlib.sha256()
        self._file = path.open("xb")

    def feed(self, chunks: Sequence[bytes]) -> None:
        for chunk in chunks:
            self._file.write(chunk)
            self.size += len(chunk)
            self.md5.update(chunk)
            self.sha256.update(chunk)

    def close(self) -> None:
        self._file.close()


class DiskObjects:
    """
    An object store in *folder*, reached at ``<endpoint>/<bucket>/<key>`` by presigned PUT only.

    An object is kept as the bodies that make it up, in order; parts are never copied together.
    """

    def __init__(
        self,
        folder: Path,
        grants: Grants,
        switches: Callable[[], Switches],
        draw: random.Random,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self.grants = grants
        self._switches = switches
        self._draw = draw
        self._objects: dict[str, tuple[Body, ...]] = {}
        self._uploads: dict[str, Upload] = {}
        prefix = urlsplit(grants.endpoint).path
        path = f"{prefix}/{{bucket}}/{{key:path}}"
        self.routes = [Route(path, self._put, methods=["PUT"], name=Call.PUT_BODY)]
        self.app = Starlette(routes=self.routes, exception_handlers={StoreRefusal: store_refused})

    # What the API asks

    async def open_upload(self, key: str) -> str:
        upload_id = self._draw.randbytes(16).hex()
        self._uploads[upload_id] = Upload(key)
        return upload_id

    async def complete(self, key: str, upload_id: str, parts: Sequence[tuple[int, str]]) -> None:
        upload = self._upload(key, upload_id)
        bodies = self._chosen(upload, parts)
        self._objects[key] = bodies
        del self._uploads[upload_id]
        _unlink([body for body in upload.parts.values() if body not in bodies])

    async def abort(self, key: str, upload_id: str) -> None:
        upload = self._upload(key, upload_id)
        del self._uploads[upload_id]
        _unlink(upload.parts.values())

    async def size(self, key: str) -> int | None:
        return self.sizes().get(key)

    def sizes(self) -> dict[str, int]:
        stored = tuple(self._objects.items())
        return {key: sum(body.size for body in bodies) for key, bodies in stored}

    def read(self, key: str) -> Iterator[bytes]:
        for body in self._objects[key]:
            with body.path.open("rb") as file:
                while piece := file.read(READ_SIZE):
                    yield piece

    def _upload(self, key: str, upload_id: str) -> Upload:
        upload = self._uploads.get(upload_id)
        if upload is None or upload.key != key:
            raise StoreRefusal(404, "NoSuchUpload", "The specified upload does not exist")
        return upload

    def _chosen(self, upload: Upload, parts: Sequence[tuple[int, str]]) -> tuple[Body, ...]:
        numbers = [number for number, _ in parts]
        if numbers != sorted(set(numbers)):
            raise StoreRefusal(400, "InvalidPartOrder", "Parts must ascend")
        for number, etag in parts:
            if number not in upload.parts or upload.parts[number].etag != etag.strip('"'):
                raise StoreRefusal(400, "InvalidPart", f"Part {number} is missing or another")
        bodies = tuple(upload.parts[number] for number in numbers)
        if any(body.size < self._switches().min_part_size for body in bodies[:-1]):
            raise StoreRefusal(400, "EntityTooSmall", "A part is smaller than allowed")
        return bodies

    # What a presigned URL reaches

    async def _put(self, request: Request) -> Response:
        length = _body_length(request)
        query = request.url.query
        check_signature(
            self.grants.keys,
            request.method,
            request.scope["raw_path"].decode("ascii"),
            query,
            request.headers,
            self.grants.now(),
        )
        request.state.draft.note(who="presigned")
        if request.path_params["bucket"] != self.grants.bucket:
            raise StoreRefusal(404, "NoSuchBucket", "The specified bucket does not exist")
        given = parse_qs(query)
        if "uploadId" in given:
            return await self._put_part(request, given["uploadId"][0], given["partNumber"][0])
        if length > min(PUT_LIMIT, self._switches().single_put_cap):
            raise StoreRefusal(400, "EntityTooLarge", "Your proposed upload is too large")
        return await self._put_object(request)

    async def _put_object(self, request: Request) -> Response:
        key = request.path_params["key"]
        only_new = self._only_new(request)
        if only_new and key in self._objects:
            _refuse_existing()
        body = await self._receive(request)
        if only_new and key in self._objects:  # another PUT was faster
            _unlink([body])
            _refuse_existing()
        _unlink(self._objects.get(key, ()))
        self._objects[key] = (body,)
        return Response(headers={"ETag": f'"{body.etag}"'})

    async def _put_part(self, request: Request, upload_id: str, number: str) -> Response:
        if not number.isdecimal() or not 1 <= int(number) <= MAX_PARTS:
            raise StoreRefusal(400, "InvalidArgument", "Part number must lie in 1 to 10000")
        key = request.path_params["key"]
        self._upload(key, upload_id)
        body = await self._receive(request)
        try:
            upload = self._upload(key, upload_id)  # it may have been aborted since
        except StoreRefusal:
            _unlink([body])
            raise
        _unlink([upload.parts[int(number)]] if int(number) in upload.parts else [])
        upload.parts[int(number)] = body
        return Response(headers={"ETag": f'"{body.etag}"'})

    def _only_new(self, request: Request) -> bool:
        wish = request.headers.get("if-none-match")
        if wish not in (None, "*"):
            raise StoreRefusal(501, "NotImplemented", "If-None-Match takes * only")
        return wish == "*"

    async def _receive(self, request: Request) -> Body:
        """The body on disk, whole and as its Content-MD5 says, or nothing."""
        path = self._folder / self._draw.randbytes(16).hex()
        sink = _Sink(path)
        try:
            await _pour(request, sink)
            _check_md5(request, sink)
        except BaseException:
            path.unlink()
            raise
        finally:
            sink.close()
            request.state.draft.note(size=sink.size)
        request.state.draft.note(sha256=sink.sha256.hexdigest())
        return Body(path, sink.size, sink.md5.hexdigest())


def _body_length(request: Request) -> int:
    """The body's length, which has to be announced, by a caller without a second credential."""
    if "authorization" in request.headers:
        raise StoreRefusal(400, "InvalidArgument", "Only one auth mechanism allowed")
    if "content-length" not in request.headers:
        raise StoreRefusal(411, "MissingContentLength", "You must provide Content-Length")
    return int(request.headers["content-length"])


async def _pour(request: Request, sink: _Sink) -> None:
    loop = asyncio.get_running_loop()
    batch: list[bytes] = []
    held = 0
    writing = None
    try:
        async for chunk in request.stream():
            batch.append(chunk)
            held += len(chunk)
            if held >= BATCH:
                if writing is not None:
                    await writing
                writing = loop.run_in_executor(None, sink.feed, batch)
                batch, held = [], 0
    finally:
        if writing is not None:
            await writing
    sink.feed(batch)


def _check_md5(request: Request, sink: _Sink) -> None:
    declared = request.headers.get("content-md5")
    if declared not in (None, base64.b64encode(sink.md5.digest()).decode()):
        raise StoreRefusal(400, "BadDigest", "The Content-MD5 does not match what was received")


def _refuse_existing() -> NoReturn:
    raise StoreRefusal(412, "PreconditionFailed", "At least one precondition did not hold")


def _unlink(bodies: Iterable[Body]) -> None:
    for body in bodies:
        body.path.unlink()
