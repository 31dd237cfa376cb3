"""What is whole, what is not, and what cannot be told: format by format, on real descriptors."""

import io
import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from syncd.core.files.naming import ENDINGS
from syncd.ingest.formats import archive, gguf, pickles, safetensors, structure
from syncd.ingest.formats.structure import Structure
from tests import model_files
from tests.model_files import SAMPLES

WHOLE = [
    pytest.param(sample, name, kind, id=f"{kind} {i}")
    for kind, (name, samples) in SAMPLES.items()
    for i, sample in enumerate(samples)
]


@pytest.fixture
def check() -> Callable[..., Structure]:
    def _check(content: bytes, name: str = "m.safetensors", size: int | None = None) -> Structure:
        fd = os.memfd_create("model")
        try:
            os.write(fd, content)
            return structure.check(fd, name, len(content) if size is None else size)
        finally:
            os.close(fd)

    return _check


Check = Callable[..., Structure]


def safetensors_text(text: str | bytes, data: int = 0) -> bytes:
    raw = text.encode() if isinstance(text, str) else text
    return model_files.safetensors(raw.ljust(16), bytes(data))


# -- all formats ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("content", "name", "kind"), WHOLE)
def test_whole_file_is_complete_with_its_format(
    check: Check, content: bytes, name: str, kind: str
) -> None:
    verdict = check(content, f"LLM/a.b/{name.upper()}")

    assert verdict == Structure(complete=True, reason=None, format=kind)
    assert verdict.sentence == f"complete: a whole {kind} file"


@pytest.mark.parametrize(("content", "name", "kind"), WHOLE)
def test_file_truncated_anywhere_is_not_complete(
    check: Check, content: bytes, name: str, kind: str
) -> None:
    passed = [n for n in range(len(content)) if check(content[:n], name).complete]

    assert passed == []


@pytest.mark.parametrize(("content", "name", "kind"), WHOLE)
def test_file_truncated_after_open_is_not_complete(
    check: Check, content: bytes, name: str, kind: str
) -> None:
    shorter = len(content) // 3

    assert not check(content[:shorter], name, size=len(content)).complete


def test_read_error_reaches_the_caller() -> None:
    fd = os.open("/", os.O_RDONLY)
    try:
        with pytest.raises(IsADirectoryError):
            structure.check(fd, "m.gguf", 100)
    finally:
        os.close(fd)


@pytest.mark.parametrize("ending", sorted(ENDINGS))
def test_weights_file_below_sixteen_bytes_is_incomplete(check: Check, ending: str) -> None:
    verdict = check(b"\x80\x04K\x01.", f"m{ending}")

    assert verdict == Structure(False, "incomplete: 5 bytes are too few for a model", None)


@pytest.mark.parametrize("ending", sorted(ENDINGS))
def test_git_lfs_pointer_is_not_a_model(check: Check, ending: str) -> None:
    pointer = (
        f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 4265146304\n"
    )
    verdict = check(pointer.encode(), f"m{ending}")

    assert not verdict.complete
    assert verdict.sentence == "this is a git-LFS pointer, not the model: run git lfs pull"


PAGES = {
    "html": (b"<!DOCTYPE html><html><body>Sign in</body></html>", "this is a saved web page"),
    "html behind spaces": (b"\r\n\t <html lang='de'>\xe4</html>     ", "this is a saved web page"),
    "xml with a mark": (b"\xef\xbb\xbf<?xml version='1.0'?><Error/>", "this is a saved web page"),
    "json": (b'{"error": "Unauthorized", "code": 401}', "this is a saved error message"),
}


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.parametrize("ending", sorted(ENDINGS))
def test_saved_page_is_reported_as_such(check: Check, page: str, ending: str) -> None:
    content, reason = PAGES[page]
    verdict = check(content, f"m{ending}")

    assert not verdict.complete
    assert verdict.sentence.startswith(reason)


