"""One big file over TLS to a sink that discards: syncd beside its peers, on the same bytes, in turns."""

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
    spread,
    table,
    tell,
)
from bench.senders import Sender, chosen


def _run(options: Options, *, cold: bool) -> Result:
    size = int(options.gib * GIB)
    senders = chosen(options.peers)
    runs: Result = {sender.name: [] for sender in senders}
    with TemporaryDirectory(prefix="syncd-bench-", dir=options.dir) as folder:
        tell(f"making a file of {size} bytes ...")
        with with_file(Path(folder), size) as place:
            for number in range(options.rounds):
                for sender in senders:
                    run = _once(sender, place, cold=cold)
                    runs[sender.name].append(run)
                    wall_s = run["wall_s"]
                    tell(f"round {number + 1}/{options.rounds}  {sender.name:14}{wall_s:8.2f} s")
            with senders[0].ready(place) as command:
                profile = profiled("syncd", command) if options.profile else []
    return {"bytes": size, "rounds": options.rounds, "runs": runs, "profile": profile}


def _once(sender: Sender, place: Place, *, cold: bool) -> Result:
    """One run from a fresh beginning; *cold*: without a page of the file in the cache."""
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
    """The ratios that count; peers only send, syncd hashes and registers, too."""
    if cold:
        yield Goal(
            "cold, whole path: wall against upload only of the same engine",
            _ratio(result, "syncd", "syncd's door"),
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
            measure = "wall" if what == "wall_s" else "CPU"
            name = f"warm, whole path: {measure} against {peer}"
            yield Goal(name, _ratio(result, "syncd", peer, what), bound)
    if "curl" in result["runs"]:
        yield Goal(
            "warm, without the hash, 4 slots: wall against curl",
            _ratio(result, "syncd's door", "curl"),
            1.0,
        )


def _lines(result: Result, *, cold: bool) -> Iterator[str]:
    size = result["bytes"]
    cache = "nothing of it in the page cache" if cold else "all of it in the page cache"
    yield (
        f"{size / GIB:g} GiB, {cache}, {PARTS} parts of {PART_MIB} MiB at once, medians of"
        f" {result['rounds']} rounds in turns (least - most)."
    )
    yield ""
    base = "curl" if "curl" in result["runs"] else "syncd"
    heads = ("Sender", "wall s", "CPU s a GiB", "RSS MiB", f"wall against {base}")
    yield from table(heads, (_row(result, name, base) for name in result["runs"]))
    yield ""
    yield "Counted, in sizes of the file, beside the least that the work needs:"
    yield ""
    yield from table(
        ("Sender", "read from disk", "read by calls", "hashed", "sent and encrypted"),
        [("floor", 1 if cold else 0, 1, "1 (syncd)", 1), *_counts(result)],
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
    """syncd hashes what it reads and does not send; its peers hash nothing that is asked of them."""
    for name in result["runs"]:
        disk, read, sent = (
            median(_of(result, name, what)) / result["bytes"]
            for what in ("read_from_disk", "read", "encrypted")
        )
        hashed = f"{read - sent:.2f}" if name == "syncd" else "0"
        yield name, f"{disk:.2f}", f"{read:.2f}", hashed, f"{sent:.2f}"


def _floor(result: Result) -> Iterator[str]:
    if not {"syncd", "syncd's door"} <= result["runs"].keys():
        return
    per_gib = GIB / result["bytes"]
    whole, door = (median(_of(result, who, "cpu_s")) * per_gib for who in ("syncd", "syncd's door"))
    yield (
        f"Of the {whole:.2f} CPU seconds a GiB of the whole path, {door:.2f} are what reading,"
        f" encrypting and sending alone take with the same door; {whole - door:.2f} are the hash,"
        " the comparison of leaves, the start and the database."
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
