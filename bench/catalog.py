"""
Time and memory of a comparison with the catalog: ``python -m bench.catalog``.

A stand-in cloud lists the records over HTTP, as for ``syncd diff``. Twice the number of records
should need about twice the time, and memory only for one page and the differences.
"""

import argparse
import asyncio
import hashlib
import json
import time
import tracemalloc
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from urllib.parse import parse_qs, urlsplit

from syncd.clock import SystemClock
from syncd.cloud.transport import build_client
from syncd.core.catalog.drift import Comparison, LocalFile
from tests.cloud import cloud_client


def digest(number: int) -> str:
    return hashlib.sha256(str(number).encode()).hexdigest()


def serve(records: int) -> ThreadingHTTPServer:
    """Serve a catalog with *records* records."""

    class Listing(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_GET(self) -> None:
            page = int(parse_qs(urlsplit(self.path).query)["current_page"][0])
            numbers = range((page - 1) * 100, min(page * 100, records))
            items = [
                {
                    "id": f"record-{number}",
                    "model_path": f"models/loras/{number}.safetensors",
                    "file_size": 1000 + number,
                    "file_hash": f"sha256:{digest(number)}",
                    "model_status": "active",
                }
                for number in numbers
            ]
            body = json.dumps({"model_list": items, "page_meta": {"total_count": records}}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Do not log requests."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Listing)
    Thread(target=server.serve_forever, daemon=True).start()
    return server


async def compare(url: str, files: int) -> int:
    """Compare *files* files with the catalog at *url*; return how many are equal."""
    comparison = Comparison(
        LocalFile((1, str(n)), f"models/loras/{n}.safetensors", 1000 + n, digest(n))
        for n in range(files)
    )
    async with build_client() as client:
        cloud = cloud_client(url, client, clock=SystemClock())
        equal = 0
        async for record in cloud.models():
            finding = comparison.add(record)
            equal += finding is not None and not finding.is_drift
    return equal


def measured(records: int, files: int) -> tuple[float, float, int]:
    """Return time, CPU time including the server, and the peak memory of a second run."""
    server = serve(records)
    url = f"http://127.0.0.1:{server.server_address[1]}/api/v1"
    began, busy = time.perf_counter(), time.process_time()
    assert asyncio.run(compare(url, files)) == min(files, records)
    seconds, busy = time.perf_counter() - began, time.process_time() - busy
    tracemalloc.start()
    asyncio.run(compare(url, files))
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    server.shutdown()
    return seconds, busy, most


def main() -> None:
    """Measure with all and with a fifth of the records."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").strip().partition(":")[0])
    parser.add_argument("--records", type=int, default=10_000)
    parser.add_argument("--files", type=int, default=5_000)
    arguments = parser.parse_args()
    few = measured(arguments.records // 5, arguments.files)
    whole = measured(arguments.records, arguments.files)
    for records, (seconds, busy, most) in (
        (arguments.records // 5, few),
        (arguments.records, whole),
    ):
        print(
            f"{records} records, {arguments.files} files: {seconds:.2f} s ({busy:.2f} s CPU), "
            f"{most / 2**20:.1f} MiB"
        )
    print(f"ratio: CPU {whole[1] / few[1]:.1f}, memory {whole[2] / few[2]:.1f}")


if __name__ == "__main__":
    main()
