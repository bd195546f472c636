"""Related items by cosine against a sort of all cosines in float64."""

import math

import numpy as np
import pytest

from pipeline.related import cosine
from pipeline.related.cosine import cosine_neighbours
from pipeline.related.neighbours import Neighbours


def joined(parts: list[Neighbours]) -> dict[int, list[tuple[int, float]]]:
    return {
        int(item): [(int(i), float(s)) for i, s in zip(related, score, strict=True) if i]
        for part in parts
        for item, related, score in zip(
            part.item_index, part.related_index, part.score, strict=True
        )
    }


def brute(
    table: np.ndarray, items: list[int], n: int, offered: list[int]
) -> dict[int, list[tuple[int, float]]]:
    vectors = {i: table[i].astype(np.float64) for i in items if table[i].any()}
    norm = {i: math.sqrt(float((v * v).sum())) for i, v in vectors.items()}
    found = {}
    for item, one in vectors.items():
        scores = [
            (float(np.float32(float((one * other).sum()) / (norm[item] * norm[i]))), i)
            for i, other in vectors.items()
            if i != item and i in offered
        ]
        found[item] = [(i, s) for s, i in sorted(scores, key=lambda pair: (-pair[0], pair[1]))[:n]]
    return found


@pytest.mark.parametrize(("rows", "tile"), [(256, 2**21), (7, 7 * 13), (16, 16 * 640)])
@pytest.mark.parametrize("n", [1, 6, 200])
@pytest.mark.parametrize("share", [None, 0.4, 0.0])
def test_it_is_the_sort_of_all_that_are_offered(
    rows: int, tile: int, n: int, share: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cosine, "_ROWS", rows)
    monkeypatch.setattr(cosine, "TILE", tile)
    rng = np.random.default_rng(11)
    # Equal rows, and rows of another length in the same direction: ties.
    table = rng.normal(size=(40, 16)).astype(np.float32)[rng.integers(0, 40, 150)]
    table *= np.float32(2.0) ** rng.integers(-2, 3, (150, 1)).astype(np.float32)
    table[17] = 0
    untrained = {0, 5, 99, 149}
    items = [i for i in range(150) if i not in untrained]
    offered = items if share is None else [i for i in items if rng.random() < share]
    given = None if share is None else np.array(offered, np.int64)
    found = joined(list(cosine_neighbours(table, np.array(items), n, given)))
    expected = brute(table, items, n, offered)
    assert found == expected
    assert 17 not in found
    assert not any(item == i for item, related in found.items() for i, _ in related)


def test_a_single_item_has_no_neighbour() -> None:
    (part,) = cosine_neighbours(np.ones((3, 4), np.float32), np.array([2]), 5)
    assert part.item_index.tolist() == [2]
    assert part.related_index.tolist() == [[0] * 5]
