"""The decoder's layers by few calls of the library, where a model has the released architecture.

Knows which modules a layer has and when its weights have moved; `kernels.layer` computes. What has
other switches, biases, adapters or hooks goes through the modules, with the same results.

Shapes: R decoder rows, S positions of a pass, D width.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Sequence
from itertools import chain
from operator import itemgetter
from typing import Any, cast

from torch import Tensor, nn

from ..kernels import Linear
from ..kernels.int8 import KernelOperator
from ..kernels.layer import NORM_EPS, Layers, LayerWeights, Projection, takes
from .attention import AttentionForm
from .blocks import DecoderLayer, attention_form
from .cache import DecoderCache
from .feed_forward import ACTIVATIONS, GLU
from .int8 import Int8Linear
from .norms import BiasNorm


def run_layers(layers: nn.ModuleList, hidden_states: Tensor, cache: DecoderCache) -> Tensor | None:
    """Compute the next positions f[R,S,D] of a cache in all layers; None where modules are to.

    Args:
        layers: of a decoder.
        hidden_states: f[R,S,D].
        cache: extended by these positions, but not advanced.
    """
    if type(cache) is not DecoderCache or not takes(hidden_states, cache.cross_mask):
        return None
    if _has_global_hooks():
        return None
    known = _known.get(layers)
    if known is None or not known.is_current():
        known = _known[layers] = _Known(layers)
    words, found = cache.words(), known.layers
    if found is None or words is None or not _fits(found, hidden_states, cache):
        return None
    mask, capacity = cache.cross_mask, cache.self_keys[0].shape[2]
    return found.run(hidden_states, words, mask, capacity=capacity, position=cache.place)


def _fits(found: Layers, hidden_states: Tensor, cache: DecoderCache) -> bool:
    """Tell whether the cache is one of these layers, with room for what comes."""
    rows, count, width = hidden_states.shape
    capacity, text = cache.self_keys[0].shape[2], cache.cross_keys[0].shape[2]
    return (
        len(cache.self_keys) == found.count
        and cache.self_keys[0].shape == (rows, found.heads, capacity, width // found.heads)
        and cache.cross_mask.shape == (rows, 1, 1, text)
        and width == found.width
        and min(cache.positions) >= 0
        and cache.length + count <= capacity
    )


class _Known:
    """What was found out about the layers of a decoder, until something changes.

    It keeps no weights alive: it forgets them with the first module that is replaced.

    Args:
        layers: of a decoder.
    """

    def __init__(self, layers: nn.ModuleList) -> None:
        modules = [*layers.modules()]
        state: list[list[dict[str, Any]]] = [
            [module._modules for module in modules if module._modules],
            [module._parameters for module in modules if module._parameters],
            [module.__dict__ for module in modules if isinstance(module, Int8Linear)],
            [hooks for module in modules for hooks in _hooks(module)],
        ]
        self._state = state  # the lambda must not know `self`, or both would wait for the collector
        self._ends = [weakref.ref(module, lambda _: state.clear()) for module in modules[1:]]
        self.layers = None if any(state[3]) else _find_layers([*layers])
        self._signature = self._sign()

    def is_current(self) -> bool:
        """Tell whether modules, hooks and weights are what and where they were."""
        return bool(self._state) and self._sign() == self._signature

    def _sign(self) -> list[object]:
        """Return what changes with them; thrice as fast without loops of Python."""
        parts, parameters, packed, hooks = self._state
        weights = chain.from_iterable(map(dict.values, parameters))
        return [
            any(hooks),
            *map(id, chain.from_iterable(map(dict.values, parts))),
            *map(id, map(_PACKED, packed)),
            *map(Tensor.data_ptr, [weight for weight in weights if weight is not None]),
        ]


# torch's own name for it; without it nothing can be asked, and nothing is
_has_global_hooks = getattr(nn.modules.module, "_has_any_global_hook", bool)
_known: weakref.WeakKeyDictionary[nn.ModuleList, _Known] = weakref.WeakKeyDictionary()
_PACKED = itemgetter("_packed")


def _hooks(module: nn.Module) -> Iterator[dict[str, Any]]:
    return (module.__dict__[name] for name in ("_forward_hooks", "_forward_pre_hooks"))


def _find_layers(layers: Sequence[nn.Module]) -> Layers | None:
    found = [_find_weights(layer) for layer in layers]
    weights = [one for one in found if one is not None]
    if len(weights) < len(layers) or len({one.sizes for one in weights}) > 1:
        return None
    first = cast(DecoderLayer, layers[0])
    heads, activation = first.self_attn.heads, cast(GLU, first.glu).activation
    if not all(one.fit(heads) for one in weights):
        return None
    return Layers(weights, heads=heads, activation=ACTIVATIONS[activation])


def _find_weights(layer: nn.Module) -> LayerWeights | None:
    """Return the weights of a layer of the released architecture; None of any other."""
    if type(layer) is not DecoderLayer or not _is_released(layer):
        return None
    own, text, block = layer.self_attn, layer.cross_attn, layer.glu
    assert block is not None
    inside = layer.self_attn_norm, layer.self_attn_post_norm, layer.cross_attn_norm
    norms = map(_find_norm, (*inside, layer.cross_attn_post_norm, block.norm_in, block.norm_mid))
    linears = own.qkv_proj, own.out_proj, text.q_proj, text.out_proj, block.in_proj, block.out_proj
    projections = [*map(_find_projection, linears)]
    found = [one for one in norms if one is not None]
    whole = [one for one in projections if one is not None]
    return LayerWeights(found, whole) if len(found) == len(whole) == 6 else None


def _is_released(layer: DecoderLayer) -> bool:
    config = layer._config
    plain = attention_form(config, "decoder", to_text=True) == AttentionForm()
    return plain and layer.scale == 1.0 and config.use_glu and config.ln_positions == "normformer"


def _find_norm(norm: nn.Module | None) -> tuple[Tensor | None, Tensor] | None:
    if type(norm) is BiasNorm:
        return None, norm.bias
    if type(norm) is nn.LayerNorm and norm.eps == NORM_EPS:
        return norm.weight, norm.bias
    return None


def _find_projection(linear: nn.Module) -> Projection | None:
    if type(linear) is Linear and linear.bias is None:
        return linear.weight, None, False
    if type(linear) is not Int8Linear or linear.bias is not None or linear._packed is None:
        return None
    if type(linear.operator) is not KernelOperator:
        return None
    weight, scale = linear.operator.unpack(linear._packed)
    return weight, scale, linear.fine
