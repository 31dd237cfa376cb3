"""``make bench``: syncd beside its peers, on the same bytes, in turns."""

import argparse
import json
import os
import platform
import random
import statistics
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile

from bench.senders import BUCKET, PART_MIB, PARTS, SENDERS, Bench, Sender
from syncd.sandbox.server import S3Endpoint, Sandbox
from syncd.sandbox.sigv4 import Keys
from syncd.sandbox.switches import Switches

MIB, GIB = 1024 * 1024, 1024**3
HEADER = 128


@dataclass(frozen=True, slots=True)
class Run:
    """One run of a sender: seconds of wall and processor, the largest resident size in bytes."""

    wall_s: float
    cpu_s: float
    resident: int


@dataclass(frozen=True, slots=True)
class Row:
    """A goal: what was measured, as a ratio of medians, and what it should be at most."""

    name: str
    ratio: float
    goal: float


# -- what is sent, and where to ---------------------------------------------------------------------


def make_file(path: Path, size: int) -> None:
    """A whole safetensors file of *size* bytes that no compression helps with."""
    data = size - HEADER
    header = f'{{"w":{{"dtype":"U8","shape":[{data}],"data_offsets":[0,{data}]}}}}'.encode()
    noise = random.Random(1).randbytes(64 * MIB)  # noqa: S311
    path.parent.mkdir(parents=True)
    with path.open("wb") as file:
        file.write((HEADER - 8).to_bytes(8, "little") + header.ljust(HEADER - 8))
        while (left := size - file.tell()) > 0:
            file.write(noise[: min(left, len(noise))])
        file.flush()
        os.fsync(file.fileno())


def make_certificate(folder: Path) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 that vouches for itself, and its key."""
    certificate, key = folder / "ca.pem", folder / "ca.key"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2",
         "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1",
         "-addext", "basicConstraints=critical,CA:TRUE",
         "-keyout", str(key), "-out", str(certificate)],
        check=True, capture_output=True,
    )  # fmt: skip
    return certificate, key


@contextmanager
def sink(certificate: Path, key: Path) -> Iterator[str]:
    """The endpoint, in a process of its own."""
    command = [sys.executable, "-m", "bench.sink", str(certificate), str(key)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield f"https://127.0.0.1:{int(process.stdout.readline())}"
        finally:
            process.kill()


@contextmanager
def benches(folder: Path, size: int) -> Iterator[Bench]:
    """Everything that is needed, built up and torn down."""
    file = folder / "models" / "checkpoints" / "bench.safetensors"
    make_file(file, size)
    certificate, key = make_certificate(folder)
    with sink(certificate, key) as endpoint:
        store = S3Endpoint(endpoint, BUCKET, Keys("bench", "bench", "us-east-1"), str(certificate))
        switches = Switches(
            part_size=PART_MIB * MIB, access_token_lifetime_s=86_400, listing_off=404
        )
        with Sandbox(switches=switches, s3=store) as cloud:
            yield Bench(file, endpoint, certificate, cloud)


# -- measuring ---------------------------------------------------------------------------------------


def timed(sender: Sender, bench: Bench, *, cold: bool) -> Run:
    """Run it once, from a fresh beginning; *cold*: without a page of the file in the cache."""
    if cold:
        fd = os.open(bench.file, os.O_RDONLY)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(fd)
    with sender.ready(bench) as command, TemporaryFile("w+") as taken:
        done = subprocess.run(
            ["sh", "-c", 'exec "$@" 3>&0 <&-', "sh", sys.executable, "-m", "bench.meter",
             *command.arguments],
            env={**os.environ, **command.env},
            stdin=taken,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )  # fmt: skip
        if done.returncode:
            said = done.stdout.decode(errors="replace")
            raise SystemExit(f"{sender.name} failed:\n{said}")
        taken.seek(0)
        return Run(**json.load(taken))


def measure(
    senders: Sequence[Sender], bench: Bench, rounds: int, *, cold: bool
) -> dict[str, list[Run]]:
    """*rounds* of all senders, one after the other, so that the machine's moods hit all alike."""
    runs: dict[str, list[Run]] = {sender.name: [] for sender in senders}
    for number in range(rounds):
        for sender in senders:
            run = timed(sender, bench, cold=cold)
            runs[sender.name].append(run)
            tell(f"round {number + 1}/{rounds}  {sender.name:14}{run.wall_s:8.2f} s")
    return runs


