"""Tests of `dallemini.checkpoints.settings` and of counting layers: bounds, and every key seen."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from dallemini.checkpoints.formats import LazyCheckpoint
from dallemini.checkpoints.lazy import LazyTensor
from dallemini.checkpoints.settings import account, flag, number, square_side, whole_number
from dallemini.checkpoints.shapes import count, infer_vqgan, shape_of
from dallemini.errors import CheckpointError, ConfigError, UnsupportedModelError


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("width", 0, "width must be at least 1, not 0"),
        ("width", True, "width must be a whole number, not True"),
        ("width", [[["x"] * 99] * 99] * 99, r"width must be a whole number, not \[\["),
        ("num_layers", 257, "num_layers must be at most 256, not 257"),
        ("width", 10**400, "width must be at most 16777216, not a number of about 401 digits"),
    ],
)
def test_whole_number_has_bounds(key: str, value: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        whole_number({key: value}, key, 1, origin="x")
    assert len(str(caught.value)) < 300
    assert whole_number({"pad_token_id": 0}, "pad_token_id", 1, origin="x") == 0


@pytest.mark.parametrize("value", ["1", True, float("nan"), float("inf"), 10**400, None])
def test_number_is_finite(value: Any) -> None:
    assert number({}, "ratio", 4.0, origin="x") == 4.0
    with pytest.raises(ConfigError, match="ratio must be a number, not"):
        number({"ratio": value}, "ratio", 4.0, origin="x")


@pytest.mark.parametrize("value", ["no", 1, None])
def test_flag_is_true_or_false(value: Any) -> None:
    assert not flag({}, "quick", origin="x")
    with pytest.raises(ConfigError, match="quick must be true or false, not"):
        flag({"quick": value}, "quick", origin="x")


def test_only_squares_are_sides() -> None:
    assert square_side({"size": [32, 32]}, "size", 1, origin="x") == 32
    with pytest.raises(UnsupportedModelError, match=r"size \[32, 16\], but only squares"):
        square_side({"size": [32, 16]}, "size", 1, origin="x")


def test_key_that_nobody_reads_is_named() -> None:
    account({"a": 1, "b": 2}, {"a": 1}, ("b",), origin="x", what="settings")
    with pytest.raises(UnsupportedModelError, match=r"settings .* not known here \('c'\)"):
        account({"a": 1, "c": 2}, {"a": 1}, ("b",), origin="x", what="settings")


def lazy(*names: str, shape: tuple[int, ...] = (1,)) -> dict[str, LazyTensor]:
    return {name: LazyTensor(name, shape, torch.float32, torch.Tensor) for name in names}


@pytest.mark.parametrize("digits", ["256", "999999999", "9" * 5000])
def test_layers_are_counted_within_bounds(digits: str) -> None:
    assert count(lazy("layers.0.x", "layers.1.x"), r"layers\.(\d+)\..*", origin="x") == 2
    tensors = lazy("layers.0.x", f"layers.{digits}.x")
    with pytest.raises(CheckpointError, match=r"layers up to \d{1,20}, but no model has more"):
        count(tensors, r"layers\.(\d+)\..*", origin="x")


def test_sizes_of_nothing_are_not_sizes() -> None:
    tensors = lazy("quantize.embedding.weight", shape=(0, 4))
    with pytest.raises(CheckpointError, match=r"has the shape \(0, 4\)"):
        shape_of(tensors, "quantize.embedding.weight", 2, origin="x")
    with pytest.raises(CheckpointError, match=r"has the shape \(0, 4\)"):
        infer_vqgan(tensors, origin="x")


def test_configuration_with_more_layers_than_tensors_is_refused() -> None:
    with pytest.raises(CheckpointError, match="asks for 200 encoder_layers, but there are only 2"):
        LazyCheckpoint({"encoder_layers": 200}, lazy("a", "b"))
