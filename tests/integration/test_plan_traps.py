"""``syncd plan`` on a tree of 1,000 files among which are traps, one for each rule there is."""

import json
import os
from dataclasses import dataclass
from pathlib import Path

import pytest

from syncd.types import printable
from tests.integration.harness import CAP, Home
from tests.weights import write_safetensors

FILES = 1000
TYPES = ("checkpoints", "loras", "vae")
SIZE = 200
"""Bytes of a file that is no trap."""
LONG = "/".join(["n" * 250] * 4)

CONFIG = """\
[comfyui]
extra_model_paths = "extra.yaml"

[naming.map]
"loras/mapped (1).pt" = "loras/mapped.pt"
"loras/[Pony]/" = "loras/Pony/"
"vae/same (1).pt" = "vae/same.pt"

[select]
types = ["checkpoints", "loras", "vae", "clip", "text_encoders", "sams", "{long}"]
endings = [".safetensors", ".pt", ".ckpt"]
include = ["/*/", "!/sams/"]
exclude = ["/loras/test*", "!/loras/tested*"]

[limits]
max_file_size = 9000000
""".replace("{long}", "t" * 51)


@dataclass(frozen=True, slots=True)
class Trap:
    """A file, what the plan has to say of it, and the words by which it tells why."""

    path: str | bytes
    action: str
    rule: str
    size: int = SIZE
    root: str = "models"

    @property
    def name(self) -> str:
        return os.fsdecode(self.path)


def refused(path: str | bytes, words: str) -> Trap:
    return Trap(path, "refused", words)


def ignored(path: str, words: str, size: int = SIZE) -> Trap:
    return Trap(path, "ignored", words, size)


UNFINISHED = "name of an unfinished download"
IN_TWO_CASES = "would get the same place in the catalog"

TRAPS = [
    # Names that are never taken.
    ignored("stray.safetensors", "not in a type folder"),
    ignored("configs/v1.safetensors", "configs/ contains ComfyUI's own settings"),
    ignored("diffusers/sd/unet.safetensors", "diffusers/ contains models of several files"),
    ignored("LLM/q/model-00001-of-00002.safetensors", "LLM/ contains models of several files"),
    ignored("loras/.hidden.safetensors", "hidden or temporary name"),
    ignored("loras/~syncthing~a.safetensors", "hidden or temporary name"),
    ignored("loras/Unconfirmed 1.safetensors", "hidden or temporary name"),
    ignored("loras/put_loras_here", "placeholder"),
    ignored("loras/a.safetensors.part", UNFINISHED),
    ignored("loras/a.safetensors.AbCd1234", UNFINISHED),
    ignored("loras/a.safetensors77", UNFINISHED),
    ignored("loras/a.txt", "not a model ending: .txt"),
    ignored("loras/README", "not a model ending: none"),
    ignored("loras/a.gguf", "not a model ending: .gguf"),
    ignored("loras/empty.safetensors", "empty file", 0),
    # What the operator leaves out.
    ignored("loras/test_1.pt", "excluded by /loras/test* (select.exclude)"),
    ignored("loras/draft.pt", "excluded by draft* (.syncdignore)"),
    ignored("upscale_models/a.pt", "type upscale_models is not in select.types"),
    ignored("sams/a.pt", "matches no line of select.include"),
    ignored("checkpoints/huge.ckpt", "larger than limits.max_file_size, 9000000 bytes", 9000001),
    # What the operator takes after all, or calls by another name.
    Trap("loras/tested.pt", "upload", "included by /*/ (select.include)"),
    Trap("loras/mapped (1).pt", "upload", "named by loras/mapped (1).pt ([naming.map])"),
    Trap("loras/[Pony]/a.pt", "upload", "named by loras/[Pony]/ ([naming.map])"),
    # What a download in progress leaves.
    Trap("loras/loading.pt", "incomplete", "a download is in progress: loading.pt.aria2"),
    ignored("loras/loading.pt.aria2", UNFINISHED),
    # Names that the server refuses.
    refused("loras/a (1).pt", "its characters ( );"),
    refused("loras/a+b.pt", "its characters +;"),
    refused("loras/漢字.pt", "its characters 漢 字;"),
    refused(b"loras/caf\xe9.pt", "(not UTF-8)"),
    refused("loras/a\nb.pt", "its characters \\n;"),
    refused("loras/\x1b[2J.pt", "its characters \\x1b [;"),
    refused("loras/a\\b.pt", "its characters \\;"),
    refused("loras/a..b.pt", "two dots in a row"),
    refused("loras/ edge.pt", "a space at the edge of ' edge.pt'"),
    refused(f"loras/{LONG}/a.pt", "more than 1000 bytes"),
    refused(f"{'t' * 51}/a.pt", "a type folder above 50 characters"),
    # Two files, one place; and two places of which ComfyUI reads the first.
    Trap("vae/Case.pt", "conflict", f"vae/case.pt {IN_TWO_CASES}"),
    Trap("vae/case.pt", "conflict", f"vae/Case.pt {IN_TWO_CASES}"),
    Trap("vae/same.pt", "conflict", f"vae/same (1).pt {IN_TWO_CASES}"),
    Trap("vae/same (1).pt", "conflict", f"vae/same.pt {IN_TWO_CASES}"),
    Trap("text_encoders/t.pt", "upload", "included by /*/ (select.include)"),
    Trap("clip/t.pt", "shadowed", "/models/text_encoders/t.pt under this name"),
    Trap("known.pt", "shadowed", "/models/loras/known.pt under this name", root="extra"),
    Trap("extra.pt", "upload", "included by /*/ (select.include)", root="extra"),
    # What a device key may not send.
    Trap("checkpoints/large.ckpt", "needs_sign_in", f"larger than the {CAP} bytes", CAP + 1),
]


