"""What is shipped: no known hole goes unsaid, the list of parts is whole, no key lies in the tree."""

import json
import os
import re
import subprocess
from pathlib import Path

import pytest
from packaging.utils import canonicalize_name

TOP = Path(__file__).parents[2]
NAMES = re.compile(r"^([A-Za-z0-9._-]+)==(\S+)", re.MULTILINE)

KEYS = re.compile(
    rb"(?<![A-Za-z0-9])(?:dk|sk|ak|rt|dc)-[A-Za-z0-9_-]{24,}"
    rb"|ey[\w-]{10,}\.ey[\w-]{10,}\.[\w-]{20,}"
    rb"|(?:AKIA|ASIA)[0-9A-Z]{16}(?<!EXAMPLE)"
    rb"|-----BEGIN [A-Z ]*PRIVATE KEY-----\s+[A-Za-z0-9+/=]"
    rb"|gh[pousr]_[A-Za-z0-9]{30,}"
)
"""Credentials of the cloud, of stores and of code hosts, as long as real ones are."""


def make(*arguments: str) -> subprocess.CompletedProcess[str]:
    environ = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    return subprocess.run(
        ["make", *arguments], cwd=TOP, env=environ, text=True, capture_output=True, check=False
    )


@pytest.mark.parametrize(
    ("said", "code", "ends_with", "shown"),
    [
        ("No known vulnerabilities found", 0, 0, "No known"),
        ("Found 1 known vulnerability in 1 package\nx 1.0 CVE-1 1.1", 1, 2, "CVE-1"),
        ("Found 2 known vulnerabilities in 1 package\ny could not be audited", 1, 2, "Found 2"),
        ("Max retries exceeded with url: /x (Caused by ProxyError())", 1, 0, "NOT CHECKED"),
        ("ERROR: Could not connect to the vulnerability feed", 1, 0, "NOT CHECKED"),
        ("No known vulnerabilities found\nx could not be audited: x (1.0)", 0, 0, "NOT CHECKED"),
        ("ERROR: invalid requirements input: requirements.lock", 1, 2, "invalid requirements"),
    ],
)
def test_an_audit_fails_for_holes_and_never_takes_silence_for_none(
    tmp_path: Path, said: str, code: int, ends_with: int, shown: str
) -> None:
    stub = tmp_path / "pip-audit"
    stub.write_text(f"#!/bin/sh\ncat <<'END' >&2\n{said}\nEND\nexit {code}\n")
    stub.chmod(0o755)

    done = make("audit", f"PIP_AUDIT={stub}")

    assert done.returncode == ends_with, done.stderr
    assert shown in done.stdout
    assert ("NOT CHECKED" in done.stdout) == (shown == "NOT CHECKED")


def test_the_list_of_parts_names_every_locked_package_with_its_hashes() -> None:
    done = make("sbom")

    assert done.returncode == 0, done.stderr
    listed = json.loads((TOP / "build/sbom.json").read_text())
    parts = {canonicalize_name(part["name"]): part for part in listed["components"]}
    locked = dict(NAMES.findall((TOP / "requirements.lock").read_text()))
    assert listed["metadata"]["component"]["name"] == "syncd"
    assert {name: part["version"] for name, part in parts.items()} == {
        canonicalize_name(name): version for name, version in locked.items()
    }
    assert all(part["externalReferences"][0]["hashes"] for part in parts.values())


@pytest.mark.needs("git")
def test_no_key_lies_in_the_tree() -> None:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=TOP, capture_output=True, check=True)
    names = [name for name in os.fsdecode(listed.stdout).split("\0") if name]

    found = {
        name: KEYS.findall((TOP / name).read_bytes()) for name in names if (TOP / name).is_file()
    }

    assert len(names) > 100
    assert {name: keys for name, keys in found.items() if keys} == {}
