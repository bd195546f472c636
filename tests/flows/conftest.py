"""A Prefect server for the modules whose tests run flows."""

from collections.abc import Iterator

import pytest

from tests.helpers.tiny_night import prefect_server


@pytest.fixture(scope="module")
def prefect(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A temporary server."""
    with prefect_server(tmp_path_factory.mktemp("prefect")):
        yield
