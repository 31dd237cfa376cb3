"""
Small whole model files, built from the formats' descriptions, and what makes broken ones of them.

``torch.save`` is not here, so its pickles are made with classes of the same names.
"""

import io
import json
import pickle
import random
import struct
import sys
import types
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from unittest import mock

Change = Callable[[bytes, random.Random], bytes]


def safetensors(header: bytes, data: bytes = b"") -> bytes:
    return len(header).to_bytes(8, "little") + header + data


def safetensors_of(count: int, **dumps: Any) -> bytes:
    """*count* tensors of 24 bytes, and metadata."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt", "note": 'a "quoted" word, \u00e4\n'}}
    for i in range(count):
        offsets = [24 * i, 24 * i + 24]
        header[f"block.{i}.weight"] = {"dtype": "F16", "shape": [3, 4], "data_offsets": offsets}
    return safetensors(json.dumps(header, **dumps).encode(), bytes(range(24)) * count)


def gguf_string(text: str) -> bytes:
    return struct.pack("<Q", len(text.encode())) + text.encode()


def gguf(
    pairs: Iterable[bytes],
    tensors: Iterable[tuple[str, tuple[int, ...], int, int]],
    data: int,
    *,
    version: int = 3,
    alignment: int = 32,
) -> bytes:
    """A file of key-value *pairs*, tensors (name, dimensions, type, offset) and *data* bytes."""
    pairs, tensors = list(pairs), list(tensors)
    parts = [b"GGUF", struct.pack("<IQQ", version, len(tensors), len(pairs)), *pairs]
    for name, shape, kind, offset in tensors:
        parts.append(gguf_string(name))
        form = f"<I{len(shape)}QIQ"
        parts.append(struct.pack(form, len(shape), *shape, kind, offset))
    header = b"".join(parts)
    return header + bytes(-len(header) % alignment) + b"\x5a" * data


def gguf_pair(key: str, kind: int, value: bytes) -> bytes:
    return gguf_string(key) + struct.pack("<I", kind) + value


def gguf_model(version: int = 3) -> bytes:
    """Pairs of every shape and three tensors: F32, Q4_0, Q4_K, the last one ending aligned."""
    words = struct.pack("<IQ", 8, 3) + b"".join(gguf_string(w) for w in ("a", "bc", "def"))
    pairs = [
        gguf_pair("general.architecture", 8, gguf_string("llama")),
        gguf_pair("general.alignment", 4, struct.pack("<I", 64)),
        gguf_pair("tokenizer.ggml.tokens", 9, words),
        gguf_pair("tokenizer.ggml.scores", 9, struct.pack("<IQ2f", 6, 2, 1.0, 2.0)),
        gguf_pair("some.flag", 7, b"\x01"),
        gguf_pair("some.count", 10, struct.pack("<Q", 7)),
    ]
    tensors = [("a", (8, 2), 0, 0), ("b", (32, 2), 2, 64), ("c", (256, 1), 12, 128)]
    return gguf(pairs, tensors, 128 + 192, alignment=64, version=version)


def torch_zip(entries: Mapping[str, bytes] | None = None, **writing: Any) -> bytes:
    """What ``torch.save`` writes: everything stored. *writing* goes to ``ZipFile``."""
    entries = entries or {
        "archive/data.pkl": pickle.dumps({"w": [1, 2, 3]}, 2),
        "archive/byteorder": b"little",
        "archive/data/0": bytes(range(200)),
        "archive/data/1": b"\x00" * 64,
        "archive/version": b"3\n",
    }
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", **writing) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return file.getvalue()


def torch_zip64() -> bytes:
    """The same with every number in zip64's places."""
    with mock.patch.multiple(zipfile, ZIP64_LIMIT=1, ZIP_FILECOUNT_LIMIT=1):
        return torch_zip()


def plain_pickle(protocol: int = 4) -> bytes:
    value = {
        "weights": [0.5 * i for i in range(20)],
        "name": "a sentence, without the byte that ends a pickle",
        "bytes": b"---" * 30,
        "nested": ({1, 2}, frozenset({3}), (None, True, [1 << 70, -5])),
        "text": "word " * 100,
    }
    return pickle.dumps(value, protocol)


class _Storage:
    def __init__(self, kind: str, key: str, count: int) -> None:
        self._id = (getattr(sys.modules["torch"], kind), key, "cpu", count, None)

    def persistent_id(self) -> tuple[Any, ...]:
        return "storage", *self._id


class _Tensor:
    def __init__(self, storage: _Storage, shape: tuple[int, ...]) -> None:
        self.parts = (storage, 0, shape, (1,) * len(shape), False, OrderedDict[str, int]())

    def __reduce__(self) -> tuple[Any, ...]:
        return sys.modules["torch._utils"]._rebuild_tensor_v2, self.parts


class _Pickler(pickle.Pickler):
    def persistent_id(self, obj: Any) -> Any:
        return obj.persistent_id() if isinstance(obj, _Storage) else None


