"""Tests of `dallemini.checkpoints.lazy`."""

from __future__ import annotations

import pytest
import torch

from dallemini.checkpoints.lazy import (
    LazyTensor,
    concatenate,
    convolution,
    scalar,
    squeeze,
    transpose,
)
from dallemini.errors import CheckpointError


def test_operations_tell_the_shape_that_they_make() -> None:
    kernel = torch.randn(3, 2, 4, 5)
    for op, expected in (
        (transpose, kernel.mT),
        (convolution, kernel.permute(3, 2, 0, 1)),
    ):
        changed = LazyTensor.of("kernel", kernel).apply(op)
        assert changed.shape == tuple(expected.shape)
        assert torch.equal(changed.load(), expected)


def test_squeeze_and_scalar_drop_axes() -> None:
    assert LazyTensor.of("norm", torch.ones(1, 1, 1, 4)).apply(squeeze).shape == (4,)
    assert LazyTensor.of("norm", torch.ones(4)).apply(squeeze).shape == (4,)
    assert LazyTensor.of("scale", torch.ones(1)).apply(scalar).load().shape == ()


def test_operation_that_does_not_fit_names_tensor_and_shape() -> None:
    with pytest.raises(CheckpointError, match=r"'bias' has the shape \(4,\)"):
        LazyTensor.of("bias", torch.ones(4)).apply(convolution)


def test_row_uses_the_readers_own_way() -> None:
    loaded = []

    def load_row(index: int) -> torch.Tensor:
        loaded.append(index)
        return torch.full((2,), float(index))

    tensor = LazyTensor("stack", (3, 2), torch.float32, lambda: torch.zeros(3, 2), load_row)
    assert tensor.row(2).load().tolist() == [2.0, 2.0]
    assert loaded == [2]
    assert LazyTensor.of("stack", torch.eye(3)).row(1).load().tolist() == [0.0, 1.0, 0.0]


def test_concatenation_joins_axis_0_in_order() -> None:
    joined = concatenate(
        [LazyTensor.of(name, torch.full((2, 3), value)) for name, value in (("q", 1.0), ("k", 2.0))]
    )
    assert (joined.shape, joined.nbytes) == ((4, 3), 48)
    assert joined.load()[:, 0].tolist() == [1.0, 1.0, 2.0, 2.0]


@pytest.mark.parametrize("other", [torch.ones(2, 4), torch.ones(2, 3).half(), torch.tensor(1.0)])
def test_concatenation_refuses_parts_that_do_not_fit(other: torch.Tensor) -> None:
    parts = [LazyTensor.of("q", torch.ones(2, 3)), LazyTensor.of("k", other)]
    with pytest.raises(CheckpointError, match=r"'q' .* and 'k' .* belong together but do not fit"):
        concatenate(parts)
