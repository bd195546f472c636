"""URIs with keys are refused everywhere, and no message shows the keys."""

import re
from pathlib import Path
from typing import Any

import pytest

from pipeline.config.settings import load_settings
from pipeline.errors import ConfigError
from pipeline.logs.id_lists import id_list_hash
from pipeline.logs.items_table import items_table_hash, read_items_table
from pipeline.logs.log_files import list_log_files
from pipeline.storage.content_hash import content_hash
from pipeline.storage.credentials import check_no_credentials, masked
from pipeline.storage.folders import open_folder
from pipeline.storage.locations import Warehouse

URIS = [
    "s3://user:SECRET@bucket/folder",
    "s3://user:SEC/RET+x@bucket/folder",
    "s3a://user@bucket/folder",
    "S3://:SECRET@bucket/folder",
    "abfs://container:SECRET@account.dfs.core.windows.net/folder",
    "gs://bucket/folder?access_token=SECRET",
    "abfss://container@account/folder?sv=1&sig=SECRET&se=2&AccountKey=user",
    "http://user:SECRET@host:9000/bucket",
]
HARMLESS = [
    "s3://bucket/folder",
    "s3://bucket/a:b@c.parquet",
    "gs://anonymous@bucket/folder",
    "abfs://container@account.dfs.core.windows.net/folder",
    "http://host:9000/a@b",
    "s3://bucket/folder?region=eu-central-1&scheme=https",
    "folder/KEY:SECRET@file",
]


@pytest.mark.parametrize("uri", URIS)
def test_a_key_in_a_uri_is_refused_wherever_a_uri_is_taken_and_not_shown(uri: str) -> None:
    takers: list[Any] = [
        open_folder,
        Warehouse,
        list_log_files,
        content_hash,
        id_list_hash,
        items_table_hash,
        read_items_table,
        check_no_credentials,
        *(
            lambda uri, name=name: load_settings(None, [f'{name}="{uri}"'])
            for name in (
                "warehouse",
                "logs.path",
                "items.path",
                "score.deny",
                "score.allow",
                "work_dir",
            )
        ),
    ]
    for take in takers:
        with pytest.raises(ConfigError, match="environment: AWS_ACCESS_KEY_ID") as refusal:
            take(uri)
        assert not {"user", "SECRET", "SEC/"} & {*re.split(r"[:@=&]", str(refusal.value))}
        assert "***" in str(refusal.value)
        assert "SEC/" not in str(refusal.value)


@pytest.mark.parametrize("uri", HARMLESS)
def test_a_uri_without_keys_is_left_alone(uri: str) -> None:
    assert masked(uri) == uri
    check_no_credentials(uri)


def test_keys_are_masked_inside_of_a_message() -> None:
    text = "cannot open 's3://K:S@b/x' or abfs://c@a/y?sig=S&x=1; user a:b@c"
    assert masked(text) == "cannot open 's3://***@b/x' or abfs://c@a/y?sig=***&x=1; user a:b@c"


def test_a_key_from_the_environment_or_a_file_is_refused_too(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "fearec.toml").write_text('[logs]\npath = "s3://KEY:SECRET@bucket"\n')
    with pytest.raises(ConfigError, match=r"logs\.path: a key in a URI.*found s3://\*\*\*@bucket"):
        load_settings(tmp_path / "fearec.toml")
    monkeypatch.setenv("FEAREC_WAREHOUSE", "s3://KEY:SECRET@bucket")
    with pytest.raises(ConfigError, match="warehouse: a key in a URI"):
        load_settings()
