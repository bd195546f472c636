"""The Lightning module: training step, validation by NDCG@10, optimiser."""

from typing import Any

import lightning
import torch
from torch import Tensor

from model.config import FEARecConfig, TrainingConfig
from model.network.fearec import FEARec
from model.ranking import metrics_at, target_ranks
from model.training.histories import EventHistories
from model.training.losses import training_loss
from model.training.samples import TrainingBatch

MONITOR = "NDCG@10"
_APART = 1_000_003  # between the seeds of two processes: more than epochs, less than 32 bits


class FEARecModule(lightning.LightningModule):
    """A `FEARec` with its training loss, validation metric and optimiser.

    Args:
        config: The network; it is built here, from the training seed.
        training: Settings of the optimiser, and the seed.
        histories: The items that validation positions refer to; None without validation.
        mask_seen: Whether validation leaves out the items that a user has already met.
    """

    def __init__(
        self,
        config: FEARecConfig,
        training: TrainingConfig,
        histories: EventHistories | None = None,
        mask_seen: bool = True,
    ) -> None:
        super().__init__()
        self.training_config = training
        self.histories = histories
        self.mask_seen = mask_seen
        torch.manual_seed(training.seed)
        self.network = FEARec(config)
        self._ranks: list[Tensor] = []

    def on_train_epoch_start(self) -> None:
        """Seed each epoch by its number, so that a resumed run repeats an uninterrupted one.

        Of several processes each has draws of its own: alike, they would drop the same places of
        their shares of a batch.
        """
        seed = self.training_config.seed + 1 + self.current_epoch
        torch.manual_seed(seed + _APART * self.global_rank)

    def training_step(self, batch: TrainingBatch, batch_idx: int) -> Tensor:
        """The loss of one batch."""
        loss = training_loss(
            self.network,
            batch.item_seq,
            batch.item_seq_len,
            batch.item_id,
            neg_item_id=batch.neg_item_id,
            same_target_seq=batch.same_target_seq,
            same_target_len=batch.same_target_len,
            weight=batch.weight,
            sampled=batch.sampled,
        )
        self.log(
            "loss", loss, prog_bar=True, on_step=False, on_epoch=True, batch_size=len(batch[0])
        )
        return loss

    def validation_step(self, positions: Tensor, batch_idx: int) -> None:
        """Collect the ranks of the items at flat `positions`."""
        assert self.histories is not None
        self._ranks.append(rank_positions(self.network, self.histories, positions, self.mask_seen))

    def on_validation_epoch_end(self) -> None:
        """Log NDCG@10 over all ranks."""
        ranks = torch.cat(self._ranks)
        self._ranks.clear()
        self.log(MONITOR, metrics_at(ranks, (10,))[MONITOR], prog_bar=True, sync_dist=True)

    def configure_optimizers(self) -> Any:
        """Adam, as the reference, and its learning-rate schedule, one step per epoch.

        The schedule spans the configured epochs, so a refit, which stops at the best of them, has
        the learning rates of the run that it repeats.
        """
        training: Any = self.training_config
        adam = torch.optim.Adam(
            self.network.parameters(),
            lr=training.learning_rate,
            weight_decay=training.weight_decay,
            fused=True,
        )
        if training.learning_rate_schedule == "constant":
            return adam
        return [adam], [torch.optim.lr_scheduler.CosineAnnealingLR(adam, training.epochs)]


def rank_positions(
    network: FEARec, histories: EventHistories, positions: Tensor, mask_seen: bool
) -> Tensor:
    """The ranks of the items at flat positions int64 (B,): int64 (B,), on the CPU."""
    device = network.item_embedding.weight.device
    positions = positions.cpu()
    item_seq, item_seq_len = histories.windows(positions, network.config.MAX_ITEM_LIST_LENGTH)
    output = network(item_seq.to(device), item_seq_len.to(device))
    scores = (output @ network.item_embedding.weight.T).float()
    seen = histories.seen(positions) if mask_seen else None
    if seen is not None:
        seen = (seen[0].to(device), seen[1].to(device))
    target = histories.items[positions].long().to(device)
    return target_ranks(scores, target, seen).cpu()
