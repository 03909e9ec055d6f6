"""The hello unikernel's network, met by frames made by hand: loss, disorder, repeats, nonsense."""

import struct
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.examples.guest import Guest
from tests.examples.wire import ACK, FIN, GUEST, GUEST_MAC, MAC, OURS, PSH, RST, SYN, Segment, Wire
from tests.parts.qemu import Qemu

REQUEST = b"GET /healthz HTTP/1.0\r\n\r\n"
SEGMENT_SIZE = struct.pack(">BBH", 2, 4, 1460)


@pytest.fixture
def wire(qemu: Qemu, kernel: Path, tmp_path: Path) -> Iterator[Wire]:
    with Wire() as made, Guest(qemu, kernel, tmp_path, netdev=made.netdev) as guest:
        guest.up()
        yield made


class Client:
    """One connection, its handshake done."""

    def __init__(
        self, wire: Wire, port: int = 4000, window: int = 65535, options: bytes = SEGMENT_SIZE
    ) -> None:
        self.wire, self.port, self.window = wire, port, window
        self.sent = 2**32 - 10  # so that our numbers wrap in the middle of the request
        wire.send_tcp(port, SYN, self.sent, window=window, options=options)
        hello = wire.receive_tcp(port)
        self.sent += 1
        assert (hello.flags, hello.acknowledgement, hello.options) == (
            SYN | ACK,
            self.sent % 2**32,
            SEGMENT_SIZE,
        )
        self.received = hello.sequence + 1
        self.acknowledge()

    def acknowledge(self, flags: int = ACK) -> None:
        self.wire.send_tcp(self.port, flags, self.sent, self.received, window=self.window)

    def send(self, data: bytes, offset: int = 0, flags: int = ACK | PSH, *, spoil: bool = False) -> None:
        self.wire.send_tcp(
            self.port, flags, self.sent + offset, self.received, data, window=self.window, spoil=spoil
        )

    def receive(self) -> Segment:
        return self.wire.receive_tcp(self.port)

    def expect_acknowledged(self, offset: int) -> None:
        came = self.receive()
        assert (came.flags, came.data) == (ACK, b"")
        assert came.acknowledgement == (self.sent + offset) % 2**32


def test_arp_and_ping_are_answered(wire: Wire) -> None:
    wire.send_frame(0x0806, struct.pack(">HHBBH6s4s6s4s", 1, 0x0800, 6, 4, 1, MAC, OURS, bytes(6), GUEST))
    reply = wire.receive_frame(0x0806)[:28]
    assert reply == struct.pack(">HHBBH6s4s6s4s", 1, 0x0800, 6, 4, 2, GUEST_MAC, GUEST, MAC, OURS)
    for size in (0, 1, 56, 1472):
        assert wire.ping(b"x" * size)[:size] == b"x" * size


def test_a_request_in_disorder_is_put_together(wire: Wire) -> None:
    client = Client(wire)
    client.send(REQUEST[10:], 10)
    client.expect_acknowledged(0)  # a gap: it says what it waits for
    client.send(REQUEST[:5])
    client.expect_acknowledged(5)
    client.send(REQUEST[:5])
    client.expect_acknowledged(5)  # a repeat
    client.send(REQUEST[3:12], 3)
    client.expect_acknowledged(12)  # what overlaps is taken once
    client.send(REQUEST[10:], 10)
    reply = client.receive()
    assert reply.flags == ACK | PSH | FIN
    assert reply.acknowledgement == (client.sent + len(REQUEST)) % 2**32
    assert reply.data.endswith(b"\r\n\r\nok\n")


def test_a_reply_that_is_not_acknowledged_comes_again(wire: Wire) -> None:
    client = Client(wire)
    client.send(REQUEST)
    first, second, third = client.receive(), client.receive(), client.receive()
    assert first == second == third
    client.sent += len(REQUEST)
    client.received = first.sequence + len(first.data) + 1
    client.acknowledge(FIN | ACK)
    client.expect_acknowledged(1)
    client.acknowledge(FIN | ACK)  # ours was lost: the connection is remembered long enough to say it again
    client.expect_acknowledged(1)


