"""One Prefect server for all tests of flows, as starting one takes half a minute of a core."""

from contextlib import ExitStack

import pytest

from tests.helpers.tiny_night import SERVED, prefect_server

_SERVER = pytest.StashKey[ExitStack]()


@pytest.fixture(scope="module")
def prefect(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> None:
    """A temporary server; `tests/conftest.py` gives the modules that use it to one process."""
    if _SERVER not in pytestconfig.stash:
        pytestconfig.stash[_SERVER] = ExitStack()
        server = prefect_server(tmp_path_factory.mktemp("prefect"))
        pytestconfig.stash[_SERVER].enter_context(server)


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """End the server after the last of these modules: other tests run without its threads."""
    stash = item.config.stash
    is_last = nextitem is None or not nextitem.path.as_posix().endswith(SERVED)
    if is_last and _SERVER in stash:
        stash[_SERVER].close()
        del stash[_SERVER]
