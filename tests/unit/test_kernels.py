"""The C kernels beside torch: equal results, equal bits in any batch, and the way without them.

Every test runs with each library that the processor can run.
"""

from __future__ import annotations

import ctypes
import importlib.machinery
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import forward_ad
from torch.fx.experimental.proxy_tensor import make_fx

from dallemini import kernels
from dallemini.errors import DalleMiniWarning, InputError, UnsupportedOperationError
from dallemini.kernels import Linear, attend, extend_and_attend, linear, linear_int8
from dallemini.kernels.int8 import KernelOperator

SIZES = [(16, 4), (17, 5), (64, 64), (100, 33), (130, 7), (256, 1025)]
ROWS = [1, 2, 5, 6, 7, 18, 64]

LIBRARIES = [
    name for name in kernels._NAMES if (one := kernels._loaded(name)) and one.dallemini_supports()
]

built = pytest.mark.skipif(
    not LIBRARIES, reason="no C library was built, or the processor has neither AVX-512 nor AVX2"
)
int8 = pytest.mark.usefixtures("int8_library")


@pytest.fixture(autouse=True, params=LIBRARIES or ["none"])
def library(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Let the package know of one library only."""
    found = kernels._library
    monkeypatch.setattr(kernels, "_NAMES", (request.param,))
    found.cache_clear()
    yield request.param
    found.cache_clear()


@pytest.fixture
def int8_library(library: str) -> None:
    if not kernels.has_int8(64, 4):
        pytest.skip(f"library: {library}; it needs AVX-512 or AVX2")


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def draw_int8(outputs: int, inputs: int) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(-127, 128, (outputs, inputs), dtype=torch.int8, generator=generator)


def without_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "_library", lambda: None)


def find_compiler() -> str:
    compiler = shutil.which("gcc")
    if compiler is None or sys.platform != "linux" or platform.machine() != "x86_64":
        pytest.skip("no GCC for x86-64 Linux on this machine")
    version = subprocess.run([compiler, "-dumpversion"], capture_output=True, text=True, check=True)
    if int(version.stdout.split(".")[0]) < 12:
        pytest.skip("this GCC is older than 12")
    return compiler


@pytest.mark.parametrize("name", kernels._NAMES)
def test_libraries_are_built_where_there_is_a_compiler(name: str) -> None:
    """`pip install -e` builds them; a test run without would show the way around them only."""
    find_compiler()
    assert kernels._loaded(name) is not None, 'install with: pip install -e ".[dev]"'


@built
def test_a_library_that_the_processor_runs_is_used(library: str) -> None:
    found = kernels._library()
    assert found is not None
    assert Path(found._name).name.startswith(f"{library}.")
    assert kernels.has_kernels()


@dataclass(frozen=True)
class Library:
    runs: bool

    def dallemini_supports(self) -> int:
        return self.runs


def test_the_first_library_that_the_processor_can_run_is_taken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    libraries = {
        "absent": None,
        "foreign": Library(False),
        "first": Library(True),
        "second": Library(True),
    }
    monkeypatch.setattr(kernels, "_loaded", libraries.get)
    monkeypatch.setattr(kernels, "_NAMES", tuple(libraries))
    found: object = kernels._library()
    assert found is libraries["first"]
    kernels._library.cache_clear()
    monkeypatch.setattr(kernels, "_NAMES", ("absent", "foreign"))
    assert kernels._library() is None
    assert not kernels.has_kernels()


@pytest.mark.parametrize(("inputs", "outputs"), SIZES)
@pytest.mark.parametrize("rows", ROWS)
def test_linear_agrees_with_float64(rows: int, inputs: int, outputs: int) -> None:
    hidden_states, weight = draw(rows, inputs), draw(outputs, inputs, seed=1)
    expected = hidden_states.double() @ weight.double().T
    error = (linear(hidden_states, weight) - expected).norm() / expected.norm()
    assert error < 1e-6


@built
@pytest.mark.parametrize(("inputs", "outputs"), SIZES)
def test_linear_gives_a_row_the_same_bits_in_any_batch(inputs: int, outputs: int) -> None:
    hidden_states, weight = draw(18, inputs), draw(outputs, inputs, seed=1)
    together = linear(hidden_states, weight)
    for count in range(1, 18):
        assert torch.equal(linear(hidden_states[:count], weight), together[:count])


@built
def test_threads_change_no_bit() -> None:
    hidden_states, weight = draw(3, 100), draw(33, 100, seed=1)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = linear(hidden_states, weight)
        torch.set_num_threads(5)
        assert torch.equal(linear(hidden_states, weight), alone)
    finally:
        torch.set_num_threads(before)


def test_linear_keeps_the_leading_axes() -> None:
    hidden_states, weight = draw(2, 3, 32), draw(8, 32, seed=1)
    assert linear(hidden_states, weight).shape == (2, 3, 8)
    assert linear(hidden_states[0, 0], weight).shape == (8,)


def test_linear_reads_tensors_that_are_not_contiguous() -> None:
    hidden_states, weight = draw(32, 3).T, draw(32, 8, seed=1).T
    torch.testing.assert_close(linear(hidden_states, weight), hidden_states @ weight.T)


def test_linear_reads_no_further_than_the_weight() -> None:
    weight = torch.full((40, 40), torch.nan)
    weight[:6] = 1.0
    assert torch.equal(linear(torch.ones(1, 40), weight[:6]), torch.full((1, 6), 40.0))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_linear_leaves_other_dtypes_to_torch(dtype: torch.dtype) -> None:
    hidden_states, weight = draw(2, 32).to(dtype), draw(8, 32, seed=1).to(dtype)
    assert torch.equal(linear(hidden_states, weight), F.linear(hidden_states, weight))


def test_linear_refuses_sizes_that_do_not_fit_as_torch_does() -> None:
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        linear(draw(2, 48), draw(8, 32))


def test_gradients_flow_through_a_linear_layer() -> None:
    layer, hidden_states = Linear(32, 8), draw(2, 32)
    layer(hidden_states).sum().backward()
    assert layer.weight.grad is not None
    torch.testing.assert_close(layer.weight.grad, hidden_states.sum(0).expand(8, -1))


def test_gradients_reach_the_input_past_a_frozen_layer() -> None:
    layer = Linear(32, 8).requires_grad_(False)
    hidden_states = draw(2, 32).requires_grad_()
    layer(hidden_states).sum().backward()
    assert hidden_states.grad is not None


def test_autocast_has_the_say_over_the_dtype() -> None:
    layer, hidden_states = Linear(32, 8).requires_grad_(False), draw(2, 32)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(hidden_states).dtype == torch.bfloat16


@pytest.mark.slow
def test_compiled_code_holds_torch_operators() -> None:
    layer = Linear(32, 8).requires_grad_(False)
    compiled = torch.compile(layer, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(draw(2, 32)), layer(draw(2, 32)))


def test_what_sees_operators_only_misses_nothing() -> None:
    """A kernel would crash under these, or be left out of what they make."""
    hidden_states, weight = draw(4, 3, 32), draw(8, 32, seed=1)

    def double(tensor: Tensor) -> Tensor:
        return 2 * linear(tensor, weight)

    expected = 2 * F.linear(hidden_states, weight)
    torch.testing.assert_close(torch.func.vmap(double)(hidden_states), expected)
    torch.testing.assert_close(torch.func.functionalize(double)(hidden_states), expected)
    traced = make_fx(double)(torch.zeros_like(hidden_states))
    torch.testing.assert_close(traced(hidden_states), expected)


@pytest.mark.filterwarnings("ignore:.*jit.script:DeprecationWarning")  # torch's own use of it
@torch.no_grad()
def test_forward_derivatives_reach_through_a_layer() -> None:
    hidden_states, weight, tangent = draw(3, 32), draw(8, 32, seed=1), draw(3, 32, seed=2)
    with forward_ad.dual_level():
        product = linear(forward_ad.make_dual(hidden_states, tangent), weight)
        found = forward_ad.unpack_dual(product).tangent
    torch.testing.assert_close(found, F.linear(tangent, weight))


def test_everything_works_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    hidden_states, weight = draw(2, 64), draw(8, 64, seed=1)
    query, keys, values = draw(2, 4, 1, 16), draw(2, 4, 9, 16, seed=1), draw(2, 4, 9, 16, seed=2)
    with_library = linear(hidden_states, weight), attend(query, keys, values)
    without_library(monkeypatch)
    torch.testing.assert_close(linear(hidden_states, weight), with_library[0])
    torch.testing.assert_close(attend(query, keys, values), with_library[1])
    assert not kernels.has_kernels()
    assert not kernels.has_int8(64, 8)


@pytest.mark.parametrize("size", [16, 48, 64, 80, 24])
@pytest.mark.parametrize("positions", [1, 3, 16, 17, 40])
@pytest.mark.parametrize("masked", [False, True])
def test_attend_agrees_with_torch(positions: int, size: int, masked: bool) -> None:
    rows, heads = 3, 2
    query = draw(rows, 1, 3, heads, size).mul(2).permute(2, 0, 3, 1, 4)[0]
    keys, values = (draw(rows, heads, positions, size, seed=seed) for seed in (1, 2))
    mask = None
    if masked:
        mask = draw(rows, 1, 1, positions, seed=3) > 0
        mask[..., 0] = True
    expected = F.scaled_dot_product_attention(query, keys, values, attn_mask=mask)
    found = attend(query, keys, values, mask=mask)
    torch.testing.assert_close(found, expected, atol=3e-6, rtol=1e-5)


def test_attend_broadcasts_as_torch_does() -> None:
    query, keys, values = draw(2, 2, 1, 16), draw(2, 2, 9, 16, seed=1), draw(2, 2, 9, 16, seed=2)
    heads_mask = torch.ones(1, 2, 1, 9, dtype=torch.bool)  # as many numbers as one for each row
    heads_mask[0, 1, 0, 3:] = False
    for tensors, mask in (((query, keys, values), heads_mask), ((query[:1], keys, values), None)):
        expected = F.scaled_dot_product_attention(*tensors, attn_mask=mask)
        torch.testing.assert_close(attend(*tensors, mask=mask), expected, atol=3e-6, rtol=1e-5)


def test_attend_takes_more_positions_than_a_stack_holds() -> None:
    query, keys = draw(1, 1, 1, 16), draw(1, 1, 1 << 21, 16, seed=1)
    expected = F.scaled_dot_product_attention(query, keys, keys)
    torch.testing.assert_close(attend(query, keys, keys), expected)


def test_a_row_that_sees_nothing_gets_zeros_as_from_torch() -> None:
    query, keys, values = draw(2, 2, 1, 16), draw(2, 2, 9, 16, seed=1), draw(2, 2, 9, 16, seed=2)
    mask = torch.zeros(2, 1, 1, 9, dtype=torch.bool)
    mask[1, ..., :4] = True
    found = attend(query, keys, values, mask=mask)
    assert torch.equal(found[0], torch.zeros(2, 1, 16))
    expected = F.scaled_dot_product_attention(query, keys, values, attn_mask=mask)
    torch.testing.assert_close(found, expected, atol=3e-6, rtol=1e-5)


@pytest.mark.parametrize("position", [-1, 5])
def test_extend_and_attend_refuses_a_position_outside_the_cache(position: int) -> None:
    query, cache = draw(1, 1, 1, 16), draw(1, 1, 5, 16)
    with pytest.raises(InputError, match=f"position must be from 0 to 4, not {position}"):
        extend_and_attend(query, query, query, cache, cache.clone(), position=position)


def test_what_is_no_number_stays_none() -> None:
    query, keys, values = draw(1, 1, 1, 16), draw(1, 1, 9, 16, seed=1), draw(1, 1, 9, 16, seed=2)
    for broken in range(3):
        tensors = [tensor.clone() for tensor in (query, keys, values)]
        tensors[broken][..., 0, 3] = torch.nan
        assert attend(*tensors).isnan().any()
    hidden_states = draw(2, 32)
    hidden_states[0, 1] = torch.nan
    product = linear(hidden_states, draw(8, 32))
    assert product[0].isnan().all()
    assert product[1].isfinite().all()


@built
def test_attend_reads_masked_values_as_nothing() -> None:
    query, keys = torch.full((1, 1, 1, 16), 30.0), torch.zeros(1, 1, 20, 16)
    keys[:, :, 5:] = 30.0
    values = torch.ones(1, 1, 20, 16)
    values[:, :, 5:] = 1e30
    mask = torch.arange(20).view(1, 1, 1, 20) < 5
    assert torch.equal(attend(query, keys, values, mask=mask), torch.ones(1, 1, 1, 16))


@pytest.mark.parametrize("size", [16, 64, 8])
def test_extend_and_attend_equals_attention_to_the_filled_part(size: int) -> None:
    rows, heads, length = 2, 3, 20
    cache = [torch.full((rows, heads, length, size), torch.nan) for _ in range(2)]
    fused = draw(length, rows, 1, 3, heads, size)
    for position in range(length):
        query, key, value = fused[position].permute(2, 0, 3, 1, 4).unbind(0)
        found = extend_and_attend(query, key, value, *cache, position=position)
        keys, values = (fused[: position + 1, :, 0, i].permute(1, 2, 0, 3) for i in (1, 2))
        expected = F.scaled_dot_product_attention(query, keys, values)
        torch.testing.assert_close(found, expected, atol=2e-6, rtol=1e-5)
        assert torch.equal(cache[0][:, :, : position + 1], keys)
        assert torch.equal(cache[1][:, :, : position + 1], values)
    assert not cache[0].isnan().any()


@pytest.mark.parametrize("size", [16, 64, 8])
def test_every_row_has_a_position_of_its_own(size: int) -> None:
    """Rows far into a picture beside others that begin: each as if it were alone."""
    rows, heads, length = 5, 3, 20
    cache = [draw(rows, heads, length, size, seed=seed) for seed in (1, 2)]
    alone = [tensor.clone() for tensor in cache]
    query, key, value = draw(rows, 1, 3, heads, size).permute(2, 0, 3, 1, 4).unbind(0)
    positions = torch.tensor([7, 0, 19, 7, 16])
    found = extend_and_attend(query, key, value, *cache, position=positions)
    for row, position in enumerate(positions.tolist()):
        one = slice(row, row + 1)
        kept = [tensor[one] for tensor in alone]
        expected = extend_and_attend(query[one], key[one], value[one], *kept, position=position)
        torch.testing.assert_close(found[one], expected, atol=2e-6, rtol=1e-5)
    for changed, expected in zip(cache, alone, strict=True):
        assert torch.equal(changed, expected)


@built
@pytest.mark.parametrize("size", [16, 64, 80])
def test_positions_of_other_rows_change_no_bit(size: int) -> None:
    rows, heads, length = 6, 3, 40
    cache = [draw(rows, heads, length, size, seed=seed) for seed in (1, 2)]
    query, key, value = draw(rows, 1, 3, heads, size).permute(2, 0, 3, 1, 4).unbind(0)

    def attended(position: int | Tensor, rows: slice = slice(None)) -> Tensor:
        copies = (tensor[rows].clone() for tensor in cache)
        return extend_and_attend(query[rows], key[rows], value[rows], *copies, position=position)

    for position in (0, 15, 16, 39):
        together = attended(position)
        assert torch.equal(attended(torch.full((rows,), position)), together)
        mixed = torch.tensor([position, 3, position, 39, 0, position])
        same = mixed == position
        assert torch.equal(attended(mixed)[same], together[same])
        assert torch.equal(attended(mixed[2:3], slice(2, 3)), together[2:3])


@pytest.mark.parametrize("size", [16, 64, 80, 8])
@pytest.mark.parametrize("starts", [9, [9, 9, 0]])
def test_several_positions_at_once_are_those_one_by_one(size: int, starts: int | list[int]) -> None:
    rows, heads, count = 3, 2, 5
    cache = [draw(rows, heads, 20, size, seed=seed) for seed in (1, 2)]
    alone = [tensor.clone() for tensor in cache]
    query, key, value = draw(rows, count, 3, heads, size).permute(2, 0, 3, 1, 4).unbind(0)
    position = starts if isinstance(starts, int) else torch.tensor(starts)
    found = extend_and_attend(query, key, value, *cache, position=position)
    for i in range(count):
        one = slice(i, i + 1)
        present = (tensor[:, :, one] for tensor in (query, key, value))
        expected = extend_and_attend(*present, *alone, position=position + i)
        torch.testing.assert_close(found[:, :, one], expected, atol=2e-6, rtol=1e-5)
        if kernels.has_kernels() and size != 8:
            assert torch.equal(found[:, :, one], expected)
    for changed, expected in zip(cache, alone, strict=True):
        assert torch.equal(changed, expected)


@pytest.mark.parametrize("size", [16, 8])
@pytest.mark.parametrize("position", [-1, 17, torch.tensor([0, 17])])
def test_several_positions_must_all_be_in_the_cache(size: int, position: int | Tensor) -> None:
    query, cache = draw(2, 1, 4, size), draw(2, 1, 20, size)
    with pytest.raises(InputError, match=r"position must be from 0 to 16, not (-1|17)"):
        extend_and_attend(query, query, query, cache, cache.clone(), position=position)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("size", [64, 24])
def test_several_queries_of_a_row_see_the_same(size: int, masked: bool) -> None:
    rows, heads, count, positions = 3, 2, 4, 21
    query = draw(rows, count, heads, size).transpose(1, 2)
    keys, values = (draw(rows, heads, positions, size, seed=seed) for seed in (1, 2))
    mask = draw(rows, 1, 1, positions, seed=3) > 0 if masked else None
    found = attend(query, keys, values, mask=mask)
    expected = F.scaled_dot_product_attention(query, keys, values, attn_mask=mask)
    torch.testing.assert_close(found, expected, atol=3e-6, rtol=1e-5)
    for i in range(count):
        one = attend(query[:, :, i : i + 1], keys, values, mask=mask)
        if kernels.has_kernels() and size % 16 == 0:
            assert torch.equal(found[:, :, i : i + 1], one)


def test_more_queries_than_a_few_are_left_to_torch() -> None:
    query, keys = draw(1, 2, kernels.MOST_ROWS + 1, 16), draw(1, 2, 80, 16, seed=1)
    assert torch.equal(attend(query, keys, keys), F.scaled_dot_product_attention(query, keys, keys))


@pytest.mark.parametrize("size", [16, 24])
@pytest.mark.parametrize("masked", [False, True])
def test_attend_shows_each_row_as_many_keys_as_it_is_told(size: int, masked: bool) -> None:
    rows, heads, positions = 4, 2, 21
    query = draw(rows, heads, 1, size)
    keys, values = (draw(rows, heads, positions, size, seed=seed) for seed in (1, 2))
    counts = torch.tensor([1, 21, 0, 17])
    mask = draw(rows, 1, 1, positions, seed=3) > 0 if masked else None
    found = attend(query, keys, values, mask=mask, counts=counts)
    assert torch.equal(found[2], torch.zeros(heads, 1, size))
    for row, count in enumerate(counts.tolist()):
        one, seen = slice(row, row + 1), slice(count)
        shown = None if mask is None else mask[one, ..., seen].contiguous()
        kept = (keys[one, :, seen].contiguous(), values[one, :, seen].contiguous())
        if count:
            expected = attend(query[one], *kept, mask=shown)
            torch.testing.assert_close(found[one], expected, atol=3e-6, rtol=1e-5)


@pytest.mark.parametrize("size", [16, 8])
@pytest.mark.parametrize("wrong", [-1, 5, 1 << 40])
def test_no_row_may_lie_outside_the_cache(size: int, wrong: int) -> None:
    query, cache = draw(2, 1, 1, size), draw(2, 1, 5, size)
    before, numbers = cache.clone(), torch.tensor([0, wrong])
    with pytest.raises(InputError, match=f"position must be from 0 to 4, not {wrong}"):
        extend_and_attend(query, query, query, cache, cache, position=numbers)
    assert torch.equal(cache, before)
    count = wrong + (wrong > 0)
    with pytest.raises(InputError, match=f"counts must be from 0 to 5, not {count}"):
        attend(query, cache, cache, counts=torch.tensor([0, count]))


@pytest.mark.parametrize(
    "numbers", [torch.zeros(3, dtype=torch.int64), torch.zeros(2), torch.zeros(2, 1).long()]
)
def test_positions_are_integers_one_for_each_row(numbers: Tensor) -> None:
    query, cache = draw(2, 1, 1, 16), draw(2, 1, 5, 16)
    with pytest.raises(InputError, match=r"position must be torch.int64 of shape \[2\] on cpu"):
        extend_and_attend(query, query, query, cache, cache.clone(), position=numbers)
    with pytest.raises(InputError, match=r"counts must be torch.int64"):
        attend(query, cache, cache, counts=numbers)
    with pytest.raises(InputError, match=r"one for each row, not .* on meta"):
        attend(query, cache, cache, counts=torch.zeros(2, dtype=torch.int64, device="meta"))


@int8
@pytest.mark.parametrize(("inputs", "outputs"), [(64, 4), (65, 5), (100, 33), (130, 7), (256, 129)])
@pytest.mark.parametrize("rows", [1, 2, 5, 6, 11, 70])
def test_int8_sums_are_exact_where_rows_are_integers(rows: int, inputs: int, outputs: int) -> None:
    generator = torch.Generator().manual_seed(rows)
    integers = torch.randint(-127, 128, (rows, inputs), generator=generator).float()
    integers[:, -1] = 127  # then a row's scale is 1
    weight, scale = draw_int8(outputs, inputs), draw(outputs).abs() + 0.5
    exact = (integers.double() @ weight.double().T) * scale
    found = linear_int8(integers, weight, scale, fine=False)
    torch.testing.assert_close(found, exact.float(), rtol=1e-6, atol=0)


@int8
def test_fine_rounding_is_a_hundred_times_nearer() -> None:
    rows, weight, scale = draw(8, 300), draw_int8(50, 300), torch.ones(50)
    exact = rows.double() @ weight.double().T
    coarse, fine = (
        (linear_int8(rows, weight, scale, fine=fine) - exact).norm() / exact.norm()
        for fine in (False, True)
    )
    assert coarse < 0.02
    assert fine < coarse / 100


@int8
@pytest.mark.parametrize("fine", [False, True])
def test_int8_gives_a_row_the_same_bits_in_any_batch(fine: bool) -> None:
    rows, weight, scale = draw(18, 100), draw_int8(33, 100), torch.ones(33)
    together = linear_int8(rows, weight, scale, fine=fine)
    for count in range(1, 18):
        alone = linear_int8(rows[:count], weight, scale, fine=fine)
        assert torch.equal(alone, together[:count])


@int8
def test_int8_weights_may_lie_in_any_order() -> None:
    operator, rows, weight = KernelOperator(), draw(2, 64), draw_int8(64, 8).T
    packed = operator.pack(weight, torch.ones(1).expand(8))
    expected = linear_int8(rows, weight.contiguous(), torch.ones(8), fine=True)
    assert torch.equal(operator.multiply(rows, packed, fine=True), expected)


@int8
def test_int8_leaves_to_torch_what_the_kernel_cannot_read() -> None:
    operator, weight = KernelOperator(), draw_int8(8, 64)
    packed = operator.pack(weight, torch.ones(8))
    assert operator.multiply(torch.empty(2, 64, device="meta"), packed, fine=False).is_meta
    traced = make_fx(lambda rows: operator.multiply(rows, packed, fine=False))(torch.zeros(2, 64))
    torch.testing.assert_close(traced(draw(2, 64)), F.linear(draw(2, 64), weight.float()))


@int8
def test_int8_of_a_row_of_zeros_is_zero() -> None:
    product = linear_int8(torch.zeros(2, 64), draw_int8(8, 64), torch.ones(8), fine=True)
    assert torch.equal(product, torch.zeros(2, 8))


@int8
@pytest.mark.parametrize("broken", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("inputs", [64, 100])
def test_int8_of_a_row_that_has_no_largest_number_is_none(inputs: int, broken: float) -> None:
    rows, weight, scale = draw(2, inputs), draw_int8(8, inputs), torch.ones(8)
    expected = linear_int8(rows, weight, scale, fine=True)
    rows[0, -1] = broken
    found = linear_int8(rows, weight, scale, fine=True)
    assert found[0].isnan().all()
    assert torch.equal(found[1], expected[1])


@int8
@pytest.mark.parametrize("size", [1e-44, 1e-37, 1e37])
def test_int8_takes_very_small_and_very_large_rows(size: float) -> None:
    weight, scale = draw_int8(8, 64), torch.full((8,), 1e-3)
    rows = draw(2, 64) * size
    expected = (rows.double() @ weight.double().T) * 1e-3
    found = linear_int8(rows, weight, scale, fine=True)
    torch.testing.assert_close(found, expected.float(), rtol=1e-2, atol=1e-30)


def test_int8_refuses_what_it_cannot_compute(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UnsupportedOperationError, match="no int8 kernel for 32 inputs"):
        linear_int8(draw(1, 32), draw_int8(8, 32), torch.ones(8), fine=False)
    for rows, scales in ((draw(1, 32), 8), (draw(64), 8), (draw(1, 64), 7)):
        with pytest.raises(InputError, match=r"do not go with a weight of \(8, 64\)"):
            linear_int8(rows, draw_int8(8, 64), torch.ones(scales), fine=False)
    without_library(monkeypatch)
    with pytest.raises(UnsupportedOperationError, match="ask has_int8 first"):
        linear_int8(draw(1, 64), draw_int8(8, 64), torch.ones(8), fine=False)


@built
def test_a_library_for_another_system_is_not_used(
    library: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(kernels, "__file__", str(tmp_path / "__init__.py"))
    assert kernels._loaded(library) is None  # there is none
    for suffix in importlib.machinery.EXTENSION_SUFFIXES:
        (tmp_path / f"{library}{suffix}").write_bytes(b"not a library")
    assert kernels._loaded(library) is None


@built
def test_a_library_of_another_version_is_not_used(
    library: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernels, "_INTERFACE", -1)
    with pytest.warns(DalleMiniWarning, match="built for another version"):
        assert kernels._loaded(library) is None


@built
def test_a_library_without_a_version_is_not_used(tmp_path: Path) -> None:
    with pytest.warns(DalleMiniWarning, match="install the package again"):
        assert not kernels._is_current(ctypes.CDLL(None), tmp_path)


@pytest.mark.thorough
@pytest.mark.slow_except("_cpu_avx2-_cpu_avx2")
@pytest.mark.parametrize("name", kernels._NAMES)
def test_source_compiles_without_warnings(name: str, tmp_path: Path) -> None:
    compiler = find_compiler()
    source = Path(kernels.__file__).with_name(f"{name}.c")
    flags = ["-O1", "-fPIC", "-Wall", "-Wextra", "-Wno-psabi", "-Werror", "-c"]
    output = str(tmp_path / "kernels.o")
    done = subprocess.run(
        [compiler, *flags, str(source), "-o", output],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.skipif(
    shutil.which("aarch64-linux-gnu-gcc") is None,
    reason="no cross compiler (gcc-aarch64-linux-gnu)",
)
def test_source_for_arm_compiles_without_warnings(tmp_path: Path) -> None:
    source = Path(kernels.__file__).with_name("_cpu_neon.c")
    flags = ["-O1", "-fPIC", "-Wall", "-Wextra", "-Wno-psabi", "-Werror", "-c", str(source)]
    done = subprocess.run(
        ["aarch64-linux-gnu-gcc", *flags, "-o", str(tmp_path / "kernels.o")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