def test_a_lost_handshake_is_repeated(wire: Wire) -> None:
    wire.send_tcp(4000, SYN, 1)
    first = wire.receive_tcp(4000)
    assert wire.receive_tcp(4000) == first  # by itself
    wire.send_tcp(4000, SYN, 1)
    assert wire.receive_tcp(4000) == first  # and when asked


def test_it_keeps_to_the_window_and_the_segment_size(wire: Wire) -> None:
    client = Client(wire, window=0, options=struct.pack(">BBBBH", 1, 1, 2, 4, 70) + bytes(2))
    client.send(REQUEST)
    assert client.receive().data == b""  # the window is closed
    probe = client.receive()
    assert (len(probe.data), probe.flags) == (1, ACK)
    reply = bytearray(probe.data)
    client.sent += len(REQUEST)
    client.received += 1
    client.window = 100
    client.acknowledge()
    while not reply.endswith(b"ok\n"):
        in_flight = 0
        while in_flight < 100 and not reply.endswith(b"ok\n"):
            part = client.receive()
            assert len(part.data) <= 70
            if part.sequence == client.received % 2**32:
                reply += part.data
                in_flight += len(part.data)
                client.received += len(part.data)
        assert in_flight <= 100
        client.acknowledge()
    assert reply.startswith(b"HTTP/1.0 200 OK\r\n")


def test_nonsense_is_dropped(wire: Wire) -> None:
    client = Client(wire)
    client.send(REQUEST, spoil=True)
    wire.send_frame(0x0800, b"\x45\x00")
    wire.send_frame(0x0800, bytes(60))
    wire.send_frame(0x0806, b"\xff" * 28)
    wire.send_frame(0x86DD, bytes(60))
    wire.send_ip(6, b"\x00" * 10)
    wire.send_ip(6, bytes(30))
    wire.send_ip(17, b"x" * 20)
    wire.send_ip(1, b"\x08\x00\x00\x00")
    wire.send_ip(1, b"\x08\x00\x12\x34" + bytes(20))
    wire.send_ip(6, b"x" * 40, fragment=0x2000)
    assert wire.until_echo() == []
    client.send(REQUEST)
    assert client.receive().data.endswith(b"ok\n")


def test_packets_with_ip_options_are_read(wire: Wire) -> None:
    echo = struct.pack(">BBHHH", 8, 0, 0xFFFF - 0x0800 - 1 - 1, 1, 1)
    wire.send_ip(1, echo, options=b"\x01\x01\x01\x00")
    assert wire.receive_ip(1)[:1] == b"\x00"


def test_what_belongs_to_no_connection_is_reset(wire: Wire) -> None:
    wire.send_tcp(4000, SYN, 100, target=81)
    refused = wire.receive_tcp(4000)
    assert (refused.source, refused.flags, refused.acknowledgement) == (81, RST | ACK, 101)
    wire.send_tcp(4001, ACK, 100, 200)
    stray = wire.receive_tcp(4001)
    assert (stray.flags, stray.sequence) == (RST, 200)
    wire.send_tcp(4001, RST, 100)
    assert wire.until_echo() == []  # never a reset for a reset


def test_only_a_reset_inside_of_the_window_ends_a_connection(wire: Wire) -> None:
    client = Client(wire)
    wire.send_tcp(client.port, RST, client.sent + 5000)
    wire.send_tcp(client.port, SYN, 5)
    client.expect_acknowledged(0)
    client.send(REQUEST[:4])
    client.expect_acknowledged(4)
    wire.send_tcp(client.port, RST, client.sent + 4)
    client.send(REQUEST[4:], 4)
    assert client.receive().flags == RST


def test_a_flood_of_half_open_connections_does_not_lock_it(wire: Wire) -> None:
    for port in range(5000, 5200):
        wire.send_tcp(port, SYN, 1)
    deadline = time.monotonic() + 10
    while True:  # a client's SYN comes again until there is a place
        wire.send_tcp(4000, SYN, 7)
        if any(segment.target == 4000 for segment in wire.until_echo()):
            break
        assert time.monotonic() < deadline, "the half-open connections never give way"