def plain() -> list[str]:
    """The files that are no traps."""
    paths = [
        f"{TYPES[n % 3]}/v{n % 7}/model_{n}.safetensors" for n in range(FILES - len(TRAPS) - 1)
    ]
    return [*paths, "loras/known.pt"]


def put(path: Path, size: int) -> None:
    if size == SIZE:
        write_safetensors(path, size)
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        os.truncate(path, size)


@pytest.fixture
def laid_out(tmp_path: Path) -> Home:
    """The tree, its configuration, and a device key."""
    home = Home.at(tmp_path)
    for path in plain():
        put(home.models / path, SIZE)
    for trap in TRAPS:
        put(tmp_path / trap.root / trap.name, trap.size)
    (home.models / ".syncdignore").write_text("draft*\n")
    (tmp_path / "extra.yaml").write_text("a:\n  loras: extra\n")
    (tmp_path / "config.toml").write_text(CONFIG)
    home.env |= {
        "SYNCD_COMFYUI__EXTRA_MODEL_PATHS": str(tmp_path / "extra.yaml"),
        "SYNCD_API__TOKEN": "dk-none",
    }
    return home


def test_plan_explains_1000_files_and_40_traps(laid_out: Home, tmp_path: Path) -> None:
    done = laid_out.run("--config", str(tmp_path / "config.toml"), "plan", "--json")
    assert done.code == 0, done.err
    files = json.loads(done.out)["files"]
    planned = {(file["root"], file["path"]): file for file in files}

    assert len(TRAPS) >= 40
    assert len(files) == len(planned) == FILES + 1, "and the .syncdignore"
    for trap in TRAPS:
        file = planned[str(tmp_path / trap.root), printable(trap.name)]
        assert file["action"] == trap.action, file
        assert trap.rule in f"{file['reason']} ({file['rule']})", file
    for path in plain():
        file = planned[str(laid_out.models), path]
        assert file["action"] == "upload"
        assert file["rule"] == "included by /*/ (select.include)"
        assert file["model_path"] == f"models/{path}"
    assert all(file["reason"] and file["rule"] for file in files)
