"""A long, fat line: what share of it one big file fills, by round trip, loss and congestion control."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from bench.cable import BIN_S
from bench.measure import Command
from bench.place import BUCKET, SYNCD, write_model
from bench.scenario import GIB, Goal, Options, Result, Scenario, table, tell
from bench.senders import path_of

WITHIN_S = 15.0
JUDGED_S = 5.0
"""What is delivered in the last seconds of the first ``WITHIN_S`` counts."""

ONE_STREAM_S = 20
CONTROLS = ("bbr", "cubic", "reno")
"""Of those that a namespace may be given, bbr and the first other one are run."""


def _run(options: Options) -> Result:
    with TemporaryDirectory(prefix="syncd-bench-", dir=options.dir) as name:
        folder = Path(name)
        write_model(
            folder / "models" / "checkpoints" / "bench.safetensors", int(options.line_gib * GIB)
        )
        runs = [
            _on_line(folder, options.line_mbit, delay, loss, control, sender)
            for delay in options.delays
            for loss in options.losses
            for control in _controls()
            for sender in ("syncd", "one stream")
        ]
    return {"mbit": options.line_mbit, "gib": options.line_gib, "runs": runs}


def _controls() -> list[str]:
    allowed = Path("/proc/sys/net/ipv4/tcp_allowed_congestion_control").read_text("ascii").split()
    there = [control for control in CONTROLS if control in allowed]
    return there[: 2 if there[0] == "bbr" else 1]


def _on_line(
    folder: Path, mbit: int, delay_ms: int, loss: float, control: str, sender: str
) -> Result:
    """One sender on a fresh line."""
    with _talking(
        [sys.executable, "-m", "bench.cable", str(mbit), str(delay_ms), str(loss)]
    ) as cable:
        near, far = json.loads(_line_of(cable))
        _within(near, "sysctl", "-qw", f"net.ipv4.tcp_congestion_control={control}")
        with TemporaryDirectory(dir=folder) as home:
            command = ["nsenter", f"--net={far}", sys.executable, "-m", "bench.far", home]
            with _talking(command) as cloud:
                there = json.loads(_line_of(cloud))
                sending = _sending(sender, there, folder, Path(home))
                _within(near, *sending.arguments, env=sending.environment)
                _hush(cloud)
        delivered = json.loads(_hush(cable))
    share = _share(delivered["bins"], mbit)
    tell(f"{delay_ms} ms, {loss} % lost, {control}, {sender}: {100 * share:.0f} % of the line")
    return {
        "delay_ms": delay_ms,
        "loss": loss,
        "control": control,
        "sender": sender,
        "share": share,
        "cable_cpu": delivered["cpu_s"] / max(len(delivered["bins"]) * BIN_S, BIN_S),
        "bins": delivered["bins"],
    }


def _sending(sender: str, there: dict[str, str], folder: Path, home: Path) -> Command:
    if sender == "one stream":
        file = folder / "models" / "checkpoints" / "bench.safetensors"
        options = ["-sS", "--cacert", there["ca"], "--max-time", str(ONE_STREAM_S), "-T", str(file)]
        # It is not waited for to its end: exit code 28 is expected.
        return Command([path_of("curl"), *options, f"{there['endpoint']}/{BUCKET}/one"]).within(
            "sh", "-c", '"$@"; [ $? -eq 0 ] || [ $? -eq 28 ] || true', "sh"
        )
    env = {
        "SYNCD_MODELS_DIR": str(folder / "models"),
        "SYNCD_STATE_DIR": str(home / "state"),
        "SYNCD_API__BASE_URL": there["base_url"],
        "SYNCD_API__TOKEN": there["token"],
        "SYNCD_API__TEAM_ID": there["team_id"],
        "SYNCD_NETWORK__CA_BUNDLE": there["ca"],
        "SYNCD_NETWORK__ALLOW_HTTP": "true",
        "SYNCD_NETWORK__STORAGE_HOSTS": there["endpoint"].removeprefix("https://"),
        "SYNCD_SETTLE__QUIET_S": "0",
    }
    return Command([*SYNCD, "--once"], env)


def _within(namespace: str, *words: str, env: dict[str, str] | None = None) -> None:
    done = subprocess.run(
        ["nsenter", f"--net={namespace}", *words], env=env, capture_output=True, check=False
    )
    if done.returncode:
        said = (done.stdout + done.stderr).decode(errors="replace")
        raise SystemExit(f"{words[0]} failed on the line:\n{said[-4000:]}")


@contextmanager
def _talking(command: list[str]) -> Iterator[subprocess.Popen[str]]:
    """A process that ends when we no longer listen."""
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def _line_of(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise SystemExit(f"{process.args!r} did not start")
    return line


def _hush(process: subprocess.Popen[str]) -> str:
    """Let it end; its last words."""
    said, _ = process.communicate(timeout=30)
    return said


def _share(bins: list[int], mbit: int) -> float:
    """
    Of the line, by payload: in the last third of the first 15 s after the body began to flow.

    A body that ended before is judged by the last third of its time.
    """
    begun = next((at for at, count in enumerate(bins) if count > 20_000), 0)
    flowing = bins[begun : begun + int(WITHIN_S / BIN_S)]
    while flowing and flowing[-1] < 20_000:
        flowing.pop()
    judged = flowing[-max(1, int(len(flowing) * JUDGED_S / WITHIN_S)) :]
    return sum(judged) * 8 / (max(1, len(judged)) * BIN_S * mbit * 1e6)


def _run_of(result: Result, **what: object) -> Result | None:
    for run in result["runs"]:
        if all(run[name] == value for name, value in what.items()):
            found: Result = run
            return found
    return None


def _goals(result: Result) -> Iterator[Goal]:
    for run in result["runs"]:
        if run["sender"] != "syncd":
            continue
        name = f"{result['mbit']} Mbit/s, {run['delay_ms']} ms, {run['loss']:g} % lost, {run['control']}"
        if run["loss"] == 0:
            yield Goal(f"{name}: share within 15 s", 100 * run["share"], 90, "%", at_least=True)
        elif run["control"] == "bbr":
            yield Goal(f"{name}: share within 15 s", 100 * run["share"], 85, "%", at_least=True)
        else:
            same = {key: run[key] for key in ("delay_ms", "loss", "control")}
            one = _run_of(result, sender="one stream", **same)
            if one is not None and one["share"] > 0:
                ratio = run["share"] / one["share"]
                yield Goal(f"{name}: against one stream", ratio, 10, at_least=True)


def _lines(result: Result) -> Iterator[str]:
    yield (
        f"One file of {result['gib']:g} GiB over a line of {result['mbit']} Mbit/s in user space between"
        " two network namespaces: TCP is the kernel's on both ends, single segments are lost on the"
        " way there, the queue holds 100 ms. Payload in the last third of the first 15 s after the body"
        " began to flow, as a share of the line, which also carries headers (a share of 94 % is full)."
    )
    yield ""
    yield from table(
        ("Round trip ms", "lost %", "control", "sender", "share of the line %", "line's own CPU"),
        (
            (
                run["delay_ms"],
                f"{run['loss']:g}",
                run["control"],
                run["sender"],
                f"{100 * run['share']:.0f}",
                f"{100 * run['cable_cpu']:.0f} %",
            )
            for run in result["runs"]
        ),
    )
    yield ""


SCENARIO = Scenario("line", "A long line", _run, _lines, _goals)
