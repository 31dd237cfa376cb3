"""I33: words of a server and files of the tree that are made to keep the daemon busy for ever."""

import os

import httpx

from syncd.core.answers import BODY_MAX
from syncd.places import SOCKET
from syncd.sandbox.faults import Fault, Rule
from syncd.sandbox.server import Sandbox
from tests.integration.harness import Home, until


def live(home: Home) -> int:
    """The status of ``GET /live`` on the daemon's socket."""
    transport = httpx.HTTPTransport(uds=os.fspath((home.state / SOCKET).resolve()))
    with httpx.Client(transport=transport, base_url="http://syncd", timeout=30) as client:
        return client.get("/live").status_code


def test_I33_error_answer_full_of_urls_leaves_daemon_responsive(home: Home, cloud: Sandbox) -> None:
    words = "http://" * (BODY_MAX // len("http://"))
    cloud.faults.add(Rule(Fault.ANSWER, "presign", status=500, body=words))

    with home.daemon() as daemon:
        until(lambda: cloud.history.count("presign"), "the first answer")

        assert live(home) == 200
        assert daemon.stop() == 143
