"""An S3 API instead of a disk: moto's server, in a process of its own."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, date, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable, write_deltalake
from typer.testing import CliRunner, Result

from pipeline.bundles.bundle import Bundle
from pipeline.bundles.description import DESCRIPTION
from pipeline.bundles.registry import CHAMPION
from pipeline.bundles.transfer import download_bundle, opened_bundle, upload_bundle
from pipeline.config.settings import Settings
from pipeline.errors import BundleError, ConfigError, FearecError, PublishError
from pipeline.runner.clean import clean
from pipeline.runner.stages import Export, Ingest, Publish, Train
from pipeline.scoring import scorer
from pipeline.scoring.cli import app
from pipeline.storage.folders import Folder, StoreFolder, open_folder
from pipeline.storage.locations import Warehouse
from pipeline.warehouse import tables as warehouse
from pipeline.warehouse.lookup import recommended_to
from tests.helpers.object_store import new_bucket, s3_server, skip_without_server
from tests.helpers.scoring_cases import (
    START,
    Killed,
    events,
    kill_after,
    kill_at,
    random_histories,
    rows,
    run,
    write_log,
    write_sequences,
)
from tests.helpers.stages import ingest, locations, read_champion, table_uri

skip_without_server()

pytestmark = pytest.mark.usefixtures("shared_traces")

DAY, NEXT = date(2026, 7, 1), date(2026, 7, 2)

CHANGES = ((StoreFolder, "upload"), (Folder, "remove"))


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    """The server's address, and an environment by which Arrow and delta-rs find it."""
    with s3_server() as url:
        yield url


@pytest.fixture
def bucket(endpoint: str, request: pytest.FixtureRequest) -> str:
    """The URI of a new bucket."""
    return new_bucket(endpoint, f"bucket-{abs(hash(request.node.nodeid))}")


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scorer, "PART_USERS", 16)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_sequences(tmp_path / "s.parquet", random_histories(70))


def store(uri: str) -> StoreFolder:
    folder = open_folder(uri)
    assert isinstance(folder, StoreFolder)
    return folder


def contents(uri: str) -> dict[str, bytes]:
    folder = store(uri)
    return {name: folder.read(name) for name in folder.names()}


def call(*arguments: Any) -> Result:
    return CliRunner().invoke(app, [*map(str, arguments), "--provider", "cpu"])


def assert_error(result: Result, exit_code: int, *messages: str) -> None:
    assert result.exit_code == exit_code, result.output
    assert len(result.stderr.splitlines()) == 1
    assert result.stdout == ""
    for message in messages:
        assert message in result.stderr


# --- the output


