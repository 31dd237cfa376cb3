"""
A long line between two network namespaces: rate, delay and loss, in user space.

Each end is a TUN device with segmentation offload, so the kernel hands over up to 64 KiB of a TCP
stream at once, and the line is charged for the segments and headers that it stands for. Packets
leave in order, each after the rate and the delay allow it; a queue that would hold more than
``QUEUE_S`` drops what comes. Loss takes single segments: one that is lost is cut out of its packet,
and what was around it goes on as two. TCP itself is the kernel's on both ends, with its real
sequence numbers, acknowledgements and congestion control.

Run as ``python -m bench.cable MBIT RTT_MS LOSS_PERCENT`` (as root): it prints the paths of the two
namespaces, relays until its stdin ends, and then prints the payload bytes that it delivered towards
the far end in each tenth of a second. See "tuntap.rst" and "virtio_net.h" of Linux.
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
from collections import defaultdict, deque
from collections.abc import Iterator
from dataclasses import dataclass, field

NEAR, FAR = "10.78.0.1", "10.78.0.2"
MTU = 1500
LINE_HEADER = 38
"""Bytes that Ethernet adds to a packet: preamble, addresses, type, check sum and gap."""

QUEUE_S = 0.1
BIN_S = 0.1
LARGEST = 65_536 + 64

_NEWNET = 0x40000000
_TUNSETIFF, _TUNSETOFFLOAD = 0x400454CA, 0x400454D0
_TUN, _NO_PI, _VNET_HDR = 0x1, 0x1000, 0x4000
_CSUM, _TSO4 = 0x1, 0x2
_VNET = struct.Struct("<BBHHHH")
_NEEDS_CSUM, _GSO_NONE = 1, 0
_FIN_PSH = 0x09


@dataclass(slots=True)
class Way:
    """One direction: what is under way, and when the line is free again."""

    out: int
    bytes_a_s: float
    delay_s: float
    loss: float
    draw: random.Random
    waiting: deque[tuple[float, bytes, int]] = field(default_factory=deque)
    free_s: float = 0.0
    until_lost: int = 0
    delivered: defaultdict[int, int] = field(default_factory=lambda: defaultdict(int))

    def __post_init__(self) -> None:
        self.until_lost = self._next_loss()

    def take(self, packet: bytes, now_s: float) -> None:
        """A packet was handed to this end."""
        start_s = max(now_s, self.free_s)
        if start_s - now_s > QUEUE_S:
            return  # the queue is full
        frame = Frame.of(packet)
        charged = len(frame.headers) * frame.segments + frame.payload + LINE_HEADER * frame.segments
        self.free_s = start_s + charged / self.bytes_a_s
        for piece in self._survivors(frame):
            self.waiting.append((self.free_s + self.delay_s, piece.packet(), piece.payload))

    def _survivors(self, frame: "Frame") -> Iterator["Frame"]:
        """What is left of *frame* when each of its segments may be lost."""
        done = 0
        while self.until_lost < frame.segments - done:
            lost = done + self.until_lost
            if lost > done:
                yield frame.cut(done, lost)
            done = lost + 1
            self.until_lost = self._next_loss()
        self.until_lost -= frame.segments - done
        if done == 0:
            yield frame
        elif done < frame.segments:
            yield frame.cut(done, frame.segments)

    def _next_loss(self) -> int:
        """Segments that get through before the next one that does not."""
        if self.loss <= 0:
            return sys.maxsize
        return int(math.log(1 - self.draw.random()) / math.log(1 - self.loss))

    def deliver(self, now_s: float) -> None:
        """Hand out what has arrived."""
        while self.waiting and self.waiting[0][0] <= now_s:
            _, packet, payload = self.waiting.popleft()
            try:
                os.write(self.out, packet)
            except OSError:  # the far kernel does not want it
                continue
            self.delivered[int(now_s / BIN_S)] += payload


@dataclass(frozen=True, slots=True)
class Frame:
    """A packet as TUN gives it: virtio header, IPv4 and TCP headers, and segments of *size* bytes."""

    vnet: tuple[int, int, int, int, int, int]
    headers: bytes
    data: memoryview
    size: int

    @classmethod
    def of(cls, packet: bytes) -> "Frame":
        """Take it apart; what is no TCP over IPv4 is one segment without payload."""
        vnet = _VNET.unpack_from(packet)
        ip = packet[_VNET.size :]
        if ip[0] >> 4 != 4 or ip[9] != 6:
            return cls(vnet, ip, memoryview(b""), 1)
        ip_header = (ip[0] & 15) * 4
        header = ip_header + (ip[ip_header + 12] >> 4) * 4
        data = memoryview(ip)[header:]
        return cls(vnet, ip[:header], data, vnet[3] or max(len(data), 1))

    @property
    def payload(self) -> int:
        """Bytes of the stream."""
        return len(self.data)

    @property
    def segments(self) -> int:
        """Packets on a real line."""
        return max(1, -(-len(self.data) // self.size))

    def cut(self, first: int, end: int) -> "Frame":
        """Segments from *first* up to *end*, as a frame of its own."""
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
        # The sum of the pseudo header is what the kernel expects where it is to sum up the rest.
        pseudo = bytes(header[12:20]) + struct.pack("!HH", 6, len(header) - tcp + len(data))
        struct.pack_into("!H", header, tcp + 16, _sum(pseudo))
        gso = self.vnet[1] if len(data) > self.size else _GSO_NONE
        vnet = (_NEEDS_CSUM, gso, self.vnet[2], self.size if gso else 0, tcp, 16)
        return Frame(vnet, bytes(header), data, self.size)

    def packet(self) -> bytes:
        """As TUN takes it."""
        return b"".join((_VNET.pack(*self.vnet), self.headers, self.data))


def _sum(data: bytes) -> int:
    """Ones' complement sum of 16-bit words."""
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def _end(name: str, address: str) -> tuple[int, int]:
    """A new namespace with its end of the line: descriptors of the device and of the namespace."""
    if ctypes.CDLL(None, use_errno=True).unshare(_NEWNET):
        raise OSError(ctypes.get_errno(), "a network namespace cannot be made: are you root?")
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


