"""Pings of a sidecar that come all at once: a network held them up, or a control plane that had much to do."""

import asyncio
import struct
from typing import Final

from tests.integration.control_plane.serving import serving

# HTTP/2 as RFC 9113 has it: a frame is its length, type, flags and stream, then what it carries.
PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
SETTINGS, PING, GO_AWAY = 4, 6, 7
ACK: Final = 1
PINGS: Final = 20


def frame(kind: int, payload: bytes = b"") -> bytes:
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, 0, 0) + payload


async def read_frame(reader: asyncio.StreamReader) -> tuple[int, int]:
    """Its type and flags."""
    head = await reader.readexactly(9)
    await reader.readexactly(int.from_bytes(head[:3], "big"))
    return head[3], head[4]


async def test_pings_that_come_together_end_no_connection(database_url: str) -> None:
    """All are answered, and nobody is sent away, which would also make a sidecar's pings rarer for good."""
    async with serving(database_url) as control_plane:
        host, _, port = control_plane.grpc_address.rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        try:
            writer.write(PREFACE + frame(SETTINGS))
            for _ in range(2):  # a farewell comes after the answers that were due
                writer.write(frame(PING, bytes(8)) * PINGS)
                answered = 0
                while answered < PINGS:
                    kind, flags = await asyncio.wait_for(read_frame(reader), 10)
                    assert kind != GO_AWAY, "sent away"
                    answered += kind == PING and flags == ACK
        finally:
            writer.close()
