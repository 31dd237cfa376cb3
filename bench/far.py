"""
The far end of the emulated link: a cloud, its object store, and a port that discards everything.

Run as ``python -m bench.far FOLDER``: it prints the addresses as JSON and serves until stdin ends.
"""

import json
import sys
from pathlib import Path

from bench.cable import FAR
from bench.place import endpoint_of, make_certificate, sink, switches
from bench.streams import discarding
from tests.s3 import S3Sandbox


class FarCloud(S3Sandbox):
    """A cloud that listens on the far end."""

    HOST = FAR


def main() -> None:
    certificate, key = make_certificate(Path(sys.argv[1]), FAR)
    with (
        sink(certificate, key, FAR) as url,
        FarCloud(endpoint_of(url, certificate), switches()) as cloud,
        discarding(FAR) as plain,
    ):
        addresses = {
            "endpoint": url,
            "plain": plain,
            "ca": str(certificate),
            "base_url": cloud.base_url,
            "token": cloud.session_token,
            "team_id": cloud.team_id,
        }
        print(json.dumps(addresses), flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()