def relay(near: int, far: int, there: Way, back: Way) -> None:
    """Until stdin ends."""
    ends = {near: there, far: back}
    while True:
        now_s = time.monotonic()
        due_s = min((way.waiting[0][0] for way in ends.values() if way.waiting), default=now_s + 1)
        ready, _, _ = select.select([near, far, 0], [], [], max(0.0, due_s - now_s))
        if 0 in ready:
            return
        for fd in ready:
            for packet in _packets(fd):
                ends[fd].take(packet, time.monotonic())
        for way in ends.values():
            way.deliver(time.monotonic())


def _packets(fd: int, most: int = 64) -> Iterator[bytes]:
    for _ in range(most):
        try:
            yield os.read(fd, LARGEST)
        except BlockingIOError:
            return


def main() -> None:
    mbit, rtt_ms, loss_percent = map(float, sys.argv[1:4])
    near, near_ns = _end("near", NEAR)
    far, far_ns = _end("far", FAR)
    rate, delay_s = mbit * 1e6 / 8, rtt_ms / 2000
    there = Way(far, rate, delay_s, loss_percent / 100, random.Random(1))  # noqa: S311
    back = Way(near, rate, delay_s, 0.0, random.Random(2))  # noqa: S311
    spaces = [f"/proc/{os.getpid()}/fd/{fd}" for fd in (near_ns, far_ns)]
    print(json.dumps(spaces), flush=True)
    relay(near, far, there, back)
    last = max(there.delivered, default=0)
    first = min(there.delivered, default=0)
    bins = [there.delivered[number] for number in range(first, last + 1)]
    print(json.dumps({"bins": bins, "cpu_s": time.process_time()}), flush=True)


if __name__ == "__main__":
    main()
