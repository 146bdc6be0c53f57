"""Feature spaces: what Frechet distance and retrieval compare instead of pixels.

A space is any object with a name, a size and a call; `feature_space` makes those that are known by
name. Knows pictures as tensors, not files of pictures.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import CheckpointError, InputError, MissingFileError
from ..scorer import CLIPScorer, Scorer
from .config import DEFAULT_SPACE, split_space
from .efficientnet import POOLED_SIZE, EfficientNetFeatures

PICTURES_AT_ONCE = 16
EYE_SIZE = 224  # what EfficientNet-Lite0 was trained on
INCEPTION_SIZE = 2048


@runtime_checkable
class FeatureSpace(Protocol):
    """Anything that turns a picture into a vector."""

    @property
    def name(self) -> str:
        """What reports call it; two distances compare only under one name."""

    @property
    def size(self) -> int:
        """Length E of a vector."""

    def __call__(self, images: Tensor) -> Tensor:
        """Map f[N,3,H,W] in [0, 1] to f32[N,E]."""


class EfficientNetSpace:
    """The 1,280 pooled features of EfficientNet-Lite0, trained on ImageNet; needs no download.

    Args:
        device: where to compute.

    Raises:
        MissingDependencyError: the extra `eval` is not installed.
    """

    name = DEFAULT_SPACE
    size = POOLED_SIZE

    def __init__(self, *, device: str | torch.device = "cpu") -> None:
        self._device = torch.device(device)
        self._network = EfficientNetFeatures().to(self._device)

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Map f[N,3,H,W] in [0, 1] to f32[N,1280]; pictures are resized to 224x224."""
        parts = [
            self._network.pooled(
                F.interpolate(part, size=EYE_SIZE, mode="bilinear", antialias=True)
            )
            for part in images.float().to(self._device).split(PICTURES_AT_ONCE)
        ]
        return torch.cat(parts).cpu()


class CLIPSpace:
    """The image features of a CLIP model, not normalised.

    Args:
        scorer: the model with its preprocessing.
        name: what reports call it; say which model it is.

    Example:
        >>> import torch
        >>> from dallemini.evaluation import CLIPSpace
        >>> from dallemini.testing import tiny_clip_scorer
        >>> CLIPSpace(tiny_clip_scorer(), name="tiny")(torch.rand(2, 3, 16, 16)).shape
        torch.Size([2, 8])
    """

    def __init__(self, scorer: CLIPScorer, *, name: str = "clip") -> None:
        self.name, self._scorer = name, scorer

    @property
    def size(self) -> int:
        """Length of CLIP's joint embedding."""
        return self._scorer.clip.config.embed_dim

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Map f[N,3,H,W] in [0, 1] to f32[N,E]."""
        return self._scorer.encode_images(images).float().cpu()


class InceptionSpace:
    """The 2,048 pooled features of the Inception network that published distances are made with.

    Reads the TorchScript file `inception-2015-12-05.pt`, which is published beside StyleGAN2-ADA
    and StyleGAN3 and is not part of this library. It takes pictures of 0 to 255 at any size, and
    returns features when it is called with `return_features=True`. A TorchScript file is a program:
    open only one that you trust.

    Args:
        path: of the file.
        device: where to compute.

    Raises:
        MissingFileError: there is no such file.
        CheckpointError: it is no TorchScript file.
    """

    name = "inception-2015-12-05"
    size = INCEPTION_SIZE

    def __init__(self, path: str | Path, *, device: str | torch.device = "cpu") -> None:
        if not Path(path).is_file():
            raise MissingFileError(
                f"There is no file {path}. Download inception-2015-12-05.pt, or leave the "
                f"feature space at {DEFAULT_SPACE!r}."
            )
        self._device = torch.device(device)
        self._network = _load_script(Path(path), self._device)

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Map f[N,3,H,W] in [0, 1] to f32[N,2048].

        Raises:
            CheckpointError: the file holds another network.
        """
        levels = (images.float() * 255).round().clamp(0, 255).to(self._device, torch.uint8)
        try:
            parts = [
                self._network(part, return_features=True) for part in levels.split(PICTURES_AT_ONCE)
            ]
        except RuntimeError as error:
            raise CheckpointError(
                "The TorchScript file is not inception-2015-12-05.pt, which takes pictures and "
                f"return_features=True: {str(error).strip().splitlines()[-1]}"
            ) from error
        return torch.cat(parts).float().cpu()


def feature_space(
    name: str = DEFAULT_SPACE,
    *,
    scorer: Scorer | None = None,
    device: str | torch.device = "cpu",
) -> FeatureSpace:
    """Make a feature space from its name.

    Args:
        name: "efficientnet-lite0"; "clip" for the CLIP of the pipeline, "clip:SOURCE" for another
            one (a Hub id or a local folder); "inception:FILE" for your own TorchScript file.
        scorer: the pipeline's, for "clip".
        device: where to compute.

    Raises:
        ConfigError: no such name, or a part of it is missing.
        InputError: "clip" without a CLIP.
        MissingDependencyError: EfficientNet-Lite0 is not installed.
        MissingFileError: the source or file does not exist.
        HubError: the Hub could not be reached or refused.
        CheckpointError: the file is corrupt or holds another network.
    """
    kind, source = split_space(name)
    makers: dict[str, Callable[[], FeatureSpace]] = {
        DEFAULT_SPACE: lambda: EfficientNetSpace(device=device),
        "clip": lambda: _clip_space(name, source, scorer, device),
        "inception": lambda: InceptionSpace(source, device=device),
    }
    return makers[kind]()


def embed(space: FeatureSpace, images: Tensor) -> Tensor:
    """Return the features f32[N,E] of images f[N,3,H,W] in [0, 1], having checked them.

    Raises:
        InputError: the space gave something else.
    """
    features = space(images)
    wanted = (len(images), space.size)
    if not isinstance(features, Tensor) or tuple(features.shape) != wanted:
        found = list(features.shape) if isinstance(features, Tensor) else type(features).__name__
        raise InputError(
            f"The feature space {space.name!r} must return {list(wanted)} for {len(images)} "
            f"pictures, not {found}."
        )
    if not bool(features.isfinite().all()):
        raise InputError(f"The feature space {space.name!r} returned numbers that are not finite.")
    return features.detach().float().cpu()


def _clip_space(
    name: str, source: str, scorer: Scorer | None, device: str | torch.device
) -> CLIPSpace:
    if source:
        return CLIPSpace(CLIPScorer.from_pretrained(source, device=device), name=name)
    if not isinstance(scorer, CLIPScorer):
        raise InputError(
            "The feature space 'clip' is that of the pipeline's CLIP, and this pipeline has none; "
            "name one, such as 'clip:openai/clip-vit-base-patch32'."
        )
    return CLIPSpace(scorer, name=name)


def _load_script(path: Path, device: torch.device) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # the file has no other form
            network: Any = torch.jit.load(str(path), map_location=device)
    except (RuntimeError, ValueError) as error:
        raise CheckpointError(
            f"{path} is no TorchScript file; the feature space needs inception-2015-12-05.pt, not "
            "a file of weights alone."
        ) from error
    return network.eval()
