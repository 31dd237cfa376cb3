"""The daemon as it is asked and steered: a real process, its real sockets, a stand-in cloud."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import pytest
from prometheus_client.parser import text_string_to_metric_families

from syncd.config.locations import SOCKET
from syncd.control.server import listen_on_socket
from syncd.sandbox.faults import Fault, Rule
from syncd.sandbox.server import Sandbox
from tests.integration.harness import COMMAND, PROJECT, Daemon, Home, Nursery, records, until
from tests.integration.test_login import terminal
from tests.ports import free_ports

ONE, TWO, BIG = "loras/one.safetensors", "vae/two.pt", "checkpoints/large.ckpt"


def ask(home: Home, path: str, *, method: str = "GET", **what: Any) -> httpx.Response:
    """One request to the daemon of *home*, over its socket."""
    transport = httpx.HTTPTransport(uds=os.fspath((home.state / SOCKET).resolve()))
    with httpx.Client(transport=transport, base_url="http://syncd", timeout=30) as client:
        return client.request(method, path, **what)


def started(home: Home, daemon: Daemon) -> None:
    daemon.started()
    until(lambda: (home.state / SOCKET).exists(), "the socket")


@dataclass(frozen=True, slots=True)
class Stage:
    """A daemon that has brought its two files into the catalog and has nothing more to do."""

    home: Home
    daemon: Daemon
    port: int

    def over_tcp(self, path: str, *, method: str = "GET", **what: Any) -> httpx.Response:
        url = f"http://127.0.0.1:{self.port}{path}"
        return httpx.request(method, url, trust_env=False, timeout=30, **what)


@pytest.fixture(scope="module")
def stage(nursery: Nursery, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    folder, (port,) = tmp_path_factory.mktemp("control"), free_ports(1)
    with (
        Sandbox(folder / "cloud") as cloud,
        # Not below the folders of the tests, which nobody else may enter.
        tempfile.TemporaryDirectory(prefix="syncd-run-", dir="/tmp") as runtime,
    ):
        Path(runtime).chmod(0o755)
        home = nursery.home(folder / "home", cloud)
        home.env["RUNTIME_DIRECTORY"] = runtime
        home.env["SYNCD_HTTP__LISTEN"] = f"127.0.0.1:{port}"
        with home.daemon() as daemon:
            started(home, daemon)
            until(lambda: len(cloud.records()) == 2, "both files")
            until(lambda: len(daemon.events("job.ended")) == 2, "the end of their jobs")
            yield Stage(home, daemon, port)


# -- looking ---------------------------------------------------------------------------------------


def test_status_is_the_document_of_the_command_without_its_files(stage: Stage) -> None:
    document = ask(stage.home, "/status").json()
    schema = json.loads((PROJECT / "docs/schemas/status.schema.json").read_text())

    jsonschema.validate({**document, "files": []}, schema)
    assert document["files_by_state"] == {"registered": 2}
    assert document["progress"]["this_run"]["registered_files"] == 2
    assert document["last_success_at"] is not None
    told = stage.home.status()
    assert told["progress"]["started_at"] == document["progress"]["started_at"]
    assert told["files_by_state"] == document["files_by_state"]
    said = stage.home.run("status").out
    assert "running for 0:" in said
    assert "last file registered: 20" in said


def documented_metrics() -> dict[str, set[str]]:
    """Name -> labels, from the table in the documentation."""
    text = (PROJECT / "docs/monitoring/metrics.md").read_text()
    rows = re.findall(r"^\| `(syncd_\w+)` \| \w+ \|([^|]*)\|", text, re.MULTILINE)
    return {name: set(re.findall(r"`(\w+)`", labels)) for name, labels in rows}


def test_metrics_are_those_that_are_written_down(stage: Stage) -> None:
    text = ask(stage.home, "/metrics").text
    families = [f for f in text_string_to_metric_families(text) if "process" not in f.name]
    samples = {s.name: s for family in families for s in family.samples}
    values = {(s.name, *s.labels.values()): s.value for f in families for s in f.samples}

    documented = documented_metrics()
    assert {f.name + "_total" * (f.type == "counter") for f in families} <= documented.keys()
    assert {name: set(sample.labels) for name, sample in samples.items()} == {
        name: labels for name, labels in documented.items() if name in samples
    }
    # What a run without faults and without a session has nothing to say of:
    assert documented.keys() - samples.keys() == {
        "syncd_parts_total", "syncd_retries_total", "syncd_hold_age_seconds",
        "syncd_token_remaining_seconds", "syncd_bandwidth_limit_bytes_per_second",
        "syncd_api_calls_per_second_limit",
    }  # fmt: skip
    assert values["syncd_files", "registered"] == 2
    assert values["syncd_sent_bytes_total",] == values["syncd_file_bytes", "registered"] == 5000
    assert values["syncd_requests_total", "put_body", "200"] == 2
    assert values["syncd_files_ended_total", "registered"] == 2
    assert values["syncd_watch_mode", "events"] == 1
    assert values["syncd_hold", "paused"] == 0
    assert values["syncd_oldest_waiting_age_seconds",] == 0
    assert values["syncd_scan_duration_seconds", os.fspath(stage.home.models)] >= 0


def test_events_tell_the_status_at_most_once_a_second(stage: Stage) -> None:
    transport = httpx.HTTPTransport(uds=os.fspath(stage.home.state / SOCKET))
    began_s, at_s = time.monotonic(), list[float]()
    with (
        httpx.Client(transport=transport, base_url="http://syncd", timeout=30) as client,
        client.stream("GET", "/events") as stream,
    ):
        kind = stream.headers["content-type"]
        for line in stream.iter_lines():
            if line.startswith("data: "):
                at_s.append(time.monotonic())
                assert json.loads(line[6:])["files_by_state"] == {"registered": 2}
            if len(at_s) == 3:
                break

    assert kind.startswith("text/event-stream")
    assert at_s[2] - began_s > 1.8


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "says"),
    [
        ("GET", "/nothing", b"", 404, "/nothing"),
        ("POST", "/status", b"", 405, "POST /status"),
        ("GET", "/pause", b"", 405, "GET /pause"),
        ("POST", "/retry", b"{", 400, "not JSON"),
        ("POST", "/retry", b"[]", 400, "not a JSON object"),
        ("POST", "/retry", b'{"path": "x"}', 400, "path: no such member"),
        ("POST", "/retry", b'{"paths": "x"}', 400, "paths"),
        ("POST", "/retry", b'{"states": ["done"]}', 400, "done is none of"),
        ("POST", "/limit", b'{"rate": "fast"}', 400, "is not a rate"),
        ("POST", "/limit", b"{}", 400, "is not a rate"),
        ("POST", "/scan", b'{"path": "/elsewhere"}', 404, "is not in a watched directory"),
        ("POST", "/scan", b'{"path": "../elsewhere"}', 404, "is not in a watched directory"),
        ("POST", "/scan", b'{"path": "loras/\\ud800x"}', 400, "not a path"),
        ("POST", "/retry", b'{"paths": ["loras/\\ud800x"]}', 400, "paths"),
        ("POST", "/retry", b"[" * 100_000, 400, "not JSON"),
        ("POST", "/cancel", b'{"paths": ["' + b"x" * 300_000 + b'"]}', 413, "larger than"),
    ],
)
def test_refused_request_has_an_error_and_advice(
    stage: Stage, method: str, path: str, body: bytes, status: int, says: str
) -> None:
    answer = ask(stage.home, path, method=method, content=body)

    assert answer.status_code == status
    assert says in answer.json()["error"]
    assert answer.json()["advice"]


# -- who may ask -----------------------------------------------------------------------------------


def test_I28_socket_file_has_mode_0660(stage: Stage) -> None:
    assert (stage.home.state / SOCKET).stat().st_mode & 0o777 == 0o660


VISIT = """
import os, select, socket, sys
path, uid, gid, answered_first = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
os.setgroups([gid]); os.setgid(65534); os.setuid(uid)
with socket.socket(socket.AF_UNIX) as sock:
    sock.settimeout(30)
    sock.connect(path)
    if answered_first == "True":
        end = select.poll()
        end.register(sock, select.POLLRDHUP)
        end.poll(30_000)
    sock.sendall(b"GET /live HTTP/1.0\\r\\nHost: syncd\\r\\n\\r\\n")
    print(sock.makefile("rb").readline().decode())
