"""The files of a bundle."""

import pytest

from syncd.core.files.selection import Rules, Skipped, bundle_of, judge, missing_files

TYPES = frozenset({"diffusers", "LLM"})


@pytest.mark.parametrize(
    ("typed", "bundle"),
    [
        ("diffusers/sdxl/unet/model.safetensors", "diffusers/sdxl"),
        ("diffusers/sdxl/model_index.json", "diffusers/sdxl"),
        ("LLM/qwen/config.json", "LLM/qwen"),
        ("diffusers/alone.safetensors", None),
        ("loras/sdxl/a.safetensors", None),
        ("Diffusers/sdxl/a.safetensors", None),
    ],
)
def test_bundle_is_folder_below_its_type(typed: str, bundle: str | None) -> None:
    assert bundle_of(typed, TYPES) == bundle


@pytest.mark.parametrize(
    ("names", "indexes", "lacks"),
    [
        (["a.json", "b.bin"], {}, []),
        (["m-00002-of-00003.bin"], {}, ["m-00001-of-00003.bin"]),
        (["m-00001-of-00003.bin", "m-00002-of-00003.bin"], {}, ["m-00003-of-00003.bin"]),
        (["u/m-00001-of-00002.bin", "m-00002-of-00002.bin"], {},
         ["m-00001-of-00002.bin", "u/m-00002-of-00002.bin"]),
        (["a-00001-of-99999.bin", "b-00001-of-99999.bin"], {},
         ["a-00002-of-99999.bin", "b-00002-of-99999.bin"]),
        (["u/x.index.json", "u/a.bin"], {"u/x.index.json": ["a.bin", "b.bin"]}, ["u/b.bin"]),
        (["x.index.json"], {"x.index.json": ["../../../etc/passwd"]}, ["../../../etc/passwd"]),
        (["m-1-of-2.bin", "m-00001-of-00001.bin"], {}, []),
    ],
)  # fmt: skip
def test_missing_shards_are_found_by_index_and_number(
    names: list[str], indexes: dict[str, list[str]], lacks: list[str]
) -> None:
    assert list(missing_files(names, indexes)) == lacks


@pytest.mark.parametrize("name", [".gitattributes", "a.bin.part", "x~", ".cache/a.json"])
def test_hidden_or_unfinished_file_of_bundle_is_skipped(name: str) -> None:
    assert isinstance(judge(Rules(bundles=TYPES), f"diffusers/sdxl/{name}", 1), Skipped)
