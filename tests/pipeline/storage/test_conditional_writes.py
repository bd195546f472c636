"""Conditional writes on a disk and in an S3 store; races of processes are in `test_registry.py`."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.errors import ConflictError, StorageError
from pipeline.storage import conditional_writes
from pipeline.storage.conditional_writes import change_file, read_file
from pipeline.storage.folders import open_folder
from tests.helpers.object_store import new_bucket, s3_server, skip_without_server

skip_without_server()


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    with s3_server(threaded=False) as url:
        yield url


@pytest.fixture(params=["disk", "store"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "disk":
        return str(tmp_path)
    endpoint = request.getfixturevalue("endpoint")
    return new_bucket(endpoint, f"bucket-{abs(hash(request.node.nodeid))}") + "/folder"


def test_a_file_is_made_changed_and_left_alone(root: str) -> None:
    folder = open_folder(root)
    assert read_file(folder, "file") is None
    change_file(folder, "file", lambda now: None if now is None else "never")
    assert read_file(folder, "file") is None
    change_file(folder, "file", lambda now: "first" if now is None else "never")
    change_file(folder, "file", lambda now: f"{now.decode()}, second")
    change_file(folder, "file", lambda now: None)
    assert read_file(folder, "file") == folder.read("file") == b"first, second"
    assert folder.names() == {"file"}


@pytest.mark.parametrize("there", [False, True])
def test_a_change_of_what_another_has_changed_is_decided_again(endpoint: str, there: bool) -> None:
    folder = open_folder(new_bucket(endpoint, f"decided-again-{there}".lower()))
    if there:
        folder.put_text("file", "old")
    seen: list[bytes | None] = []

    def change(now: bytes | None) -> str:
        seen.append(now)
        if len(seen) < 3:
            folder.put_text("file", f"theirs {len(seen)}")
        return "mine"

    change_file(folder, "file", change)
    assert seen == [b"old" if there else None, b"theirs 1", b"theirs 2"]
    assert folder.read("file") == b"mine"


def test_one_who_always_comes_too_late_gives_up_and_changes_nothing(endpoint: str) -> None:
    folder = open_folder(new_bucket(endpoint, "too-late"))
    tries: list[int] = []

    def change(now: bytes | None) -> str:
        tries.append(1)
        folder.put_text("file", f"theirs {len(tries)}")
        return "mine"

    with pytest.raises(ConflictError, match=r"^s3://too-late/file: another process wrote"):
        change_file(folder, "file", change)
    assert folder.read("file") == f"theirs {len(tries)}".encode()


def test_a_lock_that_is_held_for_long_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conditional_writes, "_WAIT", 0.05)
    folder = open_folder(tmp_path)

    def change(now: bytes | None) -> str:
        change_file(folder, "file", lambda _: "another")
        return "mine"

    with pytest.raises(ConflictError, match="another process writes this file"):
        change_file(folder, "file", change)
    assert read_file(folder, "file") is None


def test_a_store_that_fails_is_one_line(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = open_folder(new_bucket(endpoint, "fails"))
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1/nowhere")
    with pytest.raises(StorageError, match=r"^s3://fails/file: cannot be read") as failure:
        read_file(folder, "file")
    assert "\n" not in str(failure.value)


def test_the_keys_of_an_aws_profile_are_found(
    endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    keys = tmp_path / "credentials"
    keys.write_text("[night]\naws_access_key_id = key\naws_secret_access_key = secret\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(keys))
    monkeypatch.setenv("AWS_PROFILE", "night")
    folder = open_folder(new_bucket(endpoint, "profile"))
    change_file(folder, "file", lambda now: "written")
    assert read_file(folder, "file") == b"written"
