"""What pydantic finds wrong with a value, in words for whoever wrote the value: pydantic's own are for developers."""

from collections.abc import Mapping
from typing import Any, Final

from pydantic import ValidationError

_FOLLOWS: Final = "default_factory_not_called"
"""Said of a setting that was not given, because of another that is wrong."""


def problem(one: Mapping[str, Any]) -> str:
    """One of a ValidationError's `errors()`: a clause that goes on from the field's name."""
    kind, said = str(one["type"]), str(one["msg"])
    if kind in _WORDS:
        return _WORDS[kind].format(**one.get("ctx", {}))
    for theirs, ours in _BEGINNINGS.items():
        if said.startswith(theirs):
            return ours + said.removeprefix(theirs)
    return said


def wrong_settings(error: ValidationError) -> list[tuple[str, str]]:
    """The name and the problem of each setting at fault; no name where the problem is how several go together."""
    return [
        (".".join(map(str, one["loc"])), problem(one)) for one in error.errors() if one["type"] != _FOLLOWS
    ]


_SPAN: Final = "is no ISO 8601 span, for instance PT1M"
_WHOLE: Final = "is no whole number"
_NUMBER: Final = "is no number"
_TRUTH: Final = "is neither true nor false"
_WORDS: Final[Mapping[str, str]] = {
    "missing": "is required",
    "extra_forbidden": "is no field here",
    "json_invalid": "is not JSON: {error}",
    "enum": "is none of {expected}",
    "literal_error": "is none of {expected}",
    "time_delta_parsing": _SPAN,
    "time_delta_type": _SPAN,
    "int_type": _WHOLE,
    "int_parsing": _WHOLE,
    "int_parsing_size": "has too many digits",
    "int_from_float": _WHOLE,
    "float_type": _NUMBER,
    "float_parsing": _NUMBER,
    "finite_number": _NUMBER,
    "bool_type": _TRUTH,
    "bool_parsing": _TRUTH,
    "string_type": "is no text",
    "string_too_long": "has more than {max_length} characters",
    "list_type": "is no list",
    "dict_type": "is no object",
    "too_long": "has more than {max_length} entries",
    "timezone_aware": "has no offset; write an instant such as 2030-01-01T12:00:00Z",
    "datetime_type": "is no instant such as 2030-01-01T12:00:00Z",
    "datetime_parsing": "is no instant such as 2030-01-01T12:00:00Z",
    "datetime_from_date_parsing": "is no instant such as 2030-01-01T12:00:00Z",
}
_BEGINNINGS: Final[Mapping[str, str]] = {
    "Value error, ": "",
    "Input should be greater than or equal to ": "must be at least ",
    "Input should be less than or equal to ": "must be at most ",
    "Input should be ": "must be ",
}