def median(runs: Iterable[Run], what: str) -> float:
    return float(statistics.median(getattr(run, what) for run in runs))


def goals(runs: dict[str, list[Run]]) -> Iterator[Row]:
    """The ratios that count; peers only send, syncd hashes and registers, too."""

    def ratio(one: str, other: str, what: str = "wall_s") -> float:
        return median(runs[one], what) / median(runs[other], what)

    for name, peer, what, goal in (
        ("wall, syncd / rclone", "rclone", "wall_s", 0.85),
        ("wall, syncd / s5cmd", "s5cmd", "wall_s", 0.70),
        ("CPU, syncd / rclone", "rclone", "cpu_s", 0.70),
        ("CPU, syncd / s5cmd", "s5cmd", "cpu_s", 0.55),
    ):
        if peer in runs:
            yield Row(name, ratio("syncd", peer, what), goal)
    if "curl" in runs:
        yield Row("wall, syncd's door / curl", ratio("syncd's door", "curl"), 1.0)
    yield Row("wall, syncd / syncd's door", ratio("syncd", "syncd's door"), 1.15)


# -- telling -----------------------------------------------------------------------------------------


def tell(line: str) -> None:
    sys.stderr.write(f"{line}\n")


def machine() -> str:
    models = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines()
        if line.startswith("model name")
    ]
    name = models[0] if models else platform.machine()
    return (
        f"{os.cpu_count()} x {name}, Linux {platform.release()}, Python {platform.python_version()}"
    )


def table(runs: dict[str, list[Run]], size: int) -> Iterator[str]:
    yield "| Sender | wall s (least - most) | CPU s a GiB | RSS MiB | wall against curl |"
    yield "|---|---|---|---|---|"
    base = median(runs.get("curl", runs["syncd"]), "wall_s")
    for name, each in runs.items():
        walls = sorted(run.wall_s for run in each)
        wall_s, cpu_s = median(each, "wall_s"), median(each, "cpu_s") * GIB / size
        yield (
            f"| {name} | {wall_s:.2f} ({walls[0]:.2f} - {walls[-1]:.2f}) | {cpu_s:.2f} |"
            f" {max(run.resident for run in each) / MIB:.0f} | {wall_s / base:.2f} |"
        )


def goal_table(rows: Iterable[Row]) -> Iterator[str]:
    yield "| Ratio | measured | goal | |"
    yield "|---|---|---|---|"
    for row in rows:
        mark = "" if row.ratio <= row.goal else "missed"
        yield f"| {row.name} | {row.ratio:.2f} | <= {row.goal:.2f} | {mark} |"


def main() -> None:
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--gib", type=float, default=8, help="size of the file (8)")
    parser.add_argument("--rounds", type=int, default=5, help="how often each sender runs (5)")
    parser.add_argument("--peers", default="curl,rclone,s5cmd", help="beside syncd (%(default)s)")
    parser.add_argument("--cold", action="store_true", help="with nothing of the file in the cache")
    parser.add_argument("--json", type=Path, help="write every run to this file")
    parser.add_argument("--dir", type=Path, help="where to make the file (the temporary folder)")
    given = parser.parse_args()

    wanted = {"syncd", "syncd's door", *given.peers.split(",")}
    senders = [sender for sender in SENDERS if sender.name in wanted and sender.there]
    for name in sorted(wanted - {sender.name for sender in senders}):
        tell(f"{name} is not installed, and left out")
    size = int(given.gib * GIB)
    with TemporaryDirectory(prefix="syncd-bench-", dir=given.dir) as folder:
        tell(f"making a file of {size} bytes ...")
        with benches(Path(folder), size) as bench:
            runs = measure(senders, bench, given.rounds, cold=given.cold)
    cache = "nothing of it in the page cache" if given.cold else "all of it in the page cache"
    report = [
        f"{given.gib:g} GiB, {cache}, TLS to a sink on this machine, {PARTS} parts of {PART_MIB} MiB"
        f" at once, medians of {given.rounds} rounds. {machine()}.",
        "",
        *table(runs, size),
        "",
        *goal_table(goals(runs)),
    ]
    sys.stdout.write("\n".join(report) + "\n")
    if given.json:
        document = {name: [asdict(run) for run in each] for name, each in runs.items()}
        given.json.write_text(json.dumps({"bytes": size, "machine": machine(), "runs": document}))


if __name__ == "__main__":
    main()
