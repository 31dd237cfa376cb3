"""
Which paths are models, and which names they get in the catalog.

Paths are POSIX, relative to their root, and decoded with ``os.fsdecode``. A *typed* path starts with the
type folder, such as ``loras/x.pt``, whichever root it is in. Patterns and the keys of ``[naming.map]`` are
typed paths.
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
"""File name endings of models, lower case. ``.engine`` and ``.trt`` work on one machine only."""

BUNDLE_TYPES = frozenset(("diffusers", "LLM"))
"""Types whose models are folders; a single file of such a model is useless."""

UNFINISHED = "name of an unfinished download"
EMPTY = "empty file"

SEGMENT_MAX = 255  # bytes of a folder or file name
MODEL_PATH_MAX = 1000  # bytes; the server documents no limit, this one is ours
MODEL_TYPE_MAX = 50  # characters

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
# While downloading, aws appends a dot and eight letters or digits, and s5cmd a number.
_TEMPORARY = re.compile(rf".*(?:{_WEIGHTS})(?:\.[0-9a-z]{{8}}|[0-9]+)", re.ASCII | re.IGNORECASE)
_FOLDERS = frozenset(("__pycache__", "lost+found", "@eaDir", "#recycle", "$RECYCLE.BIN"))

COMPANIONS = (
    ".aria2", ".aria2__temp", ".st", ".lftp-pget-status", ".runpoddirect.part", ".part",
)  # fmt: skip
"""Endings that downloaders append to an unfinished file's name; longer ones first."""

_PARTS_FOLDER = re.compile(r"\.(.+)\.parts_.*", re.DOTALL)

NO_NAMES: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Refusal:
    """A path that the server would refuse; ``remedy`` is the [naming.map] line that would help, if any."""

    reason: str
    offending: str
    model_path: str
    remedy: str | None


def never_enter(folder: str) -> bool:
    """Return whether the folder name is that of a hidden folder, a cache or a recycle bin."""
    return folder.startswith((".", "models--")) or folder in _FOLDERS


def typed(rel_path: str, type_key: str | None) -> str:
    """Return *rel_path* with its type folder in front, which is the root's own if it has one."""
    return rel_path if type_key is None else f"{type_key}/{rel_path}"


def ending_of(rel_path: str) -> str:
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
    Return why a file is not a model to upload, or None if it is one.

    *type_key* is the root's own model_type; without it the first folder is the type. A *bundled* file
    belongs to a bundle, so that any ending is accepted.
    """
    *folders, name = rel_path.split("/")
    if type_key is None and not folders:
        return "not in a type folder"
    model_type = folders[0] if type_key is None else type_key
    if model_type == "configs":
        return "configs/ contains ComfyUI's own settings"
    if model_type in BUNDLE_TYPES and not bundled:
        return f"{model_type}/ contains models of several files; use select.bundles for them"
    for folder in folders:
        if never_enter(folder):
            return f"inside {printable(folder)}/, which contains no models"
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
    Return the place of a file in the catalog, or the reason why the server would refuse it.

    The check is stricter than the documented pattern where other systems have problems: spaces at the
    edges of a name, empty and ``.`` segments, and names above ``SEGMENT_MAX`` bytes.

    Args:
        prefix: The start of every model_path, with its final slash.
        names: See ``mapped``.
    """
    local = typed(rel_path, type_key)
    remote = mapped(local, names)
    if (fault := fault_of(remote, prefix)) is not None:
        return _refusal(local, remote, prefix, *fault)
    file_name = posixpath.basename(remote)
    # A segment, and so the stem, is never too long for a display_name.
    stem = posixpath.splitext(file_name)[0]
    return Target(prefix + remote, remote.split("/")[0], file_name, stem)


def mapped(local: str, names: Mapping[str, str]) -> str:
    """
    Return the typed path to use instead of *local*, according to *names*.

    A key that ends in a slash is a folder. The line of the file itself wins over the lines of its
    folders, and an inner folder wins over an outer one.
    """
    key = naming_line(local, names)
    return local if key is None else names[key] + local[len(key) :]


def naming_line(local: str, names: Mapping[str, str]) -> str | None:
    """Return the key in *names* that ``mapped`` uses for *local*, or None."""
    if local in names:
        return local
    folders = (local[:cut] for cut in range(len(local), 0, -1) if local[cut - 1] == "/")
    return next((folder for folder in folders if folder in names), None)


def fault_of(remote: str, prefix: str) -> tuple[str, str] | None:
    """Return why the server would refuse a typed path and the offending part, both printable."""
    return _fault(prefix + remote) or _type_fault(remote)


def _refusal(local: str, remote: str, prefix: str, what: str, offending: str) -> Refusal:
    remedy = _remedy(local, remote, prefix)
    reason = f"the server would refuse this path for {what}; renaming the file or folder helps"
    if remedy is not None:
        reason += f", or this line under [naming.map]: {remedy}"
    return Refusal(reason, offending, prefix + remote, remedy)


def _remedy(local: str, remote: str, prefix: str) -> str | None:
    """Return the [naming.map] line for the file, or for its folder if only that has a bad name."""
    if any("\ud800" <= c <= "\udfff" for c in local):
        return None  # TOML is UTF-8 and cannot contain this name
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
    """Return *segment*, changed so that the server accepts it and users recognise it."""
    if not _is_faulty(segment):
        return segment
    apart = unicodedata.normalize("NFKD", segment)  # separates accents from letters
    bare = "".join(c for c in apart if not unicodedata.combining(c))
    clean = _FOREIGN_RUN.sub("_", re.sub(r"\.{2,}", ".", bare)).strip()
    stem, ending = posixpath.splitext(clean)
    return (stem.strip("_ ") or "model")[: SEGMENT_MAX - len(ending)] + ending


def _toml(text: str) -> str:
    escaped = (
        f"\\{c}" if c in '"\\' else c if c.isprintable() else f"\\U{ord(c):08X}" for c in text
    )
    return f'"{"".join(escaped)}"'


def _fault(path: str) -> tuple[str, str] | None:
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
    """Return the file that the download companion *name* (``X.aria2``, ``.X.parts_*``) belongs to."""
    if name.startswith(".") and (parts := _PARTS_FOLDER.fullmatch(name)):
        return parts[1]
    if not name.endswith(COMPANIONS):  # fast path: this is called for every name in a folder
        return None
    ending = next(end for end in COMPANIONS if name.endswith(end))
    return name.removesuffix(ending) or None


def clash_key(model_path: str) -> str:
    """Return a key: of two paths with the same key only one can be in the catalog."""
    return model_path.casefold()


def is_within(rel_path: str, tops: Collection[str]) -> bool:
    """Return whether *rel_path* is in *tops* or below one of them. The empty top is the root."""
    if not tops:
        return False
    if "" in tops or rel_path in tops:
        return True
    return any(rel_path[:i] in tops for i, c in enumerate(rel_path) if c == "/")
