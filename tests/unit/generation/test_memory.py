"""Predicted memory: its terms, what a process really takes, and the batch that follows from it."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from dallemini import VQGAN, GenerationConfig, Pipeline, Transformer, models
from dallemini.errors import InputError, InputTypeError
from dallemini.generation import memory, predict_memory
from dallemini.generation.memory import MOST_ROWS, SHARE, UNKNOWN_IMAGES, choose_batch_size
from dallemini.models import TransformerConfig, VQGANConfig
from dallemini.testing import (
    TINY_TRANSFORMER,
    TINY_VQGAN,
    tiny_pipeline,
    tiny_tokenizer,
    tiny_transformer,
    tiny_vqgan,
)
from patience import patience

MINI = TransformerConfig()
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/status")

# Draws in a process of its own and prints, for each case, by how much the resident memory grew at
# its peak; models are made beforehand, and what the first drawing leaves behind is not counted.
DRAW = """
import ctypes, gc, json, sys
from pathlib import Path

import torch

import dallemini.models as models
from dallemini import Pipeline, Transformer
from dallemini.models import TransformerConfig
from dallemini.testing import tiny_tokenizer

torch.set_num_threads(1)

def resident(name):
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1]) * 1024

def peak(draw):
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    draw()
    return resident("VmHWM") - before

def measure(case):
    transformer = Transformer.from_config(TransformerConfig(**sizes))
    if case["quantized"]:
        transformer.quantize()
    kind, image_sizes = case["vqgan"]
    config = getattr(models, kind + "Config").from_dict(image_sizes)
    vqgan = getattr(models, kind).from_config(config)
    pipe = Pipeline(tokenizer=tiny_tokenizer(), transformer=transformer, vqgan=vqgan)
    prompts = ["a red apple on a white background"] * case["prompts"]
    settings = dict(guidance_scale=case["guidance_scale"], batch_size=None, progress=False)
    pipe(prompts[0], **settings)
    each = case["images"] // case["prompts"]
    return peak(lambda: pipe(prompts, num_images_per_prompt=each, **settings))

