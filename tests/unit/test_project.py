"""Build files, units and documents are consistent with the code and with each other."""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from configparser import ConfigParser
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import syncd

TOP = Path(__file__).parents[2]
LOCKS = ("requirements.lock", "requirements-build.lock", "requirements-test.lock")
EVERY_LOCK = (*LOCKS, "requirements-weights.lock")


def pyproject() -> dict[str, Any]:
    return tomllib.loads((TOP / "pyproject.toml").read_text())


def entries(lock: str) -> list[str]:
    """Return the requirements of a lock file with their hashes."""
    joined = (TOP / lock).read_text().replace("\\\n", " ")
    return [line for line in joined.splitlines() if line and not line.lstrip().startswith("#")]


def locked(lock: str) -> dict[str, Version]:
    requirements = [Requirement(entry.partition("--hash")[0]) for entry in entries(lock)]
    return {
        canonicalize_name(each.name): Version(str(each.specifier).removeprefix("=="))
        for each in requirements
    }


def instructions(name: str) -> list[str]:
    """Return the values of one Dockerfile instruction, in order."""
    joined = (TOP / "Dockerfile").read_text().replace("\\\n", " ")
    return re.findall(rf"^{name} (.+)$", joined, flags=re.MULTILINE)


def unit() -> ConfigParser:
    parser = ConfigParser(interpolation=None, delimiters=("=",), strict=False)
    parser.read(TOP / "systemd" / "syncd.service")
    return parser


def make(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run make as a user would, not as a part of the make that runs the tests."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    return subprocess.run(
        ["make", *arguments], cwd=cwd, env=environ, text=True, capture_output=True, check=False
    )


def python_where(change: str, tmp_path: Path) -> str:
    """Write a python3 that runs the statement *change* before its script."""
    script = tmp_path / "python3"
    script.write_text(
        "#!/bin/sh\n"
        '[ "$1" = --version ] && set -- -c "print(sys.version_info)"\n'
        f"exec '{sys.executable}' -c 'import sys; {change}; exec(sys.argv[1])' \"$2\"\n"
    )
    script.chmod(0o755)
    return str(script)


@pytest.fixture
def fresh_clone(tmp_path: Path) -> Path:
    clone = tmp_path / "clone"
    clone.mkdir()
    for name in ("Makefile", "pyproject.toml", *EVERY_LOCK):
        shutil.copy(TOP / name, clone)
    return clone


PUBLIC = re.compile(r"https?://([a-z0-9.-]+\.(?:org|com|net|io|dev|cloud|sh))(?![a-z0-9.-])", re.I)
DEFAULT_HOSTS = {"core.cyberun.cloud"}
FORMATS = {"json-schema.org", "git-lfs.github.com"}
"""Hosts in names of formats; syncd does not connect to them."""
CITED = {"sqlite.org", "examplebucket.s3.amazonaws.com"}
"""Hosts in comments and in examples of a published standard."""


def named_hosts() -> dict[str, str]:
    """Return each public host in code, tests and build files, with one of the files."""
    files = [TOP / name for name in ("Makefile", "Dockerfile", "pyproject.toml")]
    for folder in ("syncd", "tests", "bench", "systemd", "docs/deploy"):
        files += [path for path in (TOP / folder).rglob("*") if path.is_file()]
    return {
        host.lower(): str(path.relative_to(TOP))
        for path in files
        if "__pycache__" not in path.parts
        for host in PUBLIC.findall(path.read_text("utf-8", "replace"))
        if not re.search(r"(^|\.)example\.", host)
    }


def test_code_and_tests_name_no_unknown_host() -> None:
    unknown = {h: p for h, p in named_hosts().items() if h not in DEFAULT_HOSTS | FORMATS | CITED}

    assert unknown == {}


def slug(heading: str) -> str:
    """Return the anchor of a heading."""
    text = re.sub(r"[`*\[\]]|\(.*?\)", "", heading.strip().lower())
    return re.sub(r"[^\w\- ]", "", text).replace(" ", "-")


def dead_links(page: Path) -> list[str]:
    """Return the links of *page* to files or headings that do not exist."""
    text = re.sub(r"(?ms)^```.*?^```", "", page.read_text("utf-8"))
    dead = []
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        path, _, anchor = link.partition("#")
        target = page if not path else page.parent / path
        if "://" in link or link.startswith("mailto:"):
            continue
        headings = set()
        if target.suffix == ".md" and target.is_file():
            headings = set(map(slug, re.findall(r"(?m)^#+ (.*)$", target.read_text("utf-8"))))
        if not target.exists() or (anchor and anchor not in headings):
            dead.append(link)
    return dead


def test_every_link_in_the_documentation_has_a_target() -> None:
    pages = [*TOP.glob("*.md"), *(TOP / "docs").rglob("*.md"), *(TOP / "tests").rglob("*.md")]
    dead = {str(page.relative_to(TOP)): dead_links(page) for page in pages}

    assert {page: links for page, links in dead.items() if links} == {}


