"""Discrete VAEs: the two files of OpenAI's, and the checkpoints of DALLE-pytorch.

Sources: github.com/openai/DALL-E, whose `encoder.pkl` and `decoder.pkl` are modules that were
pickled whole (read as inert stubs, by names on a list, and never run), and
github.com/lucidrains/DALLE-pytorch, whose files hold `hparams` and `weights`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import CheckpointError, UnsupportedModelError
from ..hub.source import Source
from .formats import Component, LazyCheckpoint, read_weights
from .lazy import LazyTensor
from .rules import Rule, Table, assemble
from .settings import account, whole_number
from .shapes import count, shape_of
from .torch_file import read_settings, read_torch

_RESOLUTION = 256  # of the released dVAE; nothing in its files tells it
_SIDES = ("encoder", "decoder")
_ENDINGS = (".pkl", ".pt", ".pth", ".bin", ".safetensors")
_STEMS = (".pkl", "_state_dict.pt")  # what a pair of files in a folder is called behind its side

# All that the released files ask for, state dicts of them, and what people save beside weights.
_ALLOWED = re.compile(
    r"dall_e\.encoder (Encoder|EncoderBlock)|dall_e\.decoder (Decoder|DecoderBlock)"
    r"|dall_e\.utils Conv2d"
    r"|torch\.nn\.modules\.container Sequential|torch\.nn\.modules\.activation ReLU"
    r"|torch\.nn\.modules\.pooling MaxPool2d|torch\.nn\.modules\.upsampling Upsample"
    r"|torch\.nn\.modules\.linear Identity"
    r"|torch\._utils _rebuild_(tensor_v2|parameter)|torch\.nn\.parameter Parameter"
    r"|torch (device|Size|\w+Storage)|torch\.storage UntypedStorage|collections OrderedDict"
    r"|(__builtin__|builtins) (set|frozenset|list|tuple|dict|int|float|str|slice|complex|bytearray)"
    r"|numpy[\w.]* \w+|_codecs encode|argparse Namespace|pathlib[\w.]* \w+|datetime \w+"
    r"|collections (defaultdict|Counter)|torch (float|bfloat|int|uint)\d+"
)


def _table(side: str) -> Table:
    pairs = (("w", "weight"), ("b", "bias"))
    output = [
        Rule(f"{side}.output.{name}", (f"blocks.output.conv.{short}",)) for short, name in pairs
    ]
    rest = [Rule(f"{side}.{{rest}}.{name}", (f"blocks.{{rest}}.{short}",)) for short, name in pairs]
    return (*output, *rest)


DVAE_TABLES = {side: _table(side) for side in _SIDES}
DISCRETE_VAE_TABLE: Table = [
    Rule(f"{name}.{{rest}}", (f"{prefix}{name}.{{rest}}",))
    for prefix in ("", "weights.")
    for name in ("codebook", "encoder", "decoder")
]
_TRAINING: tuple[str, ...] = ("temperature", "straight_through", "smooth_l1_loss", "reinmax")
_TRAINING += ("kl_div_loss_weight",)


class OpenAIDVAE:
    """The encoder and the decoder of OpenAI's dVAE, two files that belong together."""

    name = "dVAE (OpenAI)"
    component: Component = "dvae"

    def detect(self, source: Source) -> tuple[str, ...] | None:
        """Return both files: those that were named by one of them, or the usual ones.

        Raises:
            CheckpointError: one of them is missing.
        """
        files = source.files()
        for pair in _pairs(source.selected):
            found = [name for name in pair if name in files]
            if len(found) == 1 and pair[0].endswith(".pkl"):
                other = next(name for name in pair if name not in found)
                raise CheckpointError(
                    f"{source.name} has {found[0]} but no {other}. Copy or download both."
                )
            if len(found) == 2:
                return pair
        return None

    def read(self, source: Source, paths: Mapping[str, Path]) -> LazyCheckpoint:
        """Describe the model; its sizes are told by the shapes."""
        tensors: dict[str, LazyTensor] = {}
        for side, path in zip(_SIDES, paths.values(), strict=True):
            if path.suffix == ".safetensors":
                stored = read_weights(path)
            else:
                stored = read_torch(path, allowed=_ALLOWED)
            tensors |= assemble(stored, DVAE_TABLES[side], origin=f"{source.name}: {path.name}")
        return LazyCheckpoint(_infer_dvae(tensors, origin=source.name), tensors)


