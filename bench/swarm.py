"""Upload many small files to a real S3 server, with syncd and rclone in turns."""

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory

from bench.measure import profile_lines, profiled, timed
from bench.place import BUCKET, syncd, write_model
from bench.scenario import (
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
from bench.senders import find, rclone
from syncd.sandbox.switches import Switches
from tests.s3 import S3Endpoint, S3Sandbox
from tests.weed import Weed, weeding

TRANSFERS = 4
"""Parallel transfers of rclone: as many as syncd has PUT slots at its start."""


def _run(options: Options) -> Result:
    if find("rclone") is None:
        raise SystemExit("swarm needs rclone")
    with TemporaryDirectory(prefix="syncd-bench-", dir=options.dir) as name:
        folder = Path(name)
        for number in range(options.swarm_files):
            # Each file is one byte longer: equal files would not be sent.
            path = folder / "models" / "loras" / f"{number:04}.safetensors"
            write_model(path, MIB + number)
        runs: Result = {"syncd": [], "rclone": []}
        (folder / "weed").mkdir()
        with weeding(folder / "weed") as server:
            for number in range(options.rounds):
                _round(runs, folder, server, f"{BUCKET}-{number}")
                report_progress(f"round {number + 1}/{options.rounds}")
            profile = _profile(folder, server) if options.profile else []
    return {"files": options.swarm_files, "runs": runs, "profile": profile}


def _round(runs: Result, folder: Path, server: Weed, bucket: str) -> None:
    with S3Sandbox(S3Endpoint(server.url, bucket, server.keys), _switches()) as cloud:
        command = syncd(folder / "models", folder / bucket, "--once", cloud=cloud)
        runs["syncd"].append(asdict(timed("syncd", command)))
    ends = (str(folder / "models"), f":s3:{bucket}/rclone")
    copy = rclone(server.url, None, "copy", f"--transfers={TRANSFERS}", *ends, keys=server.keys)
    runs["rclone"].append(asdict(timed("rclone", copy)))


def _profile(folder: Path, server: Weed) -> list[tuple[str, float]]:
    with S3Sandbox(S3Endpoint(server.url, "spied", server.keys), _switches()) as cloud:
        command = syncd(folder / "models", folder / "spied", "--once", cloud=cloud)
        return profiled("syncd", command)


def _switches() -> Switches:
    return Switches(access_token_lifetime_s=86_400, listing_off=404)


def _walls(result: Result, name: str) -> list[float]:
    return [run["wall_s"] for run in result["runs"][name]]


def _goals(result: Result) -> Iterator[Goal]:
    ratio = paired(_walls(result, "syncd"), _walls(result, "rclone"))
    yield Goal(
        f"{result['files']:,} files of 1 MiB, complete job: time relative to rclone", ratio, 0.6
    )


def _lines(result: Result) -> Iterator[str]:
    files = result["files"]
    yield (
        f"{files:,} files of 1 MiB to SeaweedFS on this machine, which checks every signature; rclone"
        f" with {TRANSFERS} transfers. syncd makes two API calls per file in addition to the PUT."
    )
    yield ""
    yield from table(
        ("Program", "Time s", "Files per second", "CPU ms per file", "RSS MiB"),
        (
            (
                name,
                spread(_walls(result, name)),
                f"{files / median(_walls(result, name)):.0f}",
                f"{1000 * median(run['cpu_s'] for run in runs) / files:.1f}",
                f"{max(run['resident'] for run in runs) / MIB:.0f}",
            )
            for name, runs in result["runs"].items()
        ),
    )
    yield ""
    yield from profile_lines(result["profile"])


SCENARIO = Scenario("swarm", "Many small files", _run, _lines, _goals)
