"""Keys in URIs: refused, because a URI is printed and stored; masked in whatever is printed."""

import re
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from pipeline.errors import ConfigError

# One slash, too: a `Path` of a URI has lost the other.
_URI = re.compile(r"\b[A-Za-z][\w+.-]+:/{1,2}[^\s'\"]+")
# KEY:SECRET@ behind a scheme; a secret may hold slashes. A port (host:9000/) is no secret.
_PASSWORD = re.compile(r"((?:^[\w+.-]+:/{1,2})|://)[^/@]*:(?!\d+(?:/|$))[^@]*(?=@)")
# A user of s3 is an access key; gs://anonymous@bucket and abfs://container@account have no key.
_S3_USER = re.compile(r"^(s3a?:/{1,2})[^/@]+(?=@)", re.IGNORECASE)
_PARAMETER = re.compile(
    r"([?&][\w-]*(?:key|secret|token|password|signature|sig|credential)[\w-]*=)[^&]+",
    re.IGNORECASE,
)


def masked(text: str) -> str:
    """A text in which the keys of all URIs are replaced by ``***``."""
    return _URI.sub(_masked_uri, text) if ":/" in text else text


def _masked_uri(found: re.Match[str]) -> str:
    uri = found[0]
    for pattern in (_PASSWORD, _S3_USER, _PARAMETER):
        uri = pattern.sub(r"\1***", uri)
    return uri


def check_no_credentials(path: str, where: str = "") -> None:
    """Check that a path or URI holds no key.

    Args:
        path: A local path, or a URI.
        where: The setting, for the error; default the URI, masked.

    Raises:
        ConfigError: it does.
    """
    safe = masked(path)
    if safe != path:
        raise ConfigError(
            "a key in a URI would be printed and stored with the results",
            where or safe,
            expected="a URI without keys, such as s3://bucket/folder",
            found=safe if where else "",
            remedy="Set it in the environment: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, "
            "GOOGLE_APPLICATION_CREDENTIALS, or AZURE_STORAGE_ACCOUNT_NAME and "
            "AZURE_STORAGE_ACCOUNT_KEY.",
        )


def check_settings(settings: Mapping[str, Any], section: str = "") -> None:
    """Check that no setting, at any depth, holds a URI with a key.

    Raises:
        ConfigError: one does.
    """
    for name, value in settings.items():
        if isinstance(value, Mapping):
            check_settings(value, f"{section}{name}.")
        elif isinstance(value, str | PurePath):
            check_no_credentials(str(value), f"{section}{name}")
