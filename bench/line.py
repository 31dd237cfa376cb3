"""A long, fat line: what share of it one big file fills, by round trip, loss and congestion control."""

import json
import select
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from bench.cable import BIN_S, FAR, NEAR
from bench.measure import Command, Profile, profile_lines, running, spied, wait_for
from bench.place import BUCKET, SYNCD, write_model
from bench.scenario import Goal, Options, Result, Scenario, median, table, tell
from bench.senders import path_of

LAST = 3
"""The seconds of the last third of the time count."""

ROOM = 2
"""The file is so many times as large as the line could carry in that time."""

READY_S = 60.0
"""Within so many seconds everything has to be up, and then the body has to flow."""

STREAMS = 16
"""Plain ones: as many as syncd goes up to."""

PLAIN, ONE, OURS = f"{STREAMS} plain streams", "one stream", "syncd"
SENDERS = (PLAIN, ONE, OURS)

CONTROLS = ("bbr", "cubic", "reno")
"""Of those that the kernel has, bbr and the first other one are run."""


@dataclass(frozen=True, slots=True)
class Case:
    """One sender on one line. *usual* is what the kernel gives a stream that asks for nothing."""

    mbit: int
    delay_ms: int
    loss: float
    control: str
    usual: str
    sender: str

    def __str__(self) -> str:
        line = f"{self.mbit} Mbit/s, {self.delay_ms} ms, {self.loss:g} % lost"
        return f"{line}, {self.control}, {self.sender}"

    @property
    def route(self) -> list[str]:
        """
        What chooses the congestion control of every stream to the far end.

        A locked one stays whatever a program asks for. Where syncd is to go by BBR it has to ask
        for it, as it has to on most machines.
        """
        asks = self.sender == OURS and self.control == "bbr"
        choice = [self.usual] if asks else ["lock", self.control]
        return ["route", "replace", f"{FAR}/32", "dev", "near", "src", NEAR, "congctl", *choice]


def _run(options: Options) -> Result:
    usual, controls = _controls()
    cases = [
        Case(options.line_mbit, delay_ms, loss, control, usual, sender)
        for delay_ms in options.delays
        for loss in options.losses
        for control in controls
        for sender in SENDERS
    ]
    with TemporaryDirectory(prefix="syncd-bench-", dir=options.dir) as name:
        folder = Path(name)
        size = int(options.line_mbit * 1e6 / 8 * options.line_s * ROOM)
        write_model(folder / "models" / "checkpoints" / "bench.safetensors", size)
        runs = []
        for number, case in enumerate(cases, 1):
            runs.append(_on_line(case, folder, options.line_s))
            tell(f"{number} of {len(cases)}: {case}: {100 * runs[-1]['share']:.1f} % of the line")
        profiles = {}
        if options.profile:
            longest = [case for case in cases if case.sender == OURS and case.loss == 0][-1:]
            for case in longest:
                profiles[str(case)] = _on_line(case, folder, options.line_s, spy=True)["profile"]
    return {
        "mbit": options.line_mbit,
        "seconds": options.line_s,
        "runs": runs,
        "profiles": profiles,
    }


def _controls() -> tuple[str, list[str]]:
    """The usual one, and those to run."""
    known = Path("/proc/sys/net/ipv4/tcp_available_congestion_control").read_text("ascii").split()
    usual = next(control for control in CONTROLS[1:] if control in known)  # Linux always has reno
    return usual, [control for control in ("bbr", usual) if control in known]


def _on_line(case: Case, folder: Path, seconds: float, *, spy: bool = False) -> Result:
    """One sender on a fresh line, for as long as it is watched; *spy*: under py-spy."""
    words = map(str, (case.mbit, case.delay_ms, case.loss, seconds))
    with (
        TemporaryDirectory(dir=folder) as home,
        _talking(sys.executable, "-m", "bench.cable", *words) as cable,
    ):
        near, far = _said(cable)
        _within(near, "ip", *case.route)
        with _talking("nsenter", f"--net={far}", sys.executable, "-m", "bench.far", home) as cloud:
            command, port = _sending(case.sender, _said(cloud), folder, Path(home))
            log = Path(home) / "log"
            with running(command.within("nsenter", f"--net={near}"), log) as sender:
                seen = [_streams(near, port)]

                def look() -> None:
                    if sender.poll() is not None:
                        text = log.read_text("utf-8", "replace")
                        raise SystemExit(f"{case}: the sender ended:\n{text[-4000:]}")
                    seen.append(_streams(near, port))

                watch: AbstractContextManager[Profile] = nullcontext([])
                if spy:
                    wait_for(log, "job.claimed", sender)
                    watch = spied(str(case), sender.pid)
                with watch as profile:
                    carried = _said(cable, READY_S + seconds, look)
                sender.kill()
    shares = _shares(carried["bins"], case.mbit)
    return {
        "delay_ms": case.delay_ms,
        "loss": case.loss,
        "control": case.control,
        "sender": case.sender,
        "share": median(shares),
        "mean": statistics.fmean(shares),
        "streams": [len(controls) for controls in seen],
        "last": "+".join(sorted(set(seen[-1]))),
        "profile": profile,
        **carried,
    }


def _sending(sender: str, there: dict[str, Any], folder: Path, home: Path) -> tuple[Command, int]:
    """What is run, and the port that its bytes go to."""
    port = int(there["endpoint"].rpartition(":")[2])
    if sender == PLAIN:
        words = [FAR, str(there["plain"]), str(STREAMS)]
        return Command([sys.executable, "-m", "bench.streams", *words]), there["plain"]
    if sender == ONE:
        file = folder / "models" / "checkpoints" / "bench.safetensors"
        options = ["-sS", "--cacert", there["ca"], "-T", str(file)]
        return Command([path_of("curl"), *options, f"{there['endpoint']}/{BUCKET}/one"]), port
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
    return Command([*SYNCD, "--once"], env), port


