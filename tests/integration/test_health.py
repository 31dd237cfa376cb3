"""``syncd health``, asked as the health check of a container asks it."""

import subprocess
import sys
from pathlib import Path

from tests.integration.harness import Home

MODULES = "import atexit, sys; atexit.register(lambda: print(*sys.modules, file=sys.stderr));"
CALL = "from syncd.cli import entry; entry()"


def test_a_running_syncd_is_well_and_none_is_not(home: Home) -> None:
    before = home.run("health")
    with home.daemon() as daemon:
        daemon.started()
        running = home.run("health")
        daemon.stop()
    after = home.run("health")

    assert (before.code, running.code, after.code) == (1, 0, 1)
    assert running.out.startswith("well: a syncd is running")
    assert f"unwell: no syncd is running on {home.state}" in after.out


def test_the_state_directory_is_found_as_the_daemon_finds_it(home: Home) -> None:
    config = home.state.parent / "syncd.toml"
    config.write_text(f'state_dir = "{home.state}"\n')
    with home.daemon() as daemon:
        daemon.started()
        del home.env["SYNCD_STATE_DIR"]
        by_file = home.run("--config", str(config), "health").code
        by_flag = home.run("--state-dir", str(home.state), "health").code
        by_default = home.run("health").code
        config.write_text("no TOML")
        by_broken = home.run("--config", str(config), "health")
        daemon.stop()

    assert (by_file, by_flag, by_default) == (0, 0, 1)
    assert by_broken.code == 1
    assert "the configuration cannot be read" in by_broken.out


def test_it_is_light(home: Home, tmp_path: Path) -> None:
    done = subprocess.run(
        (sys.executable, "-c", MODULES + CALL, "health"), env=home.environment(),
        capture_output=True, text=True,
    )  # fmt: skip

    imported = {name.partition(".")[0] for name in done.stderr.split()}
    assert done.returncode == 1
    assert "click" in imported
    assert not imported & {"httpx", "pydantic", "rich", "structlog", "asyncio"}
