"""
The packages ``safetensors`` and ``gguf`` write files, whole and cut: their readers and ours agree.

Where we mean to differ, a test says so. Weights that other packages ship are whole to us, too.
"""

import json
import os
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType as Type
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from syncd.ingest.formats import structure
from syncd.ingest.formats.gguf import TENSOR_TYPES
from syncd.ingest.formats.structure import Structure
from tests import model_files

Reader = Callable[[Path], None]


def ours(path: Path) -> Structure:
    fd = os.open(path, os.O_RDONLY)
    try:
        return structure.check(fd, path.name, path.stat().st_size)
    finally:
        os.close(fd)


def accepts(reader: Reader, path: Path) -> bool:
    try:
        reader(path)
    except (SafetensorError, ValueError, IndexError, KeyError, OverflowError):
        return False
    return True


def read_safetensors(path: Path) -> None:
    with safe_open(path, framework="numpy") as file:
        for name in file.keys():  # noqa: SIM118 (it is no dict)
            file.get_slice(name).get_shape()


def read_gguf(path: Path) -> None:
    gguf.GGUFReader(path)


def cuts(path: Path) -> list[int]:
    """Sizes below the whole: all around the header's and the file's end, and some between."""
    size = path.stat().st_size
    return sorted(
        {*range(16, min(size, 700), 7), *range(700, size, 997), *range(max(size - 70, 0), size)}
    )


# -- safetensors ---------------------------------------------------------------------------------

ARRAYS: dict[str, np.ndarray[Any, Any]] = {
    "a.weight": np.arange(600, dtype=np.float32).reshape(20, 30),
    "b.bias": np.ones(17, np.float16),
    "c.scalar": np.array(3, np.int64),
    "d.none": np.zeros((0, 4), np.uint8),
    "e.\u00e4 \U0001f600": np.zeros(5, np.bool_),
    **{f"blocks.{i}.w": np.full((3, 5), i, np.float64) for i in range(100)},
}


