"""An S3 server for tests, moto's, in a process of its own, and the environment that names it."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.request import Request, urlopen

import pytest

SERVER = """
import sys
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server
application = DomainDispatcherApplication(create_backend_app)
server = make_server("127.0.0.1", 0, application, threaded=sys.argv[1] == "threaded")
print(server.server_port, flush=True)
server.serve_forever()
"""


def skip_without_server() -> None:
    """Skip a module of tests where the server is not installed."""
    pytest.importorskip("moto", reason="the S3 server of the tests, moto, is not installed")
    pytest.importorskip("flask_cors", reason="moto's server needs it")


@contextmanager
def s3_server(*, threaded: bool = True) -> Iterator[str]:
    """The server's address, and an environment by which Arrow, delta-rs and obstore find it.

    Where writers race, requests are to be served one by one: unlike S3, moto checks the condition
    of a put and writes in two steps.
    """
    with (
        pytest.MonkeyPatch.context() as patch,
        # Not a thread of ours: delta-rs holds the interpreter while it waits for an answer.
        subprocess.Popen(
            [sys.executable, "-c", SERVER, "threaded" if threaded else "one by one"],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        ) as server,
    ):
        assert server.stdout is not None
        url = f"http://127.0.0.1:{server.stdout.readline().strip()}"
        patch.setenv("AWS_ENDPOINT_URL", url)
        patch.setenv("AWS_ALLOW_HTTP", "true")
        patch.setenv("AWS_ACCESS_KEY_ID", "key")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        try:
            yield url
        finally:
            server.kill()


def new_bucket(endpoint: str, name: str) -> str:
    """The URI of a new bucket."""
    urlopen(Request(f"{endpoint}/{name}", method="PUT")).close()
    return f"s3://{name}"
