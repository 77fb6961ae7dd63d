"""How settings are read: flags over `PURSER_…` environment variables over a YAML file."""

import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Final, Self

import yaml
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from sidecar.runtime.watched_yaml import WatchedLoader

VARIABLE: Final = "PURSER_CONFIG"
"""Names the file."""
MAX_DEPTH: Final = 8


class BadSettingsFile(ValueError):
    """The file can not be read as settings. Its message names the file, the place and the mend."""


class _Loader(WatchedLoader):
    """YAML without aliases, and flat: settings need no more."""

    def look(self, mark: yaml.Mark, depth: int, *, is_alias: bool) -> None:
        if is_alias:
            raise yaml.MarkedYAMLError(problem="settings have no aliases", problem_mark=mark)
        if depth > MAX_DEPTH:
            raise yaml.MarkedYAMLError(problem="settings are not nested", problem_mark=mark)


class LayeredSettings(BaseSettings):
    """Settings of one process; the subclass declares them. Made of flags alone, the rest is read."""

    model_config = SettingsConfigDict(env_prefix="PURSER_", extra="ignore")

    @classmethod
    def given(cls, flags: Mapping[str, Any]) -> Self:
        """With these flags on top; a flag that is None was not given. Raises pydantic's ValidationError and
        BadSettingsFile.
        """
        return cls(**{name: value for name, value in flags.items() if value is not None})

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Flags, then the environment, then the file."""
        del dotenv_settings, file_secret_settings
        from_file = InitSettingsSource(settings_cls, read_settings_file(settings_cls.model_fields))
        return (init_settings, env_settings, from_file)


def read_settings_file(known: Collection[str]) -> dict[str, Any]:
    """What the file sets of these settings; nothing, where no file is named. Raises BadSettingsFile.

    A name that is no setting is refused: ignored, a misspelt one would leave the default in force unseen.
    """
    name = os.environ.get(VARIABLE)
    if not name:
        return {}
    try:
        found = yaml.load(Path(name).read_bytes(), Loader=_Loader)  # noqa: S506 - a safe loader with less in it
    except OSError as error:
        raise BadSettingsFile(
            f"{VARIABLE} (--config) names {name}, which can not be read: {error.strerror}"
        ) from error
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        # Beside what is no YAML: a day that no month has, a number of 5,000 digits, an escape that is no character.
        raise BadSettingsFile(f"{name}{_place(error)} is not YAML that settings can be read from") from error
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


def _place(error: Exception) -> str:
    mark = error.problem_mark if isinstance(error, yaml.MarkedYAMLError) else None
    return f", line {mark.line + 1}, column {mark.column + 1}," if mark else ""
