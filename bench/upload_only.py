"""
Upload a file with syncd's object store client and nothing else: no digests, database or API.

The difference to ``syncd`` is the cost of these.

Run as ``python -m bench.upload_only FILE URL CA SLOTS PART_MIB``.
"""

import os
import re
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from syncd.cloud.host_policy import HostPolicy
from syncd.cloud.object_store import ObjectStore, build_client
from syncd.core.jobs.parts import plan_parts
from syncd.fs.hashing import PIECE_SIZE
from syncd.types import Call, Grant, Part

MIB = 1024 * 1024


def pieces(fd: int, part: Part) -> Iterator[bytes]:
    offset, end = part.offset, part.offset + part.size
    while offset < end:
        piece = os.pread(fd, min(PIECE_SIZE, end - offset), offset)
        yield piece
        offset += len(piece)


def send(path: str, url: str, ca: str, slots: int, part_size: int) -> None:
    """Upload *path* to *url* as a multipart object."""
    client = build_client(ca_bundle=ca)
    store = ObjectStore(client, HostPolicy.of("https://127.0.0.1", (), allow_http=False))
    started = client.post(f"{url}?uploads=").text
    match = re.search("<UploadId>(.*)</UploadId>", started)
    assert match is not None, started
    size = os.stat(path).st_size
    fd = os.open(path, os.O_RDONLY)

    def put(part: Part) -> None:
        target = f"{url}?partNumber={part.number}&uploadId={match[1]}"
        grant = Grant(target, {}, deadline_ms=2**62)
        body = pieces(fd, part)
        now_ms = lambda: int(time.time() * 1000)  # noqa: E731
        store.put(grant, body, part.size, call=Call.PUT_PART, now_ms=now_ms)

    with ThreadPoolExecutor(slots) as pool:
        list(pool.map(put, plan_parts(size, part_size)))
    client.post(f"{url}?uploadId={match[1]}").raise_for_status()


if __name__ == "__main__":
    path, url, ca, slots, part_mib = sys.argv[1:6]
    send(path, url, ca, int(slots), int(part_mib) * MIB)
