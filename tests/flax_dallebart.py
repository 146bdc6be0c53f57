"""DalleBart once more, in numpy and float64, as a function of the arrays that Flax would store.

Nothing of the library is used: norms and dense layers are named by counting calls, as Flax does,
and every switch is computed from its definition. `draw` makes the random arrays that a
configuration asks for, `forward` computes with them.

Shapes: B prompts, S positions, D width, H heads, V image vocabulary + 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Config = Mapping[str, Any]

DEFAULTS: dict[str, Any] = {
    "ln_positions": "normformer",
    "ln_type": "layernorm",
    "force_ln_scale": False,
    "use_final_ln_encoder": True,
    "use_final_ln_decoder": True,
    "use_bias": False,
    "use_glu": True,
    "activation_function": "gelu",
    "use_cosine_attention": False,
    "tau_init": 0.05,
    "sinkhorn_iters": 1,
    "use_head_scale": False,
    "use_absolute_position_embeddings": True,
    "use_swin_position_embeddings": False,
    "use_deepnet_scaling": False,
    "scale_embedding": False,
}
_FIRST = ("normformer", "cogview", "preln", "subln")
_AFTER = ("normformer", "swinv2", "cogview")
_erf = np.vectorize(math.erf)


@dataclass
class Scope:
    """The arrays below one name, and how often each class was called there."""

    arrays: dict[str, Array]
    stem: str
    take: Callable[[str, tuple[int, ...]], Array]
    calls: dict[str, int] = field(default_factory=dict)

    def named(self, name: str) -> Scope:
        return Scope(self.arrays, f"{self.stem}{name}/", self.take)

    def next(self, kind: str) -> Scope:
        number = self.calls.get(kind, 0)
        self.calls[kind] = number + 1
        return self.named(f"{kind}_{number}")

    def array(self, name: str, *shape: int) -> Array:
        key = self.stem + name
        if key not in self.arrays:
            self.arrays[key] = self.take(key, shape)
        assert self.arrays[key].shape == shape, key
        return self.arrays[key].astype(np.float64)


def draw(config: Config, *, seed: int) -> dict[str, Array]:
    """Return the random arrays f32 of a configuration, layer by layer, by '/'-joined names."""
    random = np.random.default_rng(seed)

    def take(key: str, shape: tuple[int, ...]) -> Array:
        return random_array(key, random.standard_normal(shape))

    arrays: dict[str, Array] = {}
    ids = np.zeros((1, config["max_text_length"]), np.int64)
    images = np.zeros((1, config["image_length"]), np.int64)
    _compute(DEFAULTS | dict(config), arrays, take, ids, ids == 0, images)
    return arrays


def random_array(name: str, normal: Array) -> Array:
    """Scale standard normal numbers as suits an array of this name, f32."""
    if name.endswith("kernel"):
        normal = normal / math.sqrt(normal.shape[-2])
    elif name.endswith("embedding"):
        normal = normal * 0.5
    else:
        normal = normal * 0.2 + name.endswith("scale")
    return normal.astype(np.float32)


def stacked(arrays: Mapping[str, Array]) -> dict[str, Array]:
    """Stack the layers as `use_scan` does; the last norm gets the scale that it lacks alone."""
    found: dict[str, Array] = {}
    layers: dict[str, list[Array]] = {}
    for name, array in arrays.items():
        head, mark, rest = name.partition("Layer_")
        if mark:
            layers.setdefault(f"{head}Layers/{rest.partition('/')[2]}", []).append(array)
        else:
            found[name] = array
    most = {name.split("/")[1]: len(parts) for name, parts in layers.items() if "q_proj" in name}
    for name, parts in layers.items():
        more = [np.ones_like(parts[0])] * (most[name.split("/")[1]] - len(parts))
        found[name] = np.stack(parts + more)
    return found


def forward(
    config: Config, arrays: Mapping[str, Array], ids: Array, mask: Array, images: Array
) -> tuple[Array, Array]:
    """Return the encoder's states f64[B,T,D] and the teacher-forced logits f64[B,L,V].

    Args:
        config: the switches and sizes of a `config.json`.
        arrays: layer by layer.
        ids: i64[B,T].
        mask: bool[B,T].
        images: i64[B,L], the start token first.
    """

    def take(key: str, shape: tuple[int, ...]) -> Array:
        raise KeyError(key)

    return _compute(DEFAULTS | dict(config), dict(arrays), take, ids, mask, images)


def _compute(
    config: Config,
    arrays: dict[str, Array],
    take: Callable[[str, tuple[int, ...]], Array],
    ids: Array,
    mask: Array,
    images: Array,
) -> tuple[Array, Array]:
    top = Scope(arrays, "", take)
    seen = mask[:, None, None, :]
    text = _side(config, top.named("model/encoder"), "encoder", ids, seen, None)
    hidden = _side(config, top.named("model/decoder"), "decoder", images, seen, text)
    head = top.named("lm_head").array("kernel", config["d_model"], config["image_vocab_size"] + 1)
    return text, hidden @ head


def _side(
    config: Config, scope: Scope, side: str, ids: Array, seen: Array, text: Array | None
) -> Array:
    width, layers = config["d_model"], config[f"{side}_layers"]
    encoder = side == "encoder"
    rows = config["encoder_vocab_size"] if encoder else config["image_vocab_size"] + 1
    length = config["max_text_length"] if encoder else config["image_length"]
    hidden = scope.named("embed_tokens").array("embedding", rows, width)[ids]
    hidden = hidden * (math.sqrt(width) if config["scale_embedding"] else 1)
    if config["use_absolute_position_embeddings"]:
        hidden = (
            hidden
            + scope.named("embed_positions").array("embedding", length, width)[: ids.shape[1]]
        )
    hidden = _norm(config, scope.named("layernorm_embedding"), hidden, True)
    for index in range(layers):
        layer = scope.named(f"layers/FlaxBart{side.title()}Layer_{index}")
        hidden = _layer(config, layer, side, hidden, seen, text)
        swin = config["ln_positions"] == "swinv2" and (index + 1) % 6 == 0 and index < layers - 1
        if swin or config["ln_positions"] == "postln":
            bare = index == layers - 1 and not config["force_ln_scale"]
            key = layer.stem + f"{_class(config)}_{layer.calls.get(_class(config), 0)}/scale"
            scale = not bare or key in scope.arrays  # as it is after unstacking
            hidden = _norm(config, layer.next(_class(config)), hidden, scale)
    if config[f"use_final_ln_{side}"] and config["ln_positions"] != "postln":
        hidden = _norm(config, scope.named("final_ln"), hidden, config["force_ln_scale"])
    return hidden


def _layer(
    config: Config,
    scope: Scope,
    side: str,
    hidden: Array,
    seen: Array,
    text: Array | None,
) -> Array:
    where, encoder, kind = config["ln_positions"], side == "encoder", _class(config)
    layers, others = config["encoder_layers"], config["decoder_layers"]
    carried = 1.0
    if config["use_deepnet_scaling"]:
        carried = 0.81 * (layers**4 * others) ** 0.0625 if encoder else (3 * others) ** 0.25

    def attended(hidden: Array, states: Array | None) -> Array:
        first = ("normformer", "cogview", "preln") + (("subln",) if encoder else ())
        inner = hidden
        if where in first:
            inner = _norm(config, scope.next(kind), inner, config["force_ln_scale"])
        inner = _attention(config, scope.next("FlaxBartAttention"), encoder, inner, seen, states)
        if where in _AFTER:
            inner = _norm(config, scope.next(kind), inner, True)
        total = hidden * carried + inner
        return _norm(config, scope.next(kind), total, True) if where == "postln" else total

    hidden = attended(hidden, None)
    if not encoder:
        assert text is not None
        hidden = attended(hidden, text)
    name = "GLU" if config["use_glu"] else "FFN"
    return hidden * carried + _feed_forward(
        config, scope.next(name), config[f"{side}_ffn_dim"], hidden
    )


def _attention(
    config: Config, scope: Scope, encoder: bool, hidden: Array, seen: Array, states: Array | None
) -> Array:
    width, crossing = config["d_model"], states is not None
    heads = config["encoder_attention_heads" if encoder else "decoder_attention_heads"]

    def split(name: str, inputs: Array) -> Array:
        projected = _dense(config, scope.named(f"{name}_proj"), inputs, width)
        return projected.reshape(*projected.shape[:2], heads, -1).transpose(0, 2, 1, 3)

    query = split("q", hidden)
    key, value = (split(name, hidden if states is None else states) for name in "kv")
    if config["use_head_scale"]:
        factors = scope.array("head_scale", 1, 1, heads, 1)
    if config["use_cosine_attention"]:
        query, key = (
            one / (np.sqrt((one**2).sum(-1, keepdims=True)) + 1e-8) for one in (query, key)
        )
        scores = query @ key.transpose(0, 1, 3, 2) / config["tau_init"]
    else:
        scores = query @ key.transpose(0, 1, 3, 2) / math.sqrt(width // heads)
    if not (encoder or crossing):
        seen = np.tril(np.ones(scores.shape[-2:], bool))[None, None]
    scores = np.where(seen, scores, -np.inf)
    if config["use_swin_position_embeddings"]:
        queries = config["max_text_length" if encoder else "image_length"]
        keys = config["max_text_length" if encoder or crossing else "image_length"]
        table = scope.named("rel_bias").array("embedding", queries, keys * heads)
        pairs = table.reshape(queries, keys, heads).transpose(2, 0, 1)
        scores = scores + pairs[:, : scores.shape[2], : scores.shape[3]]
    with np.errstate(invalid="ignore"):
        for number in range(config["sinkhorn_iters"] if encoder else 1):
            scores = scores - _log_sum(scores, -2 if number % 2 else -1)
            scores = np.where(seen, scores, -np.inf)
    mixed = (np.exp(scores) @ value).transpose(0, 2, 1, 3)
    if config["use_head_scale"]:
        mixed = mixed * factors
    joined = mixed.reshape(*mixed.shape[:2], width)
    if config["ln_positions"] == "subln" and not crossing:
        joined = _norm(config, scope.named("mid_layernorm"), joined, True)
    return _dense(config, scope.named("out_proj"), joined, width)


def _feed_forward(config: Config, scope: Scope, inner: int, hidden: Array) -> Array:
    where, kind, width = config["ln_positions"], _class(config), config["d_model"]
    if where in _FIRST:
        hidden = _norm(config, scope.next(kind), hidden, config["force_ln_scale"])
    activate = _ACTIVATIONS[config["activation_function"]]
    values = activate(_dense(config, scope.next("Dense"), hidden, inner))
    if config["use_glu"]:
        values = values * _dense(config, scope.next("Dense"), hidden, inner)
    if where in ("normformer", "subln"):
        values = _norm(config, scope.next(kind), values, config["force_ln_scale"])
    values = _dense(config, scope.next("Dense"), values, width)
    if where in ("swinv2", "cogview"):
        values = _norm(config, scope.next(kind), values, True)
    return values


def _dense(config: Config, scope: Scope, inputs: Array, outputs: int) -> Array:
    product = inputs @ scope.array("kernel", inputs.shape[-1], outputs)
    return product + scope.array("bias", outputs) if config["use_bias"] else product


def _norm(config: Config, scope: Scope, hidden: Array, scale: bool) -> Array:
    width = hidden.shape[-1]
    if config["ln_type"] == "layernorm":
        hidden = hidden - hidden.mean(-1, keepdims=True)
    hidden = hidden / np.sqrt((hidden**2).mean(-1, keepdims=True) + 1e-5)
    if scale:
        hidden = hidden * scope.array("scale", width)
    if config["ln_type"] == "layernorm":
        hidden = hidden + scope.array("bias", width)
    return hidden


def _class(config: Config) -> str:
    return "RMSNorm" if config["ln_type"] == "rmsnorm" else "LayerNorm"


def _log_sum(scores: Array, axis: int) -> Array:
    highest = scores.max(axis, keepdims=True)
    finite = np.where(np.isfinite(highest), highest, 0)
    with np.errstate(divide="ignore"):
        total: Array = np.log(np.exp(scores - finite).sum(axis, keepdims=True))
    return total + finite


def _smelu(inputs: Array) -> Array:
    inputs = np.where(inputs <= -1, 0, inputs)
    return np.where(inputs >= 1, inputs, (inputs + 1) ** 2 / 4)


_ACTIVATIONS: Mapping[str, Callable[[Array], Array]] = {
    "gelu": lambda inputs: inputs * (1 + _erf(inputs / math.sqrt(2))) / 2,
    "gelu_new": lambda inputs: (
        inputs * (1 + np.tanh(math.sqrt(2 / math.pi) * (inputs + 0.044715 * inputs**3))) / 2
    ),
    "quick_gelu": lambda inputs: inputs / (1 + np.exp(-1.702 * inputs)),
    "relu": lambda inputs: np.maximum(inputs, 0),
    "silu": lambda inputs: inputs / (1 + np.exp(-inputs)),
    "smelu": _smelu,
}
