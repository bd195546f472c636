"""The manifest's file: what the version before wrote can be resumed, and reads the same now."""

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.bundles.bundle import Bundle
from pipeline.config.score_section import ScoreSettings
from pipeline.errors import ResumeError
from pipeline.scoring import scorer
from pipeline.scoring.manifest import MANIFEST, read_manifest
from pipeline.storage.content_hash import content_hash
from pipeline.storage.folders import open_folder
from tests.helpers.scoring_cases import (
    Killed,
    kill_after,
    random_histories,
    run,
    write_sequences,
)

UNSET: dict[str, Any] = dict.fromkeys(("where", "top_k", "promotion"))  # of a segment

# What version 0.1.0 wrote when it was killed after a part of 16 users; in capitals what depends
# on the test's files.
OLD_MANIFEST = """{
 "binding": {
  "model_version": "tiny-1",
  "bundle": {
   CHECKSUMS
  },
  "inputs": {
   "FOLDER/s.parquet": "STAMP",
   "FOLDER/deny.txt": "d5397fed4d6e0da54ed769232e9706d0f5bbf805f251b3a0b2c9083aa00e6874"
  },
  "settings": {
   "top_k": 5,
   "provider": "cpu",
   "precision": "fp32",
   "exclude_seen": true,
   "allow": null,
   "deny": "FOLDER/deny.txt",
   "layout": "long",
   "active_within_days": null,
   "logs": {
    "path": "logs",
    "user_id": "user_id",
    "item_id": "item_id",
    "timestamp": "timestamp",
    "timestamp_unit": "s"
   },
   "users": null,
   "run_date": "2026-11-20",
   "time_zone": "UTC"
  }
 },
 "generated_at": "2026-11-20T05:06:07.891011Z",
 "parts": {
  "part-00000.parquet": {
   "n_users": 16,
   "n_rows": 80,
   "n_fallback": 0,
   "n_short": 0
  }
 },
 "complete": false
}
"""


def test_a_run_of_the_version_before_can_be_resumed(
    tiny_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scorer, "PART_USERS", 16)
    path = write_sequences(tmp_path / "s.parquet", random_histories(40))
    deny = tmp_path / "deny.txt"
    deny.write_text("item1\n")
    out = tmp_path / "out"
    with pytest.MonkeyPatch.context() as patch:
        kill_after(patch, 1, when="write")
        with pytest.raises(Killed):
            run(path, tiny_bundle, out, deny=deny)
    part = out / "part-00000.parquet"
    written = part.stat().st_mtime_ns
    checksums = tiny_bundle.description.files.items()
    file = path.stat()
    old = (
        OLD_MANIFEST.replace("FOLDER", str(tmp_path))
        .replace("CHECKSUMS", ",\n   ".join(f'"{name}": "{value}"' for name, value in checksums))
        .replace("STAMP", f"{file.st_size}-{file.st_mtime_ns}")
    )
    now = (out / "_manifest.json").read_text()
    described = json.loads(now)
    assert described.pop("checksum")  # new since
    assert list(described) == list(json.loads(old))
    assert described["parts"][part.name].pop("content_hash") == content_hash(part)  # new since
    assert {**described, "generated_at": ""} == {**json.loads(old), "generated_at": ""}

    (out / "_manifest.json").write_text(old)
    result = run(path, tiny_bundle, out, deny=deny, resume=True)

    assert (result.n_users, part.stat().st_mtime_ns) == (40, written)
    manifest = json.loads((out / "_manifest.json").read_text())
    assert list(manifest) == ["binding", "generated_at", "parts", "complete", "checksum"]
    assert manifest["binding"] == json.loads(old)["binding"]
    assert manifest["generated_at"] == "2026-11-20T05:06:07.891011Z"
    assert (len(manifest["parts"]), manifest["complete"]) == (3, True)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("retire_after_days", 3),
        ("where", "true"),
        ("max_per", {"category": 2}),
        ("promotion", [{"where": "true", "slots": [1]}]),
        ("segment", [{"name": "gold", "users": "a.txt"}]),
        ("offset", "boost"),
        ("freshness", {"weight": 0.5, "half_life_days": 7.0}),
        ("new_items", {"share": 0.1, "within_days": 14}),
        ("popular_within_days", 7),
        ("because", True),
        ("candidates", "a"),
        ("exclude", "s3://b/c"),
    ],
)
def test_a_rule_that_is_new_since_is_in_the_key_where_it_is_set(name: str, value: Any) -> None:
    found = ScoreSettings(**{name: value}).result_settings()[name]
    assert found == ([UNSET | value[0]] if name == "segment" else value)


def test_no_flipped_bit_of_a_manifest_is_believed(tiny_bundle: Bundle, tmp_path: Path) -> None:
    run(write_sequences(tmp_path / "s.parquet", random_histories(9)), tiny_bundle, tmp_path / "out")
    folder = open_folder(tmp_path / "out")
    written, whole = read_manifest(folder), folder.read(MANIFEST)
    refused = 0
    for position in range(len(whole)):
        spoilt = bytearray(whole)
        spoilt[position] ^= 1 << position % 8
        (tmp_path / "out" / MANIFEST).write_bytes(spoilt)
        try:
            assert read_manifest(folder) == written
        except ResumeError:
            refused += 1
    assert refused > len(whole) // 2
