"""One Prefect server for all tests of flows, as starting one takes half a minute of a core."""

from collections.abc import Iterator

import pytest

from tests.helpers.tiny_night import prefect_server


@pytest.fixture(scope="session")
def prefect(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A temporary server; `tests/conftest.py` gives the modules that use it to one process."""
    with prefect_server(tmp_path_factory.mktemp("prefect")):
        yield
