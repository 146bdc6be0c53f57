"""How much memory a drawing takes, counted before it is drawn, and how many images fit.

The one place that adds up what the decoding loop and the image tokenizer hold; it allocates
nothing. `tests/unit/generation/test_memory.py` compares it with what processes really take.

Shapes: N images, R decoder rows (N or 2N, more for blends), B prompts, T text tokens, L image
tokens, D width, F width of the feed-forward blocks, V image vocabulary + 1.
"""

from __future__ import annotations

import bisect
import dataclasses
import functools
import math

import torch
from torch import Tensor, nn

from ..config import Config
from ..errors import InputError, InputTypeError
from ..models.image_tokenizer import ImageTokenizer
from ..models.int8 import linear_names
from ..models.precision import Precision, Quantization, read_precision
from ..models.tokenizers import IMAGE_TOKENIZERS
from ..models.transformer import Transformer, TransformerConfig
from ..models.vqgan_config import VQGANConfig
from .config import GenerationConfig
from .free_memory import available_memory

SHARE = 0.8  # of the memory at hand that a drawing may take: other programs live on
UNKNOWN_IMAGES = 4  # drawn together where nobody says how much memory there is

# Rows that "auto" decodes together at most. From some dozens up, a processor takes its time for
# the arithmetic and no longer for reading the weights, so that more rows together gain nothing.
MOST_ROWS = {"cpu": 64}
MOST_ROWS_ELSEWHERE = 512

_ENCODERS = ("encoder", "quant_conv")  # parts of image tokenizers that draw nothing
_FLOAT = torch.float32.itemsize
_SLACK = 3  # allocators keep pieces of what was freed before
_SCRATCH = 16 << 20  # of convolutions, whatever the size of the picture
_PIXEL_BATCH = 16  # pictures that the pipeline holds as numbers, before they are images


@dataclasses.dataclass(frozen=True, kw_only=True)
class MemoryPrediction:
    """Bytes that a drawing takes, term by term.

    Attributes:
        weights: of the models. Those in float32 on the CPU are mapped from their files: they take
            memory as far as they are read, and it can be given back.
        encoder: what reading the prompts takes meanwhile.
        cross_attention: keys and values of the text, for every decoder row.
        self_attention: keys and values of the image tokens, for every decoder row; this grows
            with the images, and soon outweighs all else.
        step: what one decoding step takes meanwhile: activations, logits, the sampler.
        pixels: one picture on its way through the image tokenizer, and the finished ones.
    """

    weights: int
    encoder: int
    cross_attention: int
    self_attention: int
    step: int
    pixels: int

    @property
    def tokens(self) -> int:
        """The peak while tokens are drawn; prompts are read before the first step."""
        return self.cross_attention + self.self_attention + max(self.encoder, self.step)

    @property
    def drawing(self) -> int:
        """The peak of a call beside the loaded models: pixels follow when all tokens are drawn."""
        return max(self.tokens, self.pixels)

    @property
    def streaming(self) -> int:
        """The same for a stream, which shows pixels while it draws tokens."""
        return self.tokens + self.pixels

    @property
    def total(self) -> int:
        """The peak of a call with the weights."""
        return self.weights + self.drawing


def predict_memory(
    config: TransformerConfig,
    *,
    vqgan: Config | None = None,
    images: int = 1,
    prompts: int = 1,
    texts: int = 1,
    guided: bool = True,
    text_length: int | None = None,
    dtype: Precision = torch.float32,
    quantization: Quantization | None = None,
) -> MemoryPrediction:
    """Count the memory of a drawing from the sizes of its models; nothing is loaded or drawn.

    Peaks of real processes were between a third of this and 1.05 times it (a quarter for a small
    `DVAE`). A scorer, Python and torch themselves are not counted.

    Args:
        config: sizes of the transformer.
        vqgan: sizes of the image tokenizer, such as a `VQGANConfig` or a `DVAEConfig`; its encoder
            draws nothing and is not counted. None leaves out all of it.
        images: drawn together, N.
        prompts: different ones among them, B.
        texts: of each image: those of a blend are decoder rows of their own.
        guided: whether guidance adds a decoder row to each image.
        text_length: tokens of the longest prompt, T; the longest that there can be when None.
        dtype: of the weights, or its name; "int8" for a quantised transformer.
        quantization: an older spelling of `dtype="int8"`.

    Raises:
        InputTypeError: the sizes are not configurations, or `dtype` or `quantization` is of the
            wrong kind.
        InputError: a count is not a whole number from 1, a prompt is longer than the model reads,
            or there is no such dtype or quantisation.

    Example:
        >>> from dallemini.generation import predict_memory
        >>> from dallemini.models import TransformerConfig
        >>> predict_memory(TransformerConfig(), images=9).self_attention
        452984832
    """
    _check_configs(config, vqgan)
    weights = read_precision(dtype, quantization)
    length = _text_length(config, text_length)
    _check_counts(images=images, prompts=prompts, texts=texts)
    quantized = weights.quantization is not None
    size = torch.float32.itemsize if quantized else weights.dtype.itemsize
    rows, read_once = images * (texts + guided), prompts * texts + guided
    position = 2 * config.decoder_layers * config.d_model * size  # keys and values
    encoding = _block_numbers(config.d_model, config.encoder_ffn_dim, quantized) * size
    own = _transformer_bytes(config, size, quantized)
    decoder = 0 if vqgan is None else _decoding(vqgan, config.grid).weights
    step = rows * _row_bytes(config, size, quantized) + images * _sampled(config, guided * texts)
    return MemoryPrediction(
        weights=own + decoder * weights.dtype.itemsize,
        encoder=read_once * length * encoding,
        # Projected once for each prompt, then copied to the rows that read it.
        cross_attention=(rows + read_once) * length * position,
        self_attention=rows * config.image_length * position,
        step=_SLACK * step,
        pixels=0 if vqgan is None else _pixel_bytes(config, vqgan, images),
    )


