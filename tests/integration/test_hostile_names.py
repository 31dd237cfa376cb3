"""T13: names are bytes, and none of them crashes anything, gets lost or reaches a terminal raw."""

import os
import random
import re
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

from syncd.sandbox.server import Sandbox
from syncd.types import FileState, printable
from tests.integration.harness import Home, records, until
from tests.weights import write_safetensors

COUNT = 5000
LATE = 250
"""How many of them come while the daemon runs."""
SIZE = 200
"""Bytes of a file."""
SERVER = re.compile(r"(?!/)(?!.*\.\.)(?!.*\\)[\w./ -]+", re.ASCII)
"""What the cloud takes as a model_path."""

PIECES = [
    b"\x1b[2J", b"\x1b]0;owned\x07", b"\x1bP", b"\x9b31m", b"\n", b"\r", b"\t", b"\x7f", b"\x01",
    b"\xff\xfe", b"caf\xe9", b"\xc3", b"\xed\xa0\x80", b"\xc2\x9b31m", b"\xe2\x80\xa8",
    "漢字".encode(), "e\u0301".encode(), "\u202egnp".encode(), "\ufeff".encode(), "\U0001f600".encode(),
    b"'", b'"', b"\\", b"\\n", b"$(id)", b"`id`", b"%s", b"{x}", b"[red]", b"[/]", b":smile:", b"#", b"!",
    b"*", b"?", b"~", b"|", b"&", b";", b"=", b" ", b"  ", b".", b"..", b"-", b"--once", b"(1)", b"+",
    b"a", b"A", b"Z", b"9", b"_", b"CON", b"L" * 90,
]  # fmt: skip
ENDINGS = [b".safetensors"] * 12 + [b".pt", b".gguf", b".part", b".txt", b"", b".SAFETENSORS", b"."]
TYPES = [b"loras"] * 6 + [
    b"vae",
    b"new\nline",
    b"\x1b[31m",
    b"caf\xe9",
    b"configs",
    b"[bold]",
    b".x",
]


def hostile_paths() -> list[bytes]:
    """Paths that a file system allows and a terminal, a log or a server may not; always the same."""
    dice, paths = random.Random(13), set[bytes]()

    def name() -> bytes:
        if dice.random() < 0.2:
            noise = dice.randbytes(dice.randint(1, 40))
            return noise.translate(None, b"/\0") or b"x"
        return b"".join(dice.choices(PIECES, k=dice.randint(1, 6)))[:200]

    while len(paths) < COUNT:
        folders = [dice.choice(TYPES)]
        if dice.random() < 0.1:
            folders.append(dice.choice(PIECES) + b".folder")
        file = name() + dice.choice(ENDINGS)
        if file not in (b".", b".."):
            paths.add(b"/".join([*folders, file]))
    return sorted(paths)


def write(home: Home, paths: list[bytes]) -> None:
    for path in paths:
        write_safetensors(home.models / os.fsdecode(path), SIZE)


def is_entered(path: bytes) -> bool:
    """Hidden folders are not looked into; every other file is accounted for."""
    return not any(folder.startswith(b".") for folder in path.split(b"/")[:-1])


def stored(home: Home) -> Iterator[bytes]:
    """The paths in the database, raw."""
    with closing(sqlite3.connect(home.state / "syncd.db")) as db:
        yield from (bytes(path) for (path,) in db.execute("SELECT rel_path FROM file"))


def require_harmless(*outputs: str) -> None:
    """Nothing in them moves a cursor, changes a colour or turns the direction of writing."""
    for output in outputs:
        assert {c for c in output if not c.isprintable()} <= {"\n"}
        assert "Traceback" not in output


def require_accounted(home: Home, cloud: Sandbox, paths: list[bytes]) -> None:
    """Each file is in exactly one state, and it is the one that the catalog bears out."""
    files, held = home.status()["files"], records(cloud)
    shown = Counter(file["path"] for file in files)
    states = Counter(file["state"] for file in files)
    taken = {file["model_path"] for file in files if file["state"] == "registered"}

    assert sorted(stored(home)) == paths
    assert shown == Counter(printable(os.fsdecode(path)) for path in paths)
    assert states == home.counts()
    assert states.keys() <= set(FileState)
    assert set(held) == taken
    assert states["registered"] == len(taken) > 0
    assert all(SERVER.fullmatch(path) for path in taken)
    for file in files:
        assert file["state"] == "registered" or file["reason"], file["path"]


def test_T13_5000_names_each_end_in_one_state_and_none_is_printed_raw(
    home: Home, cloud: Sandbox, record_property: Callable[[str, object], None]
) -> None:
    paths = hostile_paths()
    record_property("cases", len(paths))
    write(home, paths)
    home.env["SYNCD_LOG__FORMAT"] = "console"
    home.let_age()

    runs = [home.run("plan"), home.run("plan", "--json"), home.once()]
    runs += [home.run("status", "--all"), home.run("status", "--json")]
    planned = Counter(file["path"] for file in home.plan()["files"])

    expected = sorted([*filter(is_entered, paths), b"loras/one.safetensors", b"vae/two.pt"])
    assert [done.code for done in runs] == [0, 0, 1, 0, 0]
    assert planned == Counter(printable(os.fsdecode(path)) for path in expected)
    require_accounted(home, cloud, expected)
    require_harmless(*(done.out for done in runs), *(done.err for done in runs))


def test_T13_names_that_come_and_go_while_the_daemon_runs_are_accounted_for(
    home: Home, cloud: Sandbox, record_property: Callable[[str, object], None]
) -> None:
    paths = hostile_paths()
    late = random.Random(1).sample(paths, LATE)
    record_property("cases", LATE)
    expected = sorted([*filter(is_entered, late), b"loras/one.safetensors", b"vae/two.pt"])
    with home.daemon() as daemon:
        daemon.started()
        write(home, late)
        until(lambda: sorted(stored(home)) == expected, "every file that was written")
        until(
            lambda: home.counts().keys().isdisjoint({"queued", "uploading", "waiting"}), "the queue"
        )
        require_accounted(home, cloud, expected)
        for path in late:
            Path(home.models / os.fsdecode(path)).unlink()
        kept = [b"loras/one.safetensors", b"vae/two.pt"]
        until(lambda: sorted(stored(home)) == kept, "that they are gone")
        code = daemon.stop()

    assert code == 143
    require_harmless(daemon.log.read_text("utf-8"))
