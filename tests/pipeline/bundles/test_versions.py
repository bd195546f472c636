"""Model versions as listed, shown and compared; the champion as it is chosen by hand."""

import json
from collections.abc import Callable
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest

from pipeline.bundles.bundle import REQUIRED, publish_bundle
from pipeline.bundles.promotion import promote, roll_back
from pipeline.bundles.registry import (
    CHAMPION,
    Champion,
    RegisteredModel,
    read_registry,
    register_champion,
)
from pipeline.bundles.versions import compare_versions, list_versions, version_details
from pipeline.errors import BundleError, InputError
from pipeline.storage.folders import LocalFolder
from pipeline.storage.locations import RunLocations, Warehouse
from tests.conftest import describe

DAYS = [date(2026, 7, day) for day in (1, 2, 3, 4)]
V1, V2, V3 = "20260701-aaaaaaaa", "20260702-bbbbbbbb", "20260703-cccccccc"


def export(warehouse: Warehouse, version: str, **changes: Any) -> None:
    staging = Path(warehouse.root) / "models" / f".staging-{version}"
    staging.mkdir(parents=True)
    for name in REQUIRED:
        (staging / name).write_bytes(name.encode())
    day = datetime(2026, 7, int(version[6:8]), 2, tzinfo=UTC)
    publish_bundle(
        staging, staging.with_name(version), describe(version, created_at=day, **changes)
    )


def serve(warehouse: Warehouse, day: date, version: str, decision: str, candidate: str) -> None:
    model = RegisteredModel(run_date=day, model_version=version, path=version, decision=decision)
    register_champion(RunLocations(warehouse, Path("work"), day), model, candidate=candidate)


@pytest.fixture
def warehouse(tmp_path: Path) -> Warehouse:
    """Three versions: the second was promoted, and the third is held, so the second serves."""
    warehouse = Warehouse(str(tmp_path / "warehouse"))
    metrics = {"model": {"HR@10": 0.4, "NDCG@5": 0.1, "NDCG@10": 0.2}, "popularity": {}}
    export(warehouse, V1, metrics=metrics)
    export(warehouse, V2, metrics={"model": {"NDCG@5": 0.3}}, parent=V1)
    export(warehouse, V3, metrics={}, parent=V2)
    serve(warehouse, DAYS[0], V1, "first", V1)
    serve(warehouse, DAYS[1], V2, "promoted", V2)
    serve(warehouse, DAYS[2], V2, "held", V3)
    return warehouse


def test_a_version_whose_run_date_was_done_again_is_replaced(warehouse: Warehouse) -> None:
    again = "20260702-dddddddd"
    export(warehouse, again, metrics={}, parent=V1)
    serve(warehouse, DAYS[1], again, "promoted", again)
    decisions = {each.model_version: each.decision for each in list_versions(warehouse).versions}
    assert decisions == {V1: "first", V2: "replaced", again: "promoted", V3: "held"}


def champion(warehouse: Warehouse) -> dict[str, Any]:
    return json.loads((Path(warehouse.root) / "models" / CHAMPION).read_text())


def test_every_version_is_listed_with_what_it_does(warehouse: Warehouse) -> None:
    third, second, first = list_versions(warehouse).versions
    assert [each.model_version for each in (first, second, third)] == [V1, V2, V3]
    assert [each.run_date for each in (first, second, third)] == DAYS[:3]
    assert [each.decision for each in (first, second, third)] == ["first", "promoted", "held"]
    assert [each.aliases for each in (first, second, third)] == [(), ("champion",), ("candidate",)]
    assert [each.served for each in (first, second, third)] == [
        (DAYS[0],), (DAYS[2], DAYS[1]), (),
    ]  # fmt: skip
    assert [(each.metric, each.value) for each in (first, second, third)] == [
        ("NDCG@10", 0.2), ("NDCG@5", 0.3), (None, None),
    ]  # fmt: skip
    assert [each.parent for each in (first, second, third)] == [None, V1, V2]
    files = (Path(warehouse.root) / "models" / V1).iterdir()
    assert first.size == sum(file.stat().st_size for file in files)


def test_what_is_no_bundle_is_passed_over_and_a_damaged_one_is_named(warehouse: Warehouse) -> None:
    models = Path(warehouse.root) / "models"
    (models / "empty").mkdir()
    (models / "file").write_text("")
    (models / V2 / "bundle.json").write_text("{")
    found = list_versions(warehouse)
    assert [each.model_version for each in found.versions] == [V3, V1]
    assert len(found.unreadable) == 1
    assert f"{V2}/bundle.json: not a valid bundle description" in found.unreadable[0]


