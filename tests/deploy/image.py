"""
Build the image with buildah and run it: ``make image-test``, which needs root.

No container engine is needed. The base is built once from Debian's archive instead of a registry; it
stays in ``build/image``, as do the layers.
"""

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from syncd.sandbox.server import Sandbox
from tests.deploy.tools import require
from tests.integration.harness import records, until
from tests.weights import weights

NEEDED = ("buildah", "debootstrap", "nsenter", "setpriv", "unshare")
PROJECT = Path(__file__).parents[2]
BUILD = PROJECT / "build" / "image"
BASE, IMAGE = "localhost/syncd-base", "localhost/syncd"
PACKAGES = "python3,python3-venv,python3-pip,python-is-python3,ca-certificates"
CERTIFICATES = "etc/ssl/certs/ca-certificates.crt"
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
UID = 10001
DEADLINE_S = 60.0

CONFINED = """
root=$1 models=$2 state=$3 token=$4
shift 4
mkdir -p "$root/models" "$root/run/secrets"
touch "$root/run/secrets/api_token"
mount --bind "$root" "$root"
mount -o remount,bind,ro "$root"
mount -t proc proc "$root/proc"
mount -t tmpfs tmpfs "$root/tmp"
mount --bind "$models" "$root/models"
mount -o remount,bind,ro "$root/models"
mount --bind "$state" "$root/var/lib/syncd"
mount --bind "$token" "$root/run/secrets/api_token"
exec setpriv --no-new-privs chroot --userspec=10001:10001 --groups= "$root" "$@"
"""
"""Equivalent to an engine's ``--read-only --tmpfs /tmp`` with three volumes; the program is PID 1."""


def buildah(*arguments: str) -> str:
    """Run buildah, require success, and return its output."""
    storage = ["--root", f"{BUILD}/storage", "--runroot", f"{BUILD}/run", "--storage-driver", "vfs"]
    result = subprocess.run(
        ["buildah", *storage, *arguments], text=True, capture_output=True, check=False
    )
    assert result.returncode == 0, (
        f"buildah {arguments}\n{result.stdout[-4000:]}{result.stderr[-4000:]}"
    )
    return result.stdout.strip()


def archive() -> tuple[str, str]:
    """Return suite and URI of the Debian archive in this machine's package sources."""
    listed = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(RELEASE) $(REPO_URI)",
         "Created-By: Packages", "Origin: Debian", "Component: main"],
        text=True, capture_output=True, check=True,
    ).stdout  # fmt: skip
    found = [(suite, uri) for suite, uri in map(str.split, listed.splitlines())]
    releases = [(suite, uri) for suite, uri in found if "-" not in suite]  # not updates or security
    assert releases, "the package sources of this machine have no Debian archive"
    return releases[0]


