"""
The largest headers, also hostile ones, take bounded memory; ordinary ones take little time.

Memory is the high-water mark of a process that does nothing else; time is the processor's, so a busy
machine does not fail the test.
"""

import json
import os
import pickle
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from syncd.ingest.formats import gguf, safetensors, structure, window
from tests import model_files

MIB = 1024 * 1024

JSON_MEMORY = 128 * MIB
"""The text of the largest header that is parsed, and its values."""

CHILD = """
import os, re, sys
from syncd.ingest import integrity
from syncd.ingest.formats import structure

def memory(line):
    with open("/proc/self/status") as status:
        return 1024 * int(re.search(line + r":\\s+(\\d+) kB", status.read())[1])

path = sys.argv[1]
fd, before = os.open(path, os.O_RDONLY), memory("VmRSS")
verdict = structure.check(fd, path, os.fstat(fd).st_size)
print(memory("VmHWM") - before, verdict.complete, verdict.sentence, sep="\\n")
"""


def text_header(start: bytes, unit: bytes, end: bytes, size: int = window.MAX_SIZE) -> bytes:
    """About *size* bytes of JSON."""
    return model_files.safetensors(
        start + unit * ((size - len(start) - len(end)) // len(unit)) + end
    )


def many_tensors(size: int, data: int = 0) -> bytes:
    entry = '"model.diffusion_model.blocks.%06d.weight":{"dtype":"F16","shape":[64,64],"data_offsets":[0,%d]}'
    count = size // len(entry % (0, data))
    header = "{" + ",".join(entry % (i, data) for i in range(count)) + "}"
    return model_files.safetensors(header.encode(), bytes(data))


def gguf_model(words: int, tensors: int) -> bytes:
    """A vocabulary of *words*, and *tensors* of 256 bytes that share them."""
    array = struct.pack("<IQ", 8, words) + b"".join(
        model_files.gguf_string(f"{i}") for i in range(words)
    )
    described = ((f"blk.{i}.attn_norm.weight", (64, 1), 0, 0) for i in range(tensors))
    return model_files.gguf(
        [model_files.gguf_pair("tokenizer.ggml.tokens", 9, array)], described, 256
    )


def many_entries(count: int) -> bytes:
    return model_files.torch_zip({f"archive/data/{i}": b"" for i in range(count)})


def many_storages() -> bytes:
    start = model_files.torch_legacy(2).split(pickle.dumps(1001, 2))[0] + pickle.dumps(1001, 2) * 2
    storage = b"(U\x07storagectorch\nByteStorage\nU\x40%064dU\x03cpuK\x01tQ0"
    return start + b"\x80\x02" + b"".join(storage % i for i in range(19_000)) + b"N."


HUGE: dict[str, tuple[str, Callable[[], bytes], str]] = {
    "the longest header, one string": (
        "m.safetensors",
        lambda: text_header(b'{"__metadata__":{"a":"', b'\\"words\\" ', b'"}}', safetensors.MAX_HEADER),
        "not checked: 99,999,995 bytes of JSON",
    ),
    "strings of wide characters": (
        "m.safetensors",
        lambda: text_header(b'{"__metadata__":{"a":"', "\U0001f600".encode(), b'"}}'),
        "complete: a whole safetensors file",
    ),
    "empty arrays": (
        "m.safetensors",
        lambda: text_header(b'{"__metadata__":[', b"[],", b"0]}"),
        "not checked: the JSON text has more than 500,000 values",
    ),
    "dimensions": (
        "m.safetensors",
        lambda: text_header(
            b'{"a":{"data_offsets":[0,0]},"b":{"shape":[0', b",999", b'],"data_offsets":[0,0]}}', 1_999_000
        ),
        "complete: a whole safetensors file",
    ),
    "tensors": ("m.safetensors", lambda: many_tensors(8_000_000), "complete: a whole safetensors file"),
    "the largest vocabulary": (
        "m.gguf",
        lambda: gguf_model(gguf.MAX_ITEMS - 1, 0),
        "complete: a whole gguf file",
    ),
    "gguf tensors": ("m.gguf", lambda: gguf_model(0, 200_000), "complete: a whole gguf file"),
    "zip entries": ("m.pt", lambda: many_entries(100_000), "complete: a whole zip file"),
    "storages": ("m.pt", many_storages, "incomplete: a pickle runs past the end of the file"),
    "onnx fields": (
        "m.onnx",
        lambda: (model_files.onnx_field(7, b"") + model_files.onnx_field(8, b"")) * 60_000,
        "damaged: the onnx model has more than",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", HUGE)
def test_I17_memory_is_bounded_for_any_content(tmp_path: Path, case: str) -> None:
    name, make, expected = HUGE[case]
    path = tmp_path / name
    path.write_bytes(make())
    child = [sys.executable, "-c", CHILD, str(path)]
    done = subprocess.run(child, check=True, capture_output=True, text=True, timeout=120)
    growth, _, sentence = done.stdout.splitlines()

    assert sentence.startswith(expected)
    assert int(growth) < (JSON_MEMORY if name.endswith(".safetensors") else 16 * MIB)


INDEX_CHILD = CHILD.replace(
    "verdict = structure.check(fd, path, os.fstat(fd).st_size)",
    """try:
    result = len(integrity.shards_in(path))
except ValueError as error:
    result = error""",
).replace('verdict.complete, verdict.sentence, sep="\\n")', 'result, sep="\\n")')


def index_of(entry: Callable[[int], str]) -> bytes:
    """An index of shards as long as one may be."""
    entries: list[str] = []
    size = 0
    while size < window.MAX_SIZE - 1000 and len(entries) < window.MAX_COMMAS - 2:
        entries.append(entry(len(entries)))
        size += len(entries[-1].encode()) + 2
    return ('{"metadata": {}, "weight_map": {' + ", ".join(entries) + "}}").encode()


INDEXES: dict[str, tuple[Callable[[int], str], str]] = {
    "tensors in 160 files": (
        lambda n: f'"model.layers.{n}.mlp.weight": "model-{n % 160 + 1:05}-of-00160.safetensors"',
        "160",
    ),
    "a file for each tensor": (lambda n: f'"{n}": "{n}.bin"', "it is not an index of shards"),
    "names too long for a path": (lambda n: f'"{n}": "{"x" * 5000}{n}"', "it is not an index of shards"),
}  # fmt: skip


@pytest.mark.parametrize("case", INDEXES)
def test_I17_memory_is_bounded_for_the_largest_index_of_shards(tmp_path: Path, case: str) -> None:
    entry, expected = INDEXES[case]
    path = tmp_path / "model.safetensors.index.json"
    path.write_bytes(index_of(entry))
    child = [sys.executable, "-c", INDEX_CHILD, str(path)]
    done = subprocess.run(child, check=True, capture_output=True, text=True, timeout=120)
    growth, result = done.stdout.splitlines()

    assert result == expected
    assert int(growth) < JSON_MEMORY


def trainers_notes() -> bytes:
    """JSON in a string in JSON: a quarter of it are escapes."""
    frequency = json.dumps({f"tag {i}": i for i in range(50_000)})
    return model_files.safetensors(
        json.dumps({"__metadata__": {"ss_tag_frequency": frequency}}).encode()
    )


ORDINARY: dict[str, tuple[str, Callable[[], bytes]]] = {
    "tensors as the library writes them": ("m.safetensors", lambda: many_tensors(MIB)),
    "a training's notes": ("m.safetensors", trainers_notes),
    "a vocabulary and tensors": ("m.gguf", lambda: gguf_model(45_000, 8_000)),
    "zip entries": ("m.pt", lambda: many_entries(10_000)),
}  # fmt: skip


PASSES = 8
"""A check may take as long as the interpreter needs to touch each byte of the header this often."""


def seconds(act: Callable[[], object]) -> float:
    """Of the processor, the least of some tries."""
    spent = []
    for _ in range(5):
        start = time.process_time()
        act()
        spent.append(time.process_time() - start)
    return min(spent)


def touch(content: bytes) -> None:
    for _ in content:
        pass


@pytest.mark.parametrize("case", ORDINARY)
def test_header_of_one_mebibyte_costs_a_few_passes_over_it(case: str) -> None:
    name, make = ORDINARY[case]
    content = make()
    fd = os.memfd_create("model")
    try:
        os.write(fd, content)
        verdict = structure.check(fd, name, len(content))
        spent = seconds(lambda: structure.check(fd, name, len(content)))
    finally:
        os.close(fd)

    assert verdict.complete
    assert spent < PASSES * seconds(lambda: touch(content[:MIB]))
