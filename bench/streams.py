"""
Plain TCP streams, to measure the capacity of the link without TLS, HTTP and files.

Run as ``python -m bench.streams ADDRESS PORT COUNT``: it sends over COUNT connections until it is
killed.
"""

import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

PIECE = 256 * 1024


@contextmanager
def discarding(address: str) -> Iterator[int]:
    """Accept and discard data at *address* in the background; yield the port."""
    with socket.create_server((address, 0), backlog=256) as listener:
        threading.Thread(target=_accept, args=(listener,), daemon=True).start()
        yield listener.getsockname()[1]


def _accept(listener: socket.socket) -> None:
    with suppress(OSError):  # closed
        while True:
            stream, _ = listener.accept()
            threading.Thread(target=_discard, args=(stream,), daemon=True).start()


def _discard(stream: socket.socket) -> None:
    buffer = bytearray(4 * PIECE)
    with stream, suppress(OSError):
        while stream.recv_into(buffer):
            pass


def _send(address: str, port: int) -> None:
    piece = bytes(PIECE)
    with socket.create_connection((address, port)) as stream:
        while True:
            stream.sendall(piece)


def main() -> None:
    address, port, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    threads = [threading.Thread(target=_send, args=(address, port)) for _ in range(count)]
    for thread in threads:
        thread.start()


if __name__ == "__main__":
    main()
