"""Damage to a message as it is on the wire: what no library would write, and any sender can."""

from collections.abc import Callable
from typing import Final, NamedTuple

from hypothesis import strategies as st

VARINT, FIXED64, DELIMITED, GROUP, END_GROUP, FIXED32 = range(6)
NESTED_MAX: Final = 3
"""Damage is done at most so deep inside."""
TEXTS: Final[tuple[bytes, ...]] = (
    b"",
    b"\0",
    b"\xff\xfe\xed\xa0\x80",
    b"NaN",
    b"-Infinity",
    b"1e400",
    b"-0",
    b"0x10",
    b"9" * 400,
    "\N{ARABIC-INDIC DIGIT THREE}".encode(),
    "\N{RIGHT-TO-LEFT OVERRIDE}x".encode(),
    b"%s{0}${x}';--",
    b"\n\r\t",
    b"x" * 70_000,
)
NUMBERS: Final[tuple[int, ...]] = (
    0,
    1,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**53 + 1,
    2**63 - 1,
    2**63,
    2**64 - 1,
    2**70 - 1,
)


class Damage(NamedTuple):
    """One thing that is done to a message. `at` and `value` choose place and size, whatever the message is."""

    kind: str
    inside: tuple[int, ...]
    at: int
    value: int


class Field(NamedTuple):
    """One field as it stands on the wire; `payload`: without tag and length."""

    number: int
    wire_type: int
    payload: bytes

    def encoded(self) -> bytes:
        """With its tag, and its length if it has one."""
        tag = varint(self.number << 3 | self.wire_type)
        length = varint(len(self.payload)) if self.wire_type == DELIMITED else b""
        return tag + length + self.payload


def varint(value: int) -> bytes:
    """Seven bits a byte, the lowest first."""
    found = bytearray()
    while value > 0x7F:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    found.append(value)
    return bytes(found)


def fields_of(raw: bytes) -> list[Field] | None:
    """Every field in order; None: these bytes are no message."""
    found: list[Field] = []
    at = 0
    while at < len(raw):
        tag, at = _read_varint(raw, at)
        number, wire_type = tag >> 3, tag & 7
        begin = at
        if wire_type == VARINT:
            _, at = _read_varint(raw, at)
        elif wire_type == DELIMITED:
            length, begin = _read_varint(raw, at)
            at = begin + length
        elif wire_type in {FIXED64, FIXED32}:
            at += 8 if wire_type == FIXED64 else 4
        else:
            return None
        if number == 0 or at > len(raw) or begin > len(raw):
            return None
        found.append(Field(number, wire_type, raw[begin:at]))
    return found


