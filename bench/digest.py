"""
SHA-256: syncd's hasher against ``openssl dgst -sha256`` on the same file.

``python -m bench.digest FILE`` is the measured program: it hashes the file as syncd does and prints
the seconds that takes, without the time for imports.
"""

import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory

from bench.measure import Command, timed
from bench.place import write_model
from bench.scenario import (
    GIB,
    Goal,
    Options,
    Result,
    Scenario,
    median,
    paired,
    report_progress,
    spread,
    table,
)


def _run(options: Options) -> Result:
    size = int(options.gib * GIB)
    with TemporaryDirectory(prefix="syncd-bench-", dir=options.dir) as folder:
        file = Path(folder) / "bench.safetensors"
        write_model(file, size)
        commands = {
            "syncd": Command([sys.executable, "-m", "bench.digest", str(file)]),
            "openssl": Command(["openssl", "dgst", "-sha256", str(file)]),
        }
        runs: Result = {name: [] for name in commands}
        for number in range(options.rounds):
            for name, command in commands.items():
                output = Path(folder) / "output"
                run = asdict(timed(name, command, output))
                if name == "syncd":
                    run["wall_s"], run["cpu_s"] = map(float, output.read_text().split())
                runs[name].append(run)
            report_progress(f"round {number + 1}/{options.rounds}")
    return {"bytes": size, "rounds": options.rounds, "runs": runs}


def _walls(result: Result, name: str) -> list[float]:
    return [run["wall_s"] for run in result["runs"][name]]


def _goals(result: Result) -> Iterator[Goal]:
    speed = paired(_walls(result, "openssl"), _walls(result, "syncd"))
    yield Goal("SHA-256: speed relative to openssl dgst", speed, 1.0, at_least=True)


def _lines(result: Result) -> Iterator[str]:
    gib = result["bytes"] / GIB
    yield f"{gib:g} GiB in the page cache, {result['rounds']} rounds; syncd also hashes the leaves."
    yield ""
    yield from table(
        ("Program", "Time s", "CPU s per GiB"),
        (
            (name, spread(_walls(result, name)), f"{median(r['cpu_s'] for r in runs) / gib:.2f}")
            for name, runs in result["runs"].items()
        ),
    )
    yield ""


SCENARIO = Scenario("digest", "SHA-256", _run, _lines, _goals)


def digest(path: str) -> None:
    """Hash the file as syncd does and print the seconds."""
    from syncd.fs import hashing

    started_s, cpu_s = time.monotonic(), time.process_time()
    hashing.hash_file(
        path, hashing.read_fingerprint(path), stop=threading.Event(), on_bytes=lambda count: None
    )
    print(time.monotonic() - started_s, time.process_time() - cpu_s)


if __name__ == "__main__":
    digest(sys.argv[1])