@pytest.mark.parametrize("first", [b"<", b"{"])
def test_binary_file_that_starts_like_a_page_is_not_a_page(check: Check, first: bytes) -> None:
    assert check(first + bytes(60), "m.bin").complete
    assert check(first + bytes(60), "m.onnx").sentence.startswith("damaged: ")


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (b"\x89HDF\r\n\x1a\n" + bytes(100), "m.ckpt"),
        (b"ustar" * 20, "m.pth"),
        (bytes(100), "m.bin"),
    ],
)
def test_weights_file_of_unknown_format_is_not_checked(
    check: Check, content: bytes, name: str
) -> None:
    verdict = check(content, name)

    assert verdict == Structure(True, "not checked: no format that can be checked", None)


def test_other_files_are_not_checked(check: Check) -> None:
    verdict = check(b"<html>", "readme.txt")

    assert verdict == Structure(True, "not checked: not the name of a weights file", None)


@pytest.mark.parametrize("ending", [".ckpt", ".pt", ".pt2", ".pth", ".bin", ".pkl"])
@pytest.mark.parametrize("kind", ["zip", "pickle", "torch legacy", "gguf"])
def test_torch_extension_leaves_the_format_to_the_content(
    check: Check, ending: str, kind: str
) -> None:
    for sample in SAMPLES[kind][1]:
        assert check(sample, f"m{ending}").format == kind
        assert not check(sample[:-1], f"m{ending}").complete


# -- safetensors ---------------------------------------------------------------------------------

FITS: dict[str, str | bytes] = {
    "no tensors": "{}",
    "metadata only": '{"__metadata__":{}}',
    "no dtype, which ComfyUI's reader would miss, not we": '{"a":{"data_offsets":[0,4]}}',
    "a hole between tensors": '{"a":{"data_offsets":[0,1]},"b":{"data_offsets":[3,4]}}',
    "a name twice": '{"a":{"data_offsets":[0,4]},"a":{"data_offsets":[0,2]}}',
    "offsets twice": '{"a":{"data_offsets":[0,4],"data_offsets":[0,2]}}',
    "metadata of any kind": '{"__metadata__":{"x":[1,-2.5e3,{"y":null}],"z":{}},"a":{"data_offsets":[0,4]}}',
    "metadata last": '{"a":{"data_offsets":[0,4]},"__metadata__":{"data_offsets":[0,900]}}',
    "metadata between": '{"a":{"data_offsets":[0,4]},"__metadata__":{"a":"b"},"b":{"data_offsets":[0,4]}}',
    "unknown members": '{"a":{"data_offsets":[0,4],"x":{"data_offsets":[0,90]},"y":[[],[{}]]}}',
}


@pytest.mark.parametrize("case", FITS)
def test_safetensors_file_with_all_offsets_is_complete(check: Check, case: str) -> None:
    assert check(safetensors_text(FITS[case], 4)).sentence == "complete: a whole safetensors file"


SHORT = {
    "usual": '{"a":{"data_offsets":[0,0]},"b":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}}',
    "first": '{"b":{"dtype":"F32","shape":[2],"data_offsets":[4,12]},"a":{"data_offsets":[0,0]}}',
    "a name twice": '{"a":{"data_offsets":[0,12]},"a":{"data_offsets":[0,4]}}',
    "offsets twice": '{"a":{"data_offsets":[0,12],"data_offsets":[0,4]}}',
    "an escaped key": '{"a":{"data\\u005foffsets":[0,12]}}',
    "metadata's name but deeper": '{"a":{"__metadata__":{"x":1},"data_offsets":[0,12]}}',
    "almost metadata": '{"__metadata__ ":{"data_offsets":[0,12]}}',
}  # fmt: skip


@pytest.mark.parametrize("before", ["{", '{"first":{"data_offsets":[0,0]},'])
@pytest.mark.parametrize("case", SHORT)
def test_safetensors_file_shorter_than_last_offset_is_incomplete(
    check: Check, case: str, before: str
) -> None:
    content = safetensors_text(before + SHORT[case][1:], 11)

    assert check(content).reason == "incomplete: header says 12 bytes of tensors, the file has 11"
    assert check(content + b"\0").complete


