"""A warning where captions play no part in what a run learns."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from ...sheets import Sheet
from ..callbacks import Callback

_SHARE = 0.01
_logger = logging.getLogger("dallemini.training")


class GapWatch(Callback):
    """Says once, from the middle of a run on, that its text gap is under 1 % of the loss.

    Runs that learnt their captions had 5 to 80 % at their middle; those that drew the same blobs
    for every caption had 0.1 to 0.4 % (docs/finetuning.md).

    Args:
        steps: of the whole run.
        is_lora: whether adapters are trained.
    """

    def __init__(self, *, steps: int, is_lora: bool) -> None:
        self.steps, self.is_lora, self._told = steps, is_lora, False

    def on_evaluation(
        self, step: int, values: Mapping[str, float], pictures: Mapping[str, Sheet]
    ) -> None:
        """Look at the gap."""
        gap, loss = values.get("text_gap"), values.get("train_loss")
        if self._told or gap is None or loss is None or 2 * step < self.steps:
            return
        if gap < _SHARE * loss:
            self._told = True
            what = "train all weights (lora_rank=0)" if self.is_lora else "take more steps"
            _logger.warning(
                "After %d of %d steps captions play no part in what is drawn: text_gap is %.3g, "
                "under 1 %% of train_loss %.3g. %s, and say in each caption what its picture shows "
                "that others do not.",
                step,
                self.steps,
                gap,
                loss,
                what[0].upper() + what[1:],
            )
