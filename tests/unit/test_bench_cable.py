"""The long line of the bench: what is lost is whole segments, and what is left is sound TCP."""

import random
import struct

import pytest

from bench.cable import BIN_S, FLOWS, Direction, Frame, Window, _sum, shape

SEGMENT = 100
SEQUENCE = 0xFFFFFF00
"""Close to where sequence numbers begin again."""


def packet(segments: int) -> bytes:
    """What TUN hands over: *segments* in one, the last one shorter, FIN and PSH set."""
    data = bytes(range(250)) * segments
    data = data[: SEGMENT * segments - 1]
    ip = struct.pack(
        "!BBHHHBBH4s4s", 0x45, 0, 40 + len(data), 7, 0, 64, 6, 0, b"\n\x4e\0\1", b"\n\x4e\0\2"
    )
    tcp = struct.pack("!HHIIBBHHH", 1, 2, SEQUENCE, 9, 0x50, 0x19, 500, 0, 0)
    return struct.pack("<BBHHHH", 1, 1, 40, SEGMENT, 20, 16) + ip + tcp + data


def direction(loss: float, seed: int) -> Direction:
    return Direction(0, 1e9, 0.0, loss, random.Random(seed))


@pytest.mark.parametrize("seed", range(20))
def test_what_survives_are_whole_segments_at_their_place_in_the_stream(seed: int) -> None:
    whole = Frame.of(packet(12))
    line = direction(0.2, seed)

    line.accept(packet(12), 0.0)

    for _, raw, _ in line.waiting:
        piece = Frame.of(raw)
        (sequence,) = struct.unpack_from("!I", piece.headers, 24)
        offset = (sequence - SEQUENCE) & 0xFFFFFFFF
        at_the_end = offset + piece.payload == whole.payload
        assert offset % SEGMENT == 0
        assert bytes(piece.data) == bytes(whole.data[offset : offset + piece.payload])
        assert bool(piece.headers[33] & 1) == at_the_end  # FIN only where the stream ends
        assert struct.unpack_from("!H", piece.headers, 2)[0] == 40 + piece.payload
        if piece.payload < whole.payload:
            assert _sum(piece.headers[:20]) == 0xFFFF  # the header's own check sum


def test_segments_are_lost_as_often_as_asked_for() -> None:
    line, sent = direction(0.1, 1), 2000 * 12

    for _ in range(2000):
        line.accept(packet(12), 1e9)

    arrived = sum(Frame.of(raw).segments for _, raw, _ in line.waiting)
    assert 0.08 < 1 - arrived / sent < 0.12


def test_a_line_without_loss_hands_on_every_packet_as_it_is_after_its_time() -> None:
    line = Direction(0, 1e6, 0.5, 0.0, random.Random(1))

    line.accept(packet(12), 10.0)

    ((due_s, raw, payload),) = line.waiting
    assert raw == packet(12)
    assert payload == 12 * SEGMENT - 1
    assert due_s == pytest.approx(10.5 + (12 * (40 + 38) + payload) / 1e6)


def test_a_full_queue_drops_what_comes() -> None:
    line = Direction(0, 1000.0, 0.0, 0.0, random.Random(1))

    for _ in range(5):
        line.accept(packet(12), 0.0)

    assert len(line.waiting) == 1


def test_what_is_no_tcp_is_one_packet_without_payload() -> None:
    udp = bytearray(packet(12))
    udp[10 + 9] = 17

    assert shape(packet(12)) == (40, 12 * SEGMENT - 1, 12)
    assert shape(bytes(udp)) == (40 + 12 * SEGMENT - 1, 0, 1)


def test_a_window_begins_when_a_body_flows_and_ends_after_its_time() -> None:
    line = direction(0.0, 1)
    window = Window(line, 3 * BIN_S)
    line.delivered.update({10: FLOWS, 11: FLOWS + 1, 13: 7, 14: 9})  # handshakes, then a body

    early = [window.over((number + 0.5) * BIN_S) for number in (10, 11, 13)]
    carried = window.over(14.5 * BIN_S)

    assert early == [None, None, None]
    assert carried is not None
    assert carried.bins == [FLOWS + 1, 0, 7]
    assert 0 <= carried.busy <= 1


def test_ninety_nine_of_a_hundred_packets_are_no_later_than_is_told() -> None:
    line = direction(0.0, 1)
    window = Window(line, BIN_S)
    line.delivered[1] = FLOWS + 1
    window.over(1.5 * BIN_S)
    line.late.update({0: 98, 3: 1, 50: 1})
    carried = window.over(2.5 * BIN_S)

    assert carried is not None
    assert carried.late_ms == 3
