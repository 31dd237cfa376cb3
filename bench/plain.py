"""
A minimal uploader with httpx, for comparison.

Threads share one synchronous client; each sends one part at a time in pieces of 256 KiB. It has no
digests and cannot resume.

Run as ``python -m bench.plain FILE URL CA THREADS PART_MIB``.
"""

import os
import re
import ssl
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx

PIECE = 256 * 1024


def pieces(fd: int, offset: int, size: int) -> Iterator[bytes]:
    end = offset + size
    while offset < end:
        piece = os.pread(fd, min(PIECE, end - offset), offset)
        yield piece
        offset += len(piece)


def send(path: str, url: str, ca: str, threads: int, part_size: int) -> None:
    """Upload *path* to *url* as a multipart object."""
    client = httpx.Client(verify=ssl.create_default_context(cafile=ca), timeout=120)
    started = client.post(f"{url}?uploads=").text
    match = re.search("<UploadId>(.*)</UploadId>", started)
    assert match is not None, started
    fd = os.open(path, os.O_RDONLY)
    file_size = os.fstat(fd).st_size

    def put(number: int) -> None:
        offset = (number - 1) * part_size
        size = min(part_size, file_size - offset)
        client.put(
            f"{url}?partNumber={number}&uploadId={match[1]}",
            content=pieces(fd, offset, size),
            headers={"Content-Length": str(size)},
        ).raise_for_status()

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(put, range(1, -(-file_size // part_size) + 1)))
    client.post(f"{url}?uploadId={match[1]}").raise_for_status()


if __name__ == "__main__":
    path, url, ca, threads, part_mib = sys.argv[1:6]
    send(path, url, ca, int(threads), int(part_mib) * 1024 * 1024)
