"""
What `core` may not do with modules that it may import.

The import contracts in ``pyproject.toml`` keep clocks, sockets and threads out of `core`. They cannot
see that ``os.stat``, ``open`` or ``datetime.now`` is used; this test reads the source for that.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import syncd

CORE = Path(syncd.__file__).parent / "core"

PURE_OS = frozenset({"fsencode", "fsdecode", "fspath", "sep", "path"})
PURE_OS_PATH = frozenset(
    {"join", "split", "splitext", "basename", "dirname", "normpath", "commonpath"}
)
NOW = frozenset({"now", "utcnow", "today"})
CALLS = frozenset({"open", "print", "input"})


def impure_uses(source: str) -> Iterator[str]:
    """Return the uses of files, the terminal or a clock in *source*."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute):
            dotted = ast.unparse(node).split(".")
            if (dotted[0] == "os" and not _is_pure_os(dotted[1:])) or node.attr in NOW:
                yield ast.unparse(node)
        elif isinstance(node, ast.ImportFrom):
            base = (node.module or "").split(".")
            names = [[*base, alias.name] for alias in node.names]
            yield from (".".join(n) for n in names if base[0] == "os" and not _is_pure_os(n[1:]))
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in CALLS:
            yield ast.unparse(node.func)


def _is_pure_os(path: list[str]) -> bool:
    """Return whether an ``os.path`` function works on names only."""
    if path[:1] == ["path"]:
        return path[1:2] == [] or path[1] in PURE_OS_PATH
    return path == [] or path[0] in PURE_OS


@pytest.mark.parametrize("path", sorted(CORE.rglob("*.py")), ids=lambda p: p.stem)
def test_core_module_uses_no_file_terminal_or_clock(path: Path) -> None:
    assert list(impure_uses(path.read_text("utf-8"))) == []