"""


@pytest.mark.needs("root")
def test_I28_stranger_is_turned_away_even_if_the_mode_admits_everybody(stage: Stage) -> None:
    path = (stage.home.state / SOCKET).resolve()
    group = path.stat().st_gid
    path.chmod(0o666)
    try:
        answers = [
            subprocess.run(
                [
                    *(sys.executable, "-c", VISIT, os.fspath(path)),
                    *("65534", str(gid), str(answered_first)),
                ],
                stdout=subprocess.PIPE,
                text=True,
                check=True,
                timeout=60,
            ).stdout
            for gid, answered_first in ((65534, False), (65534, True), (group, False))
        ]
    finally:
        path.chmod(0o660)

    assert [answer.split()[1] for answer in answers] == ["403", "403", "200"]


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1", "127.0.0.1:1", "localhost.evil:80"])
def test_a_name_that_was_rebound_to_this_machine_gets_no_answer(stage: Stage, host: str) -> None:
    answer = stage.over_tcp("/status", headers={"Host": host})

    assert answer.status_code == 421
    assert "files_by_state" not in answer.text


def test_tcp_only_reads_and_allows_no_other_origin(stage: Stage) -> None:
    read = stage.over_tcp("/status", headers={"Origin": "http://evil.example"})
    written = [
        stage.over_tcp(path, method=method)
        for path in ("/pause", "/limit", "/status")
        for method in ("POST", "PUT", "DELETE", "OPTIONS")
    ]

    assert read.status_code == 200
    assert not [name for name in read.headers if name.startswith("access-control")]
    assert {answer.status_code for answer in written} == {405}
    assert ask(stage.home, "/status").json()["holds"] == []


# -- where it listens ------------------------------------------------------------------------------


def test_a_socket_without_a_daemon_is_replaced_and_a_living_one_left_alone(tmp_path: Path) -> None:
    state, runtime = tmp_path / "state", tmp_path / "run"
    state.mkdir()
    env = {"RUNTIME_DIRECTORY": os.fspath(runtime)}
    path, dead = listen_on_socket(os.fspath(state), env)
    dead.close()  # as a killed daemon leaves it
    again, alive = listen_on_socket(os.fspath(state), env)
    alive.listen()
    (tmp_path / "other").mkdir()
    elsewhere, other = listen_on_socket(os.fspath(tmp_path / "other"), env)
    with alive, other:
        found = os.path.realpath(state / SOCKET)

    assert path == again == found == os.fspath(runtime / SOCKET)
    assert elsewhere == os.fspath(tmp_path / "other" / SOCKET)


# -- steering --------------------------------------------------------------------------------------


def paused_before_it_knows_a_file(home: Home) -> None:
    """Pause a store at rest that has seen an empty tree only, then let the files appear."""
    tree = home.models.rename(home.models.with_name("later"))
    home.models.mkdir()
    assert home.once().code == 0
    assert home.run("pause").code == 0
    home.models.rmdir()
    tree.rename(home.models)


def test_a_pause_outlives_a_kill_and_resume_ends_it(home: Home, cloud: Sandbox) -> None:
    paused_before_it_knows_a_file(home)
    with home.daemon() as daemon:
        started(home, daemon)
        until(lambda: home.counts() == {"queued": 2}, "both files in the queue")
        daemon.process.kill()
        daemon.process.wait()
    with home.daemon() as daemon:
        started(home, daemon)
        (hold,) = home.status()["holds"]
        asked_for = cloud.history.count("presign")
        claimed = daemon.events("job.claimed")
        assert home.run("resume").code == 0
        until(lambda: len(records(cloud)) == 2, "both files")

    assert (hold["kind"], hold["advice"]) == ("paused", "To go on: syncd resume")
    assert (asked_for, claimed) == (0, [])
    assert home.status()["holds"] == []


def test_a_pause_lets_parts_on_the_wire_end_and_sends_none_twice(
    large_home: Home, cloud: Sandbox
) -> None:
    large_home.sign_in(cloud)
    large_home.env |= {"SYNCD_UPLOAD__PARTS": "1", "SYNCD_UPLOAD__PARTS_MAX": "1"}
    cloud.faults.add(Rule(Fault.DELAY, "put_part", part=1, delay_s=6))
    with large_home.daemon() as daemon:
        started(large_home, daemon)
        until(lambda: cloud.history.count("sign_part"), "the first part")
        assert large_home.run("pause").code == 0
        until(lambda: large_home.file(BIG)["state"] == "queued", "the file given back")
        paused = large_home.file(BIG)
        large_home.run("resume")
        until(lambda: f"models/{BIG}" in records(cloud), "the large file")

    parts = [entry.part for entry in cloud.history.entries() if entry.call == "put_part"]
    assert (paused["parts_done"], paused["reason"]) == (1, "paused")
    assert sorted(parts, key=str) == [1, 2]


def test_a_failed_file_is_tried_again_when_somebody_says_so(home: Home, cloud: Sandbox) -> None:
    refusal = Rule(
        Fault.ANSWER, "register", contains=ONE, count=None, status=422, performed=False,
        body='{"error_message": "no"}',
    )  # fmt: skip
    cloud.faults.add(refusal)
    with home.daemon() as daemon:
        started(home, daemon)
        until(lambda: home.counts() == {"registered": 1, "failed": 1}, "one failure")
        cloud.faults.clear()
        named = home.run("retry", ONE, TWO, "--json")
        until(lambda: len(records(cloud)) == 2, "both files")

    assert named.code == 1
    left = {TWO: "it is in the catalog"}
    assert json.loads(named.out) == {"files": [ONE], "examined": [], "left": left}


def test_a_cancelled_file_stays_so_until_it_is_asked_for(large_home: Home, cloud: Sandbox) -> None:
    large_home.sign_in(cloud)
    cloud.faults.add(Rule(Fault.DELAY, "put_part", part=2, delay_s=60))
    with large_home.daemon() as daemon:
        started(large_home, daemon)
        until(lambda: cloud.open_uploads(), "an open upload")
        cancelled = large_home.run("cancel", BIG)
        until(lambda: not cloud.open_uploads(), "its abort")
        until(lambda: len(cloud.records()) == 2, "the others")
        daemon.stop()
    at_rest = large_home.file(BIG)
    cloud.faults.clear()
    with large_home.daemon() as daemon:
        started(large_home, daemon)
        restarted = large_home.file(BIG)["state"]
        daemon.stop()
    retried = large_home.run("retry", BIG)
    queued = large_home.file(BIG)["state"]
    once = large_home.once()

    assert (cancelled.code, cancelled.out) == (0, f"cancelled: {BIG}\n")
    assert (at_rest["state"], restarted, queued) == ("cancelled", "cancelled", "queued")
    assert "syncd retry" in at_rest["advice"]
    assert (retried.code, once.code) == (0, 0)
    assert f"models/{BIG}" in records(cloud)


def test_what_is_bumped_goes_first(home: Home, cloud: Sandbox) -> None:
    paused_before_it_knows_a_file(home)
    with home.daemon() as daemon:
        started(home, daemon)
        until(lambda: home.counts() == {"queued": 2}, "both files in the queue")
        bumped = home.run("bump", os.fspath(home.models / ONE))
        home.run("resume")
        until(lambda: len(records(cloud)) == 2, "both files")

    assert (bumped.code, bumped.out) == (0, f"go first: {ONE}\n")
    order = [event["rel_path"] for event in daemon.events("job.claimed")]
    assert order == [ONE, TWO]  # the smaller one would have been first


def test_a_limit_holds_from_now_on_and_off_ends_it(large_home: Home, cloud: Sandbox) -> None:
    large_home.sign_in(cloud)
    large_home.env["SYNCD_UPLOAD__BANDWIDTH"] = "64K"
    at_rest = large_home.run("limit")
    with large_home.daemon() as daemon:
        started(large_home, daemon)
        until(lambda: cloud.history.count("sign_part"), "a part under way")
        slow = large_home.status()["progress"]
        limited = large_home.run("limit", "128K")
        changed = ask(large_home, "/status").json()["progress"]["bandwidth"]
        off = large_home.run("limit", "off")
        until(lambda: f"models/{BIG}" in records(cloud), "6 MiB, which take 48 s at 128 KiB/s")

    assert (slow["bandwidth"], changed) == (64 * 1024, 128 * 1024)
    assert limited.out == "Uploads limited to 128.0 KiB/s.\n"
    assert off.out == "Uploads are not limited.\n"
    assert at_rest.out == "syncd is not running. upload.bandwidth is 64K.\n"


def test_a_scan_looks_at_everything_or_at_one_path(stage: Stage) -> None:
    before = len(stage.daemon.events("scan.finished"))
    done = stage.home.run("scan")
    until(lambda: len(stage.daemon.events("scan.finished")) > before, "a walk")
    one = stage.home.run("scan", ONE)

    assert (done.code, one.code) == (0, 0)
    assert one.out.startswith(f"scanning {ONE}")


@pytest.mark.parametrize(
    ("command", "says"), [("scan", "scans all files when it starts"), ("limit", "bandwidth")]
)
def test_what_needs_a_daemon_says_what_to_do_without_one(
    home: Home, command: str, says: str
) -> None:
    done = home.run(command, *(["1M"] if command == "limit" else []))

    assert done.code == 75
    assert "syncd is not running" in done.err
    assert says in done.err
    assert home.run("status", "--watch", "--json").code == 75


# -- the screen ------------------------------------------------------------------------------------


def test_the_screen_shows_parts_and_ends_well_with_ctrl_c(large_home: Home, cloud: Sandbox) -> None:
    large_home.sign_in(cloud)
    large_home.env |= {"SYNCD_UPLOAD__PARTS": "1", "SYNCD_UPLOAD__PARTS_MAX": "1"}
    large_home.env["SYNCD_UPLOAD__SHUTDOWN_GRACE_S"] = "0"
    cloud.faults.add(Rule(Fault.DELAY, "put_part", part=2, delay_s=120))
    with large_home.daemon() as daemon:
        started(large_home, daemon)
        with terminal(large_home, "status", "--watch") as screen:
            screen.wait_for("2 files in the catalog, 1 to upload")
            screen.wait_for(f"{BIG[:12]}.* 1/2 parts")
            screen.process.send_signal(signal.SIGINT)
            assert screen.end() == 0


# -- the end ---------------------------------------------------------------------------------------


def test_stop_with_open_event_streams_logs_no_error(home: Home) -> None:
    with home.daemon() as daemon:
        daemon.started()
        watching = subprocess.Popen(
            [*COMMAND, "status", "--watch", "--json"],
            env=home.environment(),
            cwd=PROJECT,
            stdout=subprocess.PIPE,
        )
        path = os.path.realpath(home.state / SOCKET)
        with (
            watching,
            socket.socket(socket.AF_UNIX) as stalled,
            socket.socket(socket.AF_UNIX) as sock,
        ):
            assert watching.stdout is not None
            assert json.loads(watching.stdout.readline())["running"]
            for each in (stalled, sock):
                each.connect(path)
                each.sendall(b"GET /events HTTP/1.1\r\nHost: syncd\r\n\r\n")
            assert sock.recv(10).startswith(b"HTTP/1.1 2")
            code = daemon.stop()
        log = daemon.log.read_text()

    assert code == 128 + signal.SIGTERM
    assert watching.returncode == 75
    assert "ASGI" not in log
    assert "Traceback" not in log
    assert [line for line in daemon.events() if line.get("level") == "error"] == []
