"""Messages as JSON for people and scripts: proto field names, enums without prefix, 64-bit numbers as numbers."""

from __future__ import annotations

import json
from typing import Any

from google.protobuf import json_format
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message


def dumps(message: Message) -> str:
    """One JSON object on one line."""
    return json.dumps(as_dict(message), ensure_ascii=False)


def as_dict(message: Message) -> dict[str, Any]:
    """The message as plain data. Absent messages and optional fields are left out; empty lists and texts are not."""
    plain = json_format.MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
    return {
        name: _value(message.DESCRIPTOR.fields_by_name[name], getattr(message, name), value)
        for name, value in plain.items()
    }


def enum_name(enum: Any, number: int) -> str:
    """`OK` for `REASON_OK`; empty for the zero value; the number itself for one that is not known here."""
    known = enum.values_by_number.get(number)
    if known is None:
        return str(number)
    prefix = "".join(f"_{letter}" if letter.isupper() else letter for letter in enum.name).lstrip("_").upper()
    name: str = known.name.removeprefix(f"{prefix}_")
    return "" if name == "UNSPECIFIED" else name


def _value(field: Any, raw: Any, plain: Any) -> Any:
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        return plain
    if field.message_type is not None:
        if field.message_type.full_name.startswith("google.protobuf."):
            return plain  # well-known types have a JSON form of their own
        return [as_dict(each) for each in raw] if isinstance(plain, list) else as_dict(raw)
    if field.enum_type is not None:
        return enum_name(field.enum_type, raw)
    if field.type == FieldDescriptor.TYPE_INT64:
        return raw
    return plain
