"""The README lists every setting with the default it has."""

from pathlib import Path

from model.config import FEARecConfig
from pipeline.config.settings import Settings

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")


def listed() -> dict[str, str]:
    """Name to default, of the README's table of settings."""
    table = README[README.index("| setting | default | |") :].split("\n\n")[0]
    rows = [line.strip("| ").split(" | ") for line in table.splitlines()[2:]]
    return {row[0].strip("`"): row[1].split(";")[0].strip() for row in rows}


def plain(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return str(list(value))
    return "none" if value is None else str(value)


def test_every_setting_is_listed_with_its_default() -> None:
    expected = {}
    for section, field in Settings.model_fields.items():
        fields = getattr(field.annotation, "model_fields", None)
        if fields is None:
            expected[section] = plain(field.get_default())
            continue
        hyper_parameters = FEARecConfig.model_fields if section == "model" else {}
        for name, inner in {**fields, **hyper_parameters}.items():
            if name != "n_items":
                expected[f"{section}.{name}"] = plain(inner.get_default())
    assert listed() == expected
