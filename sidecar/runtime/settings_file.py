"""The YAML file that settings may stand in, below flags and environment."""

import os
from collections.abc import Collection
from pathlib import Path
from typing import Any, Final

import yaml

VARIABLE: Final = "PURSER_CONFIG"
"""Names the file."""


class BadSettingsFile(ValueError):
    """The file can not be read as settings. Its message names the file, the place and the mend."""


def read_settings_file(known: Collection[str]) -> dict[str, Any]:
    """What the file sets of these settings; nothing, where no file is named. Raises BadSettingsFile.

    A name that is no setting is refused: ignored, a misspelt one would leave the default in force unseen.
    """
    name = os.environ.get(VARIABLE)
    if not name:
        return {}
    try:
        found = yaml.safe_load(Path(name).read_bytes())
    except OSError as error:
        raise BadSettingsFile(
            f"{VARIABLE} (--config) names {name}, which can not be read: {error.strerror}"
        ) from error
    except yaml.YAMLError as error:
        raise BadSettingsFile(f"{name}{_place(error)} is not YAML") from error
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise BadSettingsFile(f"{name}: write NAME: VALUE, a line for each setting")
    unknown = sorted(str(key) for key in found if key not in known)
    if unknown:
        raise BadSettingsFile(
            f"{name}: {', '.join(unknown)}: no setting of this process; known are {', '.join(sorted(known))}"
        )
    return found


def _place(error: yaml.YAMLError) -> str:
    mark = error.problem_mark if isinstance(error, yaml.MarkedYAMLError) else None
    return f", line {mark.line + 1}, column {mark.column + 1}," if mark else ""