LEGACY_STORAGES = {"FloatStorage": 4, "HalfStorage": 2, "LongStorage": 8, "ByteStorage": 1}


@contextmanager
def _torch(kinds: Iterable[str]) -> Iterator[None]:
    """Modules with the names that torch's pickles speak of."""
    torch, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")
    for kind in kinds:
        setattr(torch, kind, type(kind, (), {"__module__": "torch"}))
    exec("def _rebuild_tensor_v2(*parts): raise AssertionError('executed')", vars(utils))
    with mock.patch.dict(sys.modules, {"torch": torch, "torch._utils": utils}):
        yield


def torch_legacy(
    protocol: int = 2, storages: Mapping[str, int] = LEGACY_STORAGES, *, elements: int = 6
) -> bytes:
    """What ``torch.save`` wrote before 1.6: five pickles, then count and bytes of each storage."""
    with _torch(storages):
        state = OrderedDict[str, _Tensor]()
        for i, kind in enumerate(storages):
            storage = _Storage(kind, str(94_000 + i), elements)
            state[f"layer.{i}.weight"] = _Tensor(storage, (elements,))
            state[f"layer.{i}.tied"] = _Tensor(storage, (1, elements))
        file = io.BytesIO()
        system = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"int": 4}}
        for value in (0x1950A86A20F9469CFC6C, 1001, system):
            pickle.dump(value, file, protocol)
        _Pickler(file, protocol).dump(state)
        pickle.dump([str(94_000 + i) for i in range(len(storages))], file, protocol)
    for size in storages.values():
        file.write(elements.to_bytes(8, "little") + b"\x2e" * elements * size)
    return file.getvalue()


def onnx_field(number: int, value: int | bytes) -> bytes:
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def varint(value: int) -> bytes:
    low, high = value & 0x7F, value >> 7
    return bytes([low | 0x80]) + varint(high) if high else bytes([low])


def onnx_model() -> bytes:
    graph = onnx_field(2, b"main") + onnx_field(5, onnx_field(9, bytes(range(256)) * 2))
    return b"".join(
        (
            onnx_field(1, 8),
            onnx_field(2, b"a producer"),
            onnx_field(7, graph),
            onnx_field(8, onnx_field(1, b"") + onnx_field(2, 17)),
        )
    )


SAMPLES: Mapping[str, tuple[str, list[bytes]]] = {
    "safetensors": (
        "m.safetensors",
        [
            safetensors_of(5, separators=(",", ":")),
            safetensors_of(3),
            safetensors_of(2, indent=1, ensure_ascii=False),
        ],
    ),
    "gguf": ("m.gguf", [gguf_model(), gguf_model(version=2)]),
    "zip": ("m.pt", [torch_zip(), torch_zip64(), torch_zip(compression=zipfile.ZIP_DEFLATED)]),
    "pickle": ("m.pkl", [plain_pickle(protocol) for protocol in (2, 3, 4, 5)]),
    "torch legacy": (
        "m.pth",
        [torch_legacy(protocol, {"HalfStorage": 2, "LongStorage": 8}) for protocol in (2, 4)],
    ),
    "onnx": ("m.onnx", [onnx_model()]),
}
"""Format -> a name for it, and whole files."""


def flip(data: bytes, chance: random.Random) -> bytes:
    """Some bytes become others."""
    changed = bytearray(data)
    for _ in range(chance.randint(1, 8)):
        changed[chance.randrange(len(changed))] = chance.randrange(256)
    return bytes(changed)


def cut(data: bytes, chance: random.Random) -> bytes:
    return data[: chance.randrange(len(data))]


def splice(data: bytes, chance: random.Random) -> bytes:
    """A piece appears once more somewhere, or is gone."""
    start, at = chance.randrange(len(data)), chance.randrange(len(data))
    piece = data[start : start + chance.randint(1, 64)]
    if chance.random() < 0.5:
        return data[:start] + data[start + len(piece) :]
    return data[:at] + piece + data[at:]


EXTREMES = (
    0,
    1,
    0x7F,
    0x80,
    0xFF,
    0xFFFF,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**63 - 1,
    2**63,
    2**64 - 1,
)


def length(data: bytes, chance: random.Random) -> bytes:
    """A number of 1, 2, 4 or 8 bytes, most often near the start or the end, becomes an extreme one."""
    width = chance.choice((1, 2, 4, 8))
    span = chance.choice((32, 128, len(data)))
    at = chance.randrange(min(span, len(data)))
    at = chance.choice((at, len(data) - 1 - at))
    near = int.from_bytes(data[at : at + width], "little") + chance.choice((-1, 1))
    value = chance.choice((*EXTREMES, near)) % (1 << 8 * width)
    return data[:at] + value.to_bytes(width, "little") + data[at + width :]


CHANGES: tuple[Change, ...] = (flip, cut, splice, length)
