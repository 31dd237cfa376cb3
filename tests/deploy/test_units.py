"""The systemd units and their snippets pass systemd's own checks."""

import subprocess
from configparser import ConfigParser
from pathlib import Path

import pytest

from tests.tools import NAMESPACES

SYSTEMD = Path(__file__).parents[2] / "systemd"
SERVICES = ("syncd.service", "syncd-once.service")
EXAMPLES = tuple(path.name for path in sorted((SYSTEMD / "examples").iterdir()))
EXPOSURE = 20
"""The highest accepted exposure level, in tenths."""

DAEMON_DIRECTIVES = frozenset(
    {
        "type", "execstart", "execreload", "runtimedirectory", "runtimedirectorymode", "restart",
        "restartsec", "restartpreventexitstatus", "timeoutstartsec", "watchdogsec",
    }
)  # fmt: skip
"""Directives in which the two services may differ, in lower case."""


def run(name: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([name, *arguments], text=True, capture_output=True, check=False)


def as_root(name: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run as root of a user namespace, so that new files belong to root."""
    return run("unshare", "--map-root-user", name, *arguments)


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """A folder with the units, with /bin/true in place of the program."""
    for name in (*SERVICES, "syncd-once.timer"):
        text = (SYSTEMD / name).read_text()
        (tmp_path / name).write_text(text.replace("/usr/local/bin/syncd", "/bin/true"))
    return tmp_path


def with_example(installed: Path, unit: str, example: str) -> None:
    """Append the example: systemd-analyze security ignores drop-ins in this folder."""
    with (installed / unit).open("a") as file:
        file.write((SYSTEMD / "examples" / example).read_text())


def directives(unit: str) -> dict[str, list[str]]:
    """Return the directives of the [Service] section with the values of their lines."""
    lines = (SYSTEMD / unit).read_text().partition("\n[Service]\n")[2].partition("\n[")[0]
    found: dict[str, list[str]] = {}
    for line in lines.splitlines():
        if line and not line.startswith("#"):
            name, _, value = line.partition("=")
            found.setdefault(name.lower(), []).append(value)
    return found


@pytest.mark.needs("systemd-analyze", "kill")  # the unit's ExecReload
@pytest.mark.parametrize("unit", [*SERVICES, "syncd-once.timer"])
def test_T18_unit_passes_systemd_verify(installed: Path, unit: str) -> None:
    checked = run("systemd-analyze", "verify", "--man=no", str(installed / unit))

    assert (checked.returncode, checked.stderr) == (0, "")


@pytest.mark.needs("systemd-analyze", "kill")
@pytest.mark.parametrize("example", [None, *EXAMPLES])
@pytest.mark.parametrize("unit", SERVICES)
def test_T18_unit_with_example_passes_verify_and_exposure_limit(
    installed: Path, unit: str, example: str | None
) -> None:
    if example is not None:
        with_example(installed, unit, example)

    checked = run("systemd-analyze", "verify", "--man=no", str(installed / unit))
    judged = run(
        "systemd-analyze", "security", "--offline=yes", f"--threshold={EXPOSURE}",
        str(installed / unit),
    )  # fmt: skip

    assert (checked.returncode, checked.stderr) == (0, "")
    assert judged.returncode == 0, judged.stdout + judged.stderr


def test_backfill_unit_has_the_confinement_of_the_daemon() -> None:
    daemon, backfill = directives("syncd.service"), directives("syncd-once.service")
    shared = daemon.keys() - DAEMON_DIRECTIVES

    assert {name: backfill.get(name) for name in shared} == {n: daemon[n] for n in shared}
    assert backfill.keys() - shared == {"type", "notifyaccess", "execstart", "timeoutstartsec"}


@pytest.mark.needs("systemd-sysusers", NAMESPACES)
def test_sysusers_snippet_creates_the_account(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    snippet = SYSTEMD / "sysusers.d" / "syncd.conf"

    result = as_root("systemd-sysusers", f"--root={tmp_path}", str(snippet))

    assert result.returncode == 0, result.stderr
    (account,) = (tmp_path / "etc/passwd").read_text().splitlines()
    assert account.startswith("syncd:x:")
    assert account.endswith(":/var/lib/syncd:/usr/sbin/nologin")


@pytest.mark.needs("systemd-tmpfiles", NAMESPACES)
def test_tmpfiles_snippet_sets_the_token_to_mode_0600(tmp_path: Path) -> None:
    folder = tmp_path / "etc/syncd"
    folder.mkdir(parents=True)
    token = folder / "api_token"
    token.write_text("dk-000000")
    token.chmod(0o644)
    snippet = SYSTEMD / "tmpfiles.d" / "syncd.conf"

    result = as_root("systemd-tmpfiles", "--create", f"--root={tmp_path}", str(snippet))

    assert result.returncode == 0, result.stderr
    assert token.stat().st_mode & 0o777 == 0o600
    assert folder.stat().st_mode & 0o777 == 0o755


def test_timer_starts_the_backfill_and_catches_up() -> None:
    timer = ConfigParser(interpolation=None)
    timer.read(SYSTEMD / "syncd-once.timer")

    assert "Unit" not in timer["Timer"]  # the default is the service of the same name
    assert timer["Timer"]["Persistent"] == "yes"