MALFORMED: dict[str, str | bytes] = {
    "not an object": "[]",
    "cut": '{"a":{"data_offsets":[0,4]}',
    "tensor is no object": '{"a":[0,4]}',
    "boolean offset": '{"a":{"data_offsets":[false,4]}}',
    "offsets as text": '{"a":{"data_offsets":["0","4"]}}',
    "exponent in offset": '{"a":{"data_offsets":[0,4e0]}}',
    "end before begin behind others": '{"b":{"data_offsets":[0,4]},"a":{"data_offsets":[4,0]}}',
    "not JSON's numbers": '{"__metadata__":NaN}',
    "no UTF-8": b'{"__metadata__":"\xff"}',
}


@pytest.mark.parametrize("case", MALFORMED)
def test_malformed_safetensors_header_is_damaged(check: Check, case: str) -> None:
    verdict = check(safetensors_text(MALFORMED[case], 64))

    assert not verdict.complete
    assert verdict.sentence.startswith("damaged: ")


def test_header_that_nests_too_deeply_is_damaged(check: Check) -> None:
    depth = 200_000
    nested = '{"__metadata__":' + "[" * depth + "0" + "]" * depth + "}"

    assert check(safetensors_text(nested)).reason == "damaged: the header is not valid JSON"


def test_header_length_above_limit_is_damaged(check: Check) -> None:
    for length in (safetensors.MAX_HEADER + 1, 2**63, 2**64 - 1):
        verdict = check(length.to_bytes(8, "little") + bytes(20))

        assert (
            verdict.reason == f"damaged: a safetensors header of {length:,} bytes is not possible"
        )


# -- gguf ----------------------------------------------------------------------------------------


