from pathlib import Path

import pytest

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
        ("a: 2026-02-30", ": contains a value that is not a path"),
        ("[" * 100_000, ": contains a value that is not a path"),
        ("a: loras\n", ": a: is not a section"),
        ("a:\n  base_path: 3\n", ": a: base_path is not a path"),
        ("a:\n  loras: 3\n", ": a: loras: is not a type with paths"),
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
