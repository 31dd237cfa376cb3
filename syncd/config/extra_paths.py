"""
Reads ``extra_model_paths.yaml`` as ComfyUI does.

Each section has an optional ``base_path`` (``~`` and ``$VAR`` are expanded; relative to the file), an
optional ``is_default``, and types with one path per line. A file that stops ComfyUI from starting is
an error here.
"""

import os
from collections.abc import Iterator
from dataclasses import replace

from syncd.config.settings import Settings
from syncd.core.files.search_paths import NOT_MODELS, Folder, tops_of
from syncd.errors import ConfigError
from syncd.types import printable


def extra_folders(settings: Settings) -> list[Folder]:
    """
    Return the directories that ``comfyui.extra_model_paths`` adds, in its order.

    A folder of ``models_dir`` is marked as such. A directory that is listed again under another name
    of its kind gets its first name.

    Raises:
        ConfigError: The file cannot be read, or ComfyUI would not accept it.
    """
    if (file := settings.comfyui.extra_model_paths) is None:
        return []
    first: dict[tuple[str, str], Folder] = {}
    folders = []
    for folder in _folders(os.fspath(file)):
        known = first.setdefault((folder.kind, folder.real), folder)
        top = _top_of(folder, os.fspath(settings.models_dir))
        folders.append(replace(folder, type_key=known.type_key, path=known.path, top=top))
    return folders


def _top_of(folder: Folder, models_dir: str) -> str | None:
    tops = tops_of(folder.kind)
    return next((t for t in tops if os.path.realpath(f"{models_dir}/{t}") == folder.real), None)


def _folders(file: str) -> Iterator[Folder]:
    for section, types in _sections(file).items():
        if types is None:
            continue
        where = f"{printable(file)}: {printable(str(section))}"
        if not isinstance(types, dict):
            raise ConfigError(f"{where}: is not a section; ComfyUI would not start with it")
        base = _base(types, os.path.dirname(os.path.abspath(file)), where)
        is_default = bool(types.get("is_default", False))
        for type_key, lines in types.items():
            if type_key not in ("base_path", "is_default", *NOT_MODELS):
                for path in _paths(type_key, lines, base, where):
                    yield Folder(type_key, path, os.path.realpath(path), is_default)


def _sections(file: str) -> dict[object, object]:
    import yaml  # only needed with such a file

    try:
        with open(file, encoding="utf-8") as stream:
            document = yaml.safe_load(stream)
    except OSError as error:
        raise ConfigError(f"{printable(file)}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{printable(file)}: not UTF-8 at byte {error.start}") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f":{mark.line + 1}:{mark.column + 1}" if mark else ""
        raise ConfigError(f"{printable(file)}{place}: not valid YAML") from None
    except (ValueError, RecursionError):  # an invalid date, a million brackets
        raise ConfigError(f"{printable(file)}: contains a value that is not a path") from None
    if document is not None and not isinstance(document, dict):
        raise ConfigError(f"{printable(file)}: has no sections; ComfyUI would not start with it")
    return document or {}


def _base(types: dict[object, object], folder: str, where: str) -> str:
    base = types.get("base_path", folder)
    if not isinstance(base, str):
        raise ConfigError(f"{where}: base_path is not a path")
    return os.path.join(folder, os.path.expandvars(os.path.expanduser(base)))  # noqa: PTH111, as ComfyUI


def _paths(type_key: object, lines: object, base: str, where: str) -> Iterator[str]:
    if not isinstance(type_key, str) or not isinstance(lines, str) or "\0" in lines:
        raise ConfigError(f"{where}: {printable(str(type_key))}: is not a type with paths")
    if type_key in ("", ".", "..") or "/" in type_key or not type_key.isprintable():
        raise ConfigError(f"{where}: {printable(type_key)}: a type is one folder name")
    return (os.path.normpath(os.path.join(base, line)) for line in lines.split("\n") if line)