def test_gguf_tensor_ends_after_aligned_blocks(check: Check) -> None:
    for kind, (elements, size) in gguf.TENSOR_TYPES.items():
        end = -(-3 * size // 32) * 32
        content = model_files.gguf([], [("t", (elements, 3), kind, 64)], 64 + end)

        assert check(content, "m.gguf").complete
        assert check(content[:-1], "m.gguf").reason == (
            f"incomplete: header says {64 + end:,} bytes of tensors, the file has {63 + end:,}"
        )


def test_gguf_file_with_unknown_tensor_type_is_not_checked(check: Check) -> None:
    content = model_files.gguf([], [("a", (8,), 0, 0), ("b", (64,), 777, 32)], 64)

    assert check(content, "m.gguf") == Structure(
        True, "not checked: the size of tensor type 777 is not known", "gguf"
    )
    assert not check(content[:-64], "m.gguf").complete  # not even its beginning is there


def test_gguf_file_with_nested_arrays_is_not_checked(check: Check) -> None:
    pair = model_files.gguf_pair("k", 9, struct.pack("<IQ", 9, 1) * 20)

    assert check(model_files.gguf([pair], [], 64), "m.gguf").sentence.startswith("not checked: ")


def alignment(kind: int, value: bytes) -> bytes:
    return model_files.gguf([model_files.gguf_pair("general.alignment", kind, value)], [], 0)


BAD_GGUF = {
    "magic": (b"GGML" + bytes(40), "damaged: this is not a gguf file"),
    "version 1": (model_files.gguf([], [], 64, version=1), "damaged: gguf version 1,"),
    "version 4": (model_files.gguf([], [], 64, version=4), "damaged: gguf version 4,"),
    "alignment 0": (alignment(4, bytes(4)), "damaged: gguf alignment 0 is not"),
    "alignment 48": (alignment(4, b"\x30\0\0\0"), "damaged: gguf alignment 48 is not"),
    "value type": (
        model_files.gguf([model_files.gguf_pair("k", 13, bytes(8))], [], 64),
        "damaged: there is no value type 13",
    ),
    "element type": (
        model_files.gguf([model_files.gguf_pair("k", 9, struct.pack("<IQ", 99, 0))], [], 64),
        "damaged: there is no value type 99",
    ),
    "dimensions": (
        model_files.gguf([], [("t", (1,) * 9, 0, 0)], 64),
        "damaged: a tensor in the gguf header has 9 dimensions",
    ),
    "long name": (
        b"GGUF" + struct.pack("<IQQQ", 3, 1, 0, 65_536) + bytes(70_000),
        "damaged: a name in the gguf header has 65,536 bytes",
    ),
    "many tensors": (b"GGUF" + struct.pack("<IQQ", 3, 2**63, 0), "damaged: the gguf header lists"),
    "many pairs": (b"GGUF" + struct.pack("<IQQ", 3, 0, 2**64 - 1), "damaged: the gguf header lists"),
    "many words": (
        model_files.gguf([model_files.gguf_pair("k", 9, struct.pack("<IQ", 8, 2**62))], [], 64),
        "damaged: the gguf header lists",
    ),
    "many numbers": (
        model_files.gguf([model_files.gguf_pair("k", 9, struct.pack("<IQ", 10, 2**61))], [], 64),
        "incomplete: the gguf header runs past the end",
    ),
    "a long word": (
        model_files.gguf([model_files.gguf_pair("k", 8, struct.pack("<Q", 2**64 - 1))], [], 64),
        "incomplete: the gguf header runs past the end",
    ),
    "offset": (model_files.gguf([], [("t", (8,), 0, 2**64 - 32)], 64), "incomplete: header says 18,446,"),
    "elements": (model_files.gguf([], [("t", (2**63,) * 4, 0, 0)], 64), "incomplete: header says "),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_GGUF)
def test_malformed_gguf_header_is_refused(check: Check, case: str) -> None:
    content, reason = BAD_GGUF[case]
    verdict = check(content, "m.gguf")

    assert not verdict.complete
    assert verdict.sentence.startswith(reason)


def test_gguf_header_above_limit_is_damaged(check: Check, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gguf, "MAX_HEADER", 100)

    assert check(model_files.gguf_model(), "m.gguf").reason == (
        "damaged: the gguf header is longer than 100 bytes"
    )


# -- zip -----------------------------------------------------------------------------------------


def test_truncated_archive_with_inner_archive_is_damaged(check: Check) -> None:
    outer = model_files.torch_zip(
        {"a": bytes(100), "inner.zip": model_files.torch_zip(), "z": bytes(100)}
    )
    cut = outer[: outer.index(b"PK\x05\x06") + 22]
    zipfile.ZipFile(io.BytesIO(cut)).close()  # which takes the inner one for the whole

    assert check(outer, "m.pt").complete
    assert check(cut, "m.pt").reason == (
        "damaged: the directory of the zip archive is not where the archive says"
    )


def commented(comment: bytes) -> bytes:
    file = io.BytesIO(model_files.torch_zip())
    with zipfile.ZipFile(file, "a") as archive:
        archive.comment = comment
    return file.getvalue()


@pytest.mark.parametrize("comment", [b"x", b"y" * 65_535, b"PK\x05\x05" * 10])
def test_zip_archive_includes_its_comment(check: Check, comment: bytes) -> None:
    content = commented(comment)

    assert check(content, "m.pt").complete
    assert check(content[:-1], "m.pt").sentence.startswith("incomplete: ")


@pytest.mark.parametrize("archive_of", [model_files.torch_zip, model_files.torch_zip64])
def test_zip_archive_with_zeroed_entry_is_damaged(
    check: Check, archive_of: Callable[[], bytes]
) -> None:
    content = bytearray(archive_of())
    header = content.index(b"PK\x03\x04", 1)
    content[header : header + 30] = bytes(30)

    assert check(bytes(content), "m.pt").reason == (
        "damaged: an entry of the zip archive is not where its directory says"
    )


def edited(at: int, form: str, value: int, marker: bytes = b"PK\x01\x02") -> bytes:
    """A torch archive with one number of its first *marker*'d record changed."""
    content = bytearray(
        model_files.torch_zip64() if marker[2] in b"\x06" else model_files.torch_zip()
    )
    struct.pack_into(form, content, content.index(marker) + at, value)
    return bytes(content)


BAD_ZIP = {
    "an entry that runs into the directory": edited(20, "<I", 800),
    "an entry behind the directory": edited(42, "<I", 100_000),
    "an entry that is the next one too": edited(42, "<I", 112),
    "an entry with numbers elsewhere, which are not there": edited(42, "<I", 0xFFFF_FFFF),
    "a name longer than the directory": edited(28, "<H", 0xFFFF),
    "a record that is none": edited(0, "<I", 0),
    "more entries than the directory holds": edited(10, "<H", 6, b"PK\x05\x06"),
    "a directory elsewhere": edited(16, "<I", 0, b"PK\x05\x06"),
    "zip64: a record elsewhere": edited(8, "<Q", 3, b"PK\x06\x07"),
    "zip64: a record beyond the end of the file": edited(8, "<Q", 2**63, b"PK\x06\x07"),
    "zip64: no record": edited(0, "<I", 0, b"PK\x06\x06"),
    "zip64: a directory of the largest length": edited(40, "<Q", 2**64 - 1, b"PK\x06\x06"),
    "zip64: a directory at the largest offset": edited(48, "<Q", 2**64 - 1, b"PK\x06\x06"),
    "zip64: more entries than can be": edited(32, "<Q", 2**64 - 1, b"PK\x06\x06"),
}


@pytest.mark.parametrize("case", BAD_ZIP)
def test_malformed_zip_directory_is_damaged(check: Check, case: str) -> None:
    verdict = check(BAD_ZIP[case], "m.pt")

    assert not verdict.complete
    assert verdict.sentence.startswith("damaged: ")


def test_zip_entries_that_share_bytes_are_damaged(check: Check) -> None:
    """Directory entries may all name one place: more bytes than there are in the file."""
    content = model_files.torch_zip({"a": bytes(1000)})
    start, end = content.index(b"PK\x01\x02"), content.index(b"PK\x05\x06")
    count = 40
    record = bytearray(content[end:])
    struct.pack_into("<HHI", record, 8, count, count, count * (end - start))
    overlapping = content[:start] + content[start:end] * count + record

    assert check(overlapping, "m.pt").reason == (
        "damaged: the entries of the zip archive run into each other"
    )


def test_zip_archive_with_too_many_entries_is_damaged(
    check: Check, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive, "MAX_ENTRIES", 4)

    assert check(model_files.torch_zip(), "m.pt").reason == (
        "damaged: a zip directory of 5 entries cannot be"
    )


# -- pickles -------------------------------------------------------------------------------------


def test_pickle_is_never_executed(check: Check, tmp_path: Path) -> None:
    class Executes:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "executed",)

    for protocol in (2, 3, 4, 5):
        assert check(pickle.dumps(Executes(), protocol), "m.pkl").complete
        legacy = model_files.torch_legacy(protocol).split(pickle.dumps(1001, protocol))[0]
        check(legacy + pickle.dumps(Executes(), protocol) * 5, "m.pt")

    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("content", [pickle.dumps([1] * 20, 4), b"\x80\x04" + b"\xff" * 20 + b"."])