class DALLEPytorch:
    """A checkpoint of DALLE-pytorch's DiscreteVAE."""

    name = "DiscreteVAE (DALLE-pytorch)"
    component: Component = "discrete_vae"

    def detect(self, source: Source) -> tuple[str, ...] | None:
        """Return the file that was named, or the usual one."""
        if source.selected is not None:
            known = source.selected.endswith((".pt", ".pth", ".ckpt", ".safetensors"))
            return (source.selected,) if known else None
        names = [name for name in ("vae.pt", "vae-final.pt") if name in source.files()]
        return tuple(names[:1]) or None

    def read(self, source: Source, paths: Mapping[str, Path]) -> LazyCheckpoint:
        """Describe the model; its sizes are told by the shapes, but for that of the pictures.

        Raises:
            UnsupportedModelError: its pictures have an alpha channel, or it has settings that are
                not known.
        """
        (path,) = paths.values()
        tensors = assemble(read_weights(path), DISCRETE_VAE_TABLE, origin=source.name)
        hparams = None if path.suffix == ".safetensors" else read_settings(path, "hparams")
        config = _infer_discrete_vae(tensors, origin=source.name)
        account(
            hparams or {}, config, _TRAINING, ("channels",), origin=source.name, what="its hparams"
        )
        size = whole_number(hparams or {}, "image_size", _RESOLUTION, origin=source.name)
        return LazyCheckpoint({**config, "image_size": size}, tensors)


def _pairs(selected: str | None) -> list[tuple[str, ...]]:
    """Return the names of the two files as they may be: in a folder, or beside the one named."""
    if selected is None:
        return [tuple(f"{side}{stem}" for side in _SIDES) for stem in _STEMS]
    folder, slash, name = selected.rpartition("/")
    for side in _SIDES:
        if side in name and name.endswith(_ENDINGS):
            return [tuple(folder + slash + name.replace(side, other) for other in _SIDES)]
    return []


def _infer_dvae(tensors: Mapping[str, LazyTensor], *, origin: str) -> dict[str, Any]:
    """Return the `DVAEConfig` fields that the shapes of native tensors speak of."""
    codes, *_ = shape_of(tensors, "encoder.output.weight", 4, origin=origin)
    return {
        "n_hid": shape_of(tensors, "encoder.input.weight", 4, origin=origin)[0],
        "n_init": shape_of(tensors, "decoder.input.weight", 4, origin=origin)[0],
        # numbered from 1 on
        "n_blk_per_group": count(tensors, r"encoder\.group_1\.block_(\d+)\..*", origin=origin) - 1,
        "vocab_size": codes,
        "resolution": _RESOLUTION,
    }


def _infer_discrete_vae(tensors: Mapping[str, LazyTensor], *, origin: str) -> dict[str, Any]:
    """Return the `DiscreteVAEConfig` fields that the shapes of native tensors speak of.

    Raises:
        UnsupportedModelError: its pictures have another number of channels than three.
    """
    codes, width = shape_of(tensors, "codebook.weight", 2, origin=origin)
    hidden, channels = shape_of(tensors, "encoder.0.0.weight", 4, origin=origin)[:2]
    if channels != 3:
        raise UnsupportedModelError(
            f"{origin} is a DiscreteVAE of pictures with {channels} channels (RGBA has an alpha "
            "channel), but only RGB is supported: 3 channels. Train one without transparency."
        )
    layers = count(tensors, r"encoder\.(\d+)\.0\..*", origin=origin)
    residual = {name.split(".")[1] for name in tensors if re.match(r"encoder\.\d+\.net\.", name)}
    return {
        "image_size": _RESOLUTION,
        "num_tokens": codes,
        "codebook_dim": width,
        "num_layers": layers,
        "num_resnet_blocks": len(residual),
        "hidden_dim": hidden,
    }