def make_base() -> None:
    """Build a Debian base with Python, pip, and the certificates that this machine trusts."""
    if BASE in buildah("images", "--format", "{{.Name}}").splitlines():
        return
    root = BUILD / "base"
    shutil.rmtree(root, ignore_errors=True)
    suite, uri = archive()
    packages = f"--include={PACKAGES}"
    subprocess.run(
        ["debootstrap", "--variant=minbase", packages, suite, root, uri],
        check=True, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    shutil.copy(f"/{CERTIFICATES}", root / CERTIFICATES)  # a proxy of this network may need its own
    container = buildah("from", "scratch")
    buildah("add", container, os.fspath(root), "/")
    # As in a Python base image, pip may install next to the packages of the distribution.
    for setting in ("PIP_BREAK_SYSTEM_PACKAGES=1", f"PATH={PATH}"):
        buildah("config", "--env", setting, container)
    buildah("commit", "--rm", container, BASE)
    shutil.rmtree(root)


@pytest.fixture(scope="session")
def image() -> dict[str, Any]:
    """Build the image and return its configuration."""
    require(NEEDED)
    BUILD.mkdir(parents=True, exist_ok=True)
    make_base()
    buildah(
        "build", "--isolation", "chroot", "--format", "docker", "--pull=never",
        "--build-arg", f"BASE={BASE}", "--tag", IMAGE, os.fspath(PROJECT),
    )  # fmt: skip
    inspected: dict[str, Any] = json.loads(buildah("inspect", "--type", "image", IMAGE))
    return dict(inspected["Docker"]["config"])


@dataclass(frozen=True, slots=True)
class Container:
    """A container with its volumes."""

    name: str
    config: dict[str, Any]
    models: Path
    state: Path
    token: Path
    base_url: str

    @property
    def environment(self) -> list[str]:
        """The image's variables, and those of this container."""
        return [
            *self.config["Env"], f"SYNCD_API__BASE_URL={self.base_url}",
            "SYNCD_SETTLE__QUIET_S=0.2", "SYNCD_SETTLE__QUIET_CLOSED_S=0.2",
        ]  # fmt: skip

    def buildah_run(self, *command: str) -> list[str]:
        """Return the command line that runs *command* in the container, as its configured user."""
        given = [f"--env={setting}" for setting in self.environment]
        return [
            "buildah", "--root", f"{BUILD}/storage", "--runroot", f"{BUILD}/run",
            "--storage-driver", "vfs", "run", "--isolation", "chroot", *given,
            f"--volume={self.models}:/models:ro", f"--volume={self.state}:/var/lib/syncd",
            f"--volume={self.token}:/run/secrets/api_token:ro", self.name, "--", *command,
        ]  # fmt: skip

    def run(self, *command: str) -> "subprocess.CompletedProcess[str]":
        """Run *command* in the container and wait for its end."""
        return subprocess.run(
            self.buildah_run(*command), text=True, capture_output=True, check=False,
            timeout=DEADLINE_S,
        )  # fmt: skip

    def health(self, pid: int | None = None) -> "subprocess.CompletedProcess[str]":
        """
        Run the image's health check.

        Args:
            pid: A process of the container whose namespaces to enter, as an engine does. A second
                ``buildah run`` in the container would kill the first one when it ends.
        """
        kind, *check = self.config["Healthcheck"]["Test"]
        assert kind == "CMD"
        if pid is None:
            return self.run(*check)
        enter = ["nsenter", f"--target={pid}", "--mount", "--root", f"--setuid={UID}"]
        inside = [*enter, f"--setgid={UID}", "env", "-i", *self.environment, *check]
        return subprocess.run(
            inside, text=True, capture_output=True, check=False, timeout=DEADLINE_S
        )


@pytest.fixture
def cloud(tmp_path: Path) -> Iterator[Sandbox]:
    with Sandbox(tmp_path / "cloud") as sandbox:
        yield sandbox


@pytest.fixture(scope="session")
def container_name(image: dict[str, Any]) -> Iterator[str]:
    """One container for all tests, because it is a copy of the whole image."""
    name = buildah("from", "--pull-never", IMAGE)
    yield name
    buildah("rm", name)


@pytest.fixture
def container(
    tmp_path: Path, container_name: str, image: dict[str, Any], cloud: Sandbox
) -> Container:
    models, state, token = tmp_path / "models", tmp_path / "state", tmp_path / "api_token"
    (models / "loras").mkdir(parents=True)
    (models / "loras/one.safetensors").write_bytes(weights(b"one"))
    state.mkdir(mode=0o700)
    os.chown(state, UID, UID)
    token.write_text(cloud.device_key)
    token.chmod(0o400)
    os.chown(token, UID, UID)
    return Container(container_name, image, models, state, token, cloud.base_url)


@contextmanager
def running(command: Sequence[str], log: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """Run *command* in the background; kill it at the end of the block."""
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output)
    try:
        yield process
    finally:
        if process.poll() is None:
            for pid in descendants(process.pid):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        process.wait()


def descendants(pid: int) -> list[int]:
    """Return *pid* and all processes below it."""
    found = [pid]
    for parent in found:
        with suppress(OSError):
            threads = Path(f"/proc/{parent}/task").iterdir()
            found += [int(c) for t in threads for c in (t / "children").read_text().split()]
    return found


def program_below(pid: int) -> int:
    """
    Return the process below *pid* that is syncd itself; 0 if there is none yet.

    Its parent, buildah, has the same arguments and would kill it instead of forwarding a signal.
    """
    for child in descendants(pid):
        with suppress(OSError):
            words = Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0")
            if words[0].startswith(b"/opt/syncd/bin/python") and words[1].endswith(b"/syncd"):
                return child
    return 0


def test_image_has_user_entry_point_and_health_check(image: dict[str, Any]) -> None:
    assert image["User"] == str(UID)
    assert image["Entrypoint"] == ["syncd"]
    assert image["StopSignal"] == "SIGTERM"
    assert image["Healthcheck"]["Test"] == ["CMD", "syncd", "health"]
    assert list(image["Volumes"]) == ["/var/lib/syncd"]


def test_container_cannot_change_program_or_models(container: Container) -> None:
    version = container.run("syncd", "--version")
    identity = container.run("id", "-u")
    written = container.run("sh", "-c", "touch /opt/syncd/x || touch /models/x || touch /x")

    assert version.stdout.startswith("syncd ")
    assert identity.stdout.split() == [str(UID)]
    assert written.returncode != 0


def test_container_is_healthy_until_sigterm_ends_it_cleanly(
    container: Container, cloud: Sandbox, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    before = container.health()
    assert before.returncode == 1, before

    with running(container.buildah_run(*container.config["Entrypoint"]), log) as process:
        until(lambda: records(cloud), f"a record; {log}", within_s=DEADLINE_S)
        pid = until(lambda: program_below(process.pid), "the program")
        status = dict(
            x.split(":\t", 1) for x in Path(f"/proc/{pid}/status").read_text().splitlines()
        )
        until(lambda: container.health(pid).returncode == 0, "health", within_s=DEADLINE_S)
        signalled_s = time.monotonic()
        os.kill(pid, signal.SIGTERM)
        code = process.wait(DEADLINE_S)
        stopped_after_s = time.monotonic() - signalled_s

    assert status["Uid"].split() == [str(UID)] * 4
    assert status["CapEff"].strip("0") == ""
    assert code == 143, log.read_text()
    assert stopped_after_s < 20
    assert "service.stopped" in log.read_text()
    after = container.health()
    assert after.returncode == 1, after


def test_container_runs_as_process_1_on_read_only_root(
    container: Container, cloud: Sandbox, tmp_path: Path
) -> None:
    log, root = tmp_path / "log", buildah("mount", container.name)
    given = map(str, (root, container.models, container.state, container.token))
    program = ["env", "-i", *container.environment, "HOME=/var/lib/syncd"]
    confined = [
        "unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-euc", CONFINED, "-",
        *given, *program, *container.config["Entrypoint"],
    ]  # fmt: skip

    with running(confined, log) as process:
        until(lambda: records(cloud), f"a record; {log}", within_s=DEADLINE_S)
        pid = until(lambda: program_below(process.pid), "the program")
        first = (
            Path(f"/proc/{pid}/status").read_text().partition("NSpid:")[2].split("\n")[0].split()
        )
        os.kill(pid, signal.SIGTERM)
        code = process.wait(DEADLINE_S)

    assert first[-1] == "1"
    assert code == 143, log.read_text()
    assert "service.stopped" in log.read_text()
