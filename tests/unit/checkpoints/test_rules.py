"""Tests of `dallemini.checkpoints.rules`: a table is complete, or says what is missing."""

from __future__ import annotations

import pytest
import torch

from dallemini.checkpoints.lazy import LazyTensor, transpose
from dallemini.checkpoints.rules import Ignore, Rule, Table, assemble
from dallemini.errors import CheckpointError, UnsupportedModelError

TABLE: Table = [
    Rule("layers.{i}.fused.weight", ("layer_{i}/q", "layer_{i}/k"), transpose),
    Rule("layers.{i}.fused.weight", ("layers/q", "layers/k"), transpose, unstack=True),
    Rule("rest.{rest}", ("rest/{rest}",)),
    Ignore(r"loss/.*", "only for training"),
    Ignore(r"scale_\d", "has no effect", value=1.0),
]


def lazy(**tensors: torch.Tensor) -> dict[str, LazyTensor]:
    names = {name.replace("__", "/"): tensor for name, tensor in tensors.items()}
    return {name: LazyTensor.of(name, tensor) for name, tensor in names.items()}


def test_fused_group_is_joined_in_the_order_of_the_rule() -> None:
    tensors = lazy(layer_10__k=torch.zeros(2, 3), layer_10__q=torch.ones(2, 3))
    made = assemble(tensors, TABLE, origin="folder")
    assert list(made) == ["layers.10.fused.weight"]
    assert made["layers.10.fused.weight"].load()[:, 0].tolist() == [1.0] * 3 + [0.0] * 3


def test_stacked_tensors_become_one_target_a_layer() -> None:
    stack = torch.arange(12.0).reshape(2, 2, 3)
    made = assemble(lazy(layers__q=stack, layers__k=-stack), TABLE, origin="folder")
    assert sorted(made) == ["layers.0.fused.weight", "layers.1.fused.weight"]
    assert torch.equal(made["layers.1.fused.weight"].load(), torch.cat([stack[1].T, -stack[1].T]))


def test_rest_field_keeps_the_remaining_name() -> None:
    made = assemble(lazy(**{"rest__a.b.weight": torch.ones(1)}), TABLE, origin="folder")
    assert list(made) == ["rest.a.b.weight"]


def test_ignored_tensors_are_left_out() -> None:
    tensors = lazy(loss__weight=torch.zeros(1), scale_1=torch.ones(3))
    assert assemble(tensors, TABLE, origin="folder") == {}


def test_ignored_tensor_with_another_value_is_refused() -> None:
    with pytest.raises(UnsupportedModelError, match=r"'scale_1' should hold 1.0 only"):
        assemble(lazy(scale_1=torch.tensor([1.0, 1.1])), TABLE, origin="folder")


def test_tensor_without_rule_is_named_with_its_shape() -> None:
    tensors = lazy(odd=torch.ones(2), a=torch.ones(1), b=torch.ones(1), c=torch.ones(1))
    with pytest.raises(
        CheckpointError, match=r"folder holds 4 tensors .*'odd' \(2,\).* and 1 more"
    ):
        assemble(tensors, TABLE, origin="folder")


def test_group_without_a_part_names_it() -> None:
    with pytest.raises(
        CheckpointError, match="folder lacks layer_0/k, which belongs with 'layer_0/q'"
    ):
        assemble(lazy(layer_0__q=torch.ones(2, 2)), TABLE, origin="folder")


def test_target_made_twice_is_refused() -> None:
    tensors = lazy(
        layers__q=torch.ones(1, 2, 2),
        layers__k=torch.ones(1, 2, 2),
        layer_0__q=torch.ones(2, 2),
        layer_0__k=torch.ones(2, 2),
    )
    with pytest.raises(CheckpointError, match=r"'layers.0.fused.weight' twice"):
        assemble(tensors, TABLE, origin="folder")


def test_stacks_of_different_heights_are_refused() -> None:
    tensors = lazy(layers__q=torch.ones(2, 2, 2), layers__k=torch.ones(3, 2, 2))
    with pytest.raises(CheckpointError, match="differ in their number of layers"):
        assemble(tensors, TABLE, origin="folder")
