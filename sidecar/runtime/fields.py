"""Protobuf's wire form, field by field, for the few messages that are written on every call.

An encoded message is its fields one behind the other: a tag, then a number, or a length and that many bytes. So encoded
fields may be kept and put together again without a message object; and where a field comes twice the last one counts,
sub-messages merge and repeated fields grow. A tag is `field number << 3 | wire type`, given as the one byte that it is
for the first 15 fields. Whoever writes a message this way holds it against the generated stubs by a test.
"""

from datetime import datetime, timedelta
from functools import lru_cache
from typing import Final

from sidecar.runtime.clock import EPOCH

_ONE_BYTE: Final = tuple(bytes((value,)) for value in range(0x80))
_DAY_SECONDS: Final = 86_400


def varint(value: int) -> bytes:
    """A number; a negative one as the 64 bits of its complement."""
    if 0 <= value < 0x80:
        return _ONE_BYTE[value]
    if 0 <= value < 0x4000:
        return b"%c%c" % (value & 0x7F | 0x80, value >> 7)
    value &= 0xFFFF_FFFF_FFFF_FFFF
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def number(tag: bytes, value: int) -> bytes:
    """An integer, enum or bool; zero is left out."""
    return tag + varint(value) if value else b""


def block(tag: bytes, encoded: bytes) -> bytes:
    """Bytes or a sub-message, also an empty one."""
    length = len(encoded)
    if length < 0x80:
        return b"%b%c%b" % (tag, length, encoded)
    return tag + varint(length) + encoded


def text(tag: bytes, value: str) -> bytes:
    """A text; an empty one is left out."""
    if not value:
        return b""
    encoded = value.encode()
    length = len(encoded)
    # As `block` does, without the call: most fields of a message are short texts.
    return b"%b%c%b" % (tag, length, encoded) if length < 0x80 else tag + varint(length) + encoded


@lru_cache(maxsize=1024)
def instant(tag: bytes, at: datetime) -> bytes:
    """A Timestamp of an aware instant. Kept for a while: most instants of an answer are those of the one before."""
    return block(tag, moment(at))


def moment(at: datetime) -> bytes:
    """The same without its tag, and not kept: for an instant that is never the same twice."""
    since = at - EPOCH
    whole = _whole_seconds(since.days * _DAY_SECONDS + since.seconds)
    nanos = since.microseconds * 1000
    return whole + b"\x10" + varint(nanos) if nanos else whole


@lru_cache(maxsize=64)
def _whole_seconds(seconds: int) -> bytes:
    return number(b"\x08", seconds)


def span(tag: bytes, of: timedelta) -> bytes:
    """A Duration of zero or more."""
    whole = _whole_seconds(of.days * _DAY_SECONDS + of.seconds)
    nanos = of.microseconds * 1000
    return block(tag, whole + b"\x10" + varint(nanos) if nanos else whole)
