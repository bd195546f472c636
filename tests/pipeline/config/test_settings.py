"""Settings: the file, the environment, ``--set``; and what is refused in each."""

import pickle
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from model.errors import ConfigError
from pipeline.config.settings import Settings, as_overrides, load_settings


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def write(text: str, name: str = "given.toml") -> Path:
    path = Path(name)
    path.write_text(text, encoding="utf-8")
    return path


def test_each_source_overrides_the_one_before(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_settings().score.top_k == 10
    path = write("[score]\ntop_k = 20\nlayout = 'list'\n[train]\nepochs = 3\n")
    assert load_settings(path).score.top_k == 20
    monkeypatch.setenv("FEAREC_SCORE__TOP_K", "30")
    assert load_settings(path).score.top_k == 30
    merged = load_settings(path, ["score.top_k=40"])
    assert (merged.score.top_k, merged.score.layout, merged.train.epochs) == (40, "list", 3)


def test_fearec_toml_is_read_where_it_is_and_no_file_is_given() -> None:
    write("time_zone = 'Europe/Berlin'\n", "fearec.toml")
    assert load_settings().time_zone == "Europe/Berlin"
    assert load_settings(write("")).time_zone == "UTC"


def test_values_of_overrides_are_toml_or_plain_text() -> None:
    settings = load_settings(
        overrides=[
            "logs.path=s3://bucket/logs",
            "evaluate.topk=[20, 5]",
            "score.exclude_seen=false",
            'time_zone="Asia/Tokyo"',
            "warehouse=a=b",
        ]
    )
    assert settings.logs.path == "s3://bucket/logs"
    assert settings.evaluate.topk == (5, 20)
    assert settings.score.exclude_seen is False
    assert settings.time_zone == "Asia/Tokyo"
    assert settings.warehouse == "a=b"


@pytest.mark.parametrize("text", ["2026-06-01", "20260601", "007", "1e3", "true", "12:30:00"])
def test_what_is_set_for_a_path_is_text_and_no_date_or_number(text: str) -> None:
    settings = load_settings(
        overrides=[f"logs.path={text}", f"score.deny={text}", f"work_dir={text}"]
    )
    assert settings.logs.path == settings.score.deny == str(settings.work_dir) == text


def test_an_override_sets_one_value_only() -> None:
    with pytest.raises(ConfigError, match=r"score\.top_k"):
        load_settings(overrides=["score.top_k=3\nwarehouse='x'"])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("evaluate.topk=" + "[" * 5000, "topk"),
        ("score.top_k=" + "9" * 5000, "top_k"),
        ("time_zone=" + "x" * 5000, "time_zone"),
        ("time_zone=Europe", "time_zone"),
        ("x" * 5000 + "=1", "unknown setting"),
    ],
)
def test_a_long_value_is_one_short_line(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        load_settings(overrides=[override])
    assert len(str(caught.value)) < 1000
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", ["x = " + "[" * 5000, "x = " + "9" * 5000])
def test_a_settings_file_of_brackets_or_digits_is_one_line(content: str) -> None:
    with pytest.raises(ConfigError, match="not a TOML file"):
        load_settings(write(content))


@pytest.mark.parametrize(
    ("name", "value", "kept"),
    [
        ("top_k", 7, 7),
        ("exclude_seen", False, False),
        ("batch_size", "auto", "auto"),
        ("deny", Path("a/b c"), "a/b c"),
        ("deny", "20260601", "20260601"),
        ("deny", "a\"b\\n'é💥", "a\"b\\n'é💥"),
        ("deny", "true", "true"),
        ("deny", "[1]", "[1]"),
        ("deny", None, None),
    ],
)
def test_a_flag_is_its_value_whatever_it_looks_like(name: str, value: Any, kept: Any) -> None:
    settings = load_settings(overrides=as_overrides("score", {name: value, "top_k": 7}))
    assert (settings.score.top_k, getattr(settings.score, name)) == (7, kept)


def test_hyper_parameters_are_set_by_name_whatever_the_source(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FEAREC_MODEL__MAX_ITEM_LIST_LENGTH", "12")
    settings = load_settings(write("[model]\nhidden_size = 32\n"), ["model.n_heads=4"])
    config = settings.model.config(n_items=9)
    assert (config.MAX_ITEM_LIST_LENGTH, config.hidden_size, config.n_heads) == (12, 32, 4)
    assert config.global_ratio == 0.6  # of the paper preset


@pytest.mark.parametrize(
    ("name", "unknown"),
    [
        ("score.topk", "topk"),
        ("scores.top_k", "scores"),
        ("model.n_head", "n_head"),
        ("topk", "topk"),
    ],
)
def test_unknown_names_are_refused_in_all_three(
    name: str, unknown: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    *sections, key = name.split(".")
    table = f"[{sections[0]}]\n" if sections else ""
    for given_as in ("file", "flag", "environment"):
        path = write(f"{table}{key} = 5\n") if given_as == "file" else None
        overrides = [f"{name}=5"] if given_as == "flag" else []
        with monkeypatch.context() as patch:
            if given_as == "environment":
                patch.setenv("FEAREC_" + name.replace(".", "__").upper(), "5")
            with pytest.raises(ConfigError, match="unknown") as caught:
                load_settings(path, overrides)
        assert unknown in str(caught.value).lower()
        assert "\n" not in str(caught.value)
        assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("score.top_k=0", "score.top_k"),
        ("time_zone=Mars/Olympus", "time_zone"),
        ("model.n_items=5", "n_items"),
        ("model.preset=finest", "preset"),
        ("model.hidden_size=63", "divisible"),
        ("score.batch_size=0", "batch_size"),
        ("score.active_within_days=1000000", "active_within_days: .* less than or equal to 36500"),
        ("train.devices=0", "train.devices: must be a whole number from 1 on, or auto; found 0"),
        ("train.devices=-1", "devices: must be a whole number from 1 on, or auto; found -1"),
        ("engine.max_workers=0", "max_workers: must be a whole number from 1 on, or auto; found 0"),
        ("score.batch_size=x", "^score.batch_size: must .* found 'x' in --set$"),
        ("evaluate.mask_seen=[]", "mask_seen: must be true, false, or at least one type"),
        ("export.max_near_ties=1.5", "max_near_ties: .* less than or equal to 1"),
        ("train.strategy=ddp_spawn", "train.strategy: .* 'auto' or 'ddp'; found 'ddp_spawn'"),
        ("evaluate.topk=[]", "topk"),
        ("train.learning_rate=nan", "learning_rate"),
        ("no-equals-sign", "section.key=value"),
        ("model=x", "^model: .* found 'x' in --set"),
        ("train=3", "^train: .* found 3 in --set"),
        ("evaluate.topk=5 and 10", r"evaluate.topk: must be a whole number or a list .*\[5, 10\]"),
    ],
)
def test_impossible_values_are_one_line(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        load_settings(overrides=[override])
    assert "\n" not in str(caught.value)


def test_a_refused_setting_says_where_it_comes_from(monkeypatch: pytest.MonkeyPatch) -> None:
    file = write("[train]\nepochs = 'many'\n[score]\ntopk = 1\n")
    with pytest.raises(ConfigError, match=rf"train\.epochs: .* found 'many' in {file}$"):
        load_settings(file)
    with pytest.raises(ConfigError, match=rf"score\.topk: unknown setting; found in {file}\."):
        load_settings(file, ["train.epochs=1"])
    with pytest.raises(ConfigError, match=r"^trian: unknown setting; found in --set\."):
        load_settings(None, ["trian.epochs=1"])
    monkeypatch.setenv("FEAREC_TRAIN__EPOCHS", "few")
    with pytest.raises(ConfigError, match=r"found 'few' in FEAREC_TRAIN__EPOCHS$"):
        load_settings(file)
    with pytest.raises(ConfigError, match=r"found 'none' in --set$"):
        load_settings(file, ["train.epochs=none"])


@pytest.mark.parametrize("section", ["train", "model", "logs"])
def test_a_section_that_is_no_section_is_one_line(
    section: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match=f"^{section}: .* found 'x' in given.toml"):
        load_settings(write(f'{section} = "x"\n'))
    monkeypatch.setenv(f"FEAREC_{section.upper()}", "abc")
    with pytest.raises(ConfigError, match=section) as caught:
        load_settings()
    assert "FEAREC_SECTION__KEY=value" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_one_k_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_settings(overrides=["evaluate.topk=7"]).evaluate.topk == (7,)
    monkeypatch.setenv("FEAREC_EVALUATE__TOPK", "10")
    assert load_settings().evaluate.topk == (10,)
    monkeypatch.setenv("FEAREC_EVALUATE__TOPK", "[20, 5]")
    assert load_settings().evaluate.topk == (5, 20)


@pytest.mark.parametrize("content", ["[score\n", "top_k = \n"])
def test_a_file_that_is_no_toml_is_named(content: str) -> None:
    with pytest.raises(ConfigError, match=r"given\.toml: not a TOML file"):
        load_settings(write(content))


def test_a_missing_file_is_named() -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.toml: no such settings file"):
        load_settings(Path("nowhere.toml"))


def test_settings_are_frozen_all_the_way_down() -> None:
    settings = Settings()
    with pytest.raises(ValidationError, match="frozen"):
        settings.warehouse = "elsewhere"
    with pytest.raises(ValidationError, match="frozen"):
        settings.score.top_k = 5


def test_the_constructor_reads_no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEAREC_WAREHOUSE", "elsewhere")
    assert Settings().warehouse == "warehouse"
    assert load_settings().warehouse == "elsewhere"


def test_loaded_settings_survive_a_pickle() -> None:
    settings = load_settings(overrides=["model.n_layers=3", "score.top_k=7"])
    assert pickle.loads(pickle.dumps(settings)) == settings


def test_today_is_the_time_zones() -> None:
    utc = load_settings().today()
    east = load_settings(overrides=["time_zone=Pacific/Kiritimati"]).today()
    west = load_settings(overrides=["time_zone=Pacific/Pago_Pago"]).today()
    assert isinstance(east, date)
    assert 1 <= (east - west).days <= 2  # they are 25 hours apart
    assert west <= utc <= east
