"""Utilization of a long, fast link by one upload, by round-trip time, loss and congestion control."""

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
from bench.scenario import Goal, Options, Result, Scenario, median, report_progress, table
from bench.senders import path_of

LAST = 3
"""The last third of the time is measured."""

ROOM = 2
"""File size as a multiple of what the link can carry in that time."""

READY_S = 60.0
"""Timeout for starting everything, and again for the first bytes."""

STREAMS = 16
"""Number of plain streams: the maximum of syncd."""

PLAIN, ONE, OURS = f"{STREAMS} plain streams", "one stream", "syncd"
SENDERS = (PLAIN, ONE, OURS)

CONTROLS = ("bbr", "cubic", "reno")
"""bbr and the first other available one are measured."""


@dataclass(frozen=True, slots=True)
class Case:
    """One sender on one link. *usual* is the kernel's default congestion control."""

    mbit: int
    delay_ms: int
    loss: float
    control: str
    usual: str
    sender: str

    def __str__(self) -> str:
        line = f"{self.mbit} Mbit/s, {self.delay_ms} ms, {self.loss:g} % loss"
        return f"{line}, {self.control}, {self.sender}"

    @property
    def route(self) -> list[str]:
        """
        Return the route that sets the congestion control of all streams to the far end.

        A program cannot change a locked one. To measure syncd with BBR, the route allows syncd to
        request it, as on most machines.
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
            report_progress(
                f"{number} of {len(cases)}: {case}: {100 * runs[-1]['share']:.1f} % of the link"
            )
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
    """Return the default congestion control, and those to measure."""
    known = Path("/proc/sys/net/ipv4/tcp_available_congestion_control").read_text("ascii").split()
    usual = next(control for control in CONTROLS[1:] if control in known)  # Linux always has reno
    return usual, [control for control in ("bbr", usual) if control in known]


def _on_line(case: Case, folder: Path, seconds: float, *, spy: bool = False) -> Result:
    """Measure one sender on a new link; with *spy*, under py-spy."""
    words = map(str, (case.mbit, case.delay_ms, case.loss, seconds))
    with (
        TemporaryDirectory(dir=folder) as home,
        _json_process(sys.executable, "-m", "bench.cable", *words) as cable,
    ):
        near, far = _read_line(cable)
        _within(near, "ip", *case.route)
        with _json_process(
            "nsenter", f"--net={far}", sys.executable, "-m", "bench.far", home
        ) as cloud:
            command, port = _sending(case.sender, _read_line(cloud), folder, Path(home))
            log = Path(home) / "log"
            with running(command.within("nsenter", f"--net={near}"), log) as sender:
                samples = [_streams(near, port)]

                def sample() -> None:
                    if sender.poll() is not None:
                        text = log.read_text("utf-8", "replace")
                        raise SystemExit(f"{case}: the sender ended:\n{text[-4000:]}")
                    samples.append(_streams(near, port))

                watch: AbstractContextManager[Profile] = nullcontext([])
                if spy:
                    wait_for(log, "job.claimed", sender)
                    watch = spied(str(case), sender.pid)
                with watch as profile:
                    carried = _read_line(cable, READY_S + seconds, sample)
                sender.kill()
    shares = _shares(carried["bins"], case.mbit)
    return {
        "delay_ms": case.delay_ms,
        "loss": case.loss,
        "control": case.control,
        "sender": case.sender,
        "share": median(shares),
        "mean": statistics.fmean(shares),
        "streams": [len(controls) for controls in samples],
        "last": "+".join(sorted(set(samples[-1]))),
        "profile": profile,
        **carried,
    }


def _sending(sender: str, there: dict[str, Any], folder: Path, home: Path) -> tuple[Command, int]:
    """Return the command of the sender, and its destination port."""
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
    """Run a command in the namespace and return its output."""
    done = subprocess.run(
        ["nsenter", f"--net={namespace}", *words], capture_output=True, text=True, timeout=READY_S
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(words)} failed:\n{done.stderr}")
    return done.stdout


def _streams(near: str, port: int) -> list[str]:
    """Return the congestion control of each stream to *port* that has bytes to send, from "ss(8)"."""
    output = _within(near, "ss", "-tinHO", "dst", FAR, "dport", "=", f":{port}")
    rows = [line.split() for line in output.splitlines()]
    return [word for row in rows if int(row[2]) for word in row if word in CONTROLS]


@contextmanager
def _json_process(*command: str) -> Iterator[subprocess.Popen[str]]:
    """Run a process that prints lines of JSON."""
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def _read_line(
    process: subprocess.Popen[str],
    within_s: float = READY_S,
    poll: Callable[[], None] = lambda: None,
) -> Any:
    """
    Read the next line of *process*; call *poll* once a second while waiting.

    Raises:
        SystemExit: There was no line within *within_s*, or the process ended.
    """
    assert process.stdout is not None
    until_s = time.monotonic() + within_s
    while not select.select([process.stdout], [], [], 1)[0]:
        poll()
        if time.monotonic() > until_s:
            raise SystemExit(f"{process.args!r} printed nothing for {within_s:.0f} s")
    line = process.stdout.readline()
    if not line:
        raise SystemExit(f"{process.args!r} ended")
    return json.loads(line)


def _shares(bins: list[int], mbit: int) -> list[float]:
    """Return the share of the link's rate that was payload, for each second of the last part."""
    judged = bins[-max(1, len(bins) // LAST) :]
    a_second = round(1 / BIN_S)
    seconds = [judged[at : at + a_second] for at in range(0, len(judged), a_second)]
    return [sum(second) * 8 / (len(second) * BIN_S * mbit * 1e6) for second in seconds]


def _run_of(result: Result, run: Result, sender: str) -> Result:
    """Return the run of *sender* on the same link."""
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
        line = f"{result['mbit']} Mbit/s, {run['delay_ms']} ms, {run['loss']:g} % loss"
        name = f"{line}, {run['control']}: utilization within {result['seconds']:g} s"
        share = 100 * run["share"]
        if run["loss"] == 0:
            yield Goal(name, share, 90, "%", at_least=True)
        elif run["control"] == "bbr":
            yield Goal(name, share, 85, "%", at_least=True)
        else:
            ratio = run["share"] / max(_run_of(result, run, ONE)["share"], 1e-9)
            yield Goal(
                f"{line}, {run['control']}: relative to one stream", ratio, 10, at_least=True
            )


def _lines(result: Result) -> Iterator[str]:
    seconds = result["seconds"]
    yield (
        f"An emulated link of {result['mbit']} Mbit/s between two network namespaces. Both ends use the"
        " kernel's TCP; single segments are lost on the way to the server; the queue holds 100 ms."
        f" Each sender is measured for {seconds:g} s from the first bytes of its body. *Share* is the"
        f" median second of the last {seconds / LAST:g} s as a share of the link's rate, *mean* their"
        " mean. Headers count as well, so a full link shows 94 %. Every ten seconds BBR nearly stops for"
        " 0.2 s to measure the round-trip time, in all streams at once. *Streams* is the number of"
        " streams with bytes to send at the end, from ss(8). The route sets the congestion control,"
        " except for syncd with BBR, which syncd requests itself."
    )
    yield ""
    heads = ("RTT ms", "Loss %", "Control", "Sender", "Streams", "Share %", "Mean %")
    yield from table(
        (*heads, "Emulator CPU %", "Late ms", "All cores busy %"),
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
        "Plain streams carry no TLS, HTTP or files; they show the capacity of the link. The emulator is"
        " one process; its share of a core is shown for each run. 99 % of the packets were at most"
        " *late* behind schedule."
    )
    yield ""
    yield from _bounded(result)
    for case, profile in result["profiles"].items():
        yield f"{case}:"
        yield ""
        yield from profile_lines(profile)


def _bounded(result: Result) -> Iterator[str]:
    """Yield warnings for runs that the emulator or the machine limited."""
    for run in result["runs"]:
        full = 0.9 * (run["loss"] == 0)
        if run["sender"] == PLAIN and run["share"] < full:
            yield (
                f"At {run['delay_ms']} ms without loss ({run['control']}) even plain streams reached only"
                f" {100 * run['share']:.0f} %: the emulator ({100 * run['cpu']:.0f} % of a core)"
                f" or the machine ({100 * run['busy']:.0f} % busy) limits all results."
            )
            yield ""


SCENARIO = Scenario("line", "Long, fast link", _run, _lines, _goals)
