"""
The canary report: every secret of an installation against every place where it could come out.

``pytest -s`` prints it as a table. What a run does with answers that tell its secrets back is in
``test_no_secrets``; here a machine is signed in, used, and looked at from all sides.
"""

import os
import re
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from syncd.sandbox.server import Sandbox
from syncd.sandbox.switches import Switches
from tests.integration.harness import CAP, MIB, PROJECT, RUN_S, Daemon, Home
from tests.integration.test_control import ask, started
from tests.integration.test_login import pair, sign_in, unsigned
from tests.integration.test_no_secrets import (
    FILES,
    FOREIGN_SIGNATURE,
    PROXY_PASSWORD,
    faults,
    files_below,
    leaks,
)
from tests.relay import Answer, Seen, relaying
from tests.weights import write_safetensors

# Sessions are renewed five minutes before they end: these are from their first half minute on.
QUICK = Switches(pairing_interval_s=1, part_size=5 * MIB, access_token_lifetime_s=330)
MEMBER = re.compile(
    rb'"(device_code|raw_key|agent_key|access_token|refresh_token)"\s*:\s*"([^"]+)"'
)
SIGNATURE = re.compile(rb"X-Amz-Signature=([0-9a-f]{64})")
ENDPOINTS = ("/status", "/files", "/settling?path=x", "/metrics", "/live", "/ready", "/nowhere")

COMMANDS = (
    ("status",), ("status", "--json"), ("status", "--all"), ("plan",), ("plan", "--json"),
    ("config", "show"), ("config", "check"), ("file", "loras/put-refused.safetensors"),
    ("file", "loras/presign-refused.safetensors", "--json"), ("queue",), ("queue", "--json"),
    ("history",), ("history", "--json"), ("verify",), ("doctor",), ("doctor", "--json"), ("health",),
    ("gc",),
)  # fmt: skip

# Errors of other libraries, with what they would say of a request or of an answer.
BUGGY = """
import sys, types, click, httpx, pydantic, syncd.cli, syncd.cli.main as cli
key, signature, password, way = [*sys.argv[1:5]]
sys.argv[1:] = ["--log-level", "debug", "buggy"]
class Answer(pydantic.BaseModel):
    count: int
@click.command()
def buggy():
    if way == "pydantic":
        Answer.model_validate({"count": f"{key} http://u:{password}@h/k?X-Amz-Signature={signature}"})
    url = f"http://u:{password}@h.example/k?X-Amz-Signature={signature}"
    request = httpx.Request("PUT", url, headers={"Authorization": f"Bearer {key}"})
    httpx.Response(403, request=request).raise_for_status()
home = sys.modules["buggy"] = types.ModuleType("buggy")
home.buggy = buggy
cli.COMMANDS = {**cli.COMMANDS, "buggy": cli.Lazy("buggy:buggy", "")}
from syncd.cli.fast_path import entry
entry()
"""

LEAKY = """
import structlog, syncd.cli.run as run
def require_credential(loaded, really=run.require_credential):
    token = loaded.credential.read()[0].get_secret_value()
    structlog.get_logger("syncd").debug("planted", ends=token.rpartition(".")[2])
    return really(loaded)
run.require_credential = require_credential
from syncd.cli.fast_path import entry
entry()
"""


@dataclass
class Report:
    """What came out, by channel, and the secrets that must not, by name."""

    secrets: dict[str, set[str]] = field(default_factory=dict)
    channels: dict[str, bytes] = field(default_factory=dict)

    def listen(self, seen: Seen, answer: Answer) -> Answer:
        """Note every secret that the cloud hands out."""
        for name, value in MEMBER.findall(answer.body):
            self.plant(name.decode(), value.decode())
        for value in SIGNATURE.findall(answer.body):
            self.plant("signature", value.decode())
        return answer

    def plant(self, name: str, secret: str) -> None:
        """Of a key the part behind its prefix, of a JWT all but its header, which is no secret."""
        pieces = secret.split(".")[1:] if secret.startswith("ey") else [secret]
        self.secrets.setdefault(name, set()).update(
            re.sub(r"^[a-z]{2}-", "", piece) for piece in pieces
        )

    def show(self) -> set[tuple[str, str]]:
        """Print the table; every (channel, secret) that has a hit."""
        names, leaking = sorted(self.secrets), set()
        print(f"\n{'':<28}" + "".join(f"{name[:13]:>15}" for name in names))
        for channel, content in self.channels.items():
            hits = {name: len(leaks(self.secrets[name], {channel: content})) for name in names}
            leaking |= {(channel, name) for name in names if hits[name]}
            print(f"{channel:<28}" + "".join(f"{hits[name]:>15}" for name in names))
        return leaking


@dataclass
class Machine:
    """A machine that nobody has signed in at, and the report on it."""

    home: Home
    cloud: Sandbox
    report: Report

    def keep(self, channel: str, out: str, err: str = "") -> None:
        self.report.channels[channel] = (out + err).encode()

    def python(self, channel: str, code: str, *args: str) -> int:
        done = subprocess.run(
            [sys.executable, "-c", code, *args],
            cwd=PROJECT,
            env=self.home.environment(),
            capture_output=True,
            text=True,
            timeout=RUN_S,
            check=False,
        )
        self.keep(channel, done.stdout, done.stderr)
        return done.returncode