def names_missing_in_the_source(page: str) -> list[str]:
    """Return the modules, and the functions and classes "`name` in `module.py`", that do not exist."""
    missing = []
    for module in re.findall(r"`([\w/]+/\w+\.(?:py|md|toml))`", page):
        if not any((top / module).exists() for top in (TOP, TOP / "syncd", TOP / "docs")):
            missing.append(module)
    for names, module in re.findall(r"((?:`[\w.]+`(?:, | and )?)+) in `([\w/]+\.py)`", page):
        source = (TOP / "syncd" / module).read_text("utf-8")
        for name in re.findall(r"(\w+)`", names):
            if not re.search(rf"^\s*(?:async def|def|class) {name}\b|^{name}\b", source, re.M):
                missing.append(f"{module}: {name}")
    return missing


def test_architecture_page_names_existing_modules_and_functions() -> None:
    page = (TOP / "docs/architecture.md").read_text("utf-8")

    assert names_missing_in_the_source(page) == []


def test_package_and_project_have_the_same_version() -> None:
    assert pyproject()["project"]["version"] == syncd.__version__


def wanted(lock: str) -> list[str]:
    project = pyproject()["project"]
    extras: dict[str, list[str]] = project["optional-dependencies"]
    requirements: dict[str, list[str]] = {
        "requirements.lock": project["dependencies"],
        "requirements-build.lock": pyproject()["build-system"]["requires"],
        "requirements-test.lock": project["dependencies"] + extras["test"],
        "requirements-weights.lock": extras["weights"],
    }
    return requirements[lock]


@pytest.mark.parametrize("lock", EVERY_LOCK)
def test_lock_contains_every_dependency_within_its_bounds(lock: str) -> None:
    versions = locked(lock)
    needs = [Requirement(text) for text in wanted(lock)]
    missing = [need for need in needs if canonicalize_name(need.name) not in versions]

    assert missing == [], "run: make lock"
    assert all(versions[canonicalize_name(need.name)] in need.specifier for need in needs)


@pytest.mark.parametrize("lock", EVERY_LOCK)
def test_every_lock_line_pins_one_version_with_hashes(lock: str) -> None:
    pinned = re.compile(r"[\w.-]+==[\w.]+( ; [^#]+?)?( +--hash=sha256:[0-9a-f]{64})+")

    assert [entry for entry in entries(lock) if not pinned.fullmatch(entry)] == []


@pytest.mark.parametrize("lock", EVERY_LOCK)
def test_lock_contains_no_host_and_no_local_path(lock: str) -> None:
    text = (TOP / lock).read_text()

    assert re.findall(r"://|--(?:extra-)?index-url|--find-links|--trusted-host| @ ", text) == []


def test_image_runs_syncd_as_an_ordinary_user() -> None:
    assert json.loads(instructions("ENTRYPOINT")[-1]) == ["syncd"]
    assert instructions("USER")[-1] == "10001"
    assert instructions("STOPSIGNAL") == ["SIGTERM"]


def test_image_installs_only_locked_packages() -> None:
    commands = [part for run in instructions("RUN") for part in run.split("&&")]
    installs = [part for part in commands if re.search(r"\bpip\b.*\binstall\b", part)]

    assert len(installs) == 3
    assert all("--require-hashes" in part or "--no-index" in part for part in installs)


def test_image_copies_only_files_in_the_build_context() -> None:
    shown = set((TOP / ".dockerignore").read_text().splitlines())
    copied = [
        source
        for value in instructions("COPY")
        if not value.startswith("--from")
        for source in value.split()[:-1]
    ]

    assert copied
    assert [name for name in copied if f"!{name}" not in shown] == []
    assert [name for name in copied if not (TOP / name).exists()] == []


def test_unit_does_not_restart_after_permanent_failures() -> None:
    service = unit()["Service"]

    assert service["Restart"] == "on-failure"
    assert service["RestartPreventExitStatus"].split() == ["2", "77", "78"]
    assert service["SuccessExitStatus"] == "143"


def test_unit_passes_the_token_as_credential_only() -> None:
    service = unit()["Service"]

    assert service["LoadCredential"] == "api_token:/etc/syncd/api_token"
    assert "Environment" not in service
    assert service["ExecStart"] == "/usr/local/bin/syncd"


def test_make_test_runs_every_check_in_order(fresh_clone: Path) -> None:
    planned = make("--dry-run", "test", cwd=fresh_clone).stdout
    checks = ["ruff check .", "ruff format --check .", "/mypy", "-m tests.tools", "-m pytest"]

    assert [planned.find(check) for check in checks] == sorted(map(planned.find, checks))
    assert all(check in planned for check in checks)


def test_missing_python_error_names_the_packages_to_install(fresh_clone: Path) -> None:
    result = make("demo", "PYTHON=no-such-python", cwd=fresh_clone)

    assert result.returncode != 0
    assert "there is no no-such-python" in result.stderr
    assert "apt-get install python3 python3-venv" in result.stderr


def test_missing_venv_error_names_the_package_to_install(fresh_clone: Path, tmp_path: Path) -> None:
    bare = python_where('sys.modules["ensurepip"] = None', tmp_path)

    result = make("test", f"PYTHON={bare}", cwd=fresh_clone)

    assert result.returncode != 0
    assert "lacks its venv module" in result.stderr
    assert "apt-get install python3-venv" in result.stderr
    assert not (fresh_clone / ".venv").exists()
