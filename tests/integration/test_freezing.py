"""I33: words of a server and files of the tree that are made to keep the daemon busy for ever."""

import os

import httpx

from syncd.cloud.validation import BODY_MAX
from syncd.config.locations import SOCKET
from syncd.sandbox.faults import Fault, Rule
from syncd.sandbox.server import Sandbox
from tests.integration.harness import Home, records, until
from tests.weights import weights


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


def test_I33_pattern_full_of_stars_leaves_daemon_responsive(home: Home, cloud: Sandbox) -> None:
    pattern = "*a" * 8 + "*b"
    home.write(".syncdignore", pattern.encode())
    home.env["SYNCD_SELECT__EXCLUDE"] = pattern
    home.write(f"loras/{'a' * 200}.pt", weights(b"a long name"))

    with home.daemon() as daemon:
        daemon.started()

        assert live(home) == 200
        until(lambda: len(records(cloud)) == 3, "all files")
        assert daemon.stop() == 143


def test_I33_ignore_file_that_is_a_fifo_is_refused_at_once(home: Home, cloud: Sandbox) -> None:
    os.mkfifo(home.models / ".syncdignore")

    done = home.once()

    assert done.code == 78
    assert ".syncdignore is not a regular file" in done.said
    assert records(cloud) == {}


def test_I34_ignore_file_that_is_a_link_is_refused_and_not_quoted(home: Home) -> None:
    secret = home.state.parent / "secret"
    secret.write_text("vae\n")
    (home.models / ".syncdignore").symlink_to(secret)

    planned = home.run("plan")

    assert planned.code == 78
    assert ".syncdignore is a link" in planned.said
    assert "vae" not in planned.out + planned.err