def members_of(bundle: Path) -> dict[str, bytes]:
    """What a support bundle holds."""
    with tarfile.open(bundle) as archive:
        files = {member.name: archive.extractfile(member) for member in archive.getmembers()}
        return {name: file.read() for name, file in files.items() if file is not None}


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    report = Report()
    with (
        Sandbox(tmp_path / "cloud", switches=QUICK) as cloud,
        relaying(cloud.base_url.removesuffix("/api/v1")) as relay,
    ):
        relay.after = report.listen
        home = unsigned(Home.at(tmp_path / "home", cloud))
        home.env |= {
            "SYNCD_API__BASE_URL": f"{relay.url}/api/v1",
            "SYNCD_LOG__LEVEL": "debug",
            "RUNTIME_DIRECTORY": os.fspath(tmp_path / "home"),
        }
        config = tmp_path / "home/.config/syncd/config.toml"
        config.parent.mkdir(parents=True)
        config.write_text(f"[network]\nproxy = 'http://user:{PROXY_PASSWORD}@127.0.0.1:9'\n")
        config.chmod(0o600)
        report.plant("password", cloud.password)
        report.plant("proxy", PROXY_PASSWORD)
        report.plant("signature", FOREIGN_SIGNATURE)
        yield Machine(home, cloud, report)


def signed_in(machine: Machine) -> str:
    """Both ways to sign in; the access token."""
    home, cloud, report = machine.home, machine.cloud, machine.report
    machine.keep("login", pair(home))
    done = sign_in(home, cloud)
    assert done.code == 0, done.err
    machine.keep("login --large-files", done.out, done.err)
    wanted = {"device_code", "raw_key", "agent_key", "access_token", "refresh_token"}
    assert wanted <= report.secrets.keys()
    return (
        (home.state / "credentials/session.json").read_text().split('"access": "')[1].split('"')[0]
    )


@contextmanager
def used(machine: Machine, token: str) -> Iterator[Daemon]:
    """Backfills that meet trouble, then a daemon that goes on."""
    home, cloud = machine.home, machine.cloud
    for name, size in FILES.items():
        write_safetensors(home.models / f"loras/{name}.safetensors", size)
    write_safetensors(home.models / "loras/large.safetensors", CAP + MIB)
    home.let_age()
    cloud.faults.add(*faults(token))
    done = home.once()
    assert done.code in (1, 75), done.err
    machine.keep("--once", done.out, done.err)
    with home.daemon() as daemon:
        started(home, daemon)
        yield daemon


def test_I22_the_canary_report_has_no_hit(machine: Machine, tmp_path: Path) -> None:
    home, report = machine.home, machine.report
    token = signed_in(machine)
    with used(machine, token) as daemon:
        process = Path(f"/proc/{daemon.process.pid}")
        for channel, name in (("argv", "cmdline"), ("environment", "environ")):
            report.channels[f"daemon {channel}"] = (process / name).read_bytes()
        children = [file.read_text() for file in process.glob("task/*/children")]
        limits = (process / "limits").read_text()
        for path in ENDPOINTS:
            machine.keep(f"socket {path}", ask(home, path).text)
        bundle = tmp_path / "bundle.tar.gz"
        machine.keep("support-bundle", home.run("support-bundle", "-o", os.fspath(bundle)).out)
        report.channels["in the bundle"] = b"\n".join(members_of(bundle).values())
        for command in (*COMMANDS, ("whoami",), ("whoami", "--json")):
            done = home.run(*command)
            machine.keep(" ".join(command)[:27], done.out, done.err)
        for path, content in files_below(home.state).items():
            if not path.startswith(f"{home.state}/credentials/"):
                report.channels[f"file {os.path.basename(path)}"] = content
        daemon.stop()
    report.channels["daemon log"] = daemon.log.read_bytes()
    (signature, *_) = report.secrets["signature"]
    for way in ("httpx", "pydantic"):
        code = machine.python(f"traceback {way}", BUGGY, token, signature, PROXY_PASSWORD, way)
        assert code == 70
        assert b"Traceback" in report.channels[f"traceback {way}"]
    leaking = report.show()

    assert leaking == set()
    assert "".join(children) == ""
    assert re.search(r"^Max core file size +0 +0 ", limits, re.MULTILINE)
    assert {"file syncd.db", "file syncd.db-wal", "file syncd.db-shm"} <= report.channels.keys()
    assert all(report.channels[name] for name in ("--once", "daemon log", "socket /metrics"))
    assert leaks(report.secrets["refresh_token"], files_below(home.state / "credentials"))


def test_I22_the_canary_report_tells_a_planted_leak(machine: Machine) -> None:
    signed_in(machine)
    machine.python("--once", LEAKY, "--once")

    assert machine.report.show() == {("--once", "access_token")}
