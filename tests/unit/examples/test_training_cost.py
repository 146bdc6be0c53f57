"""The counts of examples/training_cost.py agree with what torch counts and keeps."""

from __future__ import annotations

import importlib
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from dallemini import TextTokens, Transformer
from dallemini.models import TransformerConfig, attention
from dallemini.models.lora import LoRAConfig, add_lora
from dallemini.training.config import TrainingConfig
from dallemini.training.optimizer import make_optimizers, orthogonalize
from dallemini.training.transformer import TransformerBatch, TransformerTask

ROOT = Path(__file__).parents[3]
sys.path.insert(0, str(ROOT / "examples"))
cost: Any = importlib.import_module("training_cost")
Training = cost.Training

SMALL = TransformerConfig(
    text_vocab_size=50,
    image_vocab_size=40,
    image_length=24,
    max_text_length=10,
    d_model=64,
    encoder_layers=3,
    decoder_layers=2,
    encoder_attention_heads=4,
    decoder_attention_heads=4,
    encoder_ffn_dim=96,
    decoder_ffn_dim=80,
    decoder_start_token_id=40,
)
ROWS = 2
BOTH = pytest.mark.parametrize("rank", [0, 4], ids=["all", "lora"])


class Run:
    """One forward and backward pass: its operations, and the bytes kept between the two."""

    def __init__(self, rank: int, *, checkpointing: bool = False) -> None:
        transformer = Transformer.from_config(SMALL, seed=0).train()
        if rank:
            add_lora(transformer, LoRAConfig(rank=rank))
        ids = torch.ones(ROWS, SMALL.max_text_length, dtype=torch.int64)
        text = TextTokens(ids, torch.ones_like(ids, dtype=torch.bool))
        batch = TransformerBatch(text, torch.zeros(ROWS, SMALL.image_length, dtype=torch.int64))
        task = TransformerTask(
            transformer, batches=lambda _: batch, evaluation={}, blank=text, codebook_size=40
        )
        for block in task.blocks if checkpointing else ():
            block.forward = partial(checkpoint, block.forward, use_reentrant=False)
        weights = {weight.untyped_storage().data_ptr() for weight in transformer.parameters()}
        kept: dict[int, int] = {}

        def keep(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            if tensor.is_floating_point() and storage.data_ptr() not in weights:
                kept[storage.data_ptr()] = storage.nbytes()
            return tensor

        with FlopCounterMode(display=False) as counter:
            with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
                loss = task.losses(0)["loss"]
            self.forward = counter.get_total_flops() / ROWS
            loss.backward()
        self.operations = counter.get_total_flops() / ROWS
        self.kept = sum(kept.values()) / ROWS


@pytest.mark.parametrize(
    ("config", "count"), [(cost.MINI, 437_833_712), (cost.MEGA, 2_587_521_024)]
)
def test_parts_add_up_to_the_released_sizes(config: TransformerConfig, count: int) -> None:
    assert sum(cost.parameters(config).values()) == count


def test_forward_operations_are_those_that_torch_counts() -> None:
    assert sum(cost.forward_operations(Training(SMALL)).values()) == Run(0).forward


@pytest.mark.parametrize("checkpointing", [False, True], ids=["kept", "again"])
@BOTH
def test_training_operations_are_those_that_torch_counts(rank: int, checkpointing: bool) -> None:
    training = Training(SMALL, lora_rank=rank, checkpointing=checkpointing)
    counted = Run(rank, checkpointing=checkpointing).operations
    assert cost.step_operations(training) == counted


def test_fewer_text_tokens_take_fewer_operations() -> None:
    short = replace(Training(SMALL), text_tokens=5)
    assert cost.step_operations(short) < cost.step_operations(Training(SMALL))


@BOTH
def test_kept_bytes_are_those_that_torch_keeps(rank: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def fused(query: Tensor, key: Tensor, value: Tensor, **how: Any) -> Tensor:  # as on a GPU
        mask, causal = how.get("mask"), how.get("causal", False)
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, is_causal=causal)

    monkeypatch.setattr(attention, "attend", fused)
    training = Training(SMALL, lora_rank=rank, precision="float32")
    # statistics of norms and of attention are not counted; they are small in a wide network
    assert cost.kept_bytes(training) == pytest.approx(Run(rank).kept, rel=0.03)


def test_checkpointing_keeps_less() -> None:
    for training in cost.ways().values():
        again = replace(training, checkpointing=True)
        assert cost.kept_bytes(again) < cost.kept_bytes(training) / 5


def test_muon_takes_the_operations_that_torch_counts() -> None:
    total = 0
    for name, parameter in Transformer(SMALL).named_parameters():
        if name.endswith("proj.weight"):
            with FlopCounterMode(display=False) as counter:
                orthogonalize(torch.ones(parameter.shape))
            total += counter.get_total_flops()
    assert cost.muon_operations(SMALL) == total


@pytest.mark.parametrize("kind", ["adamw", "muon"])
@BOTH
def test_states_are_those_that_training_holds(rank: int, kind: Literal["adamw", "muon"]) -> None:
    transformer = Transformer.from_config(SMALL, seed=0)
    if rank:
        add_lora(transformer, LoRAConfig(rank=rank))
    trained = [weight for weight in transformer.parameters() if weight.requires_grad]
    for weight in trained:
        weight.grad = torch.ones_like(weight)
    optimizers = make_optimizers(transformer, TrainingConfig(steps=1, optimizer=kind))
    held = 4 * sum(weight.numel() for weight in transformer.parameters())
    held += 8 * sum(weight.numel() for weight in trained)  # gradients and averages
    for each in optimizers:
        each.step()
        tensors = [value for state in each.state.values() for value in state.values()]
        held += sum(4 * value.numel() for value in tensors if value.ndim)  # not step counters
    assert cost.state_bytes(Training(SMALL, lora_rank=rank, optimizer=kind)) == held


def test_splitting_saves_memory() -> None:
    training = Training(cost.MEGA)
    alone = cost.peak_bytes(training, pictures=1)
    assert cost.peak_bytes(training, pictures=1, processes=8) < alone / 2
    assert cost.most_pictures(training, gibibytes=40) == 0
    assert cost.most_pictures(training, gibibytes=40, processes=8) > 0


def test_tables_are_those_of_the_guide(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cost.main(tmp_path / "made")
    written = (tmp_path / "made" / "training cost.md").read_text("utf-8")
    assert capsys.readouterr().out == written + "\n"
    guide = (ROOT / "docs" / "finetuning.md").read_text("utf-8")
    for part in written.split("\n\n"):
        assert part.strip() in guide
