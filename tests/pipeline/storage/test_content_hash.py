import hashlib
from pathlib import Path

import pytest

from pipeline.storage.content_hash import content_hash


@pytest.mark.parametrize("content", [b"", b"item1\n", bytes(3 * 2**20)])
def test_it_is_the_sha256_of_the_content_by_path_and_by_uri(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a file"
    path.write_bytes(content)
    expected = hashlib.sha256(content).hexdigest()
    assert content_hash(path) == content_hash(str(path)) == content_hash(path.as_uri()) == expected


def test_a_missing_file_is_an_os_error(tmp_path: Path) -> None:
    for path in (tmp_path / "none", (tmp_path / "none").as_uri(), ""):
        with pytest.raises(OSError, match=r"(?i)no such file|directory"):
            content_hash(path)