def _read_varint(raw: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(raw):
        byte = raw[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    return value, len(raw) + 1


def damaged(raw: bytes, damage: Damage, donor: bytes) -> bytes:
    """The message after it. `donor`: another message, of which parts are taken."""
    fields = fields_of(raw)
    if damage.inside and fields:
        nested = [index for index, field in enumerate(fields) if field.wire_type == DELIMITED]
        if nested:
            index = nested[damage.inside[0] % len(nested)]
            deeper = damage._replace(inside=damage.inside[1:])
            inner = damaged(fields[index].payload, deeper, donor)
            fields[index] = fields[index]._replace(payload=inner)
            return _joined(fields)
    if damage.kind in BYTEWISE or not fields:
        return BYTEWISE.get(damage.kind, _flip)(raw, damage, donor)
    return FIELDWISE[damage.kind](fields, damage, donor)


def _joined(fields: list[Field]) -> bytes:
    return b"".join(field.encoded() for field in fields)


def _flip(raw: bytes, damage: Damage, donor: bytes) -> bytes:
    if not raw:
        return bytes([damage.value % 256])
    at = damage.at % len(raw)
    return raw[:at] + bytes([raw[at] ^ (1 << damage.value % 8)]) + raw[at + 1 :]


def _truncate(raw: bytes, damage: Damage, donor: bytes) -> bytes:
    return raw[: damage.at % (len(raw) + 1)]


def _splice(raw: bytes, damage: Damage, donor: bytes) -> bytes:
    """The first part of one and the last of another."""
    return raw[: damage.at % (len(raw) + 1)] + donor[damage.value % (len(donor) + 1) :]


def _append(raw: bytes, damage: Damage, donor: bytes) -> bytes:
    """Messages merge when they are joined: of a field that is there twice the last one counts."""
    return raw + donor


def _unknown(raw: bytes, damage: Damage, donor: bytes) -> bytes:
    """A field that nobody knows, of a number as large as there are."""
    return raw + Field(1 + damage.at % (2**29 - 1), DELIMITED, donor[:1000]).encoded()


def _deep(raw: bytes, damage: Damage, donor: bytes) -> bytes:
    """Messages in messages in messages, or groups in groups."""
    number, depth = 1 + damage.at % 16, 50 + damage.value % 3000
    if damage.at % 2:
        return raw + varint(number << 3 | GROUP) * depth + varint(number << 3 | END_GROUP) * depth
    inner = b""
    for _ in range(depth):
        inner = Field(number, DELIMITED, inner).encoded()
    return raw + inner


def _many(raw: bytes, damage: Damage, donor: bytes) -> bytes:
    """One field many times over: a list that has no end."""
    field = Field(1 + damage.at % 12, DELIMITED, donor[:40]).encoded()
    return raw + field * min(damage.value % 40_000, 400_000 // len(field))


def _drop(fields: list[Field], damage: Damage, donor: bytes) -> bytes:
    del fields[damage.at % len(fields)]
    return _joined(fields)


def _repeat(fields: list[Field], damage: Damage, donor: bytes) -> bytes:
    fields.insert(damage.value % (len(fields) + 1), fields[damage.at % len(fields)])
    return _joined(fields)


def _renumber(fields: list[Field], damage: Damage, donor: bytes) -> bytes:
    index = damage.at % len(fields)
    fields[index] = fields[index]._replace(number=1 + damage.value % 16)
    return _joined(fields)


def _number(fields: list[Field], damage: Damage, donor: bytes) -> bytes:
    """A number as large as there are, also one of more than 64 bits; where there was none, too."""
    index = damage.at % len(fields)
    payload = varint(NUMBERS[damage.value % len(NUMBERS)])
    fields[index] = Field(fields[index].number, VARINT, payload)
    return _joined(fields)


def _text(fields: list[Field], damage: Damage, donor: bytes) -> bytes:
    """Text that is none, says nothing, or does not end."""
    index = damage.at % len(fields)
    payload = TEXTS[damage.value % len(TEXTS)]
    fields[index] = Field(fields[index].number, DELIMITED, payload)
    return _joined(fields)


def _transplant(fields: list[Field], damage: Damage, donor: bytes) -> bytes:
    """A field of another message."""
    found = fields_of(donor)
    if found:
        fields.insert(damage.at % (len(fields) + 1), found[damage.value % len(found)])
    return _joined(fields)


def _false_length(fields: list[Field], damage: Damage, donor: bytes) -> bytes:
    """A length that promises more than there is, up to 2 GiB and beyond."""
    index = damage.at % len(fields)
    field = fields[index]
    length = varint(NUMBERS[damage.value % len(NUMBERS)])
    tag = varint(field.number << 3 | DELIMITED)
    return _joined(fields[:index]) + tag + length + field.payload + _joined(fields[index + 1 :])


BYTEWISE: Final[dict[str, Callable[[bytes, Damage, bytes], bytes]]] = {
    "flip": _flip,
    "truncate": _truncate,
    "splice": _splice,
    "append": _append,
    "unknown": _unknown,
    "deep": _deep,
    "many": _many,
}
FIELDWISE: Final[dict[str, Callable[[list[Field], Damage, bytes], bytes]]] = {
    "drop": _drop,
    "repeat": _repeat,
    "renumber": _renumber,
    "number": _number,
    "text": _text,
    "transplant": _transplant,
    "false length": _false_length,
}

places = st.integers(0, 2**20)
damages = st.builds(
    Damage,
    kind=st.sampled_from([*FIELDWISE, *BYTEWISE]),
    inside=st.lists(places, max_size=NESTED_MAX).map(tuple),
    at=places,
    value=places,
)


def mangled(raw: bytes, all_damage: list[Damage], donor: bytes) -> bytes:
    """After one damage upon the other."""
    for damage in all_damage:
        raw = damaged(raw, damage, donor)
    return raw
