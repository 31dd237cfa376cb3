"""Model files that nobody here made, from packages that ship weights, through a real S3 server."""

import hashlib
import importlib.util
import shutil
import time
from pathlib import Path

import httpx
import pytest

from syncd.sandbox.server import Sandbox
from syncd.types import Call
from tests.integration.harness import Home
from tests.s3 import sign_headers
from tests.trap import run
from tests.weed import Weed

pytestmark = pytest.mark.s3

CAP = 2_500_000
"""Bytes: one of the files is larger."""

TREE = {
    "audio_encoders/silero_vad_16k.safetensors": ("silero_vad", "data/silero_vad_16k.safetensors"),
    "onnx/silero_vad.onnx": ("silero_vad", "data/silero_vad.onnx"),
    "onnx/half/silero_vad.onnx": ("silero_vad", "data/silero_vad_half.onnx"),
    "onnx/large/silero_vad.onnx": ("silero_vad", "data/silero_vad_op18_ifless.onnx"),
    "vae_approx/lpips/vgg.pth": ("lpips", "weights/v0.1/vgg.pth"),
    "vae_approx/lpips/alex.pth": ("lpips", "weights/v0.1/alex.pth"),
    "vae_approx/lpips/squeeze.pth": ("lpips", "weights/v0.0/squeeze.pth"),
}
"""Where ComfyUI and its nodes look for such files, and where they come from."""


def shipped(package: str, inside: str) -> Path:
    """A file of an installed package, which is found without running its code."""
    spec = importlib.util.find_spec(package)
    assert spec is not None, f"{package} is missing: install the extra 'weights'"
    assert spec.submodule_search_locations is not None
    return Path(spec.submodule_search_locations[0]) / inside


def stored_bytes(weed: Weed, bucket: str, storage_key: str) -> bytes:
    """The object as the S3 server gives it back, asked without the sandbox."""
    url = f"{weed.url}/{bucket}/{storage_key}"
    headers = sign_headers(weed.keys, "GET", url, at_s=time.time())
    with httpx.Client(trust_env=False) as client:
        return client.get(url, headers=headers).raise_for_status().content


def test_weights_of_other_people_are_stored_byte_for_byte(
    tmp_path: Path, s3_cloud: Sandbox, weed: Weed, bucket: str
) -> None:
    home = Home.at(tmp_path / "home", s3_cloud)
    home.sign_in(s3_cloud)
    home.env["SYNCD_API__SINGLE_PUT_LIMIT"] = str(CAP)
    for rel_path, source in TREE.items():
        path = home.models / rel_path
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(shipped(*source), path)

    done = run(home, "--once")

    assert done.code == 0, done.err
    records = {record["model_path"]: record for record in s3_cloud.records()}
    assert set(records) == {f"models/{rel_path}" for rel_path in TREE}
    for rel_path, source in TREE.items():
        record = records[f"models/{rel_path}"]
        sent = stored_bytes(weed, bucket, record["storage_key"])
        assert sent == shipped(*source).read_bytes()
        assert record["file_hash"] == f"sha256:{hashlib.sha256(sent).hexdigest()}"
        assert (record["model_type"], record["file_size"]) == (rel_path.split("/")[0], len(sent))
    assert s3_cloud.history.count(Call.INITIATE) == 1  # one file is above the cap
