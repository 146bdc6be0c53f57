"""Image tokenizers whose encoder scores every code: OpenAI's dVAE and DALLE-pytorch's DiscreteVAE.

Both are convolutions without normalisation; a code is the highest of the scores at its place.
Sources: "Zero-Shot Text-to-Image Generation" (Ramesh et al. 2021, appendix A) with
github.com/openai/DALL-E, and github.com/lucidrains/DALLE-pytorch. Parameters have nearly the names
of their files.

Shapes: N images, H/W pixels, C channels, h/w positions of a feature map, V codes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import LARGEST_SIZE, MOST_LAYERS, Config
from ..errors import ConfigError
from ..foreign import show
from .convolution import convolve
from .image_tokenizer import ImageTokenizer
from .outlines import empty_embedding, on_meta

_GROUPS = 4  # of OpenAI's towers; each but the first halves the picture
_EPSILON = 0.1  # appendix A.3: pixels are kept away from 0 and 1, which no logistic reaches


@dataclass(frozen=True, kw_only=True)
class DVAEConfig(Config):
    """Sizes of OpenAI's dVAE; the defaults are those of the released one, f8 with 8,192 codes.

    Attributes:
        n_hid: channels at full resolution.
        n_init: channels of the vectors that the codes stand for.
        n_blk_per_group: residual blocks at each of the four resolutions.
        vocab_size: number of codes.
        resolution: side of the pictures that it was trained on.
    """

    n_hid: int = 256
    n_init: int = 128
    n_blk_per_group: int = 2
    vocab_size: int = 8192
    resolution: int = 256

    def __post_init__(self) -> None:
        self.check_types()
        _check_sizes(self, layers=self.n_blk_per_group)
        if self.n_hid % 4:
            raise ConfigError(f"DVAEConfig.n_hid must be a multiple of 4, not {self.n_hid}.")
        _check_side("DVAEConfig.resolution", self.resolution, 2 ** (_GROUPS - 1))


class Block(nn.Module):
    """Four convolutions, each of what is above zero, with a residual."""

    def __init__(self, inputs: int, outputs: int, kernels: Sequence[int], gain: float) -> None:
        super().__init__()
        self.gain = gain
        if inputs != outputs:
            self.id_path = _convolution(inputs, outputs, 1)
        widths = [inputs, *[outputs // 4] * (len(kernels) - 1), outputs]
        self.res_path = nn.ModuleDict(
            {
                f"conv_{number + 1}": _convolution(widths[number], widths[number + 1], kernel)
                for number, kernel in enumerate(kernels)
            }
        )

    def forward(self, hidden_states: Tensor, *, wraps: bool = False) -> Tensor:
        """Map f[N,C,h,w] to f[N,C',h,w]."""
        residual, added = hidden_states, hidden_states
        for layer in self.res_path.values():
            assert isinstance(layer, nn.Conv2d)
            added = convolve(layer, F.relu(added), wraps=wraps)
        if hasattr(self, "id_path"):
            residual = self.id_path(residual)
        return residual + self.gain * added


class Tower(nn.Module):
    """Groups of blocks, between which the picture becomes smaller or larger."""

    def __init__(
        self,
        first: nn.Conv2d,
        widths: Sequence[int],
        kernels: Sequence[int],
        blocks: int,
        outputs: int,
        resize: Callable[[Tensor], Tensor],
    ) -> None:
        super().__init__()
        self.input, self.resize = first, resize
        gain, before = (len(widths) * blocks) ** -2.0, first.out_channels
        for group, width in enumerate(widths):
            made = nn.ModuleDict()
            for number in range(blocks):
                made[f"block_{number + 1}"] = Block(before, width, kernels, gain)
                before = width
            self.add_module(f"group_{group + 1}", made)
        self.output = _convolution(before, outputs, 1)

    def forward(self, hidden_states: Tensor, *, wraps: bool = False) -> Tensor:
        """Map f[N,C,h,w], behind the first convolution, to f[N,C',h',w']."""
        groups = [module for name, module in self.named_children() if name.startswith("group_")]
        for number, group in enumerate(groups):
            hidden_states = self.resize(hidden_states) if number else hidden_states
            for block in group.children():
                hidden_states = block(hidden_states, wraps=wraps)
        made: Tensor = self.output(F.relu(hidden_states))
        return made


class DVAE(ImageTokenizer):
    """OpenAI's discrete VAE, the tokenizer of the first DALL-E.

    Example:
        >>> import torch
        >>> from dallemini.models import DVAE, DVAEConfig
        >>> dvae = DVAE.from_config(DVAEConfig(n_hid=8, n_init=4, vocab_size=16, resolution=32))
        >>> dvae.decode(dvae.encode(torch.rand(1, 3, 32, 48)), shape=(4, 6)).shape
        torch.Size([1, 3, 32, 48])
    """

    config: DVAEConfig
    config_class: ClassVar[type[Config]] = DVAEConfig
    component: ClassVar[Literal["dvae"]] = "dvae"
    _cuts_off = True  # as pooling does, and the original

    def __init__(self, config: DVAEConfig) -> None:
        super().__init__(config)
        widths = [config.n_hid * 2**group for group in range(_GROUPS)]
        blocks, codes = config.n_blk_per_group, config.vocab_size
        halve, double = partial(F.max_pool2d, kernel_size=2), partial(F.interpolate, scale_factor=2)
        with on_meta():
            first = _convolution(3, config.n_hid, 7)
            self.encoder = Tower(first, widths, (3, 3, 3, 1), blocks, codes, halve)
            first = _convolution(codes, config.n_init, 1)
            self.decoder = Tower(first, widths[::-1], (1, 3, 3, 3), blocks, 6, double)

    @property
    def codebook_size(self) -> int:
        """Number of codes; ids from here up have no picture."""
        return self.config.vocab_size

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of the pictures that it was trained on."""
        return self.config.resolution, self.config.resolution

    @property
    def downsample_factor(self) -> int:
        """Pixels that `encode` reads for a token, along each side."""
        return int(2 ** (_GROUPS - 1))

    @property
    def code_vectors(self) -> Tensor:
        """f[V,C], what the decoder's first convolution makes of each code, without its bias."""
        return self.decoder.input.weight.flatten(1).T

    def init_weights(self, generator: torch.Generator) -> None:
        """Draw convolutions scaled by their fan-in; biases start at 0."""
        _init_convolutions(self, generator)

    def logits(self, images: Tensor) -> Tensor:
        """Map f[N,3,H,W] in [0, 1] to the scores of the codes, f[N,V,h,w]."""
        pixels = (1 - 2 * _EPSILON) * images + _EPSILON
        logits: Tensor = self.encoder(self.encoder.input(pixels))
        return logits

    def statistics(self, codes: Tensor, *, wraps: bool = False) -> Tensor:
        """Map i64[N,h,w] to f[N,6,H,W]: the logits of the colours, and how sure each is."""
        first = self.decoder.input
        assert first.bias is not None
        vectors = F.embedding(codes, self.code_vectors) + first.bias
        made: Tensor = self.decoder(vectors.permute(0, 3, 1, 2), wraps=wraps)
        return made

    def _encode(self, images: Tensor) -> Tensor:
        return self.logits(images).argmax(dim=1)

    def _decode(self, codes: Tensor, *, wraps: bool) -> Tensor:
        colours = self.statistics(codes, wraps=wraps)[:, :3].sigmoid()
        return (colours - _EPSILON) / (1 - 2 * _EPSILON)


@dataclass(frozen=True, kw_only=True)
class DiscreteVAEConfig(Config):
    """Sizes of a DiscreteVAE, with the names and defaults of DALLE-pytorch.

    Attributes:
        image_size: side of the pictures that it was trained on.
        num_tokens: number of codes.
        codebook_dim: width of the vectors that they stand for.
        num_layers: how often a picture is halved.
        num_resnet_blocks: residual blocks at the coarsest resolution.
        hidden_dim: channels of every layer.
    """

    image_size: int = 256
    num_tokens: int = 512
    codebook_dim: int = 512
    num_layers: int = 3
    num_resnet_blocks: int = 0
    hidden_dim: int = 64

    def __post_init__(self) -> None:
        self.check_types()
        _check_sizes(self, layers=self.num_layers + self.num_resnet_blocks)
        if self.num_layers > 16:
            raise ConfigError(f"num_layers must be at most 16, not {self.num_layers}.")
        _check_side("DiscreteVAEConfig.image_size", self.image_size, 2**self.num_layers)


class ResBlock(nn.Module):
    """Three convolutions with a residual."""

    def __init__(self, width: int) -> None:
        super().__init__()
        first, second = _convolution(width, width, 3), _convolution(width, width, 3)
        last = _convolution(width, width, 1)
        self.net = nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), last)


