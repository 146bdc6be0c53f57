"""What a task may leave out."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from dallemini.training import Task


class Least(Task):
    """A task with no more than it must have."""

    def __init__(self) -> None:
        self.net = nn.Linear(2, 2)

    @property
    def module(self) -> nn.Module:
        return self.net

    def losses(self, index: int) -> dict[str, Tensor]:
        return {"loss": self.net.weight.sum()}


def test_a_task_measures_draws_and_splits_nothing_unless_it_says_so() -> None:
    task = Least()
    assert task.evaluate(1) == {}
    assert task.pictures(1) == {}
    assert tuple(task.blocks) == ()
    assert task.can_split is False
    assert task.device == torch.device("cpu")


def test_a_task_has_a_module_and_losses() -> None:
    with pytest.raises(TypeError, match="abstract"):
        Task()  # type: ignore[abstract]
