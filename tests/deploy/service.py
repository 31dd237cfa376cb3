"""
The units under a real systemd, on a copy of this machine: ``make service-test``, which needs root.

The tests run the commands of docs/install.md, "systemd", with the program of this checkout.
"""

import re
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest

from syncd.sandbox.server import Sandbox
from tests.deploy.machine import CHECKOUT, PROJECT, Machine, booted
from tests.deploy.tools import require
from tests.integration.harness import until
from tests.weights import weights

T = TypeVar("T")

NEEDED = ("systemd-nspawn", "unshare", "nsenter")
PYTHON = f"{CHECKOUT}/.venv/bin/python"
PROGRAM = f"""#!/bin/sh
PYTHONPATH={CHECKOUT} exec {PYTHON} {CHECKOUT}/.venv/bin/syncd "$@"
"""
"""The scripts in the virtual environment contain absolute paths that do not exist in the copy."""

MODELS = "/srv/models"
DROP_IN = "/etc/systemd/system/syncd.service.d"
WITHIN_S = 60.0

CONFIG = """
models_dir = "{models}"
state_dir = "/var/lib/syncd"
[api]
base_url = "{base_url}"
[settle]
quiet_s = 0.5
quiet_closed_s = 0.5
[log]
format = "json"
"""


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    with Sandbox(tmp_path_factory.mktemp("cloud")) as sandbox:
        yield sandbox


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory, cloud: Sandbox) -> Iterator[Machine]:
    """A machine with syncd installed as docs/install.md describes, not started."""
    require(NEEDED)
    with booted(tmp_path_factory.mktemp("machine")) as machine:
        install_program(machine)
        for line in steps_of_the_guide():
            machine.do("sh", "-euc", f"cd {CHECKOUT}; {line}")
        machine.write("/etc/syncd/api_token", cloud.device_key, "0600")
        config = CONFIG.format(models=MODELS, base_url=cloud.base_url)
        machine.write("/etc/syncd/config.toml", config)
        machine.do("mkdir", "-p", MODELS)
        yield machine


@pytest.fixture(autouse=True)
def stopped(machine: Machine) -> Iterator[None]:
    """Stop the services and remove drop-ins after each test."""
    yield
    machine.do("systemctl", "stop", "syncd", "syncd-once")
    machine.run("systemctl", "reset-failed", "syncd", "syncd-once")
    machine.do("rm", "-rf", DROP_IN)
    machine.do("systemctl", "daemon-reload")


def install_program(machine: Machine) -> None:
    """Install the program of the checkout; its Python may be in a folder of root."""
    for folder in Path(sys.base_prefix).parents:
        machine.do("chmod", "o+x", str(folder))
    machine.write("/usr/local/bin/syncd", PROGRAM, "0755")


def steps_of_the_guide() -> list[str]:
    """Return the commands that create account, directories and units."""
    guide = (PROJECT / "docs/install.md").read_text().partition("\n## systemd\n")[2]
    blocks = re.findall(r"```sh\n(.*?)```", guide, re.DOTALL)
    (block,) = [block for block in blocks if "systemd-sysusers" in block]
    return str(block).splitlines()


def drop_in(machine: Machine, text: str) -> None:
    machine.write(f"{DROP_IN}/test.conf", f"[Service]\n{text}")
    machine.do("systemctl", "daemon-reload")


def model(machine: Machine, rel_path: str, owner: str = "root", mode: str = "0644") -> str:
    """Write a new model and return its path in the catalog."""
    machine.do("install", "-d", f"{MODELS}/{rel_path.rpartition('/')[0]}")
    written = weights(rel_path.encode()).hex()
    python = "import sys; sys.stdout.buffer.write(bytes.fromhex(sys.stdin.read()))"
    machine.do(
        "sh", "-euc", f"{PYTHON} -c '{python}' > /run/model; "
        f"install -o {owner} -m {mode} /run/model '{MODELS}/{rel_path}'", text=written,
    )  # fmt: skip
    return f"models/{rel_path}"


def in_catalog(cloud: Sandbox, model_path: str) -> bool:
    return model_path in {record["model_path"] for record in cloud.records()}


