"""Upload one big file over TLS to a server that discards it, with syncd and with other tools."""

from collections.abc import Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from bench.measure import drop_cached, profile_lines, profiled, timed
from bench.place import PART_MIB, PARTS, Place, with_file
from bench.scenario import (
    GIB,
    MIB,
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
from bench.senders import UPLOAD_ONLY, Sender, chosen


def _run(options: Options, *, cold: bool) -> Result:
    size = int(options.gib * GIB)
    senders = chosen(options.peers)
    runs: Result = {sender.name: [] for sender in senders}
    with TemporaryDirectory(prefix="syncd-bench-", dir=options.dir) as folder:
        report_progress(f"creating a file of {size} bytes ...")
        with with_file(Path(folder), size) as place:
            for number in range(options.rounds):
                for sender in senders:
                    run = _once(sender, place, cold=cold)
                    runs[sender.name].append(run)
                    wall_s = run["wall_s"]
                    report_progress(
                        f"round {number + 1}/{options.rounds}  {sender.name:14}{wall_s:8.2f} s"
                    )
            with senders[0].ready(place) as command:
                profile = profiled("syncd", command) if options.profile else []
    return {"bytes": size, "rounds": options.rounds, "runs": runs, "profile": profile}


def _once(sender: Sender, place: Place, *, cold: bool) -> Result:
    """Run once from a clean state; with *cold*, without the file in the page cache."""
    if cold:
        drop_cached(place.file)
    before = place.received()
    with sender.ready(place) as command:
        run = timed(sender.name, command)
    return {**asdict(run), "encrypted": place.received() - before}


def _of(result: Result, name: str, what: str = "wall_s") -> list[float]:
    return [run[what] for run in result["runs"][name]]


def _ratio(result: Result, one: str, other: str, what: str = "wall_s") -> float:
    return paired(_of(result, one, what), _of(result, other, what))


def _goals(result: Result, *, cold: bool) -> Iterator[Goal]:
    """Compare with tools that only upload, while syncd also hashes and registers."""
    if cold:
        yield Goal(
            "cold, complete job: time relative to upload only",
            _ratio(result, "syncd", UPLOAD_ONLY),
            1.15,
        )
        return
    for peer, what, bound in (
        ("rclone", "wall_s", 0.85),
        ("s5cmd", "wall_s", 0.70),
        ("rclone", "cpu_s", 0.70),
        ("s5cmd", "cpu_s", 0.55),
    ):
        if peer in result["runs"]:
            measure = "time" if what == "wall_s" else "CPU"
            name = f"warm, complete job: {measure} relative to {peer}"
            yield Goal(name, _ratio(result, "syncd", peer, what), bound)
    if "curl" in result["runs"]:
        yield Goal(
            "warm, upload only, 4 slots: time relative to curl",
            _ratio(result, UPLOAD_ONLY, "curl"),
            1.0,
        )


def _lines(result: Result, *, cold: bool) -> Iterator[str]:
    size = result["bytes"]
    cache = "not in the page cache" if cold else "in the page cache"
    yield (
        f"{size / GIB:g} GiB, {cache}, {PARTS} parallel parts of {PART_MIB} MiB, medians of"
        f" {result['rounds']} rounds (minimum - maximum)."
    )
    yield ""
    base = "curl" if "curl" in result["runs"] else "syncd"
    heads = ("Tool", "Time s", "CPU s per GiB", "RSS MiB", f"Time relative to {base}")
    yield from table(heads, (_row(result, name, base) for name in result["runs"]))
    yield ""
    yield "Bytes processed, as multiples of the file size, and the minimum that the task needs:"
    yield ""
    yield from table(
        ("Tool", "Read from disk", "Read by system calls", "Hashed", "Encrypted and sent"),
        [("minimum", 1 if cold else 0, 1, "1 (syncd)", 1), *_counts(result)],
    )
    yield ""
    yield from _floor(result)
    yield from profile_lines(result["profile"])


def _row(result: Result, name: str, base: str) -> tuple[str, ...]:
    cpu_s = median(_of(result, name, "cpu_s")) * GIB / result["bytes"]
    resident = max(_of(result, name, "resident")) / MIB
    ratio = _ratio(result, name, base)
    return name, spread(_of(result, name)), f"{cpu_s:.2f}", f"{resident:.0f}", f"{ratio:.2f}"


def _counts(result: Result) -> Iterator[tuple[str, ...]]:
    """syncd hashes what it reads but does not send; the other tools do not need to hash."""
    for name in result["runs"]:
        disk, read, sent = (
            median(_of(result, name, what)) / result["bytes"]
            for what in ("read_from_disk", "read", "encrypted")
        )
        hashed = f"{read - sent:.2f}" if name == "syncd" else "0"
        yield name, f"{disk:.2f}", f"{read:.2f}", hashed, f"{sent:.2f}"


def _floor(result: Result) -> Iterator[str]:
    if not {"syncd", UPLOAD_ONLY} <= result["runs"].keys():
        return
    per_gib = GIB / result["bytes"]
    whole, upload = (median(_of(result, who, "cpu_s")) * per_gib for who in ("syncd", UPLOAD_ONLY))
    yield (
        f"The complete job needs {whole:.2f} CPU seconds per GiB. Reading, encrypting and sending need"
        f" {upload:.2f} of them; hashing, comparing leaves, starting and the database {whole - upload:.2f}."
    )
    yield ""


WARM = Scenario(
    "warm",
    "One big file, page cache warm",
    partial(_run, cold=False),
    partial(_lines, cold=False),
    partial(_goals, cold=False),
)
COLD = Scenario(
    "cold",
    "One big file, page cache cold",
    partial(_run, cold=True),
    partial(_lines, cold=True),
    partial(_goals, cold=True),
)
