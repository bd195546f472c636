"""Damage of files: what disks, full ones, crashes and people do to them."""

from collections.abc import Callable
from pathlib import Path
from random import Random


def flipped(content: bytes, chance: Random, most: int = 8) -> bytes:
    """A content with one to `most` bits flipped."""
    changed = bytearray(content)
    for _ in range(chance.randint(1, most) if content else 0):
        changed[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    return bytes(changed)


def _zeros(content: bytes, chance: Random) -> bytes:
    """A block of the disk that was never written."""
    begin = chance.randrange(len(content) or 1)
    end = min(len(content), begin + chance.choice((16, 512, 4096)))
    return content[:begin] + bytes(end - begin) + content[end:]


def _changed(change: Callable[[bytes, Random], bytes]) -> Callable[[Path, Random], None]:
    def damage(path: Path, chance: Random) -> None:
        path.write_bytes(change(path.read_bytes(), chance))

    return damage


def _replaced_by_folder(path: Path, chance: Random) -> None:
    path.unlink()
    path.mkdir()


# Each changes one file, which exists and is not empty.
DAMAGES: dict[str, Callable[[Path, Random], None]] = {
    "empty": _changed(lambda content, _: b""),
    "cut in half": _changed(lambda content, _: content[: len(content) // 2]),
    "cut short": _changed(lambda content, chance: content[: chance.randrange(len(content))]),
    "random bytes": _changed(lambda content, chance: chance.randbytes(len(content))),
    "flipped bits": _changed(flipped),
    "zeros": _changed(_zeros),
    "longer": _changed(lambda content, chance: content + chance.randbytes(chance.randint(1, 99))),
    "removed": lambda path, _: path.unlink(),
    "a folder": _replaced_by_folder,
}
