"""
Our reading of a tree against ComfyUI's, on disk.

``comfyui_trees.json`` holds trees with their ``extra_model_paths.yaml``, and for each what ComfyUI's
``folder_paths.py`` and ``utils/extra_config.py`` make of it: kind, name, and the file that it loads
under that name (links resolved). ``left_by_us`` and ``only_ours`` say where syncd differs on purpose:
names that it never takes, and two endings that custom nodes add.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from syncd.config import loader, rules
from syncd.config.settings import Settings
from syncd.core.files.selection import Rules, Selected
from syncd.fs import scanner
from syncd.ingest.comparer import Comparer, Root
from syncd.ingest.dry_run import roots_of

CASES: list[dict[str, Any]] = json.loads(
    (Path(__file__).parents[1] / "data" / "comfyui_trees.json").read_text("utf-8")
)
STOCK = {fact[0] for case in CASES for fact in case["comfyui"]} | {"diffusers", "classifiers"}


def build(base: Path, case: dict[str, Any]) -> None:
    (base / "ComfyUI/models").mkdir(parents=True)
    for name in case["files"]:
        (base / name).parent.mkdir(parents=True, exist_ok=True)
        (base / name).write_bytes(b"x" * 20)
    for name, target in case.get("links", {}).items():
        (base / name).parent.mkdir(parents=True, exist_ok=True)
        (base / name).symlink_to(target.replace("{base}", str(base)))


def settings_of(base: Path, case: dict[str, Any]) -> Settings:
    values: dict[str, object] = {
        "models_dir": str(base / case.get("models", "ComfyUI/models")),
        "state_dir": str(base / "state"),
    }
    if "yaml" in case:
        file = base / case.get("yaml_at", "ComfyUI/extra_model_paths.yaml")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("\n".join(case["yaml"]).replace("{base}", str(base)) + "\n")
        values["comfyui.extra_model_paths"] = str(file)
    return loader.load("/dev/null", values, {}).settings


def our_reading(base: Path, settings: Settings) -> dict[tuple[str, str], str]:
    """Kind and name of each file that syncd takes, with the file."""
    roots, tree = roots_of(settings)

    def rules_of(root: Root) -> Rules:
        return rules.rules_for(settings, root.path, type_key=root.type_key)

    comparer = Comparer(roots, files=None, symlinks="follow", tree=tree, rules_of=rules_of)
    taken = {}
    for root in roots.values():
        for file in scanner.files_in(scanner.scan(root.path, root.id, problem=lambda *_: None)):
            if isinstance(comparer.judge(file), Selected):
                key = tree.kind_and_name(root.id, file.rel_path)
                real = Path(root.path, file.rel_path).resolve()
                assert key not in taken
                taken[key] = str(real.relative_to(base))
    return taken


@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
def test_a_tree_is_read_as_comfyui_reads_it(
    tmp_path: Path, case: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    base = tmp_path.resolve()
    build(base, case)
    monkeypatch.setenv("HOME", str(base / "home"))
    for name, value in case.get("env", {}).items():
        monkeypatch.setenv(name, value.replace("{base}", str(base)))
    facts = {(kind, name): file for kind, name, file in case["comfyui"]}
    kinds = STOCK.union(case["kinds_added"])

    ours = our_reading(base, settings_of(base, case))

    left, only = case.get("left_by_us", ()), case.get("only_ours", ())
    assert {key: file for key, file in ours.items() if file not in only and key[0] in kinds} == {
        key: file for key, file in facts.items() if file not in left
    }
    assert set(only) <= set(ours.values())
    assert set(left) <= set(facts.values()) - set(ours.values())
