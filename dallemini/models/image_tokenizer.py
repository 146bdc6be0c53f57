"""What every image tokenizer is: pictures to a grid of codes, and codes to pictures.

Checks what callers hand in and cuts grids to shape; what is between pixels and codes is the
networks' own affair. `tokenizers` has the closed table of the classes.

Shapes: N images, L image tokens, H/W pixels, h/w rows and columns of codes, V codes, E width of
the vectors that they stand for.
"""

from __future__ import annotations

import hashlib
import math
from abc import abstractmethod
from typing import Any, ClassVar, Self, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import checkpoints, hub
from ..errors import InputError, InputTypeError, MissingFileError
from ._checks import check_ids, check_range, without_autocast
from .precision import Quantization
from .pretrained import PretrainedModule

OVERSHOOT = 0.01  # beyond [0, 1], as resizing leaves behind
_DIGITS = 32


class ImageTokenizer(PretrainedModule[Any]):
    """Turns pictures into codes and codes into pictures; the base of all classes that do.

    `ImageTokenizer.from_pretrained(source)` finds the class of what lies there: a `VQGAN`, OpenAI's
    `DVAE`, or DALLE-pytorch's `DiscreteVAE`. Called on one of these, it loads that class alone.

    Example:
        >>> import tempfile
        >>> from dallemini import ImageTokenizer
        >>> from dallemini.testing import tiny_vqgan
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     tiny_vqgan().save_pretrained(folder)
        ...     tokenizer = ImageTokenizer.from_pretrained(folder)
        >>> type(tokenizer).__name__, tokenizer.codebook_size, tokenizer.grid, tokenizer.image_size
        ('VQGAN', 64, (4, 4), (16, 16))
    """

    _kinds: ClassVar[tuple[type[ImageTokenizer], ...]] = ()  # filled by `tokenizers`
    _cuts_off = False  # whether pixels that make no whole token are left out, or refused

    @property
    @abstractmethod
    def codebook_size(self) -> int:
        """Number of codes V; ids from here up have no picture."""

    @property
    @abstractmethod
    def image_size(self) -> tuple[int, int]:
        """Height and width of the pictures that it was trained on; `encode` takes others, too."""

    @property
    @abstractmethod
    def downsample_factor(self) -> int:
        """Pixels that `encode` reads for a token, along each side."""

    @property
    @abstractmethod
    def code_vectors(self) -> Tensor:
        """f[V,E], what the decoder knows of each code."""

    @abstractmethod
    def _encode(self, images: Tensor) -> Tensor:
        """Map f[N,3,H,W] in [0, 1], checked, to i64[N,h,w]."""

    @abstractmethod
    def _decode(self, codes: Tensor, *, wraps: bool) -> Tensor:
        """Map i64[N,h,w], checked, to f[N,3,H,W], not yet clipped to [0, 1]."""

    @property
    def token_size(self) -> int:
        """Pixels that `decode` makes of a token, along each side."""
        return self.downsample_factor

    def shrink(self, images: Tensor) -> Tensor:
        """Make pictures of the size that `decode` gives as small as `encode` reads them.

        Args:
            images: f[N,3,H,W] in [0, 1].

        Returns:
            f[N,3,H',W'] in [0, 1]; the pictures themselves where both sizes are the same.
        """
        if self.token_size == self.downsample_factor:
            return images
        sizes = [side * self.downsample_factor // self.token_size for side in images.shape[2:]]
        return F.interpolate(images, sizes, mode="bilinear", antialias=True).clamp(0, 1)

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of codes of a picture of `image_size`."""
        height, width = (side // self.downsample_factor for side in self.image_size)
        return height, width

    @property
    def image_length(self) -> int:
        """Number of tokens of a picture of `image_size`."""
        return math.prod(self.grid)

    @property
    def fingerprint(self) -> str:
        """32 digits that tell codes with other meanings from these.

        They are made from the signs of `code_vectors`: the same in any precision and on any device,
        with another decoder, and for a file without an encoder. A transformer keeps those of the
        tokenizer that it was trained on, and a pipeline refuses another.

        Example:
            >>> from dallemini.testing import tiny_vqgan
            >>> tiny_vqgan().fingerprint == tiny_vqgan().half().fingerprint
            True
            >>> tiny_vqgan().fingerprint == tiny_vqgan(seed=1).fingerprint
            False
        """
        vectors = self.code_vectors.detach()
        digest = hashlib.sha256(str(list(vectors.shape)).encode())
        if not vectors.is_meta:
            digest.update(torch.signbit(vectors).to("cpu", torch.uint8).contiguous().numpy().data)
        return digest.hexdigest()[:_DIGITS]

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """Turn pictures into codes.

        Args:
            images: f[N,3,H,W] in [0, 1]; H and W multiples of `downsample_factor`, but for `DVAE`,
                which leaves the pixels beyond out.

        Returns:
            i64[N,L], row by row from the top left.

        Raises:
            UnsupportedOperationError: this checkpoint holds the decoder only.
            InputTypeError: the images are not a floating-point tensor.
            InputError: wrong shape or size, or values outside [0, 1].
        """
        self._check_encoder()
        self._check_images(images)
        return self._encode(images.to(self.device, self.dtype)).flatten(1)

    @torch.no_grad()
    def decode(
        self,
        image_tokens: Tensor,
        *,
        shape: tuple[int, int] | None = None,
        wraps: bool = False,
    ) -> Tensor:
        """Turn codes into pictures.

        A `VQGAN` on the CPU in float32 draws pictures of the released size and larger one at a
        time: they are the same in any batch, to the last bit, and need the memory of one.

        Args:
            image_tokens: i64[N,L] or i64[N,h,w], 0 <= code < `codebook_size`. Without rows and
                columns L is that of `grid`, or a square number, unless `shape` is given.
            shape: rows and columns of codes, h and w with L = h * w.
            wraps: let each picture go on at its opposite edges, so that it can be repeated.

        Returns:
            f[N,3,H,W] clipped to [0, 1].

        Raises:
            InputError: L is neither that of `grid`, nor a square number, nor h * w, or a code is
                outside the codebook.
            InputTypeError: the tokens are not integers.
        """
        codes = self._check_codes(image_tokens, shape)
        with without_autocast(self.device):
            return self._decode(codes.to(self.device, torch.int64), wraps=wraps).clamp(0, 1)

    @classmethod
    def _load(cls, source: hub.Source, quantization: Quantization | None = None) -> Self:
        if cls is not ImageTokenizer:
            return super()._load(source, quantization)
        known = {kind.component: kind.expected_shapes for kind in cls._kinds}
        found = checkpoints.find_components(source, known)
        for kind in cls._kinds:
            if kind.component in found:
                return cast("Self", kind._load(source, quantization))
        raise MissingFileError(
            f"{source.selected or source.name} is no image tokenizer in a known format "
            f"({', '.join(kind.__name__ for kind in cls._kinds)}); of a whole pipeline, pass "
            f"subfolder='vqgan'; {source.told_files()}."
        )

    def _check_encoder(self) -> None:
        """Refuse to encode without an encoder."""
        return

    def _check_images(self, images: Tensor) -> None:
        factor = self.downsample_factor
        if not isinstance(images, Tensor) or not images.is_floating_point():
            kind = images.dtype if isinstance(images, Tensor) else type(images).__name__
            raise InputTypeError(f"images must be a floating-point tensor in [0, 1], not {kind}.")
        if images.ndim != 4 or images.shape[1] != 3 or not images.numel():
            raise InputError(f"images must have shape [N, 3, H, W], not {list(images.shape)}.")
        height, width = images.shape[2:]
        if not self._cuts_off and (height % factor or width % factor):
            raise InputError(
                f"Height and width must be multiples of {factor}, not {height}x{width}; resize or "
                "crop the images."
            )
        if min(height, width) < factor:
            raise InputError(
                f"Height and width must be at least {factor}, the pixels of a token, not "
                f"{height}x{width}; enlarge the images."
            )
        if not images.is_meta:
            low, high = (float(bound) for bound in torch.aminmax(images))
            if not (low >= -OVERSHOOT and high <= 1 + OVERSHOOT):
                raise InputError(f"images must lie in [0, 1], but hold {low:.3g} to {high:.3g}.")

    def _check_codes(self, image_tokens: Tensor, shape: tuple[int, int] | None) -> Tensor:
        """Return i64[N,h,w]."""
        if shape is None and isinstance(image_tokens, Tensor) and image_tokens.ndim == 3:
            shape = image_tokens.shape[1], image_tokens.shape[2]
            image_tokens = image_tokens.flatten(1)
        own = self.image_length
        asked = f"[N, L] with L a square number such as {own}"
        if math.isqrt(own) ** 2 != own:
            asked = f"[N, L] with L {own} or a square number"
        if shape is not None:
            asked = f"[N, {shape[0]} * {shape[1]}]"
        check_ids("image_tokens", image_tokens, shape=asked, axes=2)
        length = image_tokens.shape[1]
        if shape is None:
            shape = self.grid if length == own else (math.isqrt(length),) * 2
        if min(shape) < 1 or math.prod(shape) != length:
            raise InputError(
                f"image_tokens must have shape {asked}, not {list(image_tokens.shape)}; rows and "
                "columns are given by shape=, or as [N, h, w]."
            )
        hint = f"this codebook has {self.codebook_size} codes"
        check_range("Image tokens", image_tokens, limit=self.codebook_size, hint=hint)
        codes: Tensor = image_tokens.unflatten(1, shape)
        return codes
