"""T10: the cable between syncd and the cloud is pulled, and no packet reports it."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.crash.lanes import each
from tests.tools import NAMESPACES

PROJECT = Path(__file__).parents[2]
APART = ("unshare", "--user", "--map-root-user", "--net", sys.executable)
CASES = ("connect", "presign", "part", "complete", "register", "idle")
DEADLINE_S = 150.0
NOTICED_S = 25.0
"""The time-outs of TCP are two seconds here; HTTP's own, 30 s to 10 min, are left as they are."""

PLAIN = (
    "presign", "put_body", "register",
    "presign", "initiate", "sign_part", "put_part", "sign_part", "put_part", "complete", "register",
)  # fmt: skip
"""The calls that take effect when nothing happens to a small file and to one of two parts."""


def run(case: str, folder: Path) -> dict[str, Any]:
    """What ``half_open`` says of *case*; it has asked the oracle."""
    place = folder / case
    place.mkdir()
    done = subprocess.run(
        [*APART, "-m", "tests.sockets.half_open", case, str(place)],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    said: dict[str, Any] = json.loads(done.stdout)
    return said


def require_noticed(case: str, folder: Path) -> None:
    said = run(case, folder)
    assert said["code"] == 0, said
    assert said["noticed_s"] < NOTICED_S, said
    assert said["registered"] == ["models/loras/a.safetensors", "models/loras/b.safetensors"]
    assert said["calls"].count("register") == 2, said
    if case == "connect":
        done = [call for call in said["calls"] if call != "list_models"]
        assert sorted(done) == sorted(PLAIN)
    if case == "register":
        assert said["calls"].count("list_models") >= 2, "looked up before anything is repeated"


@pytest.mark.needs("ip", NAMESPACES)
def test_T10_F27_a_cable_that_is_pulled_is_noticed_and_every_file_registered_once(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    each(lambda case: require_noticed(case, tmp_path), CASES, request, lanes=len(CASES))
