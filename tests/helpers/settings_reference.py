"""The settings reference of pipeline/README.md, generated from the sections' own descriptions.

python -m tests.helpers.settings_reference      # writes it anew
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic.fields import FieldInfo

from model.config import PRESETS, FEARecConfig
from pipeline.config.guard_sections import Limit
from pipeline.config.settings import Settings

PAGE = Path(__file__).parents[2] / "pipeline" / "README.md"
HEADING = "| setting | default | |"


def settings() -> Iterator[tuple[str, FieldInfo]]:
    """Every setting by its dotted name."""
    for section, field in Settings.model_fields.items():
        fields = getattr(field.annotation, "model_fields", None)
        if fields is None:
            yield section, field
            continue
        hyper_parameters = FEARecConfig.model_fields if section == "model" else {}
        for name, inner in {**fields, **hyper_parameters}.items():
            if name != "n_items":
                yield f"{section}.{name}", inner


def plain(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return str(list(value))
    if isinstance(value, Limit):
        return f"{value.limit}, {value.action}"
    return "none" if value is None else str(value)


def default(name: str, field: FieldInfo) -> str:
    """The default, and those of the presets that have another."""
    section, _, key = name.partition(".")
    presets = PRESETS.items() if section == "model" else ()
    others = [f"{preset} {plain(values[key])}" for preset, values in presets if key in values]
    return "; ".join([plain(field.get_default()), *others])


def reference() -> str:
    """The table in Markdown."""
    rows = [
        f"| `{name}` | {default(name, field)} | {field.description or ''} |".replace("|  |", "| |")
        for name, field in settings()
    ]
    return "\n".join([HEADING, "|---|---|---|", *rows]) + "\n"


def written() -> str:
    """The table as it stands in the page."""
    page = PAGE.read_text(encoding="utf-8")
    return page[page.index(HEADING) :].split("\n\n")[0].rstrip("\n") + "\n"


if __name__ == "__main__":
    text = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(text.replace(written(), reference()), encoding="utf-8")