def test_the_list_reads_each_description_once_and_nothing_else(
    warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    original = LocalFolder.read

    def counted(folder: LocalFolder, name: str) -> bytes:
        read.append(name)
        return original(folder, name)

    monkeypatch.setattr(LocalFolder, "read", counted)
    assert len(list_versions(warehouse).versions) == 3
    assert sorted(read) == ["bundle.json"] * 3 + [CHAMPION]
    assert list_versions(Warehouse(f"{warehouse.root}/none")).versions == ()


def test_a_version_is_shown_with_the_dates_it_serves(warehouse: Warehouse) -> None:
    details = version_details(warehouse)
    assert details.version.model_version == V2
    assert details.decisions == {DAYS[2]: "held", DAYS[1]: "promoted"}
    assert details.description.parent == V1
    assert version_details(warehouse, V3).decisions == {}


def test_differences_have_dotted_names(warehouse: Warehouse) -> None:
    export(warehouse, "20260704-d", settings={"train": {"epochs": 3}}, metrics={}, parent=V2)
    differences = compare_versions(warehouse, V3, "20260704-d")
    assert [(each.name, each.first, each.second) for each in differences] == [
        ("settings.train.epochs", None, 3)
    ]
    assert compare_versions(warehouse, V1, V1) == ()
    names = {each.name for each in compare_versions(warehouse, V1, V2)}
    assert names == {
        "metrics.model.HR@10",
        "metrics.model.NDCG@5",
        "metrics.model.NDCG@10",
        "parent",
    }


def test_a_promoted_version_serves_the_newest_run_date(warehouse: Warehouse) -> None:
    promotion = promote(warehouse, V3)
    assert (promotion.before.model_version, promotion.now.model_version) == (V2, V3)
    entries = [champion(warehouse), *champion(warehouse)["previous"]]
    assert [(each["run_date"], each["path"], each["decision"]) for each in entries] == [
        ("2026-07-03", V3, "forced"), ("2026-07-02", V2, "promoted"), ("2026-07-01", V1, "first"),
    ]  # fmt: skip
    third, *_ = list_versions(warehouse).versions
    assert (third.aliases, third.decision) == (("champion", "candidate"), "forced")


def test_a_rollback_goes_to_the_last_other_champion_and_further(warehouse: Warehouse) -> None:
    promote(warehouse, V3)
    assert roll_back(warehouse).now.model_version == V2
    third, *_ = list_versions(warehouse).versions
    assert (third.aliases, third.decision) == (("candidate",), "rolled back")
    assert roll_back(warehouse).now.model_version == V1
    assert champion(warehouse)["decision"] == "rolled back"
    assert roll_back(warehouse, V2).now.model_version == V2


def test_what_cannot_be_chosen_is_refused_and_changes_nothing(
    warehouse: Warehouse, tmp_path: Path
) -> None:
    before = champion(warehouse)
    refused: list[tuple[Callable[[], object], str]] = [
        (lambda: promote(warehouse, "nowhere"), "no such model version; found nowhere"),
        (lambda: promote(warehouse, f"../models/{V1}"), "no such model version"),
        (lambda: roll_back(warehouse, V3), f"no such earlier champion; expected {V1}; found {V3}"),
        (lambda: version_details(warehouse, "x"), "no such model version"),
        (lambda: compare_versions(warehouse, V1, "x"), "no such model version"),
    ]
    for call, message in refused:
        with pytest.raises(InputError, match=message) as refusal:
            call()
        assert "\n" not in str(refusal.value)
    (Path(warehouse.root) / "models" / V1 / "items.bin").unlink()
    with pytest.raises(BundleError, match=f"{V1}/items.bin: a file of the bundle is missing"):
        promote(warehouse, V1)
    assert champion(warehouse) == before
    nowhere = Warehouse(str(tmp_path / "nowhere"))
    with pytest.raises(InputError, match="no such model version"):
        promote(nowhere, V1)
    for call in (
        lambda: roll_back(nowhere),
        lambda: version_details(nowhere),
    ):
        with pytest.raises(InputError, match="no model was published yet"):
            call()


def test_a_lost_registry_is_made_anew_by_a_promotion(warehouse: Warehouse) -> None:
    (Path(warehouse.root) / "models" / "champion.json").unlink()
    promotion = promote(warehouse, V2)
    assert promotion.before is None
    assert read_registry(warehouse) == Champion.of([promotion.now], None)
    assert (promotion.now.model_version, promotion.now.run_date) == (V2, DAYS[1])


def test_a_first_champion_cannot_be_rolled_back(tmp_path: Path) -> None:
    warehouse = Warehouse(str(tmp_path / "warehouse"))
    export(warehouse, V1)
    serve(warehouse, DAYS[0], V1, "first", V1)
    with pytest.raises(InputError, match="there was no earlier champion"):
        roll_back(warehouse)
