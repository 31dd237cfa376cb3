from pathlib import Path

import pytest

from syncd.config.extra_paths import extra_folders
from syncd.config.loader import load
from syncd.config.settings import Settings
from syncd.errors import ConfigError


def read(tmp_path: Path, text: str | bytes) -> Settings:
    file = tmp_path / "extra.yaml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    values = {"models_dir": str(tmp_path / "models"), "comfyui.extra_model_paths": str(file)}
    return load("/dev/null", values, {}).settings


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: [", ":1:5: not valid YAML"),
        ("a: !!python/object:os.system x", ":1:4: not valid YAML"),
        (b"a: \xff", ": not UTF-8 at byte 3"),
        ("a: 2026-02-30", ": contains a value that is not a path"),
        ("[" * 100_000, ": contains a value that is not a path"),
        ("- a\n", ": has no sections"),
        ("a: loras\n", ": a: is not a section"),
        ("a:\n  base_path: 3\n", ": a: base_path is not a path"),
        ("a:\n  loras: 3\n", ": a: loras: is not a type with paths"),
        ("a:\n  loras: [x, y]\n", ": a: loras: is not a type with paths"),
        ("a:\n  3: x\n", ": a: 3: is not a type with paths"),
        ("a:\n  lo/ras: x\n", ": a: lo/ras: a type is one folder name"),
        ('a:\n  "\\e[2J": x\n', ": a: \\x1b[2J: a type is one folder name"),
        ('a:\n  loras: "x\\0y"\n', ": a: loras: is not a type with paths"),
    ],
)
def test_file_that_comfyui_cannot_read_is_refused_with_its_position(
    tmp_path: Path, text: str | bytes, said: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, text)

    assert str(caught.value).startswith(f"{tmp_path}/extra.yaml{said}")


def test_missing_file_is_refused_as_a_setting(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--comfyui-extra-model-paths: is not a readable file"):
        load("/dev/null", {"models_dir": "/m", "comfyui.extra_model_paths": "/none.yaml"}, {})


@pytest.mark.parametrize("text", ["", "# nothing yet\n", "a:\n", "a:\n  custom_nodes: x\n"])
def test_file_without_models_adds_no_folder(tmp_path: Path, text: str) -> None:
    assert extra_folders(read(tmp_path, text)) == []


def test_folder_of_models_is_recognised_under_every_spelling(tmp_path: Path) -> None:
    (tmp_path / "models" / "loras").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "models")
    text = "a:\n  loras: |\n    models/loras\n    link/loras\n    other\n  vae: models/loras\n"

    tops = [(folder.type_key, folder.top) for folder in extra_folders(read(tmp_path, text))]

    assert tops == [("loras", "loras"), ("loras", "loras"), ("loras", None), ("vae", None)]


def test_second_name_of_a_directory_of_one_kind_gets_the_first_path(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "link").symlink_to("x")

    folders = extra_folders(read(tmp_path, "a:\n  clip: x\n  text_encoders: link\n  loras: link\n"))

    assert [(f.type_key, f.path) for f in folders] == [
        ("clip", f"{tmp_path}/x"),
        ("clip", f"{tmp_path}/x"),
        ("loras", f"{tmp_path}/link"),
    ]
