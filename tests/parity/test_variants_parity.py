"""Every switch of the transformer computes what DalleBart computes in Flax.

The weights of the recorded models are random numbers of a seed, drawn here again; the names and
shapes of their arrays, and what the original computed from them, are recorded.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from dallemini.models.transformer import Transformer
from dallemini.text.tokenizer import TextTokens
from flax_dallebart import draw, forward, random_array, stacked
from random_checkpoints import nested, write_flax

Array = npt.NDArray[Any]

FOLDER = Path(__file__).parents[1] / "fixtures" / "dallebart-variants"
RECORDED = json.loads((FOLDER / "manifest.json").read_text())
VARIANTS: dict[str, dict[str, Any]] = RECORDED["variants"]
PADDING = 1
EVERY = {"encoder": 5, "cond": 17, "uncond": 21}
"""Every how manyth position was kept."""
WIDE = ("cosine", "swinv2")
"""A small tau enlarges the rounding of float32, and so do six layers without a norm."""


@pytest.fixture(scope="module")
def vectors() -> dict[str, Array]:
    with np.load(FOLDER / "vectors.npz") as stored:
        return dict(stored)


@pytest.fixture(scope="module", params=VARIANTS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def config(name: str) -> dict[str, Any]:
    return {**RECORDED["common"], **VARIANTS[name]["config"]}


def arrays(name: str) -> dict[str, Array]:
    """Draw the weights, array by array in the order of their names."""
    shapes = {
        stem.format(index): tuple(shape)
        for stem, shape, *indices in VARIANTS[name]["arrays"]
        for index in (indices[0] if indices else [0])
    }
    random = np.random.default_rng(VARIANTS[name]["seed"])
    return {key: random_array(key, random.standard_normal(shapes[key])) for key in sorted(shapes)}


@pytest.fixture(scope="module")
def transformer(name: str, tmp_path_factory: pytest.TempPathFactory) -> Transformer:
    folder = tmp_path_factory.mktemp(name)
    (folder / "config.json").write_text(json.dumps(config(name)))
    write_flax(folder / "flax_model.msgpack", nested(arrays(name)))
    return Transformer.from_pretrained(folder, cache_dir=folder / "cache")


def tokens(vectors: dict[str, Array], name: str, rows: slice) -> TextTokens:
    ids = torch.from_numpy(vectors[f"{name}/input_ids"][rows].astype(np.int64))
    return TextTokens(ids, ids != PADDING)


def image_tokens(vectors: dict[str, Array], name: str) -> Tensor:
    return torch.from_numpy(vectors[f"{name}/image_tokens"].astype(np.int64))


def assert_close(found: Tensor, expected: Array, name: str) -> None:
    tolerance = 5e-4 if name.startswith(WIDE) else 5e-5
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-4, atol=tolerance)


@torch.no_grad()
def test_every_variant_computes_what_the_original_does(
    transformer: Transformer, vectors: dict[str, Array], name: str
) -> None:
    images = image_tokens(vectors, name)
    text, rows = tokens(vectors, name, slice(None)), len(images)
    states = transformer.encode(text).hidden_states[:, :: EVERY["encoder"]]
    assert_close(states, vectors[f"{name}/encoder"], name)
    logits = transformer(tokens(vectors, name, slice(rows)), images)
    assert_close(logits[:, :: EVERY["cond"]], vectors[f"{name}/cond"], name)
    blank = tokens(vectors, name, slice(-1, None))
    both = TextTokens(blank.input_ids.expand(rows, -1), blank.attention_mask.expand(rows, -1))
    logits = transformer(both, images)
    assert_close(logits[:, :: EVERY["uncond"]], vectors[f"{name}/uncond"], name)


def test_the_second_implementation_agrees_with_the_original(vectors: dict[str, Array]) -> None:
    """It is what combinations of switches are compared with, which nobody recorded."""
    for name in ("subln-unscan", "rmsnorm-unscan", "swinpos-unscan", "sinkhorn2-unscan"):
        text, images = tokens(vectors, name, slice(2)), image_tokens(vectors, name)
        start = torch.full((2, 1), config(name)["decoder_start_token_id"])
        shifted = torch.cat([start, images[:, :-1]], dim=1)
        asked = (text.input_ids.numpy(), text.attention_mask.numpy(), shifted.numpy())
        states, logits = forward(config(name), arrays(name), *asked)
        np.testing.assert_allclose(states[:, ::5], vectors[f"{name}/encoder"][:2], atol=2e-5)
        np.testing.assert_allclose(logits[:, ::17], vectors[f"{name}/cond"], atol=2e-5)


# Combinations that nobody recorded, against the second implementation

SMALL = {
    "model_type": "dallebart",
    "encoder_vocab_size": 40,
    "image_vocab_size": 30,
    "image_length": 9,
    "max_text_length": 7,
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 3,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 24,
    "decoder_ffn_dim": 40,
    "decoder_start_token_id": 30,
}
COMBINATIONS: dict[str, dict[str, Any]] = {
    "preln": {
        "ln_positions": "preln",
        "ln_type": "rmsnorm",
        "use_bias": True,
        "activation_function": "relu",
        "use_final_ln_decoder": False,
    },
    "postln": {
        "ln_positions": "postln",
        "use_deepnet_scaling": True,
        "use_cosine_attention": True,
        "tau_init": 0.2,
        "activation_function": "gelu_new",
    },
    "postln, rmsnorm": {"ln_positions": "postln", "ln_type": "rmsnorm", "sinkhorn_iters": 2},
    "postln, forced": {"ln_positions": "postln", "force_ln_scale": True, "use_glu": False},
    "cogview": {
        "ln_positions": "cogview",
        "use_head_scale": True,
        "use_swin_position_embeddings": True,
        "use_glu": False,
        "activation_function": "smelu",
    },
    "subln": {
        "ln_positions": "subln",
        "ln_type": "rmsnorm",
        "force_ln_scale": True,
        "use_bias": True,
        "sinkhorn_iters": 3,
        "use_subln_init": True,
    },
    "swinv2": {
        "ln_positions": "swinv2",
        "ln_type": "rmsnorm",
        "use_glu": False,
        "use_bias": True,
        "encoder_layers": 7,
        "decoder_layers": 6,
        "use_absolute_position_embeddings": False,
        "use_swin_position_embeddings": True,
        "scale_embedding": True,
    },
    "normformer": {
        "use_bias": True,
        "use_head_scale": True,
        "use_swin_position_embeddings": True,
        "use_cosine_attention": True,
        "use_final_ln_encoder": False,
        "activation_function": "quick_gelu",
        "sinkhorn_iters": 4,
    },
}


@pytest.mark.slow_except("swinv2", "cogview", "postln, rmsnorm")
@torch.no_grad()
@pytest.mark.parametrize("combination", COMBINATIONS)
def test_combinations_stacked_and_layer_by_layer(tmp_path: Path, combination: str) -> None:
    asked = {**SMALL, **COMBINATIONS[combination], "use_scan": False}
    drawn = draw(asked, seed=len(combination))
    random = np.random.default_rng(0)
    ids, images = random.integers(2, 40, (3, 7)), random.integers(0, 30, (3, 9))
    ids[0, 3:] = ids[1, 6:] = PADDING
    shifted = np.concatenate([np.full((3, 1), 30), images[:, :-1]], axis=1)
    states, logits = forward(asked, drawn, ids, ids != PADDING, shifted)
    forms = {"single": (asked, drawn)}
    if combination != "swinv2":
        forms["stacked"] = ({**asked, "use_scan": True}, stacked(drawn))
    for form, (values, tree) in forms.items():
        (folder := tmp_path / form).mkdir()
        (folder / "config.json").write_text(json.dumps(values))
        write_flax(folder / "flax_model.msgpack", nested(tree))
        model = Transformer.from_pretrained(folder, cache_dir=tmp_path / "cache")
        text = TextTokens(torch.from_numpy(ids), torch.from_numpy(ids != PADDING))
        found = model.encode(text).hidden_states.numpy()
        np.testing.assert_allclose(found, states, rtol=1e-4, atol=5e-5)
        found = model(text, torch.from_numpy(images)).numpy()
        np.testing.assert_allclose(found, logits, rtol=1e-4, atol=2e-4)
