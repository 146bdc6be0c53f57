"""min-dalle's files give what min-dalle computes with them, its own habits set aside.

It puts the unconditional row first, so row 0 of every array is the empty prompt. Its files hold no
configuration; heads of 16 channels are not told by the shapes, so DalleBart's `config.json` is put
beside them.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from dallemini.errors import UnsupportedOperationError
from dallemini.models.transformer import Transformer
from dallemini.models.vqgan import VQGAN
from dallemini.text.tokenizer import TextTokens

Arrays = Mapping[str, npt.NDArray[Any]]


@pytest.fixture
def arrays(fixtures: Path) -> Arrays:
    with np.load(fixtures / "min-dalle-tiny-fp16/vectors.npz") as stored:
        return dict(stored)


@pytest.fixture
def transformer(fixtures: Path, tmp_path: Path) -> Transformer:
    folder = tmp_path / "model"
    folder.mkdir()
    for name in ("encoder.pt", "decoder.pt"):
        shutil.copy(fixtures / "min-dalle-tiny-fp16" / name, folder)
    shutil.copy(fixtures / "dallebart-tiny-scan/model/config.json", folder)
    return Transformer.from_pretrained(folder, cache_dir=tmp_path / "cache")


def text(arrays: Arrays, prompt: int) -> TextTokens:
    ids = torch.from_numpy(arrays[f"text_tokens_{prompt}"].astype(np.int64))
    return TextTokens(ids, ids != 1)


@pytest.mark.parametrize("prompt", [0, 1])
@torch.no_grad()
def test_encoder_states(transformer: Transformer, arrays: Arrays, prompt: int) -> None:
    encoded = transformer.encode(text(arrays, prompt))
    real = encoded.attention_mask.numpy()  # what stands on padding is never looked at
    np.testing.assert_allclose(
        encoded.hidden_states.numpy()[real],
        arrays[f"encoder_state_{prompt}"][real],
        rtol=1e-4,
        atol=2e-5,
    )


@pytest.mark.parametrize("prompt", [0, 1])
@torch.no_grad()
def test_logits(transformer: Transformer, arrays: Arrays, prompt: int) -> None:
    inputs = torch.from_numpy(arrays[f"decoder_input_ids_{prompt}"].astype(np.int64))
    assert inputs[0, 0] == transformer.config.decoder_start_token_id
    following = torch.cat([inputs[:, 1:], inputs[:, :1]], dim=1).expand(2, -1)
    found = transformer(text(arrays, prompt), following)[:, ::8]
    expected = arrays[f"logits_{prompt}"]
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-4, atol=2e-5)


# The detokenizer, at full size by its recipe


def detokenizer_state(manifest: dict[str, Any], scale: float) -> dict[str, torch.Tensor]:
    """Draw the weights as the manifest says, and check them against its sha256."""
    generator, digest = np.random.default_rng(41), hashlib.sha256()
    state = {}
    for name in sorted(manifest["state_dict_shapes"]):
        shape = manifest["state_dict_shapes"][name]
        values = generator.standard_normal(shape, dtype=np.float32)
        if len(shape) == 4:
            values *= np.float32(1.3 / np.sqrt(np.prod(shape[1:])))
        elif name.endswith("bias"):
            values *= np.float32(0.2)
        elif name != "embedding.weight":
            values = 1 + np.float32(0.2) * values
        digest.update(name.encode() + values.tobytes())
        state[name] = torch.from_numpy(values)
    assert digest.hexdigest() == manifest["sha256_before_conv_out_rescale"]
    state["decoder.conv_out.weight"] *= float(np.float32(scale))
    state["decoder.conv_out.bias"].fill_(0.5)
    return state


@pytest.mark.thorough
def test_detokenizer(fixtures: Path, tmp_path: Path) -> None:
    folder = fixtures / "min-dalle-detoker"
    manifest = json.loads((folder / "manifest.json").read_text())
    with np.load(folder / "vectors.npz") as stored:
        arrays = dict(stored)
    state = detokenizer_state(manifest, float(arrays["conv_out_scale"]))
    torch.save(state, tmp_path / "detoker.pt")
    vqgan = VQGAN.from_pretrained(tmp_path / "detoker.pt", cache_dir=tmp_path / "cache")
    assert sum(parameter.numel() for parameter in vqgan.parameters()) == manifest["n_params"]

    image_tokens = torch.from_numpy(arrays["image_tokens"].astype(np.int64))
    image = vqgan.decode(image_tokens)[0].permute(1, 2, 0).numpy()
    assert image.shape == (256, 256, 3)
    # min-dalle normalises with another epsilon; this array was computed with the VQGAN's own.
    expected = arrays["raw_grid_every8_eps1e6"].clip(0, 1)
    np.testing.assert_allclose(image[::8, ::8], expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(image[::8, ::8] * 255, arrays["output_grid_every8"], atol=0.02)
    np.testing.assert_allclose((image * 255).mean((0, 1)), arrays["output_mean"], atol=0.01)
    np.testing.assert_allclose((image * 255).std((0, 1)), arrays["output_std"], atol=0.01)
    with pytest.raises(UnsupportedOperationError, match="holds only the decoder"):
        vqgan.encode(torch.zeros(1, 3, 256, 256))