@pytest.mark.usefixtures("small_parts")
def test_a_store_gets_the_table_of_a_disk(
    tiny_bundle: Bundle, source: Path, bucket: str, tmp_path: Path
) -> None:
    local = run(source, tiny_bundle, tmp_path / "out")
    stored = run(source, tiny_bundle, f"{bucket}/a/out")

    assert rows(f"{bucket}/a/out") == rows(tmp_path / "out")
    assert store(f"{bucket}/a/out").names() == {path.name for path in (tmp_path / "out").iterdir()}
    assert stored.folder == f"{bucket}/a/out"
    assert (stored.n_users, stored.n_rows) == (local.n_users, local.n_rows)
    before = contents(f"{bucket}/a/out")
    run(source, tiny_bundle, f"{bucket}/a/out", resume=True)
    assert contents(f"{bucket}/a/out") == before
    with pytest.raises(ConfigError, match=r"not empty.*--overwrite"):
        run(source, tiny_bundle, f"{bucket}/a/out")
    run(source, tiny_bundle, f"{bucket}/a/out", top_k=2, overwrite=True)
    assert all(len(mine) == 2 for mine in rows(f"{bucket}/a/out").values())
    store(f"{bucket}/a/out").put_text("theirs.parquet", "theirs")
    with pytest.raises(ConfigError, match=r"did not write.*theirs\.parquet"):
        run(source, tiny_bundle, f"{bucket}/a/out", overwrite=True)
    assert store(f"{bucket}/a/out").read("theirs.parquet") == b"theirs"


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize(
    ("parts", "when"),
    [
        (0, "write"),
        pytest.param(2, "write", marks=pytest.mark.slow),
        pytest.param(0, "_record", marks=pytest.mark.slow),
        (3, "_record"),
    ],
)
def test_a_killed_run_is_resumed(
    tiny_bundle: Bundle, source: Path, bucket: str, tmp_path: Path, parts: int, when: str
) -> None:
    run(source, tiny_bundle, tmp_path / "whole")
    out = f"{bucket}/out"
    with pytest.MonkeyPatch.context() as monkeypatch:
        kill_after(monkeypatch, parts, when=when)  # `_record`: the part is there, and not entered
        with pytest.raises(Killed):
            run(source, tiny_bundle, out)
    names = store(out).names()
    if names:
        manifest = json.loads(store(out).read("_manifest.json"))
        assert not manifest["complete"]
        assert len(manifest["parts"]) == parts
        assert len(names) == 1 + parts + (when == "_record")
    kept = {name: store(out).read(name) for name in sorted(names) if name.startswith("part")}

    run(source, tiny_bundle, out, resume=True)

    assert rows(out) == rows(tmp_path / "whole")
    assert {name: store(out).read(name) for name in kept} == kept
    assert len(store(out).names()) == 6
    assert json.loads(store(out).read("_manifest.json"))["complete"]


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("flag", ["resume", "overwrite"])
@pytest.mark.parametrize(
    "steps",  # of two manifests, six removals, a part and its manifest
    [(1, 9), pytest.param(range(1, 10), marks=pytest.mark.slow)],
    ids=["some", "all"],
)
def test_whatever_moment_replacing_is_killed_at_the_folder_stays_our_own(
    tiny_bundle: Bundle, source: Path, bucket: str, tmp_path: Path, flag: str,
    steps: Sequence[int],
) -> None:  # fmt: skip
    settings = {"top_k": 5 if flag == "resume" else 4}
    run(source, tiny_bundle, tmp_path / "whole", **settings)
    for step in steps:
        out = f"{bucket}/{step}"
        run(source, tiny_bundle, out)
        store(out).put_text("part-00000.parquet", "")
        with pytest.MonkeyPatch.context() as monkeypatch:
            kill_at(monkeypatch, step, CHANGES)
            with pytest.raises(Killed):
                run(source, tiny_bundle, out, **settings, **{flag: True})
        assert json.loads(store(out).read("_manifest.json"))["complete"] is False

        run(source, tiny_bundle, out, **settings, **{flag: True})

        assert rows(out) == rows(tmp_path / "whole")
        assert len(store(out).names()) == 6


