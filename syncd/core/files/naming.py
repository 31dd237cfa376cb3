"""
Which paths are models, and what the cloud calls them.

A path here is POSIX and relative to its root, as ``os.fsdecode`` made it. Three questions, in the
order in which they are asked: is the name one we take at all (``unwanted``), what is it called in
the catalog or why would the server refuse it (``target_of``), and who else would get that name
(``clash_key``).

With its type folder in front a path is *typed*: ``loras/x.pt``, whichever root it lies in. That is
what patterns are compared with and what ``[naming.map]`` has as its keys.
"""

import fnmatch
import posixpath
import re
import unicodedata
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from syncd.types import Target, printable

ENDINGS = frozenset(
    (".safetensors", ".sft", ".ckpt", ".pt", ".pt2", ".pth", ".bin", ".pkl", ".gguf", ".onnx")
)
"""What a model's name ends in, lower case. ``.engine`` and ``.trt`` fit one machine only."""

MANY_FILES = frozenset(("diffusers", "LLM"))
"""Types whose models are folders: one file of them alone is of no use to anybody."""

UNFINISHED = "name of an unfinished download"
EMPTY = "empty file"

SEGMENT_MAX = 255
"""Bytes of one folder or file name."""

MODEL_PATH_MAX = 1000
"""Bytes of a whole model_path. The server states no limit; this one is ours."""

MODEL_TYPE_MAX = 50
"""Characters of a model_type."""

_PATTERN = re.compile(r"^(?!/)(?!.*\.\.)(?!.*\\)[\w./ -]+$", re.ASCII)
_FOREIGN = re.compile(r"[^\w./ -]", re.ASCII)
_FOREIGN_RUN = re.compile(r"(?:(?<! ) ++)?[^\w./ -]++ *+", re.ASCII)

_PARTIAL = (
    ".part", ".partial", ".incomplete", ".crdownload", ".download", ".opdownload", ".smdownload",
    ".filepart", ".tmp", ".temp", ".aria2", ".aria2__temp", ".st", ".lftp-pget-status", ".lock",
    ".task", ".!qb", ".swp", "~",
)  # fmt: skip
_TEMPORARY_STARTS = (".", "~syncthing~", "Unconfirmed ")
_WEIGHTS = "|".join(re.escape(e) for e in sorted(ENDINGS, key=len, reverse=True))
# aws appends a dot and eight letters or digits while it downloads, s5cmd a number.
_TEMPORARY = re.compile(rf".*(?:{_WEIGHTS})(?:\.[0-9a-z]{{8}}|[0-9]+)", re.ASCII | re.IGNORECASE)
_FOLDERS = frozenset(("__pycache__", "lost+found", "@eaDir", "#recycle", "$RECYCLE.BIN"))

COMPANIONS = (
    ".aria2", ".aria2__temp", ".st", ".lftp-pget-status", ".runpoddirect.part", ".part",
)  # fmt: skip
"""What follows a name beside a file that is not finished; of two that end alike the longer first."""

_PARTS_FOLDER = re.compile(r"\.(.+)\.parts_.*", re.DOTALL)


NO_NAMES: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Refusal:
    """
    A path that the server would not accept; it is shown, never renamed and never retried.

    ``offending`` is what is wrong in it, ``reason`` one sentence for a person, ``remedy`` the line
    under ``[naming.map]`` that would help, where one can be written; all printable.
    """

    reason: str
    offending: str
    model_path: str
    remedy: str | None


def never_enter(folder: str) -> bool:
    """Is *folder*, one name, of a kind that holds no models: hidden, a cache, a recycle bin?"""
    return folder.startswith((".", "models--")) or folder in _FOLDERS


def typed(rel_path: str, type_key: str | None) -> str:
    """*rel_path* with its type folder in front: the root's own where it has one."""
    return rel_path if type_key is None else f"{type_key}/{rel_path}"


def ending_of(rel_path: str) -> str:
    """The ending that tells what a file is, lower case, its dot included; empty for none."""
    return posixpath.splitext(rel_path.lower())[1]


