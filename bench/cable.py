"""
An emulated link between two network namespaces, with limited rate, delay and loss, in user space.

Each end is a TUN device with segmentation offload, so the kernel passes up to 64 KiB of a TCP stream
at once; the link accounts for the segments and headers that these represent. Packets leave in order
when rate and delay allow it. A queue of more than ``QUEUE_S`` drops new packets. Loss affects single
segments: a lost segment is cut out of its packet, and the remainder is delivered as two packets. Both
ends use the kernel's TCP with its real congestion control.

Run as root: ``python -m bench.cable MBIT RTT_MS LOSS_PERCENT SECONDS``. It prints the paths of the two
namespaces and relays packets. SECONDS after data starts to flow to the far end, it prints what was
delivered and what that cost, and exits; it also exits when stdin ends. See "tuntap.rst" and
"virtio_net.h" in Linux.
"""

import ctypes
import fcntl
import json
import math
import os
import random
import select
import struct
import subprocess
import sys
import time
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field

NEAR, FAR = "10.78.0.1", "10.78.0.2"
MTU = 1500
LINE_HEADER = 38
"""Bytes that Ethernet adds to a packet: preamble, addresses, type, check sum and gap."""

QUEUE_S = 0.1
BIN_S = 0.1
FLOWS = 20_000
"""Payload bytes within ``BIN_S`` that show that a body flows; a handshake has fewer."""

NAP_S = 0.0005
"""Pause between polls, to handle several packets per wake-up."""

LARGEST = 65_536 + 64
PRIORITY = 1
"""Real-time priority, because a real link does not wait for a busy CPU."""

_NEWNET = 0x40000000
_TUNSETIFF, _TUNSETOFFLOAD = 0x400454CA, 0x400454D0
_TUN, _NO_PI, _VNET_HDR = 0x1, 0x1000, 0x4000
_CSUM, _TSO4 = 0x1, 0x2
_VNET, _SEGMENT = struct.Struct("<BBHHHH"), struct.Struct("<H")
_IP = _VNET.size
_NEEDS_CSUM, _GSO_NONE = 1, 0
_FIN_PSH = 0x09


@dataclass(slots=True)
class Direction:
    """
    One direction: the packets in transit, and when the link is free again.

    ``delivered`` counts payload bytes per bin, ``late`` packets by their delay in whole milliseconds.
    """

    out: int
    bytes_a_s: float
    delay_s: float
    loss: float
    draw: random.Random
    waiting: deque[tuple[float, bytes, int]] = field(default_factory=deque)
    free_s: float = 0.0
    until_lost: int = 0
    delivered: Counter[int] = field(default_factory=Counter)
    late: Counter[int] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.until_lost = self._next_loss()

    def accept(self, packet: bytes, now_s: float) -> None:
        """Accept a packet at this end."""
        start_s = max(now_s, self.free_s)
        if start_s - now_s > QUEUE_S:
            return  # the queue is full
        headers, payload, segments = shape(packet)
        self.free_s = start_s + (payload + (headers + LINE_HEADER) * segments) / self.bytes_a_s
        due_s = self.free_s + self.delay_s
        if self.until_lost >= segments:  # most are passed on unchanged
            self.until_lost -= segments
            self.waiting.append((due_s, packet, payload))
            return
        for piece in self._survivors(Frame.of(packet)):
            self.waiting.append((due_s, piece.packet(), piece.payload))

    def _survivors(self, frame: "Frame") -> Iterator["Frame"]:
        """Yield the rest of *frame* after losses."""
        done = 0
        while self.until_lost < frame.segments - done:
            lost = done + self.until_lost
            if lost > done:
                yield frame.cut(done, lost)
            done = lost + 1
            self.until_lost = self._next_loss()
        self.until_lost -= frame.segments - done
        if done < frame.segments:
            yield frame.cut(done, frame.segments)

    def _next_loss(self) -> int:
        """Return the number of segments until the next lost one."""
        if self.loss <= 0:
            return sys.maxsize
        return int(math.log(1 - self.draw.random()) / math.log(1 - self.loss))

    def deliver(self, now_s: float) -> None:
        """Deliver the packets that are due."""
        while self.waiting and self.waiting[0][0] <= now_s:
            due_s, packet, payload = self.waiting.popleft()
            try:
                os.write(self.out, packet)
            except OSError:  # the far kernel rejects it
                continue
            self.delivered[int(now_s / BIN_S)] += payload
            self.late[int((now_s - due_s) * 1000)] += 1


