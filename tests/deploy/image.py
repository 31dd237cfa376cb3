"""
The image: built from the Dockerfile with buildah, and run. ``make image-test``; it takes root.

No engine is needed. The base comes from Debian's archive instead of a registry of images, once: it
stays in ``build/image``, as do the layers, apart from those of the machine's own engine.
"""

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
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
"""What an engine does with ``--read-only --tmpfs /tmp`` and three volumes; the program is PID 1."""


def buildah(*arguments: str) -> str:
    """What buildah prints; it has to succeed."""
    storage = ["--root", f"{BUILD}/storage", "--runroot", f"{BUILD}/run", "--storage-driver", "vfs"]
    done = subprocess.run(
        ["buildah", *storage, *arguments], text=True, capture_output=True, check=False
    )
    assert done.returncode == 0, f"buildah {arguments}\n{done.stdout[-4000:]}{done.stderr[-4000:]}"
    return done.stdout.strip()


def archive() -> tuple[str, str]:
    """Suite and URI of the Debian archive that this machine's own package sources name."""
    told = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(RELEASE) $(REPO_URI)",
         "Created-By: Packages", "Origin: Debian", "Component: main"],
        text=True, capture_output=True, check=True,
    ).stdout  # fmt: skip
    found = [(suite, uri) for suite, uri in map(str.split, told.splitlines())]
    releases = [(suite, uri) for suite, uri in found if "-" not in suite]  # no updates, no security
    assert releases, "the package sources of this machine name no archive of Debian"
    return releases[0]


def make_base() -> None:
    """Debian with Python and pip, and the certificates this machine trusts."""
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
    shutil.copy(f"/{CERTIFICATES}", root / CERTIFICATES)  # a proxy of this network may have its own
    container = buildah("from", "scratch")
    buildah("add", container, os.fspath(root), "/")
    # As in a base image for Python: its pip may install beside what the distribution packed.
    for setting in ("PIP_BREAK_SYSTEM_PACKAGES=1", f"PATH={PATH}"):
        buildah("config", "--env", setting, container)
    buildah("commit", "--rm", container, BASE)
    shutil.rmtree(root)


@pytest.fixture(scope="session")
def image() -> dict[str, Any]:
    """The image's configuration, once it is built."""
    require(NEEDED)
    BUILD.mkdir(parents=True, exist_ok=True)
    make_base()
    buildah(
        "build", "--isolation", "chroot", "--format", "docker", "--pull=never",
        "--build-arg", f"BASE={BASE}", "--tag", IMAGE, os.fspath(PROJECT),
    )  # fmt: skip
    told: dict[str, Any] = json.loads(buildah("inspect", "--type", "image", IMAGE))
    return dict(told["Docker"]["config"])