def _row_bytes(config: TransformerConfig, size: int, quantized: bool) -> int:
    """Count what a step holds of a decoder row: logits, and the activations of one layer."""
    logits = (config.image_vocab_size + 1) * (1 + quantized)
    return (logits + _block_numbers(config.d_model, config.decoder_ffn_dim, quantized)) * size


def _sampled(config: TransformerConfig, guided_texts: int) -> int:
    """Count what the sampler holds of an image, f[V], and guidance."""
    return (config.image_vocab_size + 1) * _FLOAT * (5 + 2 * guided_texts)


def choose_batch_size(
    config: GenerationConfig,
    transformer: Transformer,
    vqgan: object,
    *,
    images: int,
    texts: int = 1,
) -> int:
    """Return how many of a call's images are drawn together.

    For "auto" as many as fit into the memory at hand, and no more than gain time; then as many
    fewer as make the batches equal.

    Args:
        config: settings of the call.
        transformer: draws the tokens.
        vqgan: draws the pixels; counted where it is one of `IMAGE_TOKENIZERS`.
        images: of the whole call.
        texts: of one image, the most that there are.
    """
    if config.batch_size != "auto":
        return config.batch_size or images
    if images == 1:  # the first picture does not wait for a count
        return 1
    guided = config.is_guided or texts > 1
    rows = MOST_ROWS.get(transformer.device.type, MOST_ROWS_ELSEWHERE)
    most = max(1, min(images, rows // (texts + guided)))
    available = available_memory(transformer.device)
    if available is None:
        fitting = min(most, UNKNOWN_IMAGES)
    else:
        room = int(available * SHARE) - _mapped_bytes(transformer, vqgan)
        fitting = _fitting(config, transformer, vqgan, texts=texts, most=most, room=room)
    return math.ceil(images / math.ceil(images / fitting))


def _fitting(
    config: GenerationConfig,
    transformer: Transformer,
    vqgan: object,
    *,
    texts: int,
    most: int,
    room: int,
) -> int:
    """Return how many images, from 1 to `most`, take no more than `room` bytes."""
    is_known = isinstance(vqgan, ImageTokenizer) and type(vqgan) in IMAGE_TOKENIZERS
    sizes: Config | None = getattr(vqgan, "config", None) if is_known else None

    def needed(images: int) -> int:
        return predict_memory(
            transformer.config,
            vqgan=sizes,
            images=images,
            prompts=min(images, 1 + math.ceil(images / config.num_images_per_prompt)),
            texts=texts,
            guided=config.is_guided or texts > 1,
            dtype=transformer.dtype,
            quantization=transformer.quantization,
        ).streaming

    return max(1, bisect.bisect_right(range(1, most + 1), room, key=needed))


def _block_numbers(width: int, ffn_width: int, quantized: bool) -> int:
    """Return how many numbers a layer holds at its peak for each position: that of the GLU.

    Int8 layers also scale their inputs, and have integers beside the floats.
    """
    return (8 * width + 6 * ffn_width) * (1 + quantized)


def _pixel_bytes(config: TransformerConfig, vqgan: Config, images: int) -> int:
    """Count one picture where the decoder is largest, and the finished ones.

    Convolutions compute in float32 on the CPU, whatever the type of the weights.
    """
    found = _decoding(vqgan, config.grid)
    # A residual block holds its input, the normalised input, two convolutions, and what these
    # reorder for themselves: feature maps, and the largest weight.
    decoding = (5 * found.largest_map + 3 * found.largest_weight) * _FLOAT + _SCRATCH
    return decoding + found.values * (images + 3 * _FLOAT * min(images, _PIXEL_BATCH))


@dataclasses.dataclass(frozen=True)
class _Decoding:
    """What an image tokenizer's decoder has, counted in numbers.

    Attributes:
        weights: all of them.
        largest_weight: of one layer.
        largest_map: that goes into a layer or comes out of it, of one picture.
        values: of a finished picture.
    """

    weights: int
    largest_weight: int
    largest_map: int
    values: int


@functools.cache
def _decoding(config: Config, grid: tuple[int, int]) -> _Decoding:
    """Return what the decoder of an image tokenizer has, for a grid of codes."""
    (kind,) = (kind for kind in IMAGE_TOKENIZERS if kind.config_class is type(config))
    model: ImageTokenizer = kind(config).eval().to(torch.float32)  # whatever torch's default is
    own = [p for name, p in model.named_parameters() if name.partition(".")[0] not in _ENCODERS]
    if isinstance(config, VQGANConfig):
        largest, values = _vqgan_maps(config, grid)
    else:
        largest, values = _seen_maps(model, grid)
    return _Decoding(
        weights=sum(weight.numel() for weight in own),
        largest_weight=max(weight.numel() for weight in own if weight.ndim == 4),
        largest_map=largest,
        values=values,
    )


def _vqgan_maps(config: VQGANConfig, grid: tuple[int, int]) -> tuple[int, int]:
    """Return what `_seen_maps` finds in a VQGAN, without the seconds that torch takes for it."""
    widths, size = [config.ch * multiple for multiple in config.ch_mult], math.prod(grid)
    values = 3 * size * (config.downsample_factor * config.enlargement) ** 2
    largest = max(values, size * max(config.embed_dim, config.z_channels))
    if config.refiner_scale > 1:
        largest = max(largest, config.refiner_width * values // (3 * config.refiner_scale**2))
    for width, before in zip(reversed(widths), [widths[-1], *reversed(widths)], strict=False):
        largest = max(largest, size * max(width, before))
        size *= 4
    return largest, values


def _seen_maps(model: ImageTokenizer, grid: tuple[int, int]) -> tuple[int, int]:
    """Decode a picture on `meta`, where nothing is computed; return its largest map and itself."""
    seen: list[int] = []
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            layer.register_forward_hook(
                lambda _, given, made: seen.extend((given[0].numel(), made.numel()))
            )
    with torch.no_grad():
        codes = torch.zeros(1, *grid, dtype=torch.int64, device="meta")
        values = model._decode(codes, wraps=False).numel()
    return max(seen), values


@functools.cache
def _transformer_bytes(config: TransformerConfig, itemsize: int, quantized: bool) -> int:
    model = Transformer(config)  # on `meta`: a description without weights
    total = sum(parameter.numel() for parameter in model.parameters()) * itemsize
    if quantized:  # one byte for four, and a scale for each output channel
        for name in linear_names(model):
            weight = model.get_parameter(f"{name}.weight")
            total += _FLOAT * weight.shape[0] - (itemsize - 1) * weight.numel()
    return total


def _mapped_bytes(*parts: object) -> int:
    """Return how much of what counts as available will be needed for weights.

    Float32 and int8 weights on the CPU are mapped from files, and a system counts the pages of
    files as available, since it could drop them; reading them again at every token would take ages.
    """
    models = [part for part in parts if isinstance(part, nn.Module)]
    return sum(
        tensor.nbytes
        for model in models
        for module in model.modules()
        for tensor in _own_tensors(module)
        if tensor.device.type == "cpu" and tensor.dtype in (torch.float32, torch.int8)
    )


def _own_tensors(module: nn.Module) -> list[Tensor]:
    """Return the tensors of one module, also those that an int8 layer keeps in a tuple."""
    kept = [
        value for values in vars(module).values() if isinstance(values, tuple) for value in values
    ]
    tensors = [value for value in kept if isinstance(value, Tensor)]
    return [*module.parameters(recurse=False), *module.buffers(recurse=False), *tensors]


def _check_configs(config: object, vqgan: object) -> None:
    kinds = (*(kind.config_class for kind in IMAGE_TOKENIZERS), type(None))
    for given, kind in ((config, (TransformerConfig,)), (vqgan, kinds)):
        if not isinstance(given, kind):
            raise InputTypeError(
                "predict_memory reads configurations, such as TransformerConfig() and "
                f"VQGANConfig() of mini, not {given!r}."
            )


def _text_length(config: TransformerConfig, given: int | None) -> int:
    """Return the tokens of a prompt, the most that there can be where nothing is given."""
    longest = config.max_text_length
    length = longest if given is None else given
    _check_counts(text_length=length)
    if length > longest:
        raise InputError(f"text_length must be at most {longest}, not {length}.")
    return length


def _check_counts(**counts: object) -> None:
    for name, count in counts.items():
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise InputError(f"{name} must be a whole number from 1, not {count!r}.")