def shape(packet: bytes) -> tuple[int, int, int]:
    """
    Return the header bytes, payload bytes and number of segments of a packet from TUN.

    Anything other than TCP over IPv4 counts as one segment without payload.
    """
    size = len(packet) - _IP
    if packet[_IP] >> 4 != 4 or packet[_IP + 9] != 6:
        return size, 0, 1
    ip = (packet[_IP] & 15) * 4
    headers = ip + (packet[_IP + ip + 12] >> 4) * 4
    payload = size - headers
    segment = _SEGMENT.unpack_from(packet, 4)[0] or payload
    return headers, payload, -(-payload // segment) if payload else 1


@dataclass(frozen=True, slots=True)
class Frame:
    """A packet from TUN: virtio header, IPv4 and TCP headers, and segments of *size* bytes."""

    vnet: tuple[int, int, int, int, int, int]
    headers: bytes
    data: memoryview
    size: int

    @classmethod
    def of(cls, packet: bytes) -> "Frame":
        """Parse a packet."""
        headers, payload, _ = shape(packet)
        vnet, split = _VNET.unpack_from(packet), _IP + headers
        size = vnet[3] or max(payload, 1)
        return cls(vnet, packet[_IP:split], memoryview(packet)[split:], size)

    @property
    def payload(self) -> int:
        """Number of payload bytes."""
        return len(self.data)

    @property
    def segments(self) -> int:
        """Number of packets on a real link."""
        return max(1, -(-len(self.data) // self.size))

    def cut(self, first: int, end: int) -> "Frame":
        """Return segments *first* to *end* (exclusive) as a separate frame."""
        data = self.data[first * self.size : end * self.size]
        header = bytearray(self.headers)
        tcp = (header[0] & 15) * 4
        struct.pack_into("!H", header, 2, len(header) + len(data))
        struct.pack_into("!H", header, 10, 0)
        struct.pack_into("!H", header, 10, ~_sum(bytes(header[:tcp])) & 0xFFFF)
        (sequence,) = struct.unpack_from("!I", header, tcp + 4)
        struct.pack_into("!I", header, tcp + 4, (sequence + first * self.size) & 0xFFFFFFFF)
        if end < self.segments:
            header[tcp + 13] &= ~_FIN_PSH & 0xFF
        # The kernel completes the checksum; it expects the sum of the pseudo header here.
        pseudo = bytes(header[12:20]) + struct.pack("!HH", 6, len(header) - tcp + len(data))
        struct.pack_into("!H", header, tcp + 16, _sum(pseudo))
        gso = self.vnet[1] if len(data) > self.size else _GSO_NONE
        vnet = (_NEEDS_CSUM, gso, self.vnet[2], self.size if gso else 0, tcp, 16)
        return Frame(vnet, bytes(header), data, self.size)

    def packet(self) -> bytes:
        """Serialize for TUN."""
        return b"".join((_VNET.pack(*self.vnet), self.headers, self.data))


def _sum(data: bytes) -> int:
    """Return the ones' complement sum of 16-bit words."""
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def _end(name: str, address: str) -> tuple[int, int]:
    """Create a namespace with its end of the link; return the descriptors of device and namespace."""
    if ctypes.CDLL(None, use_errno=True).unshare(_NEWNET):
        raise OSError(ctypes.get_errno(), "cannot create a network namespace")
    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(fd, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _TUN | _NO_PI | _VNET_HDR))
    fcntl.ioctl(fd, _TUNSETOFFLOAD, _CSUM | _TSO4)
    for words in (
        f"addr add {address}/24 dev {name}",
        f"link set {name} mtu {MTU} txqueuelen 10000 up",
        "link set lo up",
    ):
        subprocess.run(["ip", *words.split()], check=True)
    return fd, os.open("/proc/self/ns/net", os.O_RDONLY)


@dataclass(frozen=True, slots=True)
class Carried:
    """
    What was delivered in a time window, and what that cost.

    ``bins`` has payload bytes per ``BIN_S``. ``cpu`` is the relay's share of one core, ``busy`` the
    non-idle share of all cores. 99 % of the packets were at most ``late_ms`` late.
    """

    bins: list[int]
    cpu: float
    busy: float
    late_ms: int


class Window:
    """A measurement that starts when a body flows and lasts *seconds*."""

    def __init__(self, direction: Direction, seconds: float) -> None:
        self._way = direction
        self._bins = round(seconds / BIN_S)
        self._first: int | None = None
        self._cpu_s = self._idle = self._ticks = 0.0

    def over(self, now_s: float) -> Carried | None:
        """Return the result once the window is over, else None."""
        now = int(now_s / BIN_S)
        if self._first is None:
            if self._way.delivered[now] > FLOWS:
                self._first, self._cpu_s = now, time.process_time()
                self._idle, self._ticks = _idle()
                self._way.late.clear()
            return None
        if now < self._first + self._bins:
            return None
        idle, ticks = _idle()
        return Carried(
            [self._way.delivered[self._first + number] for number in range(self._bins)],
            (time.process_time() - self._cpu_s) / (self._bins * BIN_S),
            1 - (idle - self._idle) / max(ticks - self._ticks, 1),
            _percentile(self._way.late, 0.99),
        )


def _idle() -> tuple[float, float]:
    """Return idle ticks and all ticks of the CPUs ("proc_stat(5)")."""
    with open("/proc/stat", encoding="ascii") as file:
        ticks = list(map(int, file.readline().split()[1:9]))
    return ticks[3] + ticks[4], sum(ticks)


def _percentile(counts: Counter[int], share: float) -> int:
    left = share * counts.total()
    for value in sorted(counts):
        left -= counts[value]
        if left <= 0:
            return value
    return 0


def relay(near: int, far: int, there: Direction, back: Direction, seconds: float) -> Carried | None:
    """Relay until *seconds* after a body starts to flow; return None if stdin ends before."""
    ends, window = {near: there, far: back}, Window(there, seconds)
    while True:
        now_s = time.monotonic()
        if (carried := window.over(now_s)) is not None:
            return carried
        due_s = min(
            (direction.waiting[0][0] for direction in ends.values() if direction.waiting),
            default=now_s + 1,
        )
        ready, _, _ = select.select([near, far, 0], [], [], max(0.0, due_s - now_s))
        if 0 in ready:
            return None
        for fd in ready:
            for packet in _packets(fd):
                ends[fd].accept(packet, time.monotonic())
        for direction in ends.values():
            direction.deliver(time.monotonic())
        time.sleep(NAP_S)


def _packets(fd: int, most: int = 256) -> Iterator[bytes]:
    for _ in range(most):
        try:
            yield os.read(fd, LARGEST)
        except BlockingIOError:
            return


def main() -> None:
    mbit, rtt_ms, loss_percent, seconds = map(float, sys.argv[1:5])
    try:
        near, near_ns = _end("near", NEAR)
        far, far_ns = _end("far", FAR)
    except OSError as error:
        sys.exit(
            f"cannot create the link: {error}; it needs root, network namespaces and /dev/net/tun"
        )
    with suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(PRIORITY))
    rate, delay_s = mbit * 1e6 / 8, rtt_ms / 2000
    there = Direction(far, rate, delay_s, loss_percent / 100, random.Random(1))  # noqa: S311
    back = Direction(near, rate, delay_s, 0.0, random.Random(2))  # noqa: S311
    spaces = [f"/proc/{os.getpid()}/fd/{fd}" for fd in (near_ns, far_ns)]
    print(json.dumps(spaces), flush=True)
    carried = relay(near, far, there, back, seconds)
    if carried is not None:
        print(json.dumps(asdict(carried)), flush=True)


if __name__ == "__main__":
    main()