def test_pickle_is_complete_if_it_ends_with_the_stop_opcode(check: Check, content: bytes) -> None:
    assert check(content, "m.pkl").sentence == "complete: a whole pickle file"
    assert check(content[:-1], "m.pkl").reason == (
        "incomplete: a pickle ends with a full stop, this file does not"
    )


@pytest.mark.parametrize(("kind", "size"), sorted(pickles._STORAGES.items()))
@pytest.mark.parametrize("protocol", [2, 4])
def test_legacy_file_contains_count_and_elements_of_each_storage(
    check: Check, kind: str, size: int, protocol: int
) -> None:
    content = model_files.torch_legacy(protocol, {kind: size}, elements=300)
    needed = 8 + 300 * size

    assert check(content, "m.pt") == Structure(True, None, "torch legacy")
    assert check(content + b"behind", "m.pt").complete
    assert check(content[:-1], "m.pt").reason == (
        f"incomplete: {needed:,} bytes of storages are named, the file has {needed - 1:,}"
    )


def test_legacy_file_with_unknown_storage_is_not_checked(check: Check) -> None:
    content = model_files.torch_legacy(2, {"FloatStorage": 4, "Float3Storage": 1})

    assert check(content[:-20], "m.pt") == Structure(
        True, "not checked: its storages are of an unknown class", "torch legacy"
    )