@dataclass(frozen=True, slots=True)
class Place:
    """What a container is given: a tree, a state volume, a token; and where it lies itself."""

    container: str
    config: dict[str, Any]
    models: Path
    state: Path
    token: Path
    base_url: str

    @property
    def environment(self) -> list[str]:
        """The image's variables, and those of this place."""
        return [
            *self.config["Env"], f"SYNCD_API__BASE_URL={self.base_url}",
            "SYNCD_SETTLE__QUIET_S=0.2", "SYNCD_SETTLE__QUIET_CLOSED_S=0.2",
        ]  # fmt: skip

    def buildah_run(self, *command: str) -> list[str]:
        """*command* in the container, as its configured user."""
        given = [f"--env={setting}" for setting in self.environment]
        return [
            "buildah", "--root", f"{BUILD}/storage", "--runroot", f"{BUILD}/run",
            "--storage-driver", "vfs", "run", "--isolation", "chroot", *given,
            f"--volume={self.models}:/models:ro", f"--volume={self.state}:/var/lib/syncd",
            f"--volume={self.token}:/run/secrets/api_token:ro", self.container, "--", *command,
        ]  # fmt: skip

    def run(self, *command: str) -> "subprocess.CompletedProcess[str]":
        """*command* in the container, to its end."""
        return subprocess.run(
            self.buildah_run(*command), text=True, capture_output=True, check=False,
            timeout=DEADLINE_S,
        )  # fmt: skip

    def health(self, pid: int | None = None) -> "subprocess.CompletedProcess[str]":
        """
        The image's own health check, done: its exit code and what it says.

        Args:
            pid: A process of the container, which is entered as an engine does. At the end of a
                second ``buildah run`` in one container, buildah kills what else runs there.
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
def container(image: dict[str, Any]) -> Iterator[str]:
    """The name of a container: one for all tests, since it is a copy of the whole image."""
    name = buildah("from", "--pull-never", IMAGE)
    yield name
    buildah("rm", name)


@pytest.fixture
def place(tmp_path: Path, container: str, image: dict[str, Any], cloud: Sandbox) -> Place:
    models, state, token = tmp_path / "models", tmp_path / "state", tmp_path / "api_token"
    (models / "loras").mkdir(parents=True)
    (models / "loras/one.safetensors").write_bytes(weights(b"one"))
    state.mkdir(mode=0o700)
    os.chown(state, UID, UID)
    token.write_text(cloud.device_key)
    token.chmod(0o400)
    os.chown(token, UID, UID)
    return Place(container, image, models, state, token, cloud.base_url)


@contextmanager
def running(command: Sequence[str], log: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """*command* in the background, killed if the block did not end it."""
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
    """*pid* and all processes below it."""
    found = [pid]
    for parent in found:
        with suppress(OSError):
            threads = Path(f"/proc/{parent}/task").iterdir()
            found += [int(c) for t in threads for c in (t / "children").read_text().split()]
    return found


def image_size(name: str) -> str:
    """As buildah tells it."""
    return buildah("images", "--format", "{{.Size}}", name)


def said(check: "subprocess.CompletedProcess[str]") -> str:
    """A health check's exit code and words; buildah's own are none of them."""
    return f"{check.returncode}: {check.stdout.strip()}"


def program_below(pid: int) -> int:
    """
    The process below *pid* that is syncd itself; 0 if there is none yet.

    buildah has one above it with the same arguments, which kills where it should hand a signal on.
    """
    for child in descendants(pid):
        with suppress(OSError):
            words = Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0")
            if words[0].startswith(b"/opt/syncd/bin/python") and words[1].endswith(b"/syncd"):
                return child
    return 0


def test_image_says_how_it_is_run(image: dict[str, Any]) -> None:
    assert image["User"] == str(UID)
    assert image["Entrypoint"] == ["syncd"]
    assert image["StopSignal"] == "SIGTERM"
    assert image["Healthcheck"]["Test"] == ["CMD", "syncd", "health"]
    assert list(image["Volumes"]) == ["/var/lib/syncd"]


def test_image_holds_the_program_and_no_way_to_change_it(place: Place) -> None:
    version = place.run("syncd", "--version")
    identity = place.run("id", "-u")
    written = place.run("sh", "-c", "touch /opt/syncd/x || touch /models/x || touch /x")

    assert version.stdout.startswith("syncd ")
    assert identity.stdout.split() == [str(UID)]
    assert written.returncode != 0


def test_container_is_healthy_while_it_runs_and_ends_in_order_on_sigterm(
    place: Place, cloud: Sandbox, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    log = tmp_path / "log"
    before = place.health()
    assert before.returncode == 1, before

    with running(place.buildah_run(*place.config["Entrypoint"]), log) as process:
        until(lambda: records(cloud), f"a record; {log}", within_s=DEADLINE_S)
        pid = until(lambda: program_below(process.pid), "the program")
        status = dict(
            x.split(":\t", 1) for x in Path(f"/proc/{pid}/status").read_text().splitlines()
        )
        until(lambda: place.health(pid).returncode == 0, "health", within_s=DEADLINE_S)
        healthy = place.health(pid)
        asked_s = time.monotonic()
        os.kill(pid, signal.SIGTERM)
        code = process.wait(DEADLINE_S)
        took_s = time.monotonic() - asked_s

    assert status["Uid"].split() == [str(UID)] * 4
    assert status["CapEff"].strip("0") == ""
    assert code == 143, log.read_text()
    assert took_s < 20
    assert "service.stopped" in log.read_text()
    after = place.health()
    assert after.returncode == 1, after
    rows = {
        "image": image_size(IMAGE),
        "of that the base": image_size(BASE),
        "user, capabilities": f"{status['Uid'].split()[0]}, {status['CapEff']}",
        "health check before the start": said(before),
        "while it runs": said(healthy),
        "after SIGTERM": said(after),
        "SIGTERM": f"exit code {code} after {took_s:.1f} s",
    }
    record_property("table", "\n".join(f"| {what} | {value} |" for what, value in rows.items()))


def test_container_runs_on_a_read_only_root_as_first_process(
    place: Place, cloud: Sandbox, tmp_path: Path
) -> None:
    log, root = tmp_path / "log", buildah("mount", place.container)
    given = [root, os.fspath(place.models), os.fspath(place.state), os.fspath(place.token)]
    confined = [
        "unshare",
        "--mount",
        "--pid",
        "--fork",
        "--kill-child",
        "sh",
        "-euc",
        CONFINED,
        "-",
    ]
    program = ["env", "-i", *place.environment, "HOME=/var/lib/syncd", *place.config["Entrypoint"]]

    with running([*confined, *given, *program], log) as process:
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
