"""Muon, the division of parameters between the optimisers, and the course of the rate."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dallemini.errors import InputError, MissingDependencyError
from dallemini.models.lora import LoRAConfig, add_lora
from dallemini.testing import tiny_transformer, tiny_vqgan
from dallemini.training import TrainingConfig, optimizer
from dallemini.training.optimizer import Muon, make_optimizers, orthogonalize, rate_factor


def randn(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("shape", [(8, 8), (6, 20), (20, 6), (1, 9)])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_orthogonalize_brings_singular_values_near_1(shape: tuple[int, int], scale: float) -> None:
    result = orthogonalize(scale * randn(*shape)).float()
    assert result.shape == shape
    values = torch.linalg.svdvals(result)
    assert float(values.min()) > 0.3
    assert float(values.max()) < 1.4


def test_orthogonalize_keeps_the_singular_vectors() -> None:
    matrix = randn(8, 12)
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    turned = left.T @ orthogonalize(matrix).float() @ right.T
    off = turned - turned.diagonal().diag()
    assert float(turned.diagonal().min()) > 0.3
    assert float(off.abs().max()) < 0.1


@pytest.mark.parametrize(("native", "dtype"), [(True, torch.bfloat16), (False, torch.float32)])
def test_orthogonalize_multiplies_what_the_processor_multiplies_fast(
    native: bool, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(optimizer, "has_native_bfloat16", lambda: native)
    assert orthogonalize(randn(4, 8)).dtype == dtype


def test_orthogonalize_leaves_nothing_nothing() -> None:
    assert not orthogonalize(torch.zeros(3, 4)).any()


def test_a_step_has_the_length_of_the_rate_whatever_the_gradient() -> None:
    for scale in (1e-3, 1e3):
        weight = nn.Parameter(torch.zeros(16, 16))
        weight.grad = scale * randn(16, 16)
        Muon([weight], lr=0.1).step()
        length = float(weight.detach().square().sum(1).mean().sqrt())
        assert length == pytest.approx(0.1, rel=0.3)


def test_tall_matrices_take_longer_steps() -> None:
    tall, wide = nn.Parameter(torch.zeros(64, 4)), nn.Parameter(torch.zeros(4, 64))
    tall.grad, wide.grad = randn(64, 4), randn(4, 64)
    Muon([tall, wide], lr=1.0).step()
    ratio = float(tall.detach().norm() / wide.detach().norm())
    assert ratio == pytest.approx(4.0, rel=0.2)


def test_convolutions_are_treated_as_matrices() -> None:
    kernel, matrix = nn.Parameter(torch.zeros(6, 2, 3, 3)), nn.Parameter(torch.zeros(6, 18))
    kernel.grad = randn(6, 2, 3, 3)
    matrix.grad = kernel.grad.flatten(1)
    Muon([kernel, matrix]).step()
    assert torch.equal(kernel.flatten(1), matrix)


def test_momentum_remembers() -> None:
    weight = nn.Parameter(torch.zeros(4, 4))
    optimizer = Muon([weight], momentum=0.5)
    weight.grad = torch.eye(4)
    optimizer.step()
    weight.grad = torch.zeros(4, 4)
    before = weight.detach().clone()
    optimizer.step()
    assert float((weight.detach() - before).trace()) < 0


def test_weight_decay_shrinks_without_a_gradient_of_its_own() -> None:
    weight = nn.Parameter(torch.ones(4, 4))
    weight.grad = torch.zeros(4, 4)
    Muon([weight], lr=0.1, weight_decay=0.5).step()
    torch.testing.assert_close(weight.detach(), torch.full((4, 4), 0.95))


def test_a_parameter_without_a_gradient_stays() -> None:
    weight = nn.Parameter(torch.ones(4, 4))
    optimizer = Muon([weight])
    optimizer.step()
    assert torch.equal(weight.detach(), torch.ones(4, 4))
    assert not optimizer.state


def test_a_closure_is_called_and_its_loss_returned() -> None:
    assert Muon([nn.Parameter(torch.ones(2, 2))]).step(lambda: 3.0) == 3.0


def test_muon_finds_a_matrix() -> None:
    target, weight = randn(6, 6), nn.Parameter(torch.zeros(6, 6))
    optimizer = Muon([weight], lr=0.1)
    losses = []
    for step in range(150):
        optimizer.param_groups[0]["lr"] = 0.3 * (1 - step / 150)
        loss = (weight - target).square().mean()
        losses.append(float(loss.detach()))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < 0.01 * losses[0]


CONFIG = TrainingConfig(steps=1000, learning_rate=0.1, matrix_learning_rate=0.2)


def division(module: nn.Module) -> tuple[set[str], set[str]]:
    """Names of the parameters that Muon and AdamW get."""
    optimizers = make_optimizers(module, CONFIG)
    assert [type(optimizer).__name__ for optimizer in optimizers] == ["Muon", "AdamW"]
    assert [optimizer.param_groups[0]["lr"] for optimizer in optimizers] == [0.2, 0.1]
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    muon, adam = (
        {names[id(p)] for group in optimizer.param_groups for p in group["params"]}
        for optimizer in optimizers
    )
    return muon, adam


def test_embeddings_head_norms_and_biases_go_to_adam() -> None:
    transformer = tiny_transformer()
    muon, adam = division(transformer)
    assert muon | adam == {name for name, _ in transformer.named_parameters()}
    assert {name.rpartition(".")[0].rpartition(".")[2] for name in muon} == {
        *("qkv_proj", "out_proj", "q_proj", "kv_proj", "in_proj")
    }
    assert {"lm_head.weight", "encoder.embed_tokens.weight", "decoder.final_norm.bias"} <= adam


def test_adapters_go_to_adam_and_decay() -> None:
    transformer = tiny_transformer()
    add_lora(transformer, LoRAConfig(rank=2))
    (only,) = make_optimizers(transformer, TrainingConfig(steps=1, weight_decay=0.1))
    assert type(only).__name__ == "AdamW"
    (group,) = only.param_groups
    assert group["weight_decay"] == 0.1
    names = {id(parameter): name for name, parameter in transformer.named_parameters()}
    assert {names[id(p)][-6:] for p in group["params"]} == {"lora_a", "lora_b"}


def test_convolutions_go_to_muon_and_frozen_parameters_nowhere() -> None:
    vqgan = tiny_vqgan()
    vqgan.encoder.requires_grad_(False)
    muon, adam = division(vqgan)
    assert "decoder.conv_in.weight" in muon
    assert "quantize.embedding.weight" in adam
    assert not any(name.startswith("encoder.") for name in muon | adam)


def test_nothing_to_train_is_refused() -> None:
    frozen = nn.Linear(2, 2).requires_grad_(False)
    with pytest.raises(InputError, match="nothing to train: no parameter wants a gradient"):
        division(frozen)


def factors(**settings: Any) -> list[float]:
    config = TrainingConfig(**{"steps": 110, "warmup_steps": 10, **settings})
    return [rate_factor(step, config) for step in range(config.steps + 1)]


def test_the_rate_rises_in_a_line_and_falls_in_a_cosine_to_nothing() -> None:
    rates = factors()
    assert rates[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert rates[10] == pytest.approx(1.0)
    assert rates[60] == pytest.approx(0.5)
    assert rates[110] == pytest.approx(0.0)
    assert rates[10:] == sorted(rates[10:], reverse=True)


@pytest.mark.parametrize(("steps", "warmup"), [(5, 1), (50, 5), (10_000, 100)])
def test_the_warm_up_fits_the_run_unless_it_is_given(steps: int, warmup: int) -> None:
    rates = factors(steps=steps, warmup_steps=None, schedule="constant")
    assert rates.index(1.0) == warmup - 1


def test_a_constant_rate_stays() -> None:
    assert factors(schedule="constant")[10:] == [1.0] * 101


def test_the_rate_stays_then_falls_in_a_line() -> None:
    rates = factors(schedule="constant_then_decay", decay_share=0.25)
    assert rates[10:86] == [1.0] * 76
    assert rates[85:] == pytest.approx([1 - step / 25 for step in range(26)])


def test_the_rate_is_defined_when_all_steps_are_warm_up() -> None:
    assert factors(steps=5, warmup_steps=5)[-1] == 1.0


def test_only_matrices_and_heads_decay() -> None:
    config = TrainingConfig(steps=1, weight_decay=0.1)
    transformer = tiny_transformer()
    names = {id(parameter): name for name, parameter in transformer.named_parameters()}
    groups = [g for o in make_optimizers(transformer, config) for g in o.param_groups]
    decayed = {names[id(p)] for g in groups if g["weight_decay"] for p in g["params"]}
    assert "lm_head.weight" in decayed
    assert "encoder.layers.0.self_attn.qkv_proj.weight" in decayed
    assert not any("embed" in name or name.endswith("bias") for name in decayed)


def test_adamw_takes_everything() -> None:
    transformer = tiny_transformer()
    (only,) = make_optimizers(transformer, TrainingConfig(steps=1, optimizer="adamw"))
    assert type(only).__name__ == "AdamW"
    taken = {id(p) for group in only.param_groups for p in group["params"]}
    assert taken == {id(p) for p in transformer.parameters()}


def test_soap_takes_the_matrices() -> None:
    config = TrainingConfig(steps=1, optimizer="soap", matrix_learning_rate=0.003)
    soap, adam = make_optimizers(tiny_transformer(), config)
    assert (type(soap).__name__, type(adam).__name__) == ("SOAP", "AdamW")
    assert all(p.ndim == 2 for group in soap.param_groups for p in group["params"])


def test_soap_without_its_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pytorch_optimizer", None)
    config = TrainingConfig(steps=1, optimizer="soap")
    with pytest.raises(MissingDependencyError, match=r'pip install "\.\[train\]"'):
        make_optimizers(tiny_transformer(), config)
