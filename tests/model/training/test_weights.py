"""A night's training begins from the night before."""

from pathlib import Path
from typing import Any

import pytest
import torch

from model.config import FEARecConfig, TrainingConfig
from model.errors import ConfigError
from model.network.fearec import FEARec
from model.training.histories import EventHistories
from model.training.task import TrainingTask
from model.training.trainer import fit
from model.training.weights import ITEM_TABLE, load_network, save_weights, warm_start

SMALL: dict[str, Any] = {
    "MAX_ITEM_LIST_LENGTH": 10,
    "hidden_size": 16,
    "inner_size": 32,
    "hidden_dropout_prob": 0.1,
    "attn_dropout_prob": 0.1,
}


def config(n_items: int, **changes: Any) -> FEARecConfig:
    return FEARecConfig.from_preset("paper", n_items=n_items, **{**SMALL, **changes})


def yesterday(n_items: int = 20) -> FEARec:
    torch.manual_seed(99)
    return FEARec(config(n_items)).eval()


def test_weights_come_back_from_the_disk(tmp_path: Path) -> None:
    network = yesterday()
    save_weights(network, tmp_path / "model.safetensors")
    loaded = load_network(config(20), tmp_path / "model.safetensors")
    assert not loaded.training
    assert loaded.state_dict().keys() == network.state_dict().keys()
    for name, value in loaded.state_dict().items():
        assert value.equal(network.state_dict()[name])


def test_old_rows_are_copied_and_new_ones_appended() -> None:
    old = yesterday(20).state_dict()
    started = warm_start(config(23), old, seed=5)
    assert started is not None
    table = started.item_embedding.weight
    assert table.shape == (23, 16)
    assert table[:20].equal(old[ITEM_TABLE])
    assert table[20:].abs().sum(1).gt(0).all()
    assert table[20:].std().item() == pytest.approx(0.02, rel=0.5)  # initializer_range
    for name, value in started.state_dict().items():
        if name != ITEM_TABLE:
            assert value.equal(old[name]), name


def test_the_seed_says_what_new_rows_are() -> None:
    old = yesterday(20).state_dict()

    def new_rows(seed: int) -> torch.Tensor:
        started = warm_start(config(23), old, seed)
        assert started is not None
        return started.item_embedding.weight[20:]

    assert new_rows(5).equal(new_rows(5))
    assert not new_rows(5).equal(new_rows(6))


def test_the_start_does_not_share_memory_with_yesterday() -> None:
    old = yesterday().state_dict()
    before = old[ITEM_TABLE].clone()
    started = warm_start(config(20), old, seed=1)
    assert started is not None
    with torch.no_grad():
        started.item_embedding.weight.add_(1)
    assert old[ITEM_TABLE].equal(before)


@pytest.mark.parametrize(
    "changes",
    [{"hidden_size": 32}, {"inner_size": 64}, {"n_layers": 3}, {"n_layers": 1},
     {"MAX_ITEM_LIST_LENGTH": 12}],
)  # fmt: skip
def test_another_architecture_starts_anew(changes: dict[str, Any]) -> None:
    assert warm_start(config(23, **changes), yesterday(20).state_dict(), seed=5) is None


def test_a_vocabulary_that_shrank_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"at most 19 rows.*20 rows.*warm_start = false"):
        warm_start(config(19), yesterday(20).state_dict(), seed=5)


def cycle(
    catalogue: int, users: int, seed: int
) -> tuple[EventHistories, torch.Tensor, torch.Tensor]:
    """Users going i -> i + 1 through a catalogue; training and validation positions."""
    events = 11
    start = torch.randint(0, catalogue, (users, 1), generator=torch.Generator().manual_seed(seed))
    items = 1 + (start + torch.arange(events)) % catalogue
    histories = EventHistories(items.flatten().int(), torch.arange(0, users * events + 1, events))
    order = torch.arange(users * events)
    place = order % events
    return histories, order[(place > 0) & (place < events - 1)], order[place == events - 1]


def ndcg_by_epoch(folder: Path, start: FEARec | None, catalogue: int, seed: int) -> list[float]:
    histories, train, valid = cycle(catalogue, users=50, seed=seed)
    training = TrainingConfig(
        epochs=14, stopping_step=14, train_batch_size=64, learning_rate=5e-3, accelerator="cpu"
    )
    task = TrainingTask(
        config(catalogue + 1), training, histories, train, valid, start=start, mask_seen=False
    )
    fit(task, folder, progress=False)
    (log,) = folder.rglob("metrics.csv")
    header, *rows = log.read_text().splitlines()
    values = [row.split(",")[header.split(",").index("NDCG@10")] for row in rows]
    return [float(value) for value in values if value]


def test_the_next_day_needs_fewer_epochs_to_the_same_ndcg(tmp_path: Path) -> None:
    ndcg_by_epoch(tmp_path / "monday", None, catalogue=40, seed=0)
    state = torch.load(tmp_path / "monday" / "best.ckpt", weights_only=True)["state_dict"]
    monday = {name.removeprefix("network."): value for name, value in state.items()}

    # Tuesday: other sequences, and an item that nobody has seen.
    cold = ndcg_by_epoch(tmp_path / "cold", None, catalogue=41, seed=1)
    start = warm_start(config(42), monday, seed=2020)
    warm = ndcg_by_epoch(tmp_path / "warm", start, catalogue=41, seed=1)
    target = 0.98 * max(cold)
    epochs = [next(i for i, ndcg in enumerate(run, 1) if ndcg >= target) for run in (cold, warm)]
    assert target > 0.7
    assert epochs[1] <= epochs[0] / 2