def unwanted(
    rel_path: str,
    size: int,
    *,
    type_key: str | None = None,
    endings: Collection[str] = ENDINGS,
    bundled: bool = False,
) -> str | None:
    """
    Why this file is not taken, or None if it is.

    Args:
        size: Bytes.
        type_key: The root's own model_type; without it the first folder is the type.
        endings: What a model's name ends in, lower case.
        bundled: It is one of the files of a bundle, whatever its ending.
    """
    *folders, name = rel_path.split("/")
    if type_key is None and not folders:
        return "not in a type folder"
    model_type = folders[0] if type_key is None else type_key
    if model_type == "configs":
        return "configs/ holds ComfyUI's own settings"
    if model_type in MANY_FILES and not bundled:
        return f"{model_type}/ holds models of many files: select.bundles takes them as a whole"
    for folder in folders:
        if never_enter(folder):
            return f"inside {printable(folder)}/, which holds no models"
    return _unwanted_name(name, None if bundled else endings) or (EMPTY if size == 0 else None)


def _unwanted_name(name: str, endings: Collection[str] | None) -> str | None:
    lower, ending = name.lower(), ending_of(name)
    if name.startswith(_TEMPORARY_STARTS):
        return "hidden or temporary name"
    if fnmatch.fnmatchcase(lower, "put_*_here"):
        return "placeholder"
    known = ending in (ENDINGS if endings is None else endings)
    if lower.endswith(_PARTIAL) or (not known and _TEMPORARY.fullmatch(name)):
        return UNFINISHED
    if endings is not None and not known:
        return f"not a model ending: {printable(ending) or 'none'}"
    return None


def target_of(
    rel_path: str,
    *,
    prefix: str,
    type_key: str | None = None,
    names: Mapping[str, str] = NO_NAMES,
) -> Target | Refusal:
    """
    Where a file goes in the catalog, or why the server would refuse it.

    Stricter than the documented pattern where that lets through what other systems stumble over:
    spaces at the edges of a name, empty and ``.`` segments, names above ``SEGMENT_MAX`` bytes.

    Args:
        prefix: What every model_path starts with, its final slash included.
        type_key: The root's own model_type; without it the first folder is the type.
        names: Typed path -> typed path to use instead (``mapped``).

    See the request "presign" of the cloud API for the pattern and the bounds.
    """
    local = typed(rel_path, type_key)
    remote = mapped(local, names)
    if (fault := fault_of(remote, prefix)) is not None:
        return _refusal(local, remote, prefix, *fault)
    file_name = posixpath.basename(remote)
    # A stem is never too long for a display_name: a segment is not.
    stem = posixpath.splitext(file_name)[0]
    return Target(prefix + remote, remote.split("/")[0], file_name, stem)


def mapped(local: str, names: Mapping[str, str]) -> str:
    """
    The typed path to use instead of *local*: what *names* has for it or for a folder above it.

    A key that ends in a slash is a folder; the file's own line wins over those of its folders, and
    an inner folder's over an outer one's.
    """
    key = naming_line(local, names)
    return local if key is None else names[key] + local[len(key) :]


def naming_line(local: str, names: Mapping[str, str]) -> str | None:
    """The key in *names* that decides what ``mapped`` makes of *local*, or None."""
    if local in names:
        return local
    folders = (local[:cut] for cut in range(len(local), 0, -1) if local[cut - 1] == "/")
    return next((folder for folder in folders if folder in names), None)


def fault_of(remote: str, prefix: str) -> tuple[str, str] | None:
    """What the server would mind in a typed path, in words, and the part at fault; printable."""
    return _fault(prefix + remote) or _type_fault(remote)


def _refusal(local: str, remote: str, prefix: str, what: str, offending: str) -> Refusal:
    remedy = _remedy(local, remote, prefix)
    reason = f"the server would refuse this path for {what}; renaming the file or folder helps"
    if remedy is not None:
        reason += f", or this line under [naming.map]: {remedy}"
    return Refusal(reason, offending, prefix + remote, remedy)