def main_process(machine: Machine) -> str:
    return machine.properties("syncd", "MainPID")["MainPID"]


def journal(machine: Machine, unit: str = "syncd") -> str:
    return machine.do("journalctl", "--unit", unit, "--output=cat", "--no-pager")


def soon(look: Callable[[], T], what: str) -> T:
    return until(look, what, within_s=WITHIN_S)


def test_service_uploads_existing_and_new_files_and_shows_its_status(
    machine: Machine, cloud: Sandbox
) -> None:
    before = model(machine, "loras/before.safetensors")

    machine.do("systemctl", "start", "syncd")
    assert machine.properties("syncd", "ActiveState")["ActiveState"] == "active"
    soon(lambda: in_catalog(cloud, before), "the existing file")
    new = model(machine, "loras/new.safetensors")
    soon(lambda: in_catalog(cloud, new), "the new file")
    soon(
        lambda: "watching" in machine.properties("syncd", "StatusText")["StatusText"], "its status"
    )


def test_commands_of_the_guide_work(machine: Machine, cloud: Sandbox) -> None:
    new = model(machine, "loras/by_hand.safetensors")

    assert "is valid" in machine.do("syncd", "config", "check")
    assert "by_hand.safetensors" in machine.do("syncd", "plan")
    machine.do("systemctl", "start", "syncd")
    soon(lambda: in_catalog(cloud, new), "the new file")
    assert "syncd is running" in machine.do("syncd", "status")
    machine.do("systemctl", "stop", "syncd")
    assert "syncd is not running" in machine.do("syncd", "status")
    machine.do("systemctl", "start", "syncd")  # files that root created do not prevent the start


def test_service_is_confined_with_low_priority(machine: Machine) -> None:
    machine.do("systemctl", "start", "syncd")
    pid = main_process(machine)
    text = machine.do("cat", f"/proc/{pid}/status")
    status = dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line)

    assert status["Uid"].split()[0] == machine.do("id", "-u", "syncd").strip()
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
    assert {status[name].strip("0") for name in ("CapPrm", "CapEff", "CapBnd", "CapAmb")} == {""}
    assert machine.do("ionice", "-p", pid) == "idle\n"
    assert machine.do("ps", "-o", "ni=", "-p", pid).strip() == "10"
    assert machine.do("cat", f"/proc/{pid}/oom_score_adj") == "500\n"
    assert machine.do(
        "stat", "-c", "%a %U", "/run/syncd", "/var/lib/syncd", "/etc/syncd/api_token"
    ) == ("750 syncd\n700 syncd\n600 root\n")
    judged = machine.do("systemd-analyze", "security", "--threshold=20", "syncd")
    assert "Overall exposure level" in judged


def test_service_makes_no_call_that_the_filter_refuses(machine: Machine, cloud: Sandbox) -> None:
    drop_in(machine, "SystemCallErrorNumber=kill\nRestart=no\n")
    new = model(machine, "loras/filtered.safetensors")

    machine.do("systemctl", "start", "syncd")
    soon(lambda: in_catalog(cloud, new), "the file")
    machine.do("systemctl", "reload", "syncd")
    machine.do("systemctl", "stop", "syncd")

    assert machine.properties("syncd", "Result")["Result"] == "success", journal(machine)


def test_hanging_daemon_is_killed_and_restarted(machine: Machine) -> None:
    drop_in(machine, "WatchdogSec=5\nRestartSec=0\n")
    machine.do("systemctl", "start", "syncd")
    pid = main_process(machine)
    time.sleep(12)  # twice the watchdog's time
    assert main_process(machine) == pid, "a healthy daemon was killed"

    machine.do("kill", "-STOP", pid)
    soon(lambda: main_process(machine) not in (pid, "0"), "another process")

    assert machine.properties("syncd", "NRestarts")["NRestarts"] == "1"


def test_invalid_configuration_is_not_restarted(machine: Machine) -> None:
    drop_in(machine, "RestartSec=0\nEnvironment=SYNCD_UPLOAD__FILES=none\n")

    started = machine.run("systemctl", "start", "syncd")

    assert started.returncode != 0
    properties = machine.properties("syncd", "ExecMainStatus", "NRestarts", "ActiveState")
    assert properties == {"ExecMainStatus": "78", "NRestarts": "0", "ActiveState": "failed"}