@pytest.fixture(params=["bare", "metadata", "empty"])
def tensors(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    notes = {"title": 'A "title"\n\u00e4', "ss_tags": json.dumps({"tags": list(range(500))})}
    save_file(
        {} if request.param == "empty" else ARRAYS,
        path,
        notes if request.param == "metadata" else None,
    )
    return path


def test_safetensors_whole_and_truncated_get_the_official_verdict(tensors: Path) -> None:
    assert ours(tensors) == Structure(True, None, "safetensors")
    assert accepts(read_safetensors, tensors)

    for size in reversed(cuts(tensors)):
        os.truncate(tensors, size)

        assert not ours(tensors).complete
        assert not accepts(read_safetensors, tensors)


def test_safetensors_with_extra_bytes_is_complete_unlike_official_verdict(tensors: Path) -> None:
    """ComfyUI loads such files, so the official reader's refusal is not ours."""
    with tensors.open("ab") as file:
        file.write(bytes(100))

    assert ours(tensors).complete
    assert not accepts(read_safetensors, tensors)


T = '{"dtype":"U8","shape":[4],"data_offsets":[0,4]}'
HEADERS = {
    "whole": f'{{"a":{T}}}',
    "spaced": f' {{ "a" : {T} }} ',
    "no offsets": '{"a":{"dtype":"U8","shape":[4]}}',
    "one offset": f'{{"a":{T.replace("[0,4]", "[4]")}}}',
    "three offsets": f'{{"a":{T.replace("[0,4]", "[0,4,4]")}}}',
    "negative offset": f'{{"a":{T.replace("[0,4]", "[-1,4]")}}}',
    "fractional offset": f'{{"a":{T.replace("[0,4]", "[0,4.0]")}}}',
    "end before begin": f'{{"a":{T.replace("[0,4]", "[4,0]")}}}',
    "end too far": f'{{"a":{T.replace("[0,4]", "[0,5]").replace("[4]", "[5]")}}}',
    "metadata last": f'{{"a":{T},"__metadata__":{{"a":"\\u00e4"}}}}',
}


@pytest.mark.parametrize("case", HEADERS)
def test_handmade_safetensors_header_gets_the_official_verdict(tmp_path: Path, case: str) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(model_files.safetensors(HEADERS[case].encode().ljust(8), bytes(4)))

    assert ours(path).complete == accepts(read_safetensors, path)


LENIENT = {
    "a hole": f'{{"a":{T.replace("[0,4]", "[0,3]").replace("[4]", "[3]")}}}',
    "other bytes than the shape takes": f'{{"a":{T.replace("[4]", "[5]")}}}',
    "unknown dtype": f'{{"a":{T.replace("U8", "U4096")}}}',
    "metadata that is no text": f'{{"a":{T},"__metadata__":{{"a":1}}}}',
}


@pytest.mark.parametrize("case", LENIENT)
def test_header_that_only_the_official_reader_refuses_is_complete(
    tmp_path: Path, case: str
) -> None:
    """We ask whether the bytes are there, not whether they make sense."""
    path = tmp_path / "model.safetensors"
    path.write_bytes(model_files.safetensors(LENIENT[case].encode(), bytes(4)))

    assert ours(path).complete
    assert not accepts(read_safetensors, path)


# -- gguf ----------------------------------------------------------------------------------------


def write_gguf(path: Path, kinds: list[Type], *, alignment: int = 32, **options: Any) -> None:
    writer = gguf.GGUFWriter(path, "llama", **options)
    if alignment != 32:
        writer.add_custom_alignment(alignment)
    writer.add_name("a name \u00e4")
    writer.add_context_length(4096)
    writer.add_token_list([f"token{i}" for i in range(300)])
    writer.add_token_scores([0.5] * 300)
    writer.add_array("some.flags", [True, False])
    for i, kind in enumerate(kinds):
        block, size = gguf.GGML_QUANT_SIZES[kind]
        data = np.full((3, size * (1 + i % 2)), 7, np.uint8)
        assert block
        writer.add_tensor(f"blk.{i}.weight", data, raw_dtype=kind)
    writer.add_tensor("last.bias", np.ones(5, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def unpadded_end(path: Path) -> int:
    """Where the last tensor ends: up to there the package's reader takes a file that is cut."""
    tensors = gguf.GGUFReader(path).tensors
    return max(int(each.data_offset) + int(each.n_bytes) for each in tensors)


@pytest.mark.parametrize("alignment", [8, 32, 256])
def test_gguf_whole_and_truncated_get_the_official_verdict(tmp_path: Path, alignment: int) -> None:
    path = tmp_path / "model.gguf"
    write_gguf(path, list(gguf.GGML_QUANT_SIZES), alignment=alignment)
    end = unpadded_end(path)

    assert ours(path) == Structure(True, None, "gguf")
    assert end < path.stat().st_size

    for size in reversed([each for each in cuts(path) if each < end]):
        os.truncate(path, size)

        assert not ours(path).complete
        assert not accepts(read_gguf, path)


def test_gguf_truncated_within_last_padding_is_incomplete(tmp_path: Path) -> None:
    """Every writer pads the last tensor, so a file without that padding was cut."""
    path = tmp_path / "model.gguf"
    write_gguf(path, [Type.Q4_K])
    os.truncate(path, path.stat().st_size - 1)

    assert not ours(path).complete
    assert accepts(read_gguf, path)


def test_big_endian_gguf_is_not_checked(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    write_gguf(path, [Type.F16], endianess=gguf.GGUFEndian.BIG)

    assert ours(path) == Structure(True, "not checked: its numbers are big-endian", "gguf")


def test_gguf_tensor_types_equal_the_official_table() -> None:
    theirs = {int(kind): sizes for kind, sizes in gguf.GGML_QUANT_SIZES.items()}

    assert dict(TENSOR_TYPES) == theirs


# -- weights that other packages ship ------------------------------------------------------------


def folder(package: str, name: str) -> Path:
    """Of an installed package that is not imported: it would want torch."""
    return Path(str(metadata.distribution(package).locate_file(name)))


def shipped() -> list[tuple[Path, str]]:
    lpips, silero = folder("lpips", "lpips"), folder("silero-vad", "silero_vad")
    return [
        *((path, "torch legacy") for path in sorted(lpips.glob("weights/*/*.pth"))),
        *((path, "onnx") for path in sorted(silero.glob("data/*.onnx"))),
        *((path, "safetensors") for path in sorted(silero.glob("data/*.safetensors"))),
        *((path, "zip") for path in sorted(silero.glob("data/*.jit"))),
    ]


def test_shipped_weights_are_complete_and_one_byte_less_is_not(tmp_path: Path) -> None:
    found = shipped()
    for source, kind in found:
        path = tmp_path / source.name.replace(".jit", ".pt")
        path.write_bytes(source.read_bytes())

        assert ours(path) == Structure(True, None, kind)

        os.truncate(path, path.stat().st_size - 1)
        assert not ours(path).complete

    assert {kind for _, kind in found} == {"torch legacy", "onnx", "safetensors", "zip"}
