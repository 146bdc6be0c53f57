"""How weights are held: types, names, "int8", and a mapping by part."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from dallemini.errors import InputError, InputTypeError
from dallemini.models.precision import Weights, check_dtype, read_precision, read_precisions

PARTS = ("transformer", "vqgan", "scorer")
INT8 = Weights(torch.float32, "int8")


def by_part(dtype: Any, quantization: Any = None) -> dict[str, Weights]:
    return read_precisions(dtype, quantization, parts=PARTS, quantizable="transformer")


@pytest.mark.parametrize("name", ["float32", "float16", "bfloat16", "float64"])
def test_a_type_and_its_name_mean_the_same(name: str) -> None:
    dtype = getattr(torch, name)
    assert check_dtype(name) == check_dtype(dtype) == dtype
    assert read_precision(name) == read_precision(dtype) == Weights(dtype)


def test_none_means_float32() -> None:
    assert read_precision(None) == Weights(torch.float32)


def test_the_older_spelling_means_the_same() -> None:
    assert read_precision("int8") == read_precision(None, "int8") == INT8
    assert by_part("int8") == by_part(None, "int8") == by_part({}, "int8")


def test_int8_alone_means_the_transformer() -> None:
    assert by_part("int8") == {"transformer": INT8, "vqgan": Weights(), "scorer": Weights()}


def test_one_type_means_every_part() -> None:
    assert set(by_part("float16").values()) == {Weights(torch.float16)}


def test_a_mapping_gives_each_part_its_own() -> None:
    found = by_part({"transformer": "int8", "vqgan": torch.bfloat16})
    assert found == {"transformer": INT8, "vqgan": Weights(torch.bfloat16), "scorer": Weights()}


@pytest.mark.parametrize(
    ("dtype", "message"),
    [
        ("flaot16", r"There is no dtype 'flaot16'\. Did you mean 'float16'"),
        ("in8", r"Did you mean 'int8'"),
        ("", r"There is no dtype ''\. Known: bfloat16, "),
        ({"vqqan": "float16"}, r"a part 'vqqan', which has no weights\. Did you mean 'vqgan'"),
        ({"vqgan": "half"}, r"There is no dtype 'half'"),
    ],
)
def test_a_wrong_name_is_answered_with_the_nearest(dtype: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        by_part(dtype)


@pytest.mark.parametrize("dtype", [torch.int8, torch.complex64, 16, float, ["float16"]])
def test_what_is_no_precision_is_refused(dtype: Any) -> None:
    for asked in (dtype, {"vqgan": dtype}):
        with pytest.raises(InputTypeError, match="dtype must be a floating-point type such as"):
            by_part(asked)


def test_one_part_takes_no_mapping() -> None:
    with pytest.raises(InputTypeError, match="dtype must be one type for this part"):
        read_precision({"transformer": "int8"})


def test_int8_is_not_a_type_to_move_to() -> None:
    with pytest.raises(InputError, match="made int8 by from_pretrained or quantize only"):
        check_dtype("int8")
