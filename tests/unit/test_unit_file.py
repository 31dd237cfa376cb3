"""T18: what systemd itself says of the unit file."""

import shutil
import subprocess
from pathlib import Path

import pytest

UNIT = Path(__file__).parents[2] / "systemd" / "syncd.service"
EXPOSURE = 20
"""In tenths: systemd calls 0 safe and 100 exposed."""

pytestmark = pytest.mark.layer("T18")


def analyze(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = shutil.which("systemd-analyze")
    assert command, "no systemd-analyze. Debian, Ubuntu: sudo apt-get install systemd"
    return subprocess.run([command, *arguments], text=True, capture_output=True, check=False)


def test_T18_systemd_finds_no_fault_in_the_unit(tmp_path: Path) -> None:
    unit = tmp_path / "syncd.service"  # it is not installed here: another program stands in
    unit.write_text(UNIT.read_text().replace("/usr/local/bin/syncd", "/bin/true"))

    checked = analyze("verify", "--man=no", str(unit))

    assert (checked.returncode, checked.stderr) == (0, "")


def test_T18_the_service_is_confined(tmp_path: Path) -> None:
    judged = analyze("security", "--offline=yes", f"--threshold={EXPOSURE}", str(UNIT))

    assert judged.returncode == 0, judged.stdout + judged.stderr
