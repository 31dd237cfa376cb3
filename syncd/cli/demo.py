"""``syncd demo``: uploads sample models to a simulated cloud; needs no account."""

import hashlib
import json
import os
import random
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from syncd.sandbox.server import Sandbox

MIB = 1024 * 1024


@click.command()
@click.option("--keep", metavar="DIR", help="Work in DIR and leave everything there afterwards.")
def demo(keep: str | None) -> int:
    """Upload sample models to a simulated cloud on this machine and show the result."""
    if keep is not None:
        return _demo(Path(keep).absolute())
    with tempfile.TemporaryDirectory(prefix="syncd-demo-") as folder:
        return _demo(Path(folder))


def _demo(folder: Path) -> int:
    from syncd.sandbox.server import Sandbox

    models = folder / "models"
    _make_tree(models)
    shutil.rmtree(folder / "state", ignore_errors=True)  # the cloud starts empty as well
    with Sandbox(folder / "cloud") as cloud:
        click.echo(f"The simulated cloud listens on {cloud.base_url}; models are in {models}\n")
        code = _sync(folder, models, cloud.base_url, cloud.session_token, cloud.team_id)
        compared, wrong = len(cloud.records()), _compare(models, cloud)
    click.echo(
        f"\n{compared} registered models were read back from the store and compared: "
        f"{len(wrong)} differ."
    )
    return code if compared and not wrong else 1


def _sync(folder: Path, models: Path, base_url: str, token: str, team_id: str) -> int:
    from syncd.cli.run import run
    from syncd.config import loader
    from syncd.monitoring import log

    loaded = loader.load(
        os.devnull,
        {
            "models_dir": os.fspath(models),
            "state_dir": os.fspath(folder / "state"),
            "api.base_url": base_url,
            "api.team_id": team_id,
            "api.single_put_limit": 16 * MIB,
            "settle.quiet_s": 1.0,
            "settle.quiet_closed_s": 1.0,
        },
        {"SYNCD_API__TOKEN": token},
    )
    log.configure(format=loaded.settings.log.format, level="warning")
    return run(loaded, once=True)


def _compare(models: Path, cloud: "Sandbox") -> list[str]:
    """Return the model paths whose stored object is not the local file."""
    wrong = []
    for record in cloud.records():
        data = (models / record["model_path"].removeprefix("models/")).read_bytes()
        if cloud.stored_sha256(record["storage_key"]) != hashlib.sha256(data).hexdigest():
            wrong.append(record["model_path"])
    return wrong


def _make_tree(models: Path) -> None:
    """A tree as ComfyUI has it; the weights are noise, the files are whole safetensors."""
    noise = random.Random(1)  # noqa: S311  not a secret
    sizes = {
        "checkpoints/sd_tiny.safetensors": 48 * MIB,
        "diffusion_models/flux_tiny.safetensors": 24 * MIB,
        "vae/vae_tiny.safetensors": 6 * MIB,
        "text_encoders/clip_tiny.safetensors": 9 * MIB,
        "loras/style/ink.safetensors": 2 * MIB,
        "loras/style/charcoal.safetensors": 3 * MIB,
        "controlnet/canny.safetensors": 5 * MIB,
        "upscale_models/x2.safetensors": MIB,
    }
    for rel_path, size in sizes.items():
        _write(models / rel_path, _safetensors(size, noise))
    _write(models / "loras/put_loras_here", b"")
    _write(models / "loras/style/ink.preview.png", b"\x89PNG\r\n\x1a\n")
    _write(models / "checkpoints/half.safetensors.part", b"half a download")


def _safetensors(size: int, noise: random.Random) -> bytes:
    """One tensor of *size* bytes behind a header as the safetensors format has it."""
    header = {"weight": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + noise.randbytes(size)


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