sizes, cases = json.loads(sys.argv[1])
print(json.dumps([measure(case) for case in cases]))
"""

MIDDLE: dict[str, Any] = {
    "text_vocab_size": 400,
    "image_vocab_size": 8192,
    "image_length": 64,
    "d_model": 512,
    "encoder_layers": 2,
    "decoder_layers": 4,
    "encoder_attention_heads": 8,
    "decoder_attention_heads": 8,
    "encoder_ffn_dim": 1365,
    "decoder_ffn_dim": 1365,
    "decoder_start_token_id": 8192,
}
MIDDLE_IMAGES: dict[str, Any] = {"ch": 64, "resolution": 128, "n_embed": 8192, "has_encoder": False}
SMALL_IMAGES: dict[str, Any] = {"ch": 32, "ch_mult": (1, 1), "resolution": 16, "n_embed": 8192}
DVAE_SIZES = {"n_hid": 96, "n_blk_per_group": 1, "n_init": 64, "resolution": 64}
DISCRETE_SIZES = {"image_size": 64, "num_tokens": 8192, "hidden_dim": 256, "codebook_dim": 256}
WAVELET_SIZES = {"ch": 96, "ch_mult": (1, 1, 2, 2), "resolution": 64, "n_embed": 8192}


def case(vqgan: tuple[str, dict[str, Any]], **changes: Any) -> dict[str, Any]:
    plain = {"images": 1, "prompts": 1, "guidance_scale": 3.0, "quantized": False}
    return plain | changes | {"vqgan": vqgan}


SMALL = ("VQGAN", SMALL_IMAGES)
CASES = [
    case(SMALL, images=24),
    case(SMALL, images=32, prompts=32, guidance_scale=1.0),
    case(SMALL, images=24, quantized=True),
    case(("VQGAN", MIDDLE_IMAGES)),
    case(("DVAE", DVAE_SIZES | {"vocab_size": 8192})),
    case(("DiscreteVAE", DISCRETE_SIZES)),
    case(("VQGAN", WAVELET_SIZES | {"wavelet": True, "has_encoder": False})),
]


@LINUX
@pytest.mark.slow
@pytest.mark.parametrize("cases", [CASES[3:], CASES[:3]])
def test_prediction_covers_what_a_process_takes(cases: list[dict[str, Any]]) -> None:
    arguments = json.dumps([MIDDLE, cases])
    command = [sys.executable, "-c", DRAW, arguments]
    shown = subprocess.run(
        command, check=True, stdout=subprocess.PIPE, text=True, timeout=patience(300)
    )
    for case, measured in zip(cases, json.loads(shown.stdout), strict=True):
        kind, sizes = case["vqgan"]
        prediction = predict_memory(
            TransformerConfig(**MIDDLE),
            vqgan=getattr(models, f"{kind}Config").from_dict(sizes),
            images=case["images"],
            prompts=case["prompts"],
            guided=case["guidance_scale"] != 1,
            text_length=16,
            quantization="int8" if case["quantized"] else None,
        )
        most = 5 if kind == "DVAE" else 3  # a small one takes less than what every call may
        assert 0.95 * measured < prediction.drawing < most * measured, (case, prediction)


@pytest.mark.parametrize("sizes", [{"config": "mini"}, {"vqgan": 16384}])
def test_prediction_needs_configurations(sizes: dict[str, Any]) -> None:
    with pytest.raises(InputTypeError, match="reads configurations, such as TransformerConfig"):
        predict_memory(**{"config": TransformerConfig(), **sizes})


def test_prediction_knows_the_quantisations_that_there_are() -> None:
    wrong: Any = "int4"
    with pytest.raises(InputError, match="quantization must be 'int8', not 'int4'"):
        predict_memory(TransformerConfig(), quantization=wrong)


@pytest.mark.gpu
def test_prediction_covers_what_a_gpu_takes() -> None:
    transformer = Transformer.from_config(TransformerConfig(**MIDDLE), device="cuda")
    vqgan = VQGAN.from_config(VQGANConfig(**MIDDLE_IMAGES), device="cuda")
    pipe = Pipeline(tokenizer=tiny_tokenizer(), transformer=transformer, vqgan=vqgan)
    pipe("a red apple", progress=False)
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    pipe("a red apple", num_images_per_prompt=24, progress=False)
    measured = torch.cuda.max_memory_allocated() - before
    prediction = predict_memory(transformer.config, vqgan=vqgan.config, images=24, text_length=16)
    assert 0.95 * measured < prediction.drawing < 3 * measured


def test_weights_are_those_of_the_files(tmp_path: Path) -> None:
    for quantization in (None, "int8"):
        transformer = tiny_transformer()
        if quantization is not None:
            transformer.quantize()
        transformer.save_pretrained(tmp_path)
        found = load_file(tmp_path / "model.safetensors").values()
        prediction = predict_memory(TINY_TRANSFORMER, quantization=quantization)
        assert prediction.weights == sum(tensor.nbytes for tensor in found)


def test_terms_of_the_released_sizes() -> None:
    prediction = predict_memory(MINI, vqgan=VQGANConfig(), images=9)
    layers, rows, text, image, width = 12, 18, 64, 256, 1024
    assert prediction.self_attention == 2 * layers * rows * image * width * 4
    assert prediction.cross_attention == 2 * layers * (rows + 2) * text * width * 4
    assert prediction.tokens > prediction.self_attention + prediction.cross_attention
    assert prediction.drawing == max(prediction.tokens, prediction.pixels)
    assert prediction.streaming == prediction.tokens + prediction.pixels
    assert prediction.total == prediction.weights + prediction.drawing


def test_the_default_dtype_of_torch_changes_no_count() -> None:
    images = models.DiscreteVAEConfig(image_size=16, num_layers=2, num_tokens=8)
    torch.set_default_dtype(torch.float64)
    try:
        prediction = predict_memory(TINY_TRANSFORMER, vqgan=images)
    finally:
        torch.set_default_dtype(torch.float32)
    assert prediction == predict_memory(TINY_TRANSFORMER, vqgan=replace(images, image_size=32))


def test_guidance_doubles_the_rows_and_half_precision_halves_them() -> None:
    guided = predict_memory(MINI, images=4)
    plain = predict_memory(MINI, images=4, guided=False)
    half = predict_memory(MINI, images=4, dtype=torch.float16)
    assert guided.self_attention == 2 * plain.self_attention == 2 * half.self_attention
    assert guided.weights == plain.weights == 2 * half.weights


def test_short_prompts_take_less() -> None:
    short, long = (predict_memory(MINI, prompts=3, text_length=n) for n in (16, None))
    assert 4 * short.cross_attention == long.cross_attention
    assert 4 * short.encoder == long.encoder


def test_quantised_drawing_is_counted_in_float32() -> None:
    quantised = predict_memory(MINI, quantization="int8", dtype=torch.float16)
    assert quantised.self_attention == predict_memory(MINI).self_attention
    assert 0.25 < quantised.weights / predict_memory(MINI).weights < 0.5


def test_prediction_without_image_tokenizer_counts_no_pixels() -> None:
    assert predict_memory(MINI).pixels == 0
    assert predict_memory(MINI).weights == 4 * 437_833_712


@pytest.mark.thorough
def test_table_of_the_documentation_is_what_its_code_prints(
    capsys: pytest.CaptureFixture[str],
) -> None:
    page = (Path(__file__).parents[3] / "docs" / "throughput.md").read_text(encoding="utf-8")
    code = next(part for part in page.split("```") if "predict_memory(" in part)
    exec(code.removeprefix("python"), {})
    rows = capsys.readouterr().out
    assert rows.count("\n") == 4
    assert f"|---|\n{rows}\n" in page


@pytest.mark.parametrize("name", ["images", "prompts", "text_length"])
@pytest.mark.parametrize("count", [0, -1, 1.5, True, "2"])
def test_what_is_no_count_is_refused(name: str, count: Any) -> None:
    with pytest.raises(InputError, match=f"{name} must be a whole number from 1, not {count!r}"):
        predict_memory(MINI, **{name: count})


def test_longer_prompts_than_the_model_reads_are_refused() -> None:
    with pytest.raises(InputError, match="text_length must be at most 64, not 65"):
        predict_memory(MINI, text_length=65)


def batch_of(images: int, **settings: Any) -> int:
    config = GenerationConfig(**settings)
    return choose_batch_size(config, tiny_transformer(), tiny_vqgan(), images=images)


def test_batch_size_is_as_asked() -> None:
    assert batch_of(7, batch_size=3) == 3
    assert batch_of(7, batch_size=None) == 7
    assert batch_of(700, batch_size=None) == 700


def test_auto_draws_what_fits_together_in_equal_batches() -> None:
    most = MOST_ROWS["cpu"] // 2
    assert [batch_of(images) for images in (1, 7, most)] == [1, 7, most]
    assert [batch_of(images) for images in (most + 1, 40, 64, 70)] == [17, 20, 32, 24]
    assert batch_of(64, guidance_scale=1.0) == 64


def test_auto_draws_fewer_together_where_memory_is_short(monkeypatch: pytest.MonkeyPatch) -> None:
    weights = sum(
        p.nbytes for model in (tiny_transformer(), tiny_vqgan()) for p in model.parameters()
    )
    needed = predict_memory(TINY_TRANSFORMER, vqgan=TINY_VQGAN, images=5, prompts=5).streaming

    def batch(room: int) -> int:
        available = int((room + weights) / SHARE) + 1
        monkeypatch.setattr(memory, "available_memory", lambda device: available)
        return batch_of(20)

    assert [batch(needed), batch(needed - 2), batch(0), batch(10**9)] == [5, 4, 1, 20]


def test_weights_of_files_need_room_although_they_count_as_available(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(memory, "available_memory", lambda device: 5 * 10**6)
    tiny_transformer().save_pretrained(tmp_path)
    config = GenerationConfig()
    mapped = Transformer.from_pretrained(tmp_path)
    large = VQGAN.from_config(VQGANConfig(ch=64, ch_mult=(1, 1), resolution=32, n_embed=64))
    assert choose_batch_size(config, mapped, object(), images=9) == 9
    assert choose_batch_size(config, mapped, large, images=9) == 1


def test_auto_draws_a_few_together_where_nobody_knows_the_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(memory, "available_memory", lambda device: None)
    assert batch_of(3) == 3
    assert batch_of(20) == UNKNOWN_IMAGES


def test_an_image_tokenizer_of_ones_own_is_not_counted() -> None:
    config = GenerationConfig()
    assert choose_batch_size(config, tiny_transformer(), object(), images=9) == 9


@pytest.mark.slow_except("1", "auto")
@pytest.mark.parametrize("batch_size", [1, 2, "auto", None])
def test_what_is_drawn_does_not_depend_on_the_batch(batch_size: Any) -> None:
    pipe = tiny_pipeline()
    whole = pipe("a red apple", num_images_per_prompt=5, seed=3, batch_size=5, progress=False)
    drawn = pipe(
        "a red apple", num_images_per_prompt=5, seed=3, batch_size=batch_size, progress=False
    )
    assert torch.equal(drawn.image_tokens, whole.image_tokens)
    assert drawn.config.batch_size == batch_size


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"wavelet": True},
        {"refiner_scale": 2},
        {"refiner_scale": 2, "refiner_width": 500},
    ],
)
def test_a_vqgan_is_counted_as_it_is_seen(fields: Any) -> None:
    config = replace(TINY_VQGAN, ch_mult=(1, 2, 1), resolution=32, **fields)
    found = memory._vqgan_maps(config, (3, 5))
    assert found == memory._seen_maps(VQGAN(config).eval(), (3, 5))
