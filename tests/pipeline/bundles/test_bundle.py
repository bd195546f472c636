import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest

from pipeline.bundles.bundle import REQUIRED, Bundle, publish_bundle
from pipeline.errors import BundleError
from tests.helpers.damages import DAMAGES


@pytest.fixture
def bundle(make_bundle: Callable[..., Bundle], tmp_path: Path) -> Bundle:
    return make_bundle(tmp_path / "models" / "tiny")


def _copy(bundle: Bundle, staging: Path) -> Path:
    staging.mkdir(parents=True)
    for name in REQUIRED:
        (staging / name).write_bytes((bundle.path / name).read_bytes())
    return staging


def test_a_published_bundle_loads_as_it_was_described(bundle: Bundle) -> None:
    loaded = Bundle.load(bundle.path)

    assert loaded == bundle
    assert set(loaded.description.files) == set(REQUIRED)
    assert (loaded.n_items, loaded.max_length, loaded.model_version) == (41, 5, "tiny-1")
    assert loaded.items().column("item_index").to_pylist() == list(range(1, 41))
    assert not list(bundle.path.parent.glob("staging*"))


def test_a_changed_file_is_refused_by_name_and_checksum(bundle: Bundle) -> None:
    with bundle.item_table.open("r+b") as file:
        file.write(b"\x01")

    with pytest.raises(BundleError) as refusal:
        Bundle.load(bundle.path)

    assert refusal.value.exit_code == 2
    assert refusal.value.where == str(bundle.item_table)
    assert bundle.description.files["items.bin"] in refusal.value.expected
    assert len(refusal.value.found) == 64
    assert refusal.value.remedy


def test_a_missing_file_is_refused(bundle: Bundle) -> None:
    bundle.encoder.unlink()
    with pytest.raises(BundleError, match=r"encoder\.onnx.*missing"):
        Bundle.load(bundle.path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format_version": 2}, "format version 1"),
        ({"parent": 7}, "string"),
        ({"surprise": 1}, "surprise"),
        ({"hyper_parameters": {"n_items": 41}}, "MAX_ITEM_LIST_LENGTH"),
        ({"hyper_parameters": {"n_items": True, "MAX_ITEM_LIST_LENGTH": 5}}, "n_items"),
        ({"hyper_parameters": {"n_items": 41, "MAX_ITEM_LIST_LENGTH": 0}}, "from 1 on"),
        ({"files": {"../outside": "0" * 64}}, "outside of the bundle"),
        ({"files": {"..": "0" * 64}}, "outside of the bundle"),
        ({"files": {"bundle.json": "0" * 64}}, "outside of the bundle"),
        ({"model_version": "../../elsewhere"}, "not the name of a folder"),
        ({"model_version": ".."}, "not the name of a folder"),
        ({"files": {}}, "does not list"),
    ],
)
def test_another_description_is_refused(
    bundle: Bundle, change: dict[str, object], message: str
) -> None:
    path = bundle.path / "bundle.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(BundleError, match=message):
        Bundle.load(bundle.path)


def test_a_graph_that_is_there_and_not_listed_is_refused(bundle: Bundle) -> None:
    # Its checksum would not be verified, and on a CPU it is preferred to recommender.onnx.
    (bundle.path / "recommender_cpu.onnx").write_bytes(bundle.recommender.read_bytes())
    with pytest.raises(BundleError, match=r"does not list.*recommender_cpu\.onnx"):
        Bundle.load(bundle.path)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe"])
def test_a_description_that_is_no_json_is_refused(bundle: Bundle, content: bytes) -> None:
    (bundle.path / "bundle.json").write_bytes(content)
    with pytest.raises(BundleError, match=r"bundle\.json"):
        Bundle.load(bundle.path)


def test_a_folder_that_is_no_bundle_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="not a bundle"):
        Bundle.load(tmp_path / "nowhere")


def test_a_path_that_cannot_be_one_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="cannot be read; found File name too long"):
        Bundle.load(tmp_path / ("x" * 300))


def test_a_description_that_is_a_folder_is_refused(bundle: Bundle) -> None:
    (bundle.path / "bundle.json").unlink()
    (bundle.path / "bundle.json").mkdir()
    with pytest.raises(BundleError, match=r"bundle\.json: cannot be read; found Is a directory"):
        Bundle.load(bundle.path)


def test_a_listed_name_that_cannot_be_one_is_a_missing_file(bundle: Bundle) -> None:
    path = bundle.path / "bundle.json"
    described = json.loads(path.read_text())
    described["files"]["x" * 300] = "0" * 64
    path.write_text(json.dumps(described))
    with pytest.raises(BundleError, match="missing"):
        Bundle.load(bundle.path)


@pytest.mark.parametrize("name", ["bundle.json", "items.parquet"])
def test_a_file_that_is_not_permitted_is_refused(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    original = Path.open  # the permissions themselves do not stop root

    def refuse(path: Path, *args: Any, **options: Any) -> Any:
        if path.name == name:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return original(path, *args, **options)

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(BundleError, match=rf"{name}: cannot be read; found Permission denied"):
        Bundle.load(bundle.path)


@pytest.mark.parametrize("kept", [0, 10, -10])
def test_a_vocabulary_that_is_no_parquet_is_refused(bundle: Bundle, kept: int) -> None:
    path = bundle.path / "items.parquet"
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(BundleError, match=r"items\.parquet: cannot be read"):
        bundle.items()  # as if the checksum were of the file cut


def test_publishing_the_same_files_again_keeps_the_first_bundle(
    bundle: Bundle, tmp_path: Path
) -> None:
    later = bundle.description.model_copy(update={"metrics": {"protocol": "another"}})
    staging = _copy(bundle, tmp_path / "again")

    assert publish_bundle(staging, bundle.path, later) == bundle
    assert not staging.exists()
    assert Bundle.load(bundle.path).description.metrics == {"protocol": "none"}


def test_publishing_other_files_at_a_bundle_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    staging = _copy(bundle, tmp_path / "other")
    (staging / "model.safetensors").write_bytes(b"other weights")

    with pytest.raises(BundleError, match=r"model\.safetensors.*already published"):
        publish_bundle(staging, bundle.path, bundle.description)

    assert Bundle.load(bundle.path) == bundle
    assert staging.exists()


@pytest.mark.parametrize("kind", DAMAGES)
@pytest.mark.parametrize("name", ["bundle.json", "items.bin"])
def test_publishing_at_a_damaged_bundle_replaces_it(
    bundle: Bundle, tmp_path: Path, kind: str, name: str
) -> None:
    staging = _copy(bundle, tmp_path / "again")
    DAMAGES[kind](bundle.path / name, Random(kind))

    assert publish_bundle(staging, bundle.path, bundle.description) == bundle
    assert Bundle.load(bundle.path) == bundle
    assert [path.name for path in tmp_path.iterdir()] == ["models"]
    assert [path.name for path in bundle.path.parent.iterdir()] == [bundle.path.name]


def test_an_incomplete_bundle_is_not_published(bundle: Bundle, tmp_path: Path) -> None:
    staging = _copy(bundle, tmp_path / "half")
    (staging / "recommender.onnx").unlink()

    with pytest.raises(BundleError, match=r"recommender\.onnx"):
        publish_bundle(staging, tmp_path / "target", bundle.description)

    assert not (tmp_path / "target").exists()
