"""The far side: a stand-in cloud on its own disk, and one in front of a real S3 server."""

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from syncd.sandbox.server import Sandbox
from syncd.sandbox.switches import Switches
from tests.integration.harness import Home, Nursery
from tests.s3 import S3Endpoint, S3Sandbox
from tests.visitor import Visitor
from tests.weed import Weed, weeding

MULTIPART_TESTS = Switches(part_size=5 * 1024 * 1024)


@pytest.fixture
def visitor(cloud: Sandbox) -> Iterator[Visitor]:
    """Somebody with a session who speaks raw HTTP to ``cloud``."""
    with Visitor(cloud) as somebody:
        yield somebody


@pytest.fixture
def cloud(tmp_path: Path) -> Iterator[Sandbox]:
    """A fresh stand-in cloud with its own object store, and 5 MiB parts."""
    with Sandbox(tmp_path / "cloud", switches=MULTIPART_TESTS) as sandbox:
        yield sandbox


@pytest.fixture(scope="session")
def weed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Weed]:
    """A real S3 server for the session."""
    with weeding(tmp_path_factory.mktemp("weed")) as server:
        yield server


@pytest.fixture
def s3_cloud(weed: Weed, bucket: str) -> Iterator[Sandbox]:
    """A stand-in cloud whose objects go to the real S3 server, into a bucket of their own."""
    with S3Sandbox(S3Endpoint(weed.url, bucket, weed.keys), MULTIPART_TESTS) as sandbox:
        yield sandbox


@pytest.fixture(params=["own", pytest.param("s3", marks=pytest.mark.s3)])
def either(request: pytest.FixtureRequest) -> Iterator[Visitor]:
    """A visitor of a cloud with its own store, then of one in front of the real S3 server."""
    name = "cloud" if request.param == "own" else "s3_cloud"
    with Visitor(request.getfixturevalue(name)) as somebody:
        yield somebody


@pytest.fixture
def bucket() -> str:
    """A bucket name that no test had before."""
    return f"models-{next(_numbers)}"


_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def nursery(tmp_path_factory: pytest.TempPathFactory) -> Nursery:
    """Where homes with files of some age come from."""
    return Nursery(tmp_path_factory.mktemp("nursery"))


@pytest.fixture
def home(nursery: Nursery, tmp_path: Path, cloud: Sandbox) -> Home:
    """Two small files and the device key of ``cloud``."""
    return nursery.home(tmp_path / "home", cloud)


@pytest.fixture
def large_home(nursery: Nursery, tmp_path: Path, cloud: Sandbox) -> Home:
    """The same, and a file that is too large for the device key."""
    return nursery.home(tmp_path / "home", cloud, large=True)
