"""The lines that a night prints."""

from types import SimpleNamespace
from typing import Any

import pytest

from flows.console.night import headlines
from pipeline.runner.stages import Evaluate, Export, Publish, Score


@pytest.mark.parametrize(("unknown", "line"), [(3, "3 listed items unknown"), (0, None)])
def test_a_night_says_how_many_listed_items_are_unknown(unknown: int, line: str | None) -> None:
    results = {
        Evaluate: SimpleNamespace(headline=("NDCG@10", 0.2, 0.1), protocol="none"),
        Export: SimpleNamespace(bundle="models/v1"),
        Score: SimpleNamespace(unknown_listed=unknown),
        Publish: SimpleNamespace(table="recommendations", n_rows=2, n_users=1),
    }
    night: Any = SimpleNamespace(
        results={stage: SimpleNamespace(result=result) for stage, result in results.items()}
    )
    printed = [text for text in headlines(night) if "unknown" in text]
    assert printed == ([f"allow and deny files: {line}"] if line else [])
