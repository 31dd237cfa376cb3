"""What systemd itself says of the units and of what belongs to them."""

import subprocess
from configparser import ConfigParser
from pathlib import Path

import pytest

from tests.tools import NAMESPACES

SYSTEMD = Path(__file__).parents[2] / "systemd"
SERVICES = ("syncd.service", "syncd-once.service")
EXAMPLES = tuple(path.name for path in sorted((SYSTEMD / "examples").iterdir()))
EXPOSURE = 20
"""In tenths: systemd calls 0 safe and 100 exposed."""

OF_THE_DAEMON = frozenset(
    {
        "type", "execstart", "execreload", "runtimedirectory", "runtimedirectorymode", "restart",
        "restartsec", "restartpreventexitstatus", "timeoutstartsec", "watchdogsec",
    }
)  # fmt: skip
"""Where a daemon and a backfill differ, in small letters; in all else they are confined alike."""


def run(name: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([name, *arguments], text=True, capture_output=True, check=False)


def as_root(name: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """Root of a user namespace at least: what is made belongs to root."""
    return run("unshare", "--map-root-user", name, *arguments)


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """A folder with the units; the program is not installed here: another one stands in."""
    for name in (*SERVICES, "syncd-once.timer"):
        text = (SYSTEMD / name).read_text()
        (tmp_path / name).write_text(text.replace("/usr/local/bin/syncd", "/bin/true"))
    return tmp_path


def with_example(installed: Path, unit: str, example: str) -> None:
    """Appended instead of dropped in: systemd-analyze security reads no drop-ins of such a folder."""
    with (installed / unit).open("a") as file:
        file.write((SYSTEMD / "examples" / example).read_text())


def directives(unit: str) -> dict[str, list[str]]:
    """The [Service] section, each directive with the values of its lines."""
    lines = (SYSTEMD / unit).read_text().partition("\n[Service]\n")[2].partition("\n[")[0]
    found: dict[str, list[str]] = {}
    for line in lines.splitlines():
        if line and not line.startswith("#"):
            name, _, value = line.partition("=")
            found.setdefault(name.lower(), []).append(value)
    return found


@pytest.mark.needs("systemd-analyze", "kill")  # the unit's ExecReload
@pytest.mark.parametrize("unit", [*SERVICES, "syncd-once.timer"])
def test_T18_systemd_finds_no_fault_in_the_unit(installed: Path, unit: str) -> None:
    checked = run("systemd-analyze", "verify", "--man=no", str(installed / unit))

    assert (checked.returncode, checked.stderr) == (0, "")


@pytest.mark.needs("systemd-analyze")
@pytest.mark.parametrize("unit", SERVICES)
def test_T18_the_service_is_confined(installed: Path, unit: str) -> None:
    judged = run(
        "systemd-analyze", "security", "--offline=yes", f"--threshold={EXPOSURE}",
        str(installed / unit),
    )  # fmt: skip

    assert judged.returncode == 0, judged.stdout + judged.stderr


@pytest.mark.needs("systemd-analyze", "kill")
@pytest.mark.parametrize("example", EXAMPLES)
@pytest.mark.parametrize("unit", SERVICES)
def test_T18_systemd_finds_no_fault_in_an_example(installed: Path, unit: str, example: str) -> None:
    with_example(installed, unit, example)

    checked = run("systemd-analyze", "verify", "--man=no", str(installed / unit))
    judged = run(
        "systemd-analyze", "security", "--offline=yes", f"--threshold={EXPOSURE}",
        str(installed / unit),
    )  # fmt: skip

    assert (checked.returncode, checked.stderr) == (0, "")
    assert judged.returncode == 0, judged.stdout + judged.stderr


def test_a_backfill_is_confined_like_the_daemon() -> None:
    daemon, backfill = directives("syncd.service"), directives("syncd-once.service")
    shared = daemon.keys() - OF_THE_DAEMON

    assert {name: backfill.get(name) for name in shared} == {n: daemon[n] for n in shared}
    assert backfill.keys() - shared == {"type", "notifyaccess", "execstart", "timeoutstartsec"}


@pytest.mark.needs("systemd-sysusers", NAMESPACES)
def test_the_account_of_the_units_is_made_by_its_snippet(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    snippet = SYSTEMD / "sysusers.d" / "syncd.conf"

    made = as_root("systemd-sysusers", f"--root={tmp_path}", str(snippet))

    assert made.returncode == 0, made.stderr
    (account,) = (tmp_path / "etc/passwd").read_text().splitlines()
    assert account.startswith("syncd:x:")
    assert account.endswith(":/var/lib/syncd:/usr/sbin/nologin")


@pytest.mark.needs("systemd-tmpfiles", NAMESPACES)
def test_the_token_is_taken_from_the_eyes_of_others_by_its_snippet(tmp_path: Path) -> None:
    folder = tmp_path / "etc/syncd"
    folder.mkdir(parents=True)
    token = folder / "api_token"
    token.write_text("dk-000000")
    token.chmod(0o644)
    snippet = SYSTEMD / "tmpfiles.d" / "syncd.conf"

    set_right = as_root("systemd-tmpfiles", "--create", f"--root={tmp_path}", str(snippet))

    assert set_right.returncode == 0, set_right.stderr
    assert token.stat().st_mode & 0o777 == 0o600
    assert folder.stat().st_mode & 0o777 == 0o755


def test_the_timer_starts_the_backfill_and_makes_up_for_a_night_off() -> None:
    timer = ConfigParser(interpolation=None)
    timer.read(SYSTEMD / "syncd-once.timer")

    assert "Unit" not in timer["Timer"]  # so it is the service of its own name
    assert timer["Timer"]["Persistent"] == "yes"
