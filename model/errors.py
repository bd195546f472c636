"""The root of fearec's errors, and the errors that the model itself raises."""

_LONGEST = 400  # characters of what an error quotes


class FearecError(Exception):
    """An error with a one-line message: what, where, expected, found, remedy.

    ``args`` holds every part, so errors pickle across processes.

    Args:
        what: The failure, in a few words.
        where: The path, column, row or setting concerned.
        expected: The value or state that would have been right.
        found: The value or state found instead.
        remedy: What the reader can do about it.
    """

    exit_code = 1  # 2 in the classes for bad input or configuration

    def __init__(
        self, what: str, where: str = "", expected: str = "", found: str = "", remedy: str = ""
    ) -> None:
        super().__init__(what, where, expected, found, remedy)
        self.what = what
        self.where = where
        self.expected = expected
        self.found = found
        self.remedy = remedy

    def __str__(self) -> str:
        what, where, expected, found = map(_shortened, self.args[:4])
        line = f"{where}: {what}" if where else what
        if expected:
            line += f"; expected {expected}"
        if found:
            line += f"; found {found}"
        if self.remedy:
            line = f"{line.removesuffix('.')}. {self.remedy}"
        return " ".join(line.splitlines())


def _shortened(part: str) -> str:
    """A part of an error without its middle, where it is too long to be read."""
    return part if len(part) <= _LONGEST else f"{part[: _LONGEST // 2]} ... {part[-20:]}"


class ConfigError(FearecError):
    """A setting, flag or hyper-parameter is unknown, impossible or contradicts another."""

    exit_code = 2


class UnfitModelError(FearecError):
    """A model that must not be published; a run goes on with the champion."""


class DivergenceError(UnfitModelError):
    """Training has left the finite numbers."""


class ExportParityError(UnfitModelError):
    """The exported graph does not compute what the PyTorch model computes."""
