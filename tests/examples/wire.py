"""The other end of the guest's network cable: frames by hand, to send what no well-behaved client would.

QEMU passes each Ethernet frame as one UDP datagram on loopback.
"""

import socket
import struct
from dataclasses import dataclass
from typing import Self

from tests.parts.process import free_port

FIN, SYN, RST, PSH, ACK = 1, 2, 4, 8, 16
OURS, GUEST = bytes([10, 0, 2, 2]), bytes([10, 0, 2, 15])
MAC, GUEST_MAC = bytes.fromhex("525400000002"), bytes.fromhex("525400123456")


def checksum(data: bytes) -> int:
    """RFC 1071; 0 over data that holds its own right checksum."""
    total: int = sum(struct.unpack(f">{(len(data) + 1) // 2}H", data + b"\0" * (len(data) % 2)))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total ^ 0xFFFF


@dataclass(frozen=True)
class Segment:
    """A TCP segment as it came from the guest."""

    source: int
    target: int
    sequence: int
    acknowledgement: int
    flags: int
    window: int
    options: bytes
    data: bytes


class Wire:
    """Sends and receives frames; a context manager that closes its socket."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self._socket.settimeout(10)
        self._guest = free_port()
        here = self._socket.getsockname()[1]
        self.netdev = f"socket,id=net,udp=127.0.0.1:{here},localaddr=127.0.0.1:{self._guest}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def send_frame(self, kind: int, payload: bytes) -> None:
        frame = GUEST_MAC + MAC + struct.pack(">H", kind) + payload
        self._socket.sendto(frame, ("127.0.0.1", self._guest))

    def receive_frame(self, kind: int) -> bytes:
        """The payload of the next frame of a kind."""
        while True:
            frame = self._socket.recv(2048)
            if struct.unpack_from(">H", frame, 12)[0] == kind:
                assert (frame[:6], frame[6:12]) == (MAC, GUEST_MAC)
                return frame[14:]

    def send_ip(self, protocol: int, payload: bytes, *, options: bytes = b"", fragment: int = 0) -> None:
        words = 5 + len(options) // 4
        head = struct.pack(
            ">BBHHHBBH4s4s",
            0x40 | words,
            0,
            words * 4 + len(payload),
            7,
            fragment,
            64,
            protocol,
            0,
            OURS,
            GUEST,
        )
        head += options
        head = head[:10] + struct.pack(">H", checksum(head)) + head[12:]
        self.send_frame(0x0800, head + payload)

    def receive_ip(self, protocol: int) -> bytes:
        """The payload of the next IP packet of a protocol; padding is cut off, its checksum is checked."""
        while True:
            packet = self.receive_frame(0x0800)
            assert checksum(packet[:20]) == 0
            if packet[9] == protocol:
                return packet[20 : struct.unpack_from(">H", packet, 2)[0]]

    def send_tcp(
        self,
        port: int,
        flags: int,
        sequence: int,
        acknowledgement: int = 0,
        data: bytes = b"",
        *,
        target: int = 8080,
        window: int = 65535,
        options: bytes = b"",
        spoil: bool = False,
    ) -> None:
        words = 5 + len(options) // 4
        segment = struct.pack(
            ">HHIIBBHHH",
            port,
            target,
            sequence % 2**32,
            acknowledgement % 2**32,
            words << 4,
            flags,
            window,
            0,
            0,
        )
        segment += options + data
        pseudo = OURS + GUEST + struct.pack(">HH", 6, len(segment))
        value = checksum(pseudo + segment) ^ spoil
        self.send_ip(6, segment[:16] + struct.pack(">H", value) + segment[18:])

    def receive_tcp(self, port: int) -> Segment:
        """The next segment for one of our ports; its checksum is checked."""
        while True:
            segment = self.receive_ip(6)
            assert checksum(GUEST + OURS + struct.pack(">HH", 6, len(segment)) + segment) == 0
            found = _segment(segment)
            if found.target == port:
                return found

    def until_echo(self) -> list[Segment]:
        """The TCP segments that come before the answer to a ping: the guest handles frame after frame."""
        self._send_echo(b"still there?")
        came: list[Segment] = []
        while (packet := self.receive_frame(0x0800))[9] != 1:
            came.append(_segment(packet[20 : struct.unpack_from(">H", packet, 2)[0]]))
        return came

    def ping(self, data: bytes) -> bytes:
        """An ICMP echo; what comes back."""
        self._send_echo(data)
        reply = self.receive_ip(1)
        assert reply[0] == 0
        assert checksum(reply) == 0
        return reply[8:]

    def _send_echo(self, data: bytes) -> None:
        echo = struct.pack(">BBHHH", 8, 0, 0, 1, 1) + data
        self.send_ip(1, echo[:2] + struct.pack(">H", checksum(echo)) + echo[4:])


def _segment(data: bytes) -> Segment:
    source, target, sequence, number, words, flags, window = struct.unpack_from(">HHIIBBH", data)
    head = (words >> 4) * 4
    return Segment(source, target, sequence, number, flags, window, data[20:head], data[head:])
