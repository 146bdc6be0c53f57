"""Training the VQGAN: its phases, its state, and a few pictures that it learns to copy."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from dallemini.errors import ConfigError
from dallemini.models.vqgan import VQGAN
from dallemini.testing import TINY_VQGAN, tiny_vqgan
from dallemini.training import TrainingConfig, VQGANTask, run
from dallemini.training.log import read_log
from dallemini.training.perceptual import feature_distance
from dallemini.training.vqgan import VQGANLossConfig

pytest.importorskip("efficientnet_lite_pytorch")


def pictures(step: int = 0, count: int = 4) -> Tensor:
    """Pictures of 16x16 with one soft edge each."""
    generator = torch.Generator().manual_seed(step)
    direction = torch.rand(count, 2, 1, 1, generator=generator) * 2 - 1
    colours = torch.rand(2, count, 3, 1, 1, generator=generator)
    grid = torch.linspace(-1, 1, 16)
    edge = direction[:, 0] * grid[:, None] + direction[:, 1] * grid
    share = torch.sigmoid(8 * edge)[:, None]
    return colours[0] * share + colours[1] * (1 - share)


def make_task(**changes: Any) -> VQGANTask:
    settings = {"quantize_from": 4, "adversarial_from": 6, "kmeans_batches": 2, **changes}
    return VQGANTask(
        tiny_vqgan(),
        batches=pictures,
        held_out=pictures(10**6),
        config=VQGANLossConfig(**settings),
    )


def test_losses_join_one_after_the_other() -> None:
    task = make_task()
    plain = {"l1", "perceptual", "loss"}
    assert set(task.losses(0)) == plain
    assert set(task.losses(4)) == plain | {"commitment"}
    assert set(task.losses(6)) == plain | {"commitment", "generator", "discriminator"}


def test_a_weight_of_zero_leaves_the_discriminator_out() -> None:
    losses = make_task(adversarial_from=0, adversarial_weight=0.0).losses(6)
    assert "discriminator" not in losses


def test_the_loss_is_the_weighted_sum() -> None:
    losses = make_task(perceptual_weight=3.0, adversarial_weight=5.0).losses(4)
    expected = losses["l1"] + 3.0 * losses["perceptual"] + 0.25 * losses["commitment"]
    torch.testing.assert_close(losses["loss"], expected)


def test_the_loss_leaves_out_what_the_discriminator_has_to_learn_itself() -> None:
    losses = make_task(quantize_from=0, adversarial_from=0, adversarial_weight=0.1).losses(1)
    expected = losses["l1"] + 0.25 * losses["perceptual"] + 0.25 * losses["commitment"]
    torch.testing.assert_close(losses["loss"], expected + 0.1 * losses["generator"])
    assert float(losses["discriminator"].detach()) > 1


def test_the_discriminator_learns_from_the_loss() -> None:
    task = make_task(quantize_from=0, adversarial_from=0, adversarial_weight=0.0001)
    task.losses(1)["loss"].backward()
    heads = list(task.trained["discriminator"].parameters())
    assert all(head.grad is not None and bool(head.grad.any()) for head in heads)


@pytest.mark.slow_except("0-1")
@pytest.mark.parametrize(("quantize_from", "seed"), [(-1, 0), (0, 1), (9, 0)])
def test_a_black_picture_leaves_the_gradients_of_the_others_as_they_are(
    quantize_from: int, seed: int
) -> None:
    """In a new network, whose biases are zero, it is zero in every layer of the encoder."""

    def norm(black: bool) -> float:
        vqgan = VQGAN.from_config(TINY_VQGAN, seed=seed)
        for parameter in vqgan.parameters():
            parameter.data = parameter.data.clone()
        images = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(seed))
        images[1] *= not black
        config = VQGANLossConfig(quantize_from=quantize_from, adversarial_from=9, kmeans_batches=4)
        task = VQGANTask(vqgan, batches=lambda _: images, held_out=images, config=config)
        task.losses(0)["loss"].backward()
        gradients = [p.grad for p in vqgan.encoder.parameters() if p.grad is not None]
        with torch.no_grad():
            task.evaluate(1)
        assert not any(module._forward_pre_hooks for module in vqgan.modules())
        return float(torch.nn.utils.get_total_norm(gradients))

    assert norm(True) < 100 * norm(False)


def test_a_picture_that_is_not_flat_is_left_alone() -> None:
    task = make_task()
    task.losses(0)
    assert not any(module._forward_pre_hooks for module in task.vqgan.modules())


def test_the_default_dtype_changes_nothing_in_a_new_task() -> None:
    config = VQGANLossConfig(quantize_from=4, adversarial_from=6)
    made = []
    for dtype in (torch.float32, torch.float64):
        vqgan = tiny_vqgan()
        torch.set_default_dtype(dtype)
        try:
            task = VQGANTask(vqgan, batches=pictures, held_out=pictures(9), config=config)
        finally:
            torch.set_default_dtype(torch.float32)
        made.append((task.module.state_dict(), task.eye[0].state_dict()))
    for one, other in zip(*made, strict=True):
        assert all(torch.equal(value, other[name]) for name, value in one.items())


@pytest.mark.thorough
def test_other_starts_of_the_losses_are_refused_when_a_run_goes_on(tmp_path: Path) -> None:
    config = TrainingConfig(steps=2, batch_size=4, device="cpu", progress=False)
    run(make_task(), config, folder=tmp_path, seconds=0.0)
    message = "was made with quantize_from=4, not 8, adversarial_from=6, not 9: that stays"
    with pytest.raises(ConfigError, match=message):
        run(make_task(quantize_from=8, adversarial_from=9), config, folder=tmp_path)


def test_the_generator_leaves_the_discriminator_alone() -> None:
    task = make_task(quantize_from=0, adversarial_from=0)
    critic = task.trained["discriminator"]
    losses = task.losses(1)
    losses["generator"].backward(retain_graph=True)
    assert all(parameter.grad is None for parameter in critic.parameters())
    assert task.vqgan.decoder.conv_out.weight.grad is not None
    task.module.zero_grad(set_to_none=True)
    losses["discriminator"].backward()
    assert task.vqgan.decoder.conv_out.weight.grad is None
    assert all(parameter.grad is not None for parameter in critic.parameters())


def test_quantising_starts_with_codes_over_the_features() -> None:
    task = make_task()
    before = task.vqgan.quantize.embedding.weight.clone()
    task.losses(3)
    assert torch.equal(task.vqgan.quantize.embedding.weight, before)
    task.losses(4)
    codes = task.vqgan.quantize.embedding.weight
    assert not torch.equal(codes, before)
    with torch.no_grad():
        features = task.vqgan.encode_features(pictures(4)).permute(0, 2, 3, 1).flatten(0, 2)
    nearest = codes[task.vqgan.quantize.nearest(features)]
    assert float((nearest - features).square().mean()) < 0.3 * float(features.var())


def test_gradients_pass_straight_through_the_codes() -> None:
    task = make_task(quantize_from=0)
    losses = task.losses(1)
    losses["l1"].backward()
    assert task.vqgan.encoder.conv_in.weight.grad is not None
    assert task.vqgan.quantize.embedding.weight.grad is None


def test_the_frozen_eye_is_not_part_of_the_state() -> None:
    task = make_task()
    parts = {name.partition(".")[0] for name in task.module.state_dict()}
    assert parts == {"vqgan", "codebook", "discriminator"}


def test_the_task_follows_from_its_seed_and_takes_no_global_numbers() -> None:
    state = torch.get_rng_state()
    first, again, other = make_task(), make_task(), make_task(seed=1)
    assert torch.equal(torch.get_rng_state(), state)
    weights = [
        next(iter(task.trained["discriminator"].parameters())) for task in (first, again, other)
    ]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    losses = [float(task.losses(4)["loss"].detach()) for task in (first, again)]
    assert losses[0] == losses[1]


def test_only_the_decoder_learns_when_asked_for(tmp_path: Path) -> None:
    task = make_task(decoder_only=True, quantize_from=0)
    before = {name: value.clone() for name, value in task.vqgan.state_dict().items()}
    run(task, TrainingConfig(steps=2, warmup_steps=1, ema_decay=0.0), folder=tmp_path)
    after = task.vqgan.state_dict()
    changed = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert changed <= {"decoder", "post_quant_conv"}
    assert "decoder" in changed


def test_a_larger_decoder_learns_on_the_codes_of_smaller_pictures() -> None:
    config = replace(TINY_VQGAN, refiner_scale=2)
    loss = VQGANLossConfig(decoder_only=True, adversarial_from=100).over(10)
    vqgan = VQGAN.from_config(config)

    def large(step: int) -> Tensor:
        return F.interpolate(pictures(step), scale_factor=2.0, mode="bilinear").clamp(0, 1)

    task = VQGANTask(vqgan, batches=large, held_out=large(10**6), config=loss)
    losses = task.losses(0)
    losses["loss"].backward()
    for layer in (vqgan.decoder.conv_out, vqgan.refiner.body[0]):
        learnt = layer.weight.grad
        assert isinstance(learnt, Tensor)
        assert learnt.any()
    assert set(task.evaluate(1)) == {"psnr", "codes_used"}
    assert task.pictures(1)["reconstructions"].images.shape == (8, 3, 32, 32)


@pytest.mark.slow
def test_pictures_are_learned_and_the_measures_say_so(tmp_path: Path) -> None:
    task = make_task(quantize_from=15, adversarial_from=1000)
    config = TrainingConfig(
        steps=30,
        warmup_steps=5,
        learning_rate=0.003,
        matrix_learning_rate=0.02,
        ema_decay=0.5,
        evaluate_every=10,
    )
    run(task, config, folder=tmp_path)
    rows = [row for row in read_log(tmp_path) if "psnr" in row]
    assert "codes_used" not in rows[0]
    assert rows[-1]["codes_used"] > 0.2
    assert rows[-1]["psnr"] > rows[0]["psnr"] + 1


def test_codes_are_measured_from_when_they_are_set_also_with_accumulation(tmp_path: Path) -> None:
    task = make_task(quantize_from=3, adversarial_from=100)
    config = TrainingConfig(
        steps=3, accumulation=2, warmup_steps=1, evaluate_every=1, progress=False, device="cpu"
    )
    run(task, config, folder=tmp_path)
    measured = [row for row in read_log(tmp_path) if "psnr" in row]
    assert ["codes_used" in row for row in measured] == [False, True, True]


def test_codes_are_chosen_in_full_precision() -> None:
    task = make_task()
    features = 100 + torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    codes = 100 + torch.randn(64, 4, generator=torch.Generator().manual_seed(1))
    task.vqgan.quantize.embedding.weight.data.copy_(codes)
    expected = task._lookup(features)[2]
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(task._lookup(features)[2], expected)
        assert not torch.equal(task.vqgan.quantize.nearest(task._lookup(features)[1]), expected)


@pytest.mark.parametrize(("share", "blurred_counts"), [(0.0, False), (1.0, True)])
def test_parts_show_the_blur_that_shrinking_hides(share: float, blurred_counts: bool) -> None:
    task = make_task(perceptual_size=32, detail_share=share)
    dots = torch.rand(2, 3, 128, 128, generator=torch.Generator().manual_seed(0)).round()
    blurred = F.avg_pool2d(F.pad(dots, (1, 2, 1, 2), mode="reflect"), 4, stride=1)
    generator = torch.Generator().manual_seed(0)
    own = task._looked_at(dots, dots, generator)
    assert all(torch.equal(real, fake) for real, fake in zip(*own, strict=True))
    assert own[0][0].shape[2:] == (8, 8)
    distances = [feature_distance(*task._looked_at(dots, blurred, generator)) for _ in range(4)]
    assert (min(distances) > 0.5) == blurred_counts
    assert (len({float(distance) for distance in distances}) > 1) == blurred_counts


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"quantise_from": 1}, "Did you mean 'quantize_from'"),
        ({"detail_share": 1.5}, "detail_share must be in 0-1, not 1.5"),
        ({"quantize_from": "1"}, "quantize_from must be int . None, not '1'"),
    ],
)
def test_impossible_settings_are_refused(changes: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        VQGANLossConfig.from_dict({"quantize_from": 1, "adversarial_from": 2, **changes})