@pytest.mark.usefixtures("small_parts")
def test_a_network_that_fails_on_the_way_is_reported_and_the_run_resumed(
    tiny_bundle: Bundle, source: Path, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = StoreFolder.upload
    left = iter(range(4))

    def fail(*args: Any) -> None:
        if next(left, None) is None:
            raise OSError("AWS Error NETWORK_CONNECTION\nduring UploadPart")
        original(*args)

    monkeypatch.setattr(StoreFolder, "upload", fail)
    with pytest.raises(PublishError, match=r"NETWORK_CONNECTION during.*--resume") as refusal:
        run(source, tiny_bundle, f"{bucket}/out")
    assert "\n" not in str(refusal.value)
    monkeypatch.setattr(StoreFolder, "upload", original)
    assert run(source, tiny_bundle, f"{bucket}/out", resume=True).n_users == 70


def test_an_output_that_overlaps_an_input_is_refused(tiny_bundle: Bundle, bucket: str) -> None:
    log = pa.table({"user_id": ["u"], "item_id": ["item1"], "timestamp": [START]})
    folder = store(f"{bucket}/logs")
    pq.write_table(log, folder.path("dt=1/a.parquet"), filesystem=folder.filesystem)
    pq.write_table(log, folder.path("dt=1/ids.parquet"), filesystem=folder.filesystem)
    one = f"{bucket}/logs/dt=1/a.parquet"
    with pytest.raises(ConfigError, match="the output folder holds an input"):
        run(f"{bucket}/logs", tiny_bundle, f"{bucket}/logs")
    with pytest.raises(ConfigError, match="the output folder holds an input"):
        run(one, tiny_bundle, bucket)
    with pytest.raises(ConfigError, match="lies in an input"):
        run(f"{bucket}/logs", tiny_bundle, f"{bucket}/logs/out")
    with pytest.raises(ConfigError, match="lies in an input"):
        run(f"{bucket}/logs/*", tiny_bundle, f"{bucket}/logs/out")
    assert run(one, tiny_bundle, f"{bucket}/logs/out").n_users == 1


def test_an_output_in_the_bundle_is_refused(tiny_bundle: Bundle, source: Path, bucket: str) -> None:
    model = f"{bucket}/models/m"
    upload_bundle(tiny_bundle, store(model))
    before = contents(model)
    refused = call(source, "--model", model, "--output", f"{model}/out")
    assert_error(refused, 2, f"{model}/out: the output folder lies in the bundle")
    assert contents(model) == before


# --- errors


def test_what_is_not_there_gives_one_line(
    tiny_bundle: Bundle, source: Path, bucket: str, tmp_path: Path
) -> None:
    good, out = tiny_bundle.path, tmp_path / "out"
    nowhere = "s3://no-such-bucket/x"
    no_bucket = "no bucket no-such-bucket"
    assert_error(call(source, "--model", good, "--output", nowhere), 1, nowhere, no_bucket)
    assert_error(call(nowhere, "--model", good, "--output", out), 2, nowhere, "no such file")
    assert_error(call(f"{bucket}/x", "--model", good, "--output", out), 2, f"{bucket}/x: no such")
    for model in (nowhere, f"{bucket}/x"):
        assert_error(call(source, "--model", model, "--output", out), 2, f"{model}: not a bundle")
    for flag in ("--allow", "--deny", "--users"):
        result = call(source, "--model", good, "--output", out, flag, f"{bucket}/x")
        assert_error(result, 2, f"{bucket}/x: cannot be read; expected", "; found No such file or")
    for unusable in ("s3:///x", "s3:/bucket/x", f"{bucket}/a b", "abfs://container/x"):
        result = call(source, "--model", good, "--output", unusable)
        assert_error(result, 2, f"{unusable}: not a folder's URI; expected a path, s3://")
    store(bucket).put_text("object", "no folder")
    result = call(source, "--model", good, "--output", f"{bucket}/object")
    assert_error(result, 2, f"{bucket}/object: the output must be a folder; found a file")
    assert not out.exists()


class Refusal(BaseHTTPRequestHandler):
    """What S3 answers to a request that is not signed."""

    signed: ClassVar[list[bool]] = []

    def do_GET(self) -> None:
        self.signed.append("Authorization" in self.headers)
        self.send_error(403)

    do_HEAD = do_PUT = do_GET

    def log_message(self, *_: Any) -> None:
        pass


def test_missing_credentials_give_one_line(
    tiny_bundle: Bundle, source: Path, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, str(source.with_name("none")))
    out = f"{bucket}/out"
    with ThreadingHTTPServer(("127.0.0.1", 0), Refusal) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            results = [
                call(source, "--model", tiny_bundle.path, "--output", out),
                call(out, "--model", tiny_bundle.path, "--output", source.with_name("out")),
                call(source, "--model", out, "--output", source.with_name("out")),
            ]
        finally:
            server.shutdown()
            thread.join()
    assert_error(results[0], 1, f"{out}: cannot be read or written", "ACCESS_DENIED", "credentials")
    assert_error(results[1], 2, f"{out}: cannot be listed", "ACCESS_DENIED")
    assert_error(results[2], 1, f"{out}: cannot be read or written", "ACCESS_DENIED")
    assert Refusal.signed
    assert not any(Refusal.signed)


def test_a_network_that_is_down_gives_one_line(
    tiny_bundle: Bundle, source: Path, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as taken:  # bound, but nobody listens
        taken.bind(("127.0.0.1", 0))
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{taken.getsockname()[1]}")
        result = call(source, "--model", tiny_bundle.path, "--output", f"{bucket}/out")
    assert_error(result, 1, f"{bucket}/out: cannot be read or written", "NETWORK_CONNECTION")


# --- everything from a store to a store, without torch


def test_logs_bundle_lists_and_output_may_all_be_in_a_store(
    tiny_bundle: Bundle, bucket: str, tmp_path: Path
) -> None:
    history = random_histories(30)
    log = write_log(tmp_path / "a.parquet", events(history))
    store(f"{bucket}/logs/dt=1").upload(log, "a.parquet")
    upload_bundle(tiny_bundle, open_folder(f"{bucket}/models/tiny-1"))
    store(bucket).put_text("users.txt", "user003\nuser011\n")
    pq.write_table(pa.table({"item_id": ["item1", "item7"]}), tmp_path / "deny.parquet")
    store(bucket).upload(tmp_path / "deny.parquet", "deny.parquet")
    (tmp_path / "users.txt").write_text("user003\nuser011\n")
    local = {"deny": tmp_path / "deny.parquet", "users": tmp_path / "users.txt"}
    run(log, tiny_bundle, tmp_path / "local", top_k=10, **local)

    blocked = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        heavy = ("torch", "lightning", "prefect", "deltalake", "safetensors", "onnx", "boto3")
        if name.split(".")[0] in heavy:
            raise ImportError(f"{name} must not be imported by the scoring path")
sys.meta_path.insert(0, Blocked())
from pipeline.scoring.cli import app
app()
"""
    command = [sys.executable, "-c", blocked, f"{bucket}/logs/*/a.parquet"]
    command += [f"--model={bucket}/models/tiny-1", f"--output={bucket}/out", "--provider=cpu"]
    command += [f"--deny={bucket}/deny.parquet", f"--users={bucket}/users.txt"]
    command += ["--run-date=2026-11-20"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    assert all(line.startswith("scoring: ") for line in done.stderr.splitlines()), done.stderr
    assert f"20 rows in {bucket}/out" in done.stdout
    assert rows(f"{bucket}/out") == rows(tmp_path / "local")
    assert set(rows(f"{bucket}/out")) == {"user003", "user011"}
    store(bucket).put_text("users.txt", "user003\nuser012\n")
    command.append("--resume")
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "users.txt is not what it was" in done.stderr


# --- bundles


def test_a_bundle_is_one_only_when_all_of_it_is_there(
    tiny_bundle: Bundle, make_bundle: Callable[..., Bundle], bucket: str, tmp_path: Path
) -> None:
    folder = store(f"{bucket}/models/tiny")
    for uploads in range(len(tiny_bundle.description.files) + 1):
        with pytest.MonkeyPatch.context() as monkeypatch:
            kill_at(monkeypatch, uploads, CHANGES)
            with pytest.raises(Killed):
                upload_bundle(tiny_bundle, folder)
        with pytest.raises(BundleError, match="not a bundle"), opened_bundle(folder.where):
            pass
    upload_bundle(tiny_bundle, folder)
    upload_bundle(tiny_bundle, folder)
    download_bundle(folder, tmp_path / "models" / "copy")
    assert [path.name for path in (tmp_path / "models").iterdir()] == ["copy"]
    assert Bundle.load(tmp_path / "models" / "copy").description == tiny_bundle.description

    (tmp_path / "models" / "copy" / "items.bin").write_bytes(b"spoilt")
    download_bundle(folder, tmp_path / "models" / "copy")
    assert [path.name for path in (tmp_path / "models").iterdir()] == ["copy"]
    assert Bundle.load(tmp_path / "models" / "copy").description == tiny_bundle.description

    other = make_bundle(tmp_path / "other", popularity=[1] * 40)
    with pytest.raises(BundleError, match=f"{folder.where}/items.parquet: another bundle"):
        upload_bundle(other, folder)
    folder.put_text("items.bin", "spoilt")
    with (
        pytest.raises(BundleError, match=f"^{folder.where}/items.bin: wrong checksum"),
        opened_bundle(folder.where),
    ):
        pass
    with pytest.raises(BundleError, match="wrong checksum"):
        download_bundle(folder, tmp_path / "models" / "spoilt")
    folder.remove("items.bin")
    with pytest.raises(BundleError, match=f"^{folder.where}/items.bin: a file"):
        download_bundle(folder, tmp_path / "models" / "spoilt")
    assert [path.name for path in (tmp_path / "models").iterdir()] == ["copy"]


# --- the warehouse


def write_logs(folder: Path) -> None:
    """Forty users walk round fifteen items until June 30."""
    folder.mkdir()
    user, step = np.divmod(np.arange(40 * 8), 8)
    end = datetime(2026, 6, 30, 12, tzinfo=UTC)
    times = [end - timedelta(hours=int(8 - s)) for s in step]
    items = [f"item-{(u * 3 + s) % 15:02d}" for u, s in zip(user, step, strict=True)]
    log = pa.table({"user_id": user, "item_id": items, "timestamp": times})
    pq.write_table(log, folder / "a.parquet")


def settings_of(bucket: str, work_dir: Path, logs: str) -> Settings:
    small = {"hidden_size": 8, "inner_size": 8, "n_layers": 1, "MAX_ITEM_LIST_LENGTH": 6}
    return Settings.model_validate(
        {
            "warehouse": f"{bucket}/warehouse",
            "work_dir": work_dir,
            "logs": {"path": logs},
            "model": {**small, "contrast": "none"},
            "evaluate": {"topk": [10], "bootstrap": 0},
            "train": {"epochs": 1, "accelerator": "cpu"},
            "export": {"max_near_ties": 1.0},
            "score": {"top_k": 4, "provider": "cpu"},
        }
    )


def test_local_copies_of_models_that_another_machine_removed_go(
    bucket: str, tmp_path: Path
) -> None:
    settings = settings_of(bucket, tmp_path, f"{bucket}/logs")
    copies = {name: settings.work_dir / "models" / name for name in ("there", "gone", "new")}
    for path in copies.values():
        path.mkdir(parents=True)
        (path / "items.bin").write_bytes(b"x" * 100)
    for name in ("there", "gone"):
        os.utime(copies[name], (0, 0))
    models = f"{bucket}/warehouse/models/there"
    store(models).upload(copies["there"] / "items.bin", "items.bin")
    assert clean(settings, dry_run=True).bytes == 100
    assert clean(settings).bytes == 100
    assert [name for name, path in copies.items() if path.exists()] == ["there", "new"]


@pytest.mark.slow
def test_nights_need_no_more_than_the_warehouse(bucket: str, tmp_path: Path) -> None:
    from pipeline.runner.nightly import nightly

    write_logs(tmp_path / "logs")
    store(f"{bucket}/logs").upload(tmp_path / "logs" / "a.parquet", "a.parquet")
    here = settings_of(bucket, tmp_path / "here", f"{bucket}/logs")
    elsewhere = settings_of(bucket, tmp_path / "elsewhere", f"{bucket}/logs")

    first = nightly(here, DAY)
    exported = first.results[Export].result
    models = store(f"{bucket}/warehouse/models")
    assert models.names() == {CHAMPION, exported.model_version}
    stored = contents(f"{models.where}/{exported.model_version}")
    assert stored == {path.name: path.read_bytes() for path in exported.bundle.iterdir()}
    assert first.results[Publish].result.table == f"{bucket}/warehouse/recommendations"

    again = nightly(here, DAY)
    assert all(record.reused for record in again.results.records)
    assert again.results[Publish].result == first.results[Publish].result

    second = nightly(elsewhere, NEXT)  # another machine, which knows the warehouse alone
    assert second.results[Train].result.parent == exported.model_version
    assert second.results[Ingest].result.added == 0
    champion = json.loads(models.read(CHAMPION))
    assert champion["model_version"] == second.results[Export].result.model_version
    assert [night["model_version"] for night in champion["previous"]] == [exported.model_version]
    for day, night in ((DAY, first), (NEXT, second)):
        found = recommended_to(Warehouse(elsewhere.warehouse), [7], day)
        assert found[0].model_version == night.results[Export].result.model_version
        assert len(found[0].items) == 4
    assert read_champion(here, before=NEXT) == exported.bundle

    export = Export.of(here, locations(here, DAY), first.results)
    assert export.is_intact(exported)
    store(f"{models.where}/{exported.model_version}").remove(DESCRIPTION)
    assert not export.is_intact(exported)  # so it is done again


def test_logs_may_be_text_or_a_delta_table_in_a_store(bucket: str, tmp_path: Path) -> None:
    folder = store(f"{bucket}/text")
    folder.put_text("a.csv", "user_id,item_id,timestamp\n1,x,2026-07-01T10:00:00Z\n1,,\n")
    folder.put_text("b.jsonl", '{"user_id": 2, "item_id": "x", "timestamp": 1782900000}\n')
    with folder.filesystem.open_output_stream(folder.path("c.csv.gz"), compression="gzip") as file:
        file.write(b"user_id,item_id,timestamp\n1,x,2026-07-01T10:00:00Z\n3,x,1782900000\n")
    result = ingest(settings_of(f"{bucket}/1", tmp_path, folder.where), DAY)
    counts = result.files, result.rows, result.added, result.duplicates, result.quarantined
    assert counts == (3, 5, 3, 1, 1)

    table = f"{bucket}/table"
    settings = settings_of(f"{bucket}/2", tmp_path, table)
    for added, user in ((2, [1, 2]), (1, [3])):
        rows = pa.table(
            {"user_id": user, "item_id": ["x"] * added, "timestamp": [1782900000] * added}
        )
        write_deltalake(table, rows, mode="append")
        result = ingest(settings, DAY)
        assert (result.files, result.rows, result.added) == (1, added, added)
    DeltaTable(table).delete("user_id = 2")
    result = ingest(settings, DAY)
    assert (result.added, result.withdrawn) == (0, 1)
    assert ingest(settings, DAY).files == 0


def test_of_two_writers_at_once_one_gets_an_error(bucket: str, tmp_path: Path) -> None:
    settings = settings_of(bucket, tmp_path, "logs")
    batch = pa.table({"a": [1]})
    uri = table_uri(settings, "interactions")
    mine = warehouse.open_or_create_table(uri, batch.schema)
    theirs = warehouse.open_table(uri)
    assert theirs is not None
    warehouse.append(theirs, batch.to_reader())
    with pytest.raises(FearecError, match="another run wrote to the table meanwhile") as refusal:
        warehouse.append(mine, batch.to_reader())
    assert "\n" not in str(refusal.value)
    assert warehouse.dataset_of(theirs).count_rows() == 1


def test_a_warehouse_without_a_bucket_gives_one_line(endpoint: str, tmp_path: Path) -> None:
    from pipeline.runner.nightly import nightly

    write_logs(tmp_path / "logs")
    settings = settings_of("s3://no-such-bucket", tmp_path / "work", str(tmp_path / "logs"))
    with pytest.raises(FearecError, match="there is no bucket no-such-bucket") as refusal:
        nightly(settings, DAY)
    assert "\n" not in str(refusal.value)
    assert "\x1b" not in str(refusal.value)
    assert refusal.value.exit_code == 1