def test_backfill_unit_succeeds_after_upload(machine: Machine, cloud: Sandbox) -> None:
    new = model(machine, "loras/night.safetensors")

    machine.do("systemctl", "start", "syncd-once")

    assert in_catalog(cloud, new)
    properties = machine.properties("syncd-once", "Result", "ExecMainStatus")
    assert properties == {"Result": "success", "ExecMainStatus": "0"}


def test_backfill_beside_the_daemon_exits_with_75(machine: Machine) -> None:
    machine.do("systemctl", "start", "syncd")
    pid = main_process(machine)

    assert machine.run("systemctl", "start", "syncd-once").returncode != 0
    assert machine.properties("syncd-once", "ExecMainStatus")["ExecMainStatus"] == "75"
    assert main_process(machine) == pid
    machine.do("test", "-d", "/run/syncd")


@pytest.mark.parametrize("example", ["as-comfyui", "read-all"])
def test_example_lets_syncd_read_files_of_mode_0600(
    machine: Machine, cloud: Sandbox, example: str
) -> None:
    machine.run("useradd", "--system", "comfyui")
    private = model(machine, f"vae/{example}.safetensors", owner="comfyui", mode="0600")
    machine.do("systemctl", "start", "syncd")
    soon(lambda: "unreadable" in journal(machine), "unreadable in the log")
    assert not in_catalog(cloud, private)

    machine.do("systemctl", "stop", "syncd")
    source = f"{CHECKOUT}/systemd/examples/{example}.conf"
    machine.do("install", "-D", "-m", "0644", "-t", DROP_IN, source)
    machine.do("systemctl", "daemon-reload")
    machine.do("systemctl", "start", "syncd")

    soon(lambda: in_catalog(cloud, private), "the private file")
    machine.do("systemd-analyze", "security", "--threshold=20", "syncd")


def test_signed_in_example_starts_without_key_in_etc(machine: Machine, cloud: Sandbox) -> None:
    new = model(machine, "loras/signed_in.safetensors")
    example = f"{CHECKOUT}/systemd/examples/signed-in.conf"
    machine.do("mv", "/etc/syncd/api_token", "/etc/syncd/elsewhere")
    try:
        assert machine.run("systemctl", "start", "syncd").returncode != 0
        machine.do("systemctl", "stop", "syncd")
        machine.do("install", "-D", "-m", "0644", "-t", DROP_IN, example)
        machine.do("systemctl", "daemon-reload")
        kept = "/var/lib/syncd/credentials"
        machine.do("install", "-d", "-m", "0700", "-o", "syncd", kept)
        machine.do(
            "install", "-m", "0600", "-o", "syncd", "/etc/syncd/elsewhere", f"{kept}/api_token"
        )

        machine.do("systemctl", "start", "syncd")

        soon(lambda: in_catalog(cloud, new), "the new file")
    finally:
        machine.do("mv", "/etc/syncd/elsewhere", "/etc/syncd/api_token")
        machine.do("rm", "-rf", "/var/lib/syncd/credentials")


def test_group_members_may_use_the_socket_and_others_may_not(
    machine: Machine, cloud: Sandbox
) -> None:
    path = model(machine, "loras/group.safetensors")
    machine.do("systemctl", "start", "syncd")
    soon(lambda: in_catalog(cloud, path), "the record")
    machine.do("useradd", "--groups", "syncd", "member")
    machine.do("useradd", "stranger")

    looked = machine.do("runuser", "-u", "member", "--", "syncd", "status", "--all")
    machine.do("runuser", "-u", "member", "--", "syncd", "pause")
    machine.do("runuser", "-u", "member", "--", "syncd", "resume")
    denied = machine.run("runuser", "-u", "stranger", "--", "syncd", "status")

    assert "syncd is running" in looked
    assert "loras/group.safetensors" in looked
    assert denied.returncode == 77
    assert "belongs to syncd (mode 0700)" in denied.stderr
