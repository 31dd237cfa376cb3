"""The programs that the tests need are installed where the account may install them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tools import PACKAGES, advice, available

TOP = Path(__file__).parents[2]

AS_ACCOUNT = (
    "import os, sys; os.geteuid = lambda: int(sys.argv[1]); from tests import tools; tools.main()"
)


class Machine:
    """One where only the commands in ``path`` exist; each notes how it was called."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "bin"
        self.path.mkdir()
        self._calls = folder / "calls"
        (self.path / "env").symlink_to("/usr/bin/env")

    def add(self, name: str, then: str = "") -> None:
        """A command *name* that runs the shell script *then*."""
        command = self.path / name
        command.write_text(f'#!/bin/sh\necho {name} "$@" >> "{self._calls}"\n{then}\n')
        command.chmod(0o755)

    def install_tools(self, account: int) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, "-c", AS_ACCOUNT, str(account)],
            cwd=TOP, env={"PATH": os.fspath(self.path)}, text=True, capture_output=True, check=False,
        )  # fmt: skip

    def calls(self) -> list[str]:
        return self._calls.read_text().splitlines() if self._calls.exists() else []


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """One that has every tool but groff and strace."""
    machine = Machine(tmp_path)
    for name in PACKAGES.keys() - {"groff", "strace"}:
        machine.add(name)
    return machine


INSTALL = "apt-get -qq -o Dpkg::Use-Pty=0 install --yes --no-install-recommends groff strace"


def test_root_installs_only_what_is_missing(machine: Machine) -> None:
    machine.add("apt-get")

    done = machine.install_tools(0)

    assert done.returncode == 0, done.stderr
    assert machine.calls() == ["apt-get -qq update", INSTALL]
    assert "groff strace" in done.stdout


def test_user_with_passwordless_sudo_installs_through_it(machine: Machine) -> None:
    machine.add("apt-get")
    machine.add("sudo", 'shift; case $1 in true) exit 0;; esac; exec "$@"')

    assert machine.install_tools(1000).returncode == 0
    assert [call for call in machine.calls() if not call.startswith("sudo")] == [
        "apt-get -qq update",
        INSTALL,
    ]
    assert all(call.startswith("sudo -n ") for call in machine.calls() if "sudo" in call)


def test_user_whose_sudo_asks_for_a_password_installs_nothing(machine: Machine) -> None:
    machine.add("apt-get")
    machine.add("sudo", "exit 1")

    done = machine.install_tools(1000)

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert machine.calls() == ["sudo -n true"]


@pytest.mark.parametrize("account", [0, 1000])
def test_machine_without_apt_or_sudo_installs_nothing(machine: Machine, account: int) -> None:
    assert machine.install_tools(account).returncode == 0
    assert machine.calls() == []


def test_nothing_is_asked_of_apt_when_no_tool_is_missing(machine: Machine) -> None:
    for name in ("apt-get", "groff", "strace"):
        machine.add(name)

    assert machine.install_tools(0).returncode == 0
    assert machine.calls() == []


def test_failed_installation_is_reported_and_the_tests_still_run(machine: Machine) -> None:
    machine.add("apt-get", "echo no network >&2; exit 100")

    done = machine.install_tools(0)

    assert done.returncode == 0
    assert "no network" in done.stderr
    assert "Not installed" in done.stderr


def test_advice_names_one_command_for_all_packages() -> None:
    needs = ["strace", "systemd-analyze", "root", "systemd-tmpfiles", "aria2c"]

    assert advice(needs) == "sudo apt-get install aria2 strace systemd, then run make test as root"
    assert advice(["an unknown reason"]) == ""


def test_need_that_is_not_in_the_table_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"tests/tools\.py does not know: shellchek"):
        available("shellchek")