def _remedy(local: str, remote: str, prefix: str) -> str | None:
    """The line that gives an acceptable name to the file, or to the folder if only that is at fault."""
    if any("\ud800" <= c <= "\udfff" for c in local):
        return None  # TOML is UTF-8: such a name cannot be written there
    parts, local_parts = remote.split("/"), local.split("/")
    at_fault = [depth for depth, part in enumerate(parts, start=1) if _is_faulty(part)]
    depth = max(at_fault, default=len(parts))
    if depth < len(parts) == len(local_parts):
        key = "/".join(local_parts[:depth]) + "/"
        value = "/".join(map(_acceptable, parts[:depth])) + "/"
    else:
        key, value = local, "/".join(map(_acceptable, parts))
    below = "x" if value.endswith("/") else ""
    return f"{_toml(key)} = {_toml(value)}" if fault_of(value + below, prefix) is None else None


def _is_faulty(segment: str) -> bool:
    return bool(_FOREIGN.search(segment) or ".." in segment or _segment_fault(segment))


def _acceptable(segment: str) -> str:
    """A name that the server takes and a person recognises, where *segment* is none."""
    if not _is_faulty(segment):
        return segment
    apart = unicodedata.normalize("NFKD", segment)  # an accent becomes a character of its own
    bare = "".join(c for c in apart if not unicodedata.combining(c))
    clean = _FOREIGN_RUN.sub("_", re.sub(r"\.{2,}", ".", bare)).strip()
    stem, ending = posixpath.splitext(clean)
    return (stem.strip("_ ") or "model")[: SEGMENT_MAX - len(ending)] + ending


def _toml(text: str) -> str:
    """*text* as a TOML basic string on one printable line."""
    escaped = (
        f"\\{c}" if c in '"\\' else c if c.isprintable() else f"\\U{ord(c):08X}" for c in text
    )
    return f'"{"".join(escaped)}"'


def _fault(path: str) -> tuple[str, str] | None:
    """What the server would mind in *path*, in words, and the part at fault."""
    if not _PATTERN.fullmatch(path):
        return _pattern_fault(path)
    if len(path) > MODEL_PATH_MAX:
        return f"more than {MODEL_PATH_MAX} bytes", f"{len(path)} bytes"
    for segment in path.split("/"):
        if fault := _segment_fault(segment):
            return fault
    return None


def _pattern_fault(path: str) -> tuple[str, str]:
    if foreign := _FOREIGN.findall(path):
        shown = " ".join(printable(c) for c in dict.fromkeys(foreign))
        bytes_too = " (not UTF-8)" if any("\ud800" <= c <= "\udfff" for c in foreign) else ""
        return f"its characters {shown}{bytes_too}", shown
    return ("two dots in a row", "..") if ".." in path else ("its leading slash", "/")


def _segment_fault(segment: str) -> tuple[str, str] | None:
    if segment in ("", "."):
        return "an empty or '.' segment", f"/{segment}/"
    if segment != segment.strip(" "):
        return f"a space at the edge of '{segment}'", segment
    if len(segment) > SEGMENT_MAX:
        return f"a name above {SEGMENT_MAX} bytes", segment
    return None


def _type_fault(remote: str) -> tuple[str, str] | None:
    model_type, slash, _ = remote.partition("/")
    if not slash:
        return "having no type folder", remote
    if len(model_type) > MODEL_TYPE_MAX:
        return f"a type folder above {MODEL_TYPE_MAX} characters", model_type
    return None


def owner_of(name: str) -> str | None:
    """The file whose companion *name* is (a file ``X.aria2`` or folder ``.X.parts_*``), or None."""
    if name.startswith(".") and (parts := _PARTS_FOLDER.fullmatch(name)):
        return parts[1]
    if not name.endswith(COMPANIONS):  # asked of every name in a folder: hardly one is
        return None
    ending = next(each for each in COMPANIONS if name.endswith(each))
    return name.removesuffix(ending) or None


def clash_key(model_path: str) -> str:
    """Two paths with the same key cannot both be in the catalog."""
    return model_path.casefold()


def is_within(rel_path: str, tops: Collection[str]) -> bool:
    """Is *rel_path* one of *tops* or below one of them? The empty top is the root itself."""
    if not tops:
        return False
    if "" in tops or rel_path in tops:
        return True
    return any(rel_path[:i] in tops for i, c in enumerate(rel_path) if c == "/")
