"""How well does a picture fit its prompt? The `Scorer` protocol, and CLIP's answer to it.

`CLIPScorer` is a CLIP model with its own tokenizer and the image preprocessing that it was trained
with, all in torch. Knows nothing about generation or about image files. Paper: Radford et al. 2021,
"Learning Transferable Visual Models From Natural Language Supervision",
https://arxiv.org/abs/2103.00020.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, Self, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor

from . import hub
from .errors import ConfigError, InputError, InputTypeError
from .models._checks import without_autocast
from .models.clip import CLIP, CLIPConfig
from .models.precision import Precision, check_dtype
from .models.pretrained import Loadable, SourceName, open_model
from .text.clip_tokenizer import CLIPTokenizer, CLIPTokenizerConfig, check_prompts

__all__ = ["CLIPScorer", "CLIPTokenizer", "CLIPTokenizerConfig", "Scorer", "preprocess"]

_IMAGES_AT_ONCE = 64


@runtime_checkable
class Scorer(Protocol):
    """Anything that says how well pictures fit their prompts; `Pipeline` ranks by it."""

    def score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Return f32[N], higher is better, of images f[N,3,H,W] in [0,1] and one prompt each."""


class CLIPScorer(Loadable):
    """CLIP with its tokenizer and its image preprocessing: pictures and prompts in, scores out.

    Args:
        clip: the model.
        tokenizer: the tokenizer it was trained with; if that reads longer prompts than the model,
            they are cut to the model's `context_length`.

    Raises:
        ConfigError: the vocabulary does not fit the model.

    Example:
        >>> import torch
        >>> from dallemini.models.clip import CLIP, CLIPConfig
        >>> from dallemini.scorer import CLIPScorer, CLIPTokenizer
        >>> config = CLIPConfig(embed_dim=8, image_size=16, patch_size=8, vocab_size=520,
        ...     vision_width=16, vision_layers=1, vision_heads=2, vision_mlp_dim=32, text_width=16,
        ...     text_layers=1, text_heads=2, text_mlp_dim=32, context_length=12)
        >>> tokenizer = CLIPTokenizer.train(["a red apple"] * 2, vocab_size=520)
        >>> scorer = CLIPScorer(CLIP.from_config(config), tokenizer)
        >>> scorer.score(torch.rand(2, 3, 20, 30), ["a red apple", "a cat"]).shape
        torch.Size([2])
    """

    def __init__(self, clip: CLIP, tokenizer: CLIPTokenizer) -> None:
        _check_fit(clip.config, tokenizer)
        if tokenizer.config.context_length > clip.config.context_length:
            tokenizer = CLIPTokenizer(
                tokenizer.backend,
                dataclasses.replace(tokenizer.config, context_length=clip.config.context_length),
            )
        self.clip = clip
        self.tokenizer = tokenizer

    @classmethod
    def from_pretrained(
        cls,
        source: SourceName | hub.Source,
        *,
        subfolder: str | None = None,
        revision: str | None = None,
        cache_dir: SourceName | None = None,
        local_files_only: bool = False,
        token: str | None = None,
        device: str | torch.device = "cpu",
        dtype: Precision | None = None,
        tokenizer: CLIPTokenizer | None = None,
    ) -> Self:
        """Load model and tokenizer from a local folder, a file, a bundled name or a Hub id.

        Args:
            source: as `CLIP.from_pretrained` takes it; both are read from it.
            subfolder: folder inside the source that holds this part.
            revision: branch, tag or commit on the Hub.
            cache_dir: the Hub's cache folder, instead of the user's.
            local_files_only: never ask the network.
            token: Hub access token, instead of the stored one.
            device: where the weights go.
            dtype: of the weights: a type of torch or its name; float32 when None.
            tokenizer: for sources that hold weights only, such as OpenAI's `.pt` files.

        Raises:
            MissingFileError: the source, its weights or its vocabulary does not exist.
            HubError: the Hub could not be reached or refused.
            CheckpointError: a file is corrupt, unsafe or disagrees with its configuration.
            ConfigError: vocabulary and model do not fit.
        """
        CLIP.check_precision(device, dtype)
        where = hub.Where(revision, cache_dir, local_files_only, token)
        opened = open_model(source, where, subfolder)
        # The small file first: without it the large one would be downloaded for nothing.
        tokenizer = CLIPTokenizer.from_pretrained(opened) if tokenizer is None else tokenizer
        return cls(CLIP.from_pretrained(opened, device=device, dtype=dtype), tokenizer)

    @classmethod
    def _load(cls, source: hub.Source) -> Self:
        return cls.from_pretrained(source)

    def _check_savable(self) -> None:
        self.clip._check_savable()

    def _save(self, directory: Path) -> None:
        self.clip._save(directory)
        self.tokenizer._save(directory)

    def to(
        self, device: str | torch.device | None = None, *, dtype: Precision | None = None
    ) -> Self:
        """Move the model, in place, and return the scorer.

        Raises:
            InputTypeError: `dtype` is neither a floating-point type nor the name of one.
        """
        self.clip.to(device=device, dtype=None if dtype is None else check_dtype(dtype))
        return self

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self.clip!r}>"

    def score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Say how well each picture fits its prompt.

        Args:
            images: f[N,3,H,W] in [0,1].
            prompts: N prompts, one a picture; equal ones are read once.

        Returns:
            f32[N], CLIP's own logit `exp(logit_scale) * cosine` (100 * cosine for the released
            models), on the device of the model.

        Raises:
            InputTypeError: the images are not a floating-point tensor, or a prompt is no string.
            InputError: wrong shape, values outside [0,1], or another number of prompts.
        """
        _check_images(images)
        if isinstance(prompts, str) or not isinstance(prompts, Sequence):
            kind = type(prompts).__name__
            raise InputTypeError(
                f"prompts must be a sequence with one prompt a picture, not a {kind}."
            )
        if len(prompts) != len(images):
            raise InputError(
                f"Every picture needs its prompt: {len(images)} images, {len(prompts)} prompts."
            )
        known = {prompt: row for row, prompt in enumerate(dict.fromkeys(check_prompts(prompts)))}
        rows = torch.tensor(
            [known[prompt] for prompt in prompts], device=self.clip.device, dtype=torch.int64
        )
        with torch.no_grad(), without_autocast(self.clip.device):
            texts = self.encode_prompts(list(known))[rows]
            pictures = self.encode_images(images)
            scale = self.clip.logit_scale.float().exp()
            return scale * F.cosine_similarity(pictures.float(), texts.float(), dim=-1)

    def encode_images(self, images: Tensor) -> Tensor:
        """Return CLIP's features f[N,E], not normalised, of images f[N,3,H,W] in [0,1].

        Raises:
            InputTypeError: the images are not a floating-point tensor.
            InputError: wrong shape, or values outside [0,1].
        """
        _check_images(images)
        chunks = torch.split(images.to(self.clip.device), _IMAGES_AT_ONCE)
        with without_autocast(self.clip.device):
            return torch.cat(
                [self.clip.encode_image(preprocess(chunk, self.clip.config)) for chunk in chunks]
            )

    def encode_prompts(self, prompts: Sequence[str]) -> Tensor:
        """Return CLIP's features f[B,E], not normalised, of B prompts.

        Raises:
            InputTypeError: a prompt is not a string.
            InputError: there is no prompt.
        """
        input_ids = self.tokenizer(prompts)
        ends = (input_ids == self.tokenizer.end_token_id).int().argmax(dim=-1)
        with without_autocast(self.clip.device):
            return self.clip.encode_text(input_ids[:, : int(ends.max()) + 1].to(self.clip.device))


def preprocess(images: Tensor, config: CLIPConfig) -> Tensor:
    """Resize, crop and normalise as the released models' preprocessing does with PIL images.

    Bicubic with antialiasing until it covers `image_size`, centre crop, mean and deviation.
    The picture is rounded to 256 levels before and after each pass, as in PIL, whose result is met
    almost always exactly.

    Args:
        images: f[N,3,H,W] in [0,1].
        config: of the CLIP model.

    Returns:
        f32[N,3,H,W] of `config.size`, normalised.
    """
    height, width = images.shape[-2:]
    new_height, new_width = _covering(config, height, width)
    levels = images.float().mul(255).round()
    # Pillow 13 resizes tall pictures vertically first; the order shows in the rounding.
    vertical_first = height - new_height > max(0, 2 * (width - new_width))
    between = (new_height, width) if vertical_first else (height, new_width)
    for target in (between, (new_height, new_width)):
        if target != tuple(levels.shape[-2:]):
            levels = F.interpolate(levels, target, mode="bicubic", antialias=True)
            levels = levels.add(0.5).floor().clamp(0, 255)
    down, across = config.size
    top, left = _margin(new_height - down, config), _margin(new_width - across, config)
    levels = levels[..., top : top + down, left : left + across]
    mean, std = (levels.new_tensor(values) for values in (config.image_mean, config.image_std))
    return (levels / 255 - mean[:, None, None]) / std[:, None, None]


def _covering(config: CLIPConfig, height: int, width: int) -> tuple[int, int]:
    """Return the height and width that a picture gets before it is cropped."""
    (down, across), short = config.size, min(height, width)
    if down == across:
        return int(down * height / short), int(down * width / short)
    ratio = min(height / down, width / across)  # rounded, as open_clip does here
    return round(height / ratio), round(width / ratio)


def _margin(excess: int, config: CLIPConfig) -> int:
    return excess // 2 if config.crop_rounding == "down" else round(excess / 2)


def _check_images(images: Tensor) -> None:
    if not isinstance(images, Tensor) or not images.is_floating_point():
        kind = images.dtype if isinstance(images, Tensor) else type(images).__name__
        raise InputTypeError(f"images must be a floating-point tensor in [0, 1], not {kind}.")
    if images.ndim != 4 or images.shape[1] != 3 or not images.numel():
        raise InputError(f"images must have the shape [N, 3, H, W], not {list(images.shape)}.")
    low, high = (float(bound) for bound in torch.aminmax(images))
    if not (low >= 0 and high <= 1):
        raise InputError(f"images must lie in [0, 1], but hold {low:.3g} to {high:.3g}.")


def _check_fit(config: CLIPConfig, tokenizer: CLIPTokenizer) -> None:
    end = tokenizer.end_token_id
    if tokenizer.vocab_size > config.vocab_size:
        raise ConfigError(
            f"The tokenizer has {tokenizer.vocab_size} ids, this CLIP only {config.vocab_size}; "
            "use the tokenizer it was trained with."
        )
    if config.pooling == "argmax" and end != tokenizer.vocab_size - 1:
        raise ConfigError(
            f"This CLIP reads a sentence off at its highest id, but the tokenizer's end token "
            f"{end} is not its highest id {tokenizer.vocab_size - 1}."
        )
    if config.pooling == "first_eos" and end != config.eos_token_id:
        raise ConfigError(
            f"This CLIP reads a sentence off at token {config.eos_token_id}, but the tokenizer "
            f"ends it with {end}."
        )
