import os
from pathlib import Path
from typing import Any

import pytest

from syncd.config.rules import IGNORE_FILE, rules_for
from syncd.config.settings import Settings
from syncd.core.files.selection import Rules, Selected, judge
from syncd.errors import RulesUnusable


def rules(root: Path, *, type_key: str | None = None, tree: str = "", **sections: Any) -> Rules:
    settings = Settings.model_validate({"models_dir": str(root), **sections})
    return rules_for(settings, str(root), type_key=type_key, tree=tree)


def fate(of: Rules, rel_path: str) -> str:
    judged = judge(of, rel_path, 10)
    return judged.rule if isinstance(judged, Selected) else judged.reason


def test_file_must_match_include_and_no_exclude(tmp_path: Path) -> None:
    chosen = rules(tmp_path, select={"include": ["loras/", "/vae/*.pt"], "exclude": ["*.ckpt"]})

    assert fate(chosen, "loras/a/b.pt") == "included by loras/ (select.include)"
    assert fate(chosen, "vae/a.pt") == "included by /vae/*.pt (select.include)"
    assert fate(chosen, "unet/a.pt") == "matches no line of select.include"
    assert fate(chosen, "loras/a.ckpt") == "excluded by *.ckpt (select.exclude)"


@pytest.mark.parametrize("text", [b"# drafts\n\n/loras/*.pt\n", b"/loras/*.pt\r\n"])
def test_ignore_file_applies_below_its_root(tmp_path: Path, text: bytes) -> None:
    (tmp_path / IGNORE_FILE).write_bytes(text)
    read = rules(tmp_path)

    assert fate(read, "loras/a.pt") == "excluded by /loras/*.pt (.syncdignore)"
    assert fate(read, "vae/loras/a.pt") == "ending .pt"


def test_ignore_file_may_contain_undecodable_names(tmp_path: Path) -> None:
    (tmp_path / IGNORE_FILE).write_bytes(b"loras/caf\xe9.pt\n")

    assert fate(rules(tmp_path), os.fsdecode(b"loras/caf\xe9.pt")).startswith("excluded by")


@pytest.mark.parametrize("text", [None, "fine\n!\n", "*.pt\n" * 300_000])
def test_invalid_ignore_file_raises(tmp_path: Path, text: str | None) -> None:
    if text is None:
        (tmp_path / IGNORE_FILE).mkdir()
    else:
        (tmp_path / IGNORE_FILE).write_text(text)
    with pytest.raises(
        RulesUnusable, match=r"\.syncdignore(:2: is not a pattern| cannot be read| is larger)"
    ):
        rules(tmp_path)


def test_digest_changes_with_every_rule_and_nothing_else(
    tmp_path: Path,
) -> None:
    plain = rules(tmp_path).digest
    others = [
        rules(tmp_path, naming={"prefix": "m/"}),
        rules(tmp_path, naming={"map": {"a/(b).pt": "a/b.pt"}}),
        rules(tmp_path, select={"types": ["loras"]}),
        rules(tmp_path, select={"endings": [".pt"]}),
        rules(tmp_path, select={"include": ["a"]}),
        rules(tmp_path, select={"exclude": ["a"]}),
        rules(tmp_path, limits={"max_file_size": 1}),
        rules(tmp_path, type_key="loras"),
        rules(tmp_path, tree="another order"),
    ]
    unmoved = rules(tmp_path, upload={"files": 3}).digest
    (tmp_path / IGNORE_FILE).write_text("a\n")
    others.append(rules(tmp_path))

    assert len({plain, *(other.digest for other in others)}) == len(others) + 1
    assert unmoved == plain
