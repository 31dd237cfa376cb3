"""Ports for servers that have to be told theirs."""

import random
import socket
from contextlib import ExitStack, suppress
from pathlib import Path


def free_ports(count: int) -> list[int]:
    """
    Ports that were all free at the same moment.

    They are none of those that the kernel gives to whoever asks for any: one of them could be taken
    before the server has it.
    """
    given = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text("ascii").split()[0])
    ports, draw = list[int](), random.SystemRandom()  # not what a test has seeded
    with ExitStack() as stack:
        while len(ports) < count:
            port, sock = draw.randrange(given // 2, given), stack.enter_context(socket.socket())
            with suppress(OSError):
                sock.bind(("127.0.0.1", port))
                ports.append(port)
    return ports
