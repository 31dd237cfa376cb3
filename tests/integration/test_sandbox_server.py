"""Start, stop, traces left behind, and the command."""

import json
import signal
import socket
import subprocess
import sys
import threading
from contextlib import ExitStack
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from syncd.sandbox.server import Sandbox
from tests.visitor import Visitor, good

COMMAND = [sys.executable, "-c", "from syncd.cli.sandbox import sandbox; sandbox()"]


def test_stopped_sandbox_leaves_no_thread_and_no_port() -> None:
    before = threading.active_count()
    with Sandbox() as cloud, Visitor(cloud) as visitor:
        visitor.upload()
        ports = [urlsplit(url).port for url in (cloud.base_url, visitor.presign()["upload_url"])]

    assert threading.active_count() <= before  # one of another test may end meanwhile
    for port in ports:
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port or 0), timeout=60)


def test_stopping_breaks_idle_connections() -> None:
    with Sandbox() as cloud:
        url = urlsplit(cloud.base_url)
        client = HTTPConnection(url.hostname or "", url.port, timeout=60)
        client.request("GET", "/api/v1/users/me")
        answer = client.getresponse()
        answer.read()
        idle = client.sock
    with idle:
        end = idle.recv(1)

    assert (answer.status, end) == (401, b"")


def test_sandbox_writes_only_below_its_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with Sandbox(tmp_path / "cloud") as cloud, Visitor(cloud) as visitor:
        visitor.upload(b"abc")

    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert [file.read_bytes() for file in files] == [b"abc"]
    assert files[0].parent == tmp_path / "cloud" / "objects"


def test_two_sandboxes_run_side_by_side() -> None:
    with Sandbox() as one, Sandbox() as two, Visitor(one) as first, Visitor(two) as second:
        first.upload()
        good(second.api.get("/users/me"))

        assert (len(one.records()), len(two.records())) == (1, 0)


def test_taken_port_is_an_error_that_leaves_nothing_open() -> None:
    with Sandbox() as cloud:
        second = Sandbox(port=urlsplit(cloud.base_url).port or 0)
        with pytest.raises(OSError, match="in use"):
            second.__enter__()


def test_sandbox_that_fails_itself_says_so(tmp_path: Path) -> None:
    cloud = Sandbox(tmp_path)
    with ExitStack() as stack:
        stack.enter_context(pytest.raises(RuntimeError, match="sandbox itself"))
        stack.enter_context(cloud)
        visitor = stack.enter_context(Visitor(cloud))
        grant = visitor.presign()
        (tmp_path / "objects").rmdir()
        status = visitor.put(grant, b"abc").status_code

    assert status == 500


def test_command_serves_until_it_is_interrupted(tmp_path: Path) -> None:
    given = ["--dir", str(tmp_path), "--json", "--switch", "listing_off=405", "--seed", "3"]
    fault = ["--fault", '{"fault": "answer", "call": "agents", "status": 502}']
    with subprocess.Popen(
        [*COMMAND, *given, *fault], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        access = json.loads(process.stdout.readline())
        with httpx.Client(base_url=access["base_url"], trust_env=False, verify=False) as client:
            client.headers["Authorization"] = f"Bearer {access['device_key']}"
            statuses = [
                client.get(path).status_code for path in ("/users/me", "/models", "/agents")
            ]
        lines = [json.loads(process.stdout.readline())["call"] for _ in statuses]
        process.send_signal(signal.SIGINT)
        rest, errors = process.communicate(timeout=60)

    assert statuses == [200, 405, 502]
    assert lines == ["me", "list_models", "agents"]
    assert (process.returncode, rest, errors) == (0, "", "")


def test_command_shows_a_line_a_request_to_a_person() -> None:
    with subprocess.Popen(COMMAND, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines = iter(process.stdout.readline, "\n")  # what a client needs, then an empty one
        access = dict(line.split(maxsplit=1) for line in lines)
        httpx.get(f"{access['base_url'].strip()}/users/me", trust_env=False, verify=False)
        line = process.stdout.readline()
        process.terminate()
        process.communicate(timeout=60)

    assert line.split()[1:4] == ["401", "me", "/api/v1/users/me"]
    assert process.returncode == 0


@pytest.mark.parametrize(
    "given", [["--switch", "nonsense=1"], ["--switch", "nonsense"], ["--fault", "{}"]]
)
def test_command_refuses_what_it_does_not_know(given: list[str]) -> None:
    done = subprocess.run([*COMMAND, *given], capture_output=True, text=True, timeout=60)

    assert done.returncode == 2
    assert "Error:" in done.stderr
