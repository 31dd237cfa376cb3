"""The files in docs/deploy/ and the Dockerfile pass their linters and agree with each other."""

import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from configparser import ConfigParser
from pathlib import Path
from typing import Any

import pytest
import yaml

from syncd.errors import SyncdError
from syncd.sandbox.server import Sandbox
from tests.integration.harness import Home, records, until
from tests.weights import weights

PROJECT = Path(__file__).parents[2]
DEPLOY = PROJECT / "docs" / "deploy"
KUBERNETES = ("kubernetes-sidecar.yaml", "kubernetes-once.yaml")
LOGIN = "kubernetes-login.yaml"
HOOK = DEPLOY / "start-hook.sh"

PERMANENT_CODES = {2, 77, 78}
"""Exit codes after which another start would fail in the same way."""

GRACE_S = 20
"""The default of ``upload.shutdown_grace_s``."""


def require_no_findings(tool: str, *arguments: str) -> None:
    command = os.fspath(Path(sys.executable).with_name(tool))
    result = subprocess.run([command, *arguments], text=True, capture_output=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


def compose() -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    return document


def pod_of(name: str) -> dict[str, Any]:
    documents = list(yaml.safe_load_all((DEPLOY / name).read_text()))
    pod: dict[str, Any] = documents[-1]["spec"]["template"]["spec"]
    return pod


def syncd_of(name: str) -> dict[str, Any]:
    """Return the syncd container of a Kubernetes file."""
    pod = pod_of(name)
    every = [*pod.get("initContainers", []), *pod["containers"]]
    (found,) = [container for container in every if container["name"] == "syncd"]
    return dict(found)


def test_dockerfile_passes_hadolint() -> None:
    require_no_findings("hadolint", os.fspath(PROJECT / "Dockerfile"))


def test_compose_file_matches_its_schema() -> None:
    require_no_findings(
        "check-jsonschema", "--builtin-schema", "vendor.compose-spec",
        os.fspath(DEPLOY / "compose.yaml"),
    )  # fmt: skip


def test_kubernetes_files_match_their_schemas() -> None:
    require_no_findings(
        "kubernetes-validate",
        "--strict",
        *(os.fspath(DEPLOY / name) for name in (*KUBERNETES, LOGIN)),
    )


@pytest.mark.needs("shellcheck")
def test_start_hook_passes_shellcheck() -> None:
    result = subprocess.run(["shellcheck", HOOK], text=True, capture_output=True, check=False)

    assert result.returncode == 0, result.stdout


def test_comfyui_does_not_depend_on_syncd() -> None:
    services = compose()["services"]
    sidecar = syncd_of("kubernetes-sidecar.yaml")

    assert "depends_on" not in services["comfyui"]
    assert sidecar["restartPolicy"] == "Always"
    assert sidecar.keys() & {"startupProbe", "readinessProbe", "lifecycle"} == set()


def test_every_container_mounts_models_and_root_read_only() -> None:
    service = compose()["services"]["syncd"]
    models = [volume for volume in service["volumes"] if ":/models" in volume]

    assert service["read_only"] is True
    assert [volume.endswith(":/models:ro") for volume in models] == [True]
    for name in KUBERNETES:
        container = syncd_of(name)
        mounts = {
            mount["mountPath"]: mount.get("readOnly", False) for mount in container["volumeMounts"]
        }
        assert container["securityContext"]["readOnlyRootFilesystem"] is True
        assert mounts["/models"] is True
        assert mounts["/var/lib/syncd"] is False


def test_sidecar_and_job_run_the_same_container() -> None:
    sidecar, job = (syncd_of(name) for name in KUBERNETES)
    alike = sidecar.keys() & job.keys()

    assert {key: sidecar[key] for key in alike} == {key: job[key] for key in alike}
    assert job.keys() - alike == {"args"}
    assert sidecar.keys() - alike == {"restartPolicy", "livenessProbe"}


def test_sign_in_pod_equals_the_job_except_its_command() -> None:
    job, login = pod_of("kubernetes-once.yaml"), pod_of(LOGIN)
    job_container, login_container = syncd_of("kubernetes-once.yaml"), syncd_of(LOGIN)

    assert login["volumes"] == job["volumes"]
    assert login["securityContext"] == job["securityContext"]
    assert job_container.pop("args") == ["--once"]
    assert login_container.pop("command") == ["sleep", "infinity"]
    assert job_container == login_container


def test_token_is_a_mounted_file_and_never_a_variable() -> None:
    text = "".join(path.read_text() for path in DEPLOY.iterdir())

    assert compose()["services"]["syncd"]["secrets"] == ["api_token"]
    for name in KUBERNETES:
        mounts = {mount["name"]: mount["mountPath"] for mount in syncd_of(name)["volumeMounts"]}
        assert mounts["token"] == "/run/secrets"
    assert "SYNCD_API__TOKEN" not in text


def test_every_stop_timeout_is_longer_than_the_grace_period() -> None:
    assert int(compose()["services"]["syncd"]["stop_grace_period"].removesuffix("s")) > GRACE_S
    for name in KUBERNETES:
        assert pod_of(name)["terminationGracePeriodSeconds"] > GRACE_S
    program = supervised()
    grace_s = program["environment"].partition('GRACE_S="')[2].partition('"')[0]
    assert int(program["stopwaitsecs"]) > int(grace_s)


def supervised() -> dict[str, str]:
    parser = ConfigParser(interpolation=None)
    parser.read(DEPLOY / "supervisord.conf")
    return dict(parser["program:syncd"])


def test_permanent_failures_are_not_restarted() -> None:
    (rule,) = yaml.safe_load((DEPLOY / "kubernetes-once.yaml").read_text())["spec"][
        "podFailurePolicy"
    ]["rules"]
    codes = {int(code) for code in supervised()["exitcodes"].split(",")}
    ours = {kind.exit_code for kind in subclasses(SyncdError)}

    assert rule["onExitCodes"]["containerName"] == "syncd"
    assert set(rule["onExitCodes"]["values"]) >= ours - {75}
    assert 75 not in rule["onExitCodes"]["values"]
    assert codes == PERMANENT_CODES | {0, 143}


def subclasses(kind: type[SyncdError]) -> Iterator[type[SyncdError]]:
    for below in kind.__subclasses__():
        yield below
        yield from subclasses(below)


# -- the start hook ------------------------------------------------------------------------------


@pytest.fixture
def cloud(tmp_path: Path) -> Iterator[Sandbox]:
    with Sandbox(tmp_path / "cloud") as sandbox:
        yield sandbox


@pytest.fixture
def pod(tmp_path: Path, cloud: Sandbox) -> Home:
    """A pod whose volume has the token and the configuration; the program is installed."""
    home = Home.at(tmp_path, cloud)
    home.env = {
        name: value for name, value in home.env.items() if "TOKEN" not in name and "DIR" not in name
    }
    volume, here = tmp_path / "volume", tmp_path / "here"
    volume.mkdir()
    (volume / "api_token").write_text(cloud.device_key)
    (volume / "api_token").chmod(0o644)  # a network file system that keeps no modes
    (volume / "config.toml").write_text(f'models_dir = "{home.models}"\n')
    program = here / "venv/bin/syncd"
    program.parent.mkdir(parents=True)
    starts = f'exec "{sys.executable}" -c "from syncd.cli.fast_path import entry; entry()" "$@"'
    program.write_text(f'#!/bin/sh\necho $$ >>"{here}/pids"\ncd "{PROJECT}" && {starts}\n')
    program.chmod(0o755)
    home.env |= {"VOLUME": os.fspath(volume), "HERE": os.fspath(here)}
    return home


def call_hook(pod: Home) -> "subprocess.CompletedProcess[str]":
    """Run the hook as a pod does, which waits until the hook and its output are closed."""
    return subprocess.run(
        ["sh", HOOK], env=pod.environment(), text=True, capture_output=True, check=False, timeout=30
    )


def pids(pod: Home) -> list[int]:
    started = Path(pod.env["HERE"]) / "pids"
    return [int(pid) for pid in started.read_text().split()] if started.exists() else []


def log(pod: Home) -> str:
    return (Path(pod.env["HERE"]) / "syncd.log").read_text()


def test_start_hook_returns_while_syncd_runs_until_sigterm(pod: Home, cloud: Sandbox) -> None:
    pod.write("loras/one.safetensors", weights(b"one"))

    hook = call_hook(pod)
    until(lambda: records(cloud), "the record")
    (pid,) = pids(pod)
    os.kill(pid, 15)
    until(lambda: "exit code 143, not restarting" in log(pod), "the end")

    assert hook.returncode == 0, hook.stderr
    assert pids(pod) == [pid]
    token = Path(pod.env["HERE"]) / "credentials/api_token"
    assert token.stat().st_mode & 0o777 == 0o600


def test_start_hook_with_invalid_configuration_exits_with_0(pod: Home) -> None:
    (Path(pod.env["VOLUME"]) / "config.toml").write_text("nonsense = 1\n")

    hook = call_hook(pod)

    until(lambda: "exit code 78, not restarting" in log(pod), "the end")
    assert hook.returncode == 0
    assert "nonsense" in log(pod)


def test_start_hook_without_token_exits_with_0(pod: Home) -> None:
    (Path(pod.env["VOLUME"]) / "api_token").unlink()

    hook = call_hook(pod)

    until(lambda: "api_token" in log(pod), "the reason")
    assert hook.returncode == 0
    assert pids(pod) == []


def wheel(pod: Home, version: str, *, broken: bool = False) -> None:
    """Write a wheel to the volume whose ``syncd`` prints its version and exits."""
    info = f"syncd-{version}.dist-info"
    started = Path(pod.env["HERE"]) / "started"
    files = {
        "syncd.py": f"def entry():\n    open({os.fspath(started)!r}, 'a').write('{version} ')\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: syncd\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/entry_points.txt": "[console_scripts]\nsyncd = syncd:entry\n",
    }
    path = Path(pod.env["VOLUME"]) / f"syncd-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
        archive.writestr(f"{info}/RECORD", "".join(f"{name},,\n" for name in files))
    if broken:
        path.write_bytes(path.read_bytes()[:100])


def started(pod: Home) -> list[str]:
    file = Path(pod.env["HERE"]) / "started"
    return file.read_text().split() if file.exists() else []


def ends(pod: Home) -> int:
    """Return how many runs of the hook are over."""
    if not (Path(pod.env["HERE"]) / "syncd.log").exists():
        return 0
    return log(pod).count("not started") + log(pod).count("not restarting")


def test_start_hook_starts_the_newest_of_several_wheels(pod: Home) -> None:
    shutil.rmtree(Path(pod.env["HERE"]) / "venv")
    for version in ("0.9.0", "0.10.0rc1", "0.10.0", "0.2.0"):
        wheel(pod, version)

    call_hook(pod)
    until(lambda: ends(pod) == 1, "the first end")
    wheel(pod, "0.11.0")
    wheel(pod, "0.12.0", broken=True)
    call_hook(pod)
    until(lambda: ends(pod) == 2, "the second end")
    call_hook(pod)
    until(lambda: ends(pod) == 3, "the third end")

    assert started(pod) == ["0.10.0", "0.11.0", "0.11.0"], log(pod)
    assert "syncd-0.12.0-py3-none-any.whl could not be installed" in log(pod)
    assert log(pod).count("syncd-0.11.0-py3-none-any.whl is installed") == 1
