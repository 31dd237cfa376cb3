"""The command against a real S3 server, which verifies every signature itself."""

import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from syncd.sandbox.server import Sandbox
from syncd.sandbox.switches import Switches
from syncd.types import Call
from tests.integration.harness import Home, deeds, records
from tests.relay import Answer, Relay, Seen, relaying
from tests.s3 import S3Endpoint, S3Sandbox
from tests.trap import facts, run, start
from tests.weed import Weed
from tests.weights import MIB, sha256_of, write_safetensors

pytestmark = pytest.mark.s3

CAP = 6 * MIB
PART = 5 * MIB
PARTS_AT_ONCE = 4
SWITCHES = Switches(part_size=PART)

FOLDERS = (
    "checkpoints", "clip_vision", "controlnet", "diffusion_models", "embeddings", "gligen",
    "hypernetworks", "loras", "style_models", "text_encoders", "upscale_models", "vae",
)  # fmt: skip
FILES = 60
ABOVE_CAP = {
    "checkpoints/one.safetensors": CAP + 1,  # two parts, the second shorter
    "diffusion_models/flux/two.safetensors": 2 * PART,  # two whole parts
    "text_encoders/three.safetensors": 2 * PART + 1,  # the last part is one byte
}

ONE = "loras/one.safetensors"


@pytest.fixture
def relay(weed: Weed) -> Iterator[Relay]:
    """What the command takes for the S3 server."""
    with relaying(weed.url) as between:
        yield between


@pytest.fixture
def cloud(relay: Relay, weed: Weed, bucket: str) -> Iterator[Sandbox]:
    """The API in front of the real S3 server, as seen through ``relay``."""
    with S3Sandbox(S3Endpoint(relay.url, bucket, weed.keys), SWITCHES) as sandbox:
        yield sandbox


@pytest.fixture
def home(tmp_path: Path, cloud: Sandbox) -> Home:
    """A signed-in user with an empty tree."""
    home = Home.at(tmp_path / "home", cloud)
    home.sign_in(cloud)
    home.env["SYNCD_API__SINGLE_PUT_LIMIT"] = str(CAP)
    return home


def local(home: Home) -> dict[str, str]:
    """model_path -> SHA-256 of what is on disk."""
    files = home.models.rglob("*.safetensors")
    return {f"models/{path.relative_to(home.models)}": sha256_of(path) for path in files}


def presigned(seen: Seen) -> bool:
    """Is this from the command, and not from the cloud behind the API?"""
    return "X-Amz-Signature" in seen.query


def test_files_reach_the_store_as_they_are_and_are_not_looked_at_again(
    home: Home, cloud: Sandbox, relay: Relay, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(FILES - len(ABOVE_CAP)):
        folder = FOLDERS[number % len(FOLDERS)]
        write_safetensors(home.models / folder / f"{number}.safetensors", 3_000 + 997 * number)
    for rel_path, size in ABOVE_CAP.items():
        write_safetensors(home.models / rel_path, size)

    first = run(home, "--once")

    assert first.code == 0, first.err
    assert records(cloud) == local(home)
    assert len(cloud.records()) == len(cloud.objects()) == FILES
    assert {path.split("/")[1] for path in records(cloud)} == set(FOLDERS)
    assert cloud.history.count(Call.PRESIGN) == FILES
    assert cloud.history.count(Call.COMPLETE) == len(ABOVE_CAP)
    assert cloud.open_uploads() == ()

    before = len(deeds(cloud)), len(relay.seen)
    second = run(home, "--once")

    assert second.code == 0, second.err
    assert (len(deeds(cloud)), len(relay.seen)) == before  # not one call that does anything
    with capsys.disabled():
        print(f"\n{FILES} files: first {first.seconds:.2f} s, again {second.seconds:.2f} s")


def test_412_after_a_lost_answer_is_our_own_object(
    home: Home, cloud: Sandbox, relay: Relay
) -> None:
    write_safetensors(home.models / ONE, MIB)
    statuses: list[int] = []

    def lose_the_first(seen: Seen, answer: Answer) -> Answer | None:
        statuses.extend([answer.status] if presigned(seen) else [])
        return None if statuses == [200] else answer

    relay.after = lose_the_first

    done = run(home, "--once")

    assert done.code == 0, done.err
    assert statuses == [200, 412]
    assert records(cloud) == local(home)
    assert len(cloud.objects()) == 1


def test_a_killed_multipart_upload_sends_what_the_real_store_does_not_have(
    home: Home, cloud: Sandbox, relay: Relay
) -> None:
    at = 5
    write_safetensors(home.models / ONE, 8 * PART + 1)
    victims: list[subprocess.Popen[bytes]] = []

    def kill_there(seen: Seen, answer: Answer) -> Answer | None:
        parts = [put for put in relay.puts() if put.part]
        if len(parts) == at and victims:
            victims[0].kill()
            victims[0].wait()
            victims.clear()
        return answer

    relay.after = kill_there
    victims.append(start(home, "--once"))

    assert victims[0].wait(60) == -signal.SIGKILL

    kept = facts(home)[f"models/{ONE}"].etags
    before = {put.part for put in relay.puts()}
    relay.seen.clear()

    again = run(home, "--once")

    assert again.code == 0, again.err
    assert kept <= before
    assert len(kept) >= at - PARTS_AT_ONCE
    assert {put.part for put in relay.puts()} == set(range(1, 10)) - kept
    assert records(cloud) == local(home)
    assert cloud.history.count(Call.INITIATE) == 1
    assert cloud.open_uploads() == ()