def _within(namespace: str, *words: str) -> str:
    """What a command says there."""
    done = subprocess.run(
        ["nsenter", f"--net={namespace}", *words], capture_output=True, text=True, timeout=READY_S
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(words)} failed on the line:\n{done.stderr}")
    return done.stdout


def _streams(near: str, port: int) -> list[str]:
    """The congestion control of each stream to *port* that has bytes to send, by "ss(8)"."""
    said = _within(near, "ss", "-tinHO", "dst", FAR, "dport", "=", f":{port}")
    rows = [line.split() for line in said.splitlines()]
    return [word for row in rows if int(row[2]) for word in row if word in CONTROLS]


@contextmanager
def _talking(*command: str) -> Iterator[subprocess.Popen[str]]:
    """A process that says lines of JSON, and ends when we no longer listen."""
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def _said(
    process: subprocess.Popen[str],
    within_s: float = READY_S,
    meanwhile: Callable[[], None] = lambda: None,
) -> Any:
    """
    Its next line; once a second *meanwhile* is called.

    Raises:
        SystemExit: It said nothing within so many seconds, or ended.
    """
    assert process.stdout is not None
    until_s = time.monotonic() + within_s
    while not select.select([process.stdout], [], [], 1)[0]:
        meanwhile()
        if time.monotonic() > until_s:
            raise SystemExit(f"{process.args!r} said nothing for {within_s:.0f} s")
    line = process.stdout.readline()
    if not line:
        raise SystemExit(f"{process.args!r} ended")
    return json.loads(line)


def _shares(bins: list[int], mbit: int) -> list[float]:
    """Of the line, by payload, in each second of the last part of the time."""
    judged = bins[-max(1, len(bins) // LAST) :]
    a_second = round(1 / BIN_S)
    seconds = [judged[at : at + a_second] for at in range(0, len(judged), a_second)]
    return [sum(second) * 8 / (len(second) * BIN_S * mbit * 1e6) for second in seconds]


def _run_of(result: Result, run: Result, sender: str) -> Result:
    """The run of *sender* on the same line."""
    same = ("delay_ms", "loss", "control")
    return next(
        other
        for other in result["runs"]
        if other["sender"] == sender and all(other[name] == run[name] for name in same)
    )


def _goals(result: Result) -> Iterator[Goal]:
    for run in result["runs"]:
        if run["sender"] != OURS:
            continue
        line = f"{result['mbit']} Mbit/s, {run['delay_ms']} ms, {run['loss']:g} % lost"
        name = f"{line}, {run['control']}: share within {result['seconds']:g} s"
        share = 100 * run["share"]
        if run["loss"] == 0:
            yield Goal(name, share, 90, "%", at_least=True)
        elif run["control"] == "bbr":
            yield Goal(name, share, 85, "%", at_least=True)
        else:
            ratio = run["share"] / max(_run_of(result, run, ONE)["share"], 1e-9)
            yield Goal(f"{line}, {run['control']}: against one stream", ratio, 10, at_least=True)


def _lines(result: Result) -> Iterator[str]:
    seconds = result["seconds"]
    yield (
        f"A line of {result['mbit']} Mbit/s in user space between two network namespaces: TCP is the"
        " kernel's on both ends, single segments are lost on the way there, the queue holds 100 ms."
        f" Each sender is watched for {seconds:g} s from the moment its body flows. Of the last"
        f" {seconds / LAST:g} the middle second is its share of the line, which also carries headers"
        " (94 % is full); their mean stands beside it. BBR all but stops for a fifth of a second every"
        " ten seconds to measure the round trip, and all streams do so at once. *Streams*: those with"
        " bytes to send at the end, by ss(8). The route decides on the congestion control, but where"
        " syncd goes by BBR, which the kernel would not choose: it asks for it."
    )
    yield ""
    heads = ("Round trip ms", "lost %", "control", "sender", "streams", "share %", "mean %")
    yield from table(
        (*heads, "line's own CPU %", "late by ms", "all cores busy %"),
        (
            (
                run["delay_ms"],
                f"{run['loss']:g}",
                run["control"],
                run["sender"],
                f"{run['streams'][-1]} {run['last']}",
                f"{100 * run['share']:.1f}",
                f"{100 * run['mean']:.1f}",
                f"{100 * run['cpu']:.0f}",
                run["late_ms"],
                f"{100 * run['busy']:.0f}",
            )
            for run in result["runs"]
        ),
    )
    yield ""
    yield (
        "Plain streams send nothing but bytes: what they reach is what this line carries. It is one"
        " process, whose own share of a core stands beside each figure; of a hundred packets 99 came"
        " out no later after their time than it says."
    )
    yield ""
    yield from _bounded(result)
    for case, profile in result["profiles"].items():
        yield f"{case}:"
        yield ""
        yield from profile_lines(profile)


def _bounded(result: Result) -> Iterator[str]:
    """Where not syncd but the line or the machine is what was measured."""
    for run in result["runs"]:
        full = 0.9 * (run["loss"] == 0)
        if run["sender"] == PLAIN and run["share"] < full:
            yield (
                f"At {run['delay_ms']} ms without loss ({run['control']}) even plain streams reached only"
                f" {100 * run['share']:.0f} %: there the emulator ({100 * run['cpu']:.0f} % of a core)"
                f" or the machine ({100 * run['busy']:.0f} % busy) bounds every figure."
            )
            yield ""


SCENARIO = Scenario("line", "A long line", _run, _lines, _goals)