class DiscreteVAE(ImageTokenizer):
    """The tokenizer of DALLE-pytorch, for pictures in RGB; its RGBA form is refused when loaded.

    Example:
        >>> import torch
        >>> from dallemini.models import DiscreteVAE, DiscreteVAEConfig
        >>> config = DiscreteVAEConfig(image_size=16, num_tokens=8, codebook_dim=4, hidden_dim=4)
        >>> DiscreteVAE.from_config(config).encode(torch.rand(2, 3, 16, 16)).shape
        torch.Size([2, 4])
    """

    config: DiscreteVAEConfig
    config_class: ClassVar[type[Config]] = DiscreteVAEConfig
    component: ClassVar[Literal["discrete_vae"]] = "discrete_vae"

    def __init__(self, config: DiscreteVAEConfig) -> None:
        super().__init__(config)
        width, codes, halvings = config.hidden_dim, config.num_tokens, range(config.num_layers)
        with on_meta():
            inner = [ResBlock(width) for _ in range(2 * config.num_resnet_blocks)]
            before, after = inner[::2], inner[1::2]
            first = [_convolution(config.codebook_dim, width, 1)] if after else []
            down = [nn.Conv2d(width if n else 3, width, 4, stride=2, padding=1) for n in halvings]
            start = width if after else config.codebook_dim
            up = [
                nn.ConvTranspose2d(width if n else start, width, 4, stride=2, padding=1)
                for n in halvings
            ]
            self.codebook = empty_embedding(codes, config.codebook_dim)
            self.encoder = nn.Sequential(
                *(nn.Sequential(layer, nn.ReLU()) for layer in down),
                *before,
                _convolution(width, codes, 1),
            )
            self.decoder = nn.Sequential(
                *first,
                *after,
                *(nn.Sequential(layer, nn.ReLU()) for layer in up),
                _convolution(width, 3, 1),
            )

    @property
    def codebook_size(self) -> int:
        """Number of codes; ids from here up have no picture."""
        return self.config.num_tokens

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of the pictures that it was trained on."""
        return self.config.image_size, self.config.image_size

    @property
    def downsample_factor(self) -> int:
        """Pixels that `encode` reads for a token, along each side."""
        return int(2**self.config.num_layers)

    @property
    def code_vectors(self) -> Tensor:
        """f[V,E], the codebook."""
        return self.codebook.weight

    def init_weights(self, generator: torch.Generator) -> None:
        """Draw convolutions scaled by their fan-in and codes from N(0, 1); biases start at 0."""
        _init_convolutions(self, generator)

    def logits(self, images: Tensor) -> Tensor:
        """Map f[N,3,H,W] in [0, 1] to the scores of the codes, f[N,V,h,w]."""
        return _run(self.encoder, (images - 0.5) / 0.5)

    def pixels(self, codes: Tensor, *, wraps: bool = False) -> Tensor:
        """Map i64[N,h,w] to f[N,3,H,W] as the network makes them, about -1 to 1."""
        return _run(self.decoder, self.codebook(codes).permute(0, 3, 1, 2), wraps=wraps)

    def _encode(self, images: Tensor) -> Tensor:
        return self.logits(images).argmax(dim=1)

    def _decode(self, codes: Tensor, *, wraps: bool) -> Tensor:
        return self.pixels(codes, wraps=wraps) * 0.5 + 0.5


def _run(layers: nn.Sequential, hidden_states: Tensor, *, wraps: bool = False) -> Tensor:
    """Run layers one after the other; `wraps` joins opposite edges."""
    for layer in layers:
        if isinstance(layer, ResBlock):
            hidden_states = hidden_states + _run(layer.net, hidden_states, wraps=wraps)
        elif isinstance(layer, nn.Sequential):
            hidden_states = _run(layer, hidden_states, wraps=wraps)
        elif isinstance(layer, nn.Conv2d):
            hidden_states = convolve(layer, hidden_states, wraps=wraps)
        elif wraps and isinstance(layer, nn.ConvTranspose2d):
            around = F.pad(hidden_states, (1, 1, 1, 1), mode="circular")
            hidden_states = layer(around)[:, :, 2:-2, 2:-2]
        else:
            hidden_states = layer(hidden_states)
    return hidden_states


def _convolution(inputs: int, outputs: int, kernel: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2)


def _init_convolutions(module: nn.Module, generator: torch.Generator) -> None:
    for name, parameter in module.named_parameters():
        if name.endswith("bias"):
            nn.init.zeros_(parameter)
        else:
            fan_in = parameter[0].numel() if parameter.ndim == 4 else 1
            nn.init.normal_(parameter, std=fan_in**-0.5, generator=generator)


def _check_sizes(config: Config, *, layers: int) -> None:
    """Refuse a configuration with a size that no model has."""
    name = type(config).__name__
    for key, value in config.to_dict().items():
        lowest = 0 if key == "num_resnet_blocks" else 1
        if not lowest <= value <= LARGEST_SIZE:
            raise ConfigError(
                f"{name}.{key} must be from {lowest} to {LARGEST_SIZE}, not {show(value)}."
            )
    if layers > MOST_LAYERS:
        raise ConfigError(f"{name} has {layers} layers, but at most {MOST_LAYERS} are built.")


def _check_side(name: str, side: int, factor: int) -> None:
    if side % factor:
        raise ConfigError(f"{name} must be a multiple of {factor}, not {side}.")