@pytest.mark.parametrize("limit", ["MAX_OPCODES", "MAX_PICKLES", "MAX_LINE"])
def test_legacy_file_above_a_limit_is_not_checked(
    check: Check, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    monkeypatch.setattr(pickles, limit, 3)
    verdict = check(model_files.torch_legacy(2), "m.pt")

    assert verdict.complete
    assert verdict.sentence.startswith("not checked: ")


def test_legacy_file_truncated_within_pickles_is_incomplete(check: Check) -> None:
    content = model_files.torch_legacy(2)

    assert (
        check(content[:200], "m.pt").reason == "incomplete: a pickle runs past the end of the file"
    )


# -- onnx ----------------------------------------------------------------------------------------

GRAPH, OPERATORS = model_files.onnx_field(7, bytes(40)), model_files.onnx_field(8, b"\x10\x11")
VERSION = model_files.onnx_field(1, 9)

GOOD_ONNX = {
    "fields in another order": OPERATORS + GRAPH + VERSION,
    "properties and functions": VERSION
    + GRAPH
    + OPERATORS * 3
    + model_files.onnx_field(14, b"ab") * 20
    + model_files.onnx_field(25, b"f" * 200) * 20,
    "fields of the future": VERSION
    + GRAPH
    + OPERATORS
    + model_files.onnx_field(900, 2**63)
    + b"\xa5\x06abcd",
    "version 2 had no operator sets": model_files.onnx_field(1, 2) + GRAPH,
}


@pytest.mark.parametrize("case", GOOD_ONNX)
def test_onnx_model_whose_fields_fill_the_file_is_complete(check: Check, case: str) -> None:
    assert check(GOOD_ONNX[case], "m.onnx").sentence == "complete: a whole onnx file"


BAD_ONNX = {
    "no graph": (VERSION + OPERATORS * 9, "incomplete: the onnx model has no graph"),
    "no operator sets": (VERSION + GRAPH, "incomplete: the onnx model has no operator sets"),
    "a field beyond the end": (VERSION + GRAPH[:-1], "incomplete: the onnx model runs past"),
    "half a number": (VERSION + GRAPH + OPERATORS + b"\x08\x80", "incomplete: the onnx model runs past"),
    "zeros": (bytes(64), "damaged: this is not an onnx model"),
    "a group": (b"\x0b" * 64, "damaged: this is not an onnx model"),
    "a group of the future": (VERSION + GRAPH + b"\xa3\x06" * 9, "damaged: this is not an onnx model"),
    "a graph that is a number": (model_files.onnx_field(7, 5) * 20, "damaged: this is not an onnx model"),
    "an endless number": (b"\x08" + b"\xff" * 60, "damaged: this is not an onnx model"),
    "the largest length": (
        VERSION + b"\x3a" + b"\xff" * 9 + b"\x01" + bytes(40),
        "incomplete: the onnx model runs past",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_ONNX)
def test_malformed_onnx_model_is_refused(check: Check, case: str) -> None:
    content, reason = BAD_ONNX[case]
    verdict = check(content, "m.onnx")

    assert not verdict.complete
    assert verdict.sentence.startswith(reason)
