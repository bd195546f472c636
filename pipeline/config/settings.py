"""Settings of a run: `fearec.toml`, overridden by the environment, overridden by ``--set``."""

import json
import os
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from datetime import date, datetime, time
from pathlib import Path
from typing import Any, Self
from zoneinfo import ZoneInfo

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from model.config import TrainingConfig
from model.errors import ConfigError
from model.pydantic_base import config_error
from pipeline.config.engine_section import LOCAL, EngineSettings
from pipeline.config.event_types_section import EventTypeSettings
from pipeline.config.export_section import ExportSettings
from pipeline.config.guard_sections import CheckSettings, GateSettings
from pipeline.config.registry_section import RegistrySettings
from pipeline.config.retention_section import RetentionSettings
from pipeline.config.score_section import ScoreSettings
from pipeline.config.sections import (
    EvaluateSettings,
    ItemsSettings,
    LogSettings,
    ModelSettings,
    PrepareSettings,
    TimeZone,
    UsersSettings,
)
from pipeline.config.tune_section import TuneSettings
from pipeline.storage.credentials import check_settings
from pipeline.storage.resources import ResourceSettings

ENV_PREFIX = "FEAREC_"
ENV_DELIMITER = "__"


class Settings(BaseModel):
    """All settings of a run. Frozen, validated, unknown names refused.

    Build it with `load_settings`; the constructor reads neither files nor the environment.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    warehouse: str = Field("warehouse", description="folder or object-store URI of the tables")
    work_dir: Path = Field(Path("work"), description="local scratch: sequences, checkpoints, parts")
    time_zone: TimeZone = Field("UTC", description="the calendar that run dates belong to")
    resources: ResourceSettings = ResourceSettings()
    logs: LogSettings = LogSettings()
    items: ItemsSettings = ItemsSettings()
    users: UsersSettings = UsersSettings()
    event_types: EventTypeSettings = EventTypeSettings()
    prepare: PrepareSettings = PrepareSettings()
    model: ModelSettings = ModelSettings()
    train: TrainingConfig = TrainingConfig()
    evaluate: EvaluateSettings = EvaluateSettings()
    export: ExportSettings = ExportSettings()
    checks: CheckSettings = CheckSettings()
    gate: GateSettings = GateSettings()
    score: ScoreSettings = ScoreSettings()
    engine: EngineSettings = LOCAL
    registry: RegistrySettings = RegistrySettings()
    retention: RetentionSettings = RetentionSettings()
    tune: TuneSettings = TuneSettings()

    @model_validator(mode="after")
    def _has_event_types(self) -> Self:
        needed_by = "event_types" if self.event_types else ""
        needed_by = "evaluate.mask_seen" if self.evaluate.seen_types else needed_by
        if needed_by and not self.logs.event_type:
            raise ValueError(f"{needed_by} names types of events, so logs.event_type must be set")
        return self

    def today(self) -> date:
        """The default run date: today in `time_zone`."""
        return datetime.now(ZoneInfo(self.time_zone)).date()


def settings_file(path: Path | None) -> Path | None:
    """The file that `load_settings` reads; None where there is none."""
    default = Path("fearec.toml")
    return default if path is None and default.exists() else path


def load_settings(path: Path | None = None, overrides: Iterable[str] = ()) -> Settings:
    """Read a TOML file, then the environment, then ``section.key=value`` overrides.

    Args:
        path: The settings file; without one, `fearec.toml` if it is there.
        overrides: What ``--set`` was given; values are TOML, or plain text where that fails.

    Raises:
        ConfigError: the file is missing or not TOML, a name or value is refused, or a URI holds a
            key.
    """
    path = settings_file(path)
    from_file = _read_toml(path) if path else {}
    from_flags = _read_overrides(overrides)
    _check_environment()

    class Layered(BaseSettings, Settings):
        model_config = SettingsConfigDict(env_prefix=ENV_PREFIX, env_nested_delimiter=ENV_DELIMITER)

        @classmethod
        def settings_customise_sources(
            cls, settings_cls: type[BaseSettings], *_: Any, **__: Any
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            return (
                InitSettingsSource(settings_cls, from_flags),
                EnvSettingsSource(settings_cls),
                InitSettingsSource(settings_cls, from_file),
            )

    try:
        layered = Layered()
    except ValidationError as error:
        raise _located(config_error(error, "settings"), from_flags, path, from_file) from None
    except ConfigError as error:  # of a section's key
        raise _located(error, from_flags, path, from_file) from None
    except (SettingsError, RecursionError) as error:  # a section's variable, read as JSON
        raise ConfigError(
            str(error),
            "environment",
            expected=f"{ENV_PREFIX}SECTION{ENV_DELIMITER}KEY=value, or a section as a JSON object",
        ) from None
    given = layered.model_dump(exclude_unset=True)
    check_settings(given)
    return Settings(**given)


def _located(error: ConfigError, from_flags: Any, path: Path | None, from_file: Any) -> ConfigError:
    """An error that also says where the refused setting comes from."""
    where = error.where.removeprefix("settings.")
    found = f"{error.found}{_origin(where.split('.'), from_flags, path, from_file)}".strip()
    return ConfigError(error.what, where, error.expected, found, error.remedy)


def _origin(keys: Sequence[str], from_flags: Any, path: Path | None, from_file: Any) -> str:
    """Where a refused setting comes from; empty if that is not known."""

    def holds(given: Any) -> bool:
        for key in keys:
            if not isinstance(given, Mapping) or key not in given:
                return False
            given = given[key]
        return True

    if holds(from_flags):
        return " in --set"
    variable = ENV_PREFIX + ENV_DELIMITER.join(keys)
    named = [name for name in os.environ if name.upper() == variable.upper()]
    if named:
        return f" in {named[0]}"
    return f" in {path}" if holds(from_file) else ""


def as_overrides(section: str, flags: Mapping[str, Any]) -> list[str]:
    """The flags of a command in the form of ``--set``, for `load_settings`.

    Args:
        section: The section of their settings.
        flags: Numbers, truths, texts and paths by the setting's name; None where not given.
    """
    given = {name: value for name, value in flags.items() if value is not None}
    return [f"{section}.{name}={_as_toml(value)}" for name, value in given.items()]


def _as_toml(value: Any) -> str:
    return json.dumps(value if isinstance(value, bool | int) else str(value), ensure_ascii=False)


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError("no such settings file", str(path)) from None
    except OSError as error:
        raise ConfigError(f"cannot read the settings: {error.strerror}", str(path)) from None
    except (ValueError, RecursionError) as error:  # not UTF-8 or TOML, or 5,000 digits or brackets
        raise ConfigError(f"not a TOML file: {error}", str(path)) from None


def _read_overrides(overrides: Iterable[str]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for override in overrides:
        name, equals, text = override.partition("=")
        if not equals or not name.strip():
            raise ConfigError(
                "cannot read the override", "--set", expected="section.key=value", found=override
            )
        *sections, key = name.strip().split(".")
        value = _override_value(text, is_text=_is_text_setting(sections, key))
        branch = tree
        for section in sections:
            branch = branch.setdefault(section, {})
            if not isinstance(branch, dict):
                raise ConfigError("set both as a value and as a section", f"--set {override}")
        branch[key] = value
    return tree


def _override_value(text: str, *, is_text: bool) -> Any:
    """The TOML value of an override; as it stands where that fails or is no text but should be."""
    try:
        parsed = tomllib.loads(f"value = {text}")
    except (ValueError, RecursionError):
        return text
    value = parsed.pop("value")
    if parsed or (is_text and not isinstance(value, str)) or isinstance(value, date | time):
        return text
    return value


def _is_text_setting(sections: Sequence[str], key: str) -> bool:
    """Whether a setting is a text or a path, so that 2026-06-01 is no date and 007 no number."""
    owner: Any = Settings
    for section in sections:
        field = getattr(owner, "model_fields", {}).get(section)
        owner = field.annotation if field else None
    field = getattr(owner, "model_fields", {}).get(key)
    return field is not None and field.annotation in (str, Path, str | None, Path | None)


def _check_environment() -> None:
    # pydantic-settings looks only for the names it knows, so a misspelt section would go unseen.
    for name in os.environ:
        if not name.upper().startswith(ENV_PREFIX):
            continue
        section = name[len(ENV_PREFIX) :].split(ENV_DELIMITER)[0].lower()
        if section not in Settings.model_fields:
            raise ConfigError(
                "unknown setting",
                f"environment variable {name}",
                expected=f"{ENV_PREFIX}SECTION{ENV_DELIMITER}KEY",
                remedy="Check the spelling; pipeline/README.md lists every name.",
            )
