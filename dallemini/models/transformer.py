"""The sequence model: a text encoder and an image-token decoder (DalleBart).

Knows token ids, not prompts or files. Source: `src/dalle_mini/model/modeling.py` of
github.com/borisdayma/dalle-mini. Its switches are those of `TransformerConfig`; the defaults are
the released architecture (NormFormer, GLU, no biases, learned positions that start at 0).

Shapes: B prompts, R decoder rows, T text tokens, L image tokens, D width, V image vocabulary + 1.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal, Self, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import Config
from ..errors import InputError, InputTypeError, UnsupportedOperationError
from ..kernels import Linear, few_rows
from ._checks import check_ids, check_range
from .blocks import DecoderLayer
from .cache import DecoderCache, EncoderOutput, TokenizedText, pad_text, text_ends
from .compiled import CompiledStep, StaticCache
from .int8 import QuantizableModule
from .outlines import on_meta
from .precision import Quantization
from .scaling import scale_initial
from .towers import Decoder, Encoder
from .transformer_config import TransformerConfig

__all__ = ["Transformer", "TransformerConfig"]

INIT_STD = 0.02
PADDING = 1
"""Id of `<pad>` in the vocabularies of the family."""


class Transformer(QuantizableModule[TransformerConfig]):
    """Text tokens in, logits over image tokens out.

    Constructing it describes the structure on the `meta` device; use `from_pretrained` for stored
    weights and `from_config` for random ones.

    Example:
        >>> from dallemini import Transformer
        >>> from dallemini.models import TransformerConfig
        >>> sum(p.numel() for p in Transformer(TransformerConfig()).parameters())
        437833712
    """

    config_class: ClassVar[type[Config]] = TransformerConfig
    component: ClassVar[Literal["transformer"]] = "transformer"
    # products of two projections: single channels reach 10 to 20 times the mean
    fine_layers: ClassVar[tuple[str, ...]] = ("glu.out_proj",)
    _compiled: CompiledStep | None = None

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__(config)
        with on_meta():
            self.encoder = Encoder(config)
            self.decoder = Decoder(config)
            self.lm_head = Linear(config.d_model, config.image_vocab_size + 1)

    def init_weights(self, generator: torch.Generator) -> None:
        """Draw weights from N(0, 0.02), as the original does; norms start as the identity.

        DeepNet's scaling and the beginning of sub-LN multiply those of values, outputs and
        feed-forward blocks.
        """
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
            elif "norm" in name or "head_scale" in name:
                nn.init.ones_(parameter)
            else:
                nn.init.normal_(parameter, std=INIT_STD, generator=generator)
                scale_initial(name, parameter, self.config)

    def encode(self, tokens: TokenizedText) -> EncoderOutput:
        """Read prompts.

        Args:
            tokens: input_ids i64[B,T] and attention_mask bool[B,T], T at most `max_text_length`.

        Returns:
            hidden_states f[B,T,D] and the mask; T as `pad_text` makes it where quantised, and
            `max_text_length` where `sinkhorn_iters` lets padding take part. In float32 on the CPU
            and without gradients, no other prompt (and else no padding) has a part in the states
            of a prompt, down to the last digit.

        Raises:
            InputTypeError: `tokens` is nothing like `TextTokens`.
            InputError: too many tokens, an id outside the text vocabulary, or a row without any.
        """
        self._check_text(tokens)
        input_ids = self._moved(tokens.input_ids)
        mask = self._moved(tokens.attention_mask).bool()
        reads_padding = self.config.sinkhorn_iters > 1
        if reads_padding:  # so there is as much of it as in training, however much came
            missing = (0, self.config.max_text_length - mask.shape[1])
            input_ids = F.pad(input_ids, missing, value=PADDING)
            mask = F.pad(mask, missing, value=False)
        with few_rows(input_ids.numel(), self.dtype, self.device):
            states: Tensor = self.encoder(input_ids, mask)
            if self._reads_alone and not (len(mask) == 1 and (reads_padding or bool(mask.all()))):
                whole = [mask.shape[1]] * len(mask)
                for row, end in enumerate(whole if reads_padding else text_ends(mask)):
                    one = slice(row, row + 1)
                    states[one, :end] = self.encoder(input_ids[one, :end], mask[one, :end])
        if self.quantization is not None:
            _, padded = pad_text(input_ids, mask, limit=self.config.max_text_length)
            states = F.pad(states, (0, 0, 0, padded.shape[1] - mask.shape[1]))
            mask = padded
        return EncoderOutput(states, mask)

    def forward(self, tokens: TokenizedText, image_tokens: Tensor) -> Tensor:
        """Predict every image token from the text and the tokens before it (teacher forcing).

        Args:
            tokens: input_ids i64[B,T] and attention_mask bool[B,T].
            image_tokens: i64[B,L], L at most `image_length`; the start token is put in front here.

        Returns:
            Logits f[B,L,V]; position i predicts `image_tokens[:, i]`.

        Raises:
            InputTypeError: the tokens are not tensors of integers.
            InputError: shapes or ids do not fit each other or the configuration.
        """
        return self.decode(self.encode(tokens), image_tokens)

    def decode(self, encoder_output: EncoderOutput, image_tokens: Tensor) -> Tensor:
        """Predict every image token as `forward` does, from prompts that were already encoded.

        Args:
            encoder_output: of B prompts.
            image_tokens: i64[B,L].

        Returns:
            Logits f[B,L,V].

        Raises:
            InputTypeError: the image tokens are not a tensor of integers.
            InputError: shapes or ids do not fit each other or the configuration.
        """
        rows, longest = encoder_output.hidden_states.shape[0], self.config.image_length
        shape = f"[{rows}, L], one row a prompt and L from 1 to {longest}"
        check_ids("image_tokens", image_tokens, shape=shape, axes=2)
        if image_tokens.shape[0] != rows or not 0 < image_tokens.shape[1] <= longest:
            raise InputError(
                f"image_tokens must have shape {shape}, not {list(image_tokens.shape)}."
            )
        self._check_image_ids(image_tokens)
        start = self.start_tokens(rows)[:, None]
        shifted = torch.cat([start, self._moved(image_tokens)[:, :-1]], dim=1)
        logits: Tensor = self.lm_head(self.decoder(shifted, encoder_output))
        return logits

    def start_tokens(self, rows: int) -> Tensor:
        """Return the start token for each row, i64[R]: the input of the first `decode_step`."""
        start = self.config.decoder_start_token_id
        return torch.full((rows,), start, dtype=torch.int64, device=self.device)

    def init_cache(
        self, encoder_output: EncoderOutput, *, rows: Tensor | None = None
    ) -> DecoderCache:
        """Prepare decoding: project the text once and reserve memory for L image positions.

        Args:
            encoder_output: of B prompts.
            rows: i64[R], which prompt each decoder row reads; one row a prompt when None.

        Returns:
            An empty cache for R rows; a `StaticCache` after `compile_decoding`.

        Raises:
            InputTypeError: `rows` is not a tensor of integers.
            InputError: `rows` names a prompt that there is not.
        """
        states, mask = encoder_output.hidden_states, encoder_output.attention_mask
        everyone = torch.arange(states.shape[0], dtype=torch.int64, device="cpu")
        index = everyone if rows is None else rows
        check_ids("rows", index, shape="[R]", axes=1)
        check_range("rows", index, limit=states.shape[0], hint="one number for each prompt")
        index = index.to(states.device, torch.int64)
        heads = self.config.decoder_attention_heads
        shape = (index.numel(), heads, self.config.image_length, self.config.d_model // heads)
        projected = self._project(states, mask)
        cache = DecoderCache(
            self_keys=[states.new_empty(shape) for _ in projected],
            self_values=[states.new_empty(shape) for _ in projected],
            cross_keys=[key[index].contiguous() for key, _ in projected],
            cross_values=[value[index].contiguous() for _, value in projected],
            cross_mask=mask[index][:, None, None, :],
        )
        if self._compiled is None:
            return cache
        return self._compiled.start(cache, text_length=self.config.max_text_length)

    def _project(self, states: Tensor, mask: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Return each layer's keys and values f[B,H,T,D/H] of the text f[B,T,D]."""
        attentions = [cast(DecoderLayer, layer).cross_attn for layer in self.decoder.layers]
        if not self._reads_alone:
            return [attention.project_states(states) for attention in attentions]
        ends = text_ends(mask)
        return [attention.project_alone(states, ends) for attention in attentions]

    @property
    def _reads_alone(self) -> bool:
        """Whether prompts are read one by one (cheap on a CPU), none in the rounding of another."""
        plain = self.device.type == "cpu" and self.dtype == torch.float32
        return plain and not torch.is_grad_enabled()

    def decode_step(self, image_tokens: Tensor, cache: DecoderCache) -> Tensor:
        """Decode one position for every row and advance the cache.

        Args:
            image_tokens: i64[R], 0 <= id < V, the tokens drawn last; `start_tokens(R)` first.
            cache: from `init_cache`.

        Returns:
            Logits f[R,V] of the next token.

        Raises:
            InputTypeError: the tokens are not a tensor of integers.
            InputError: the number of rows differs from the cache's, or the picture is complete.
            UnsupportedOperationError: torch cannot compile the step, after `compile_decoding`.
        """
        check_ids("image_tokens", image_tokens, shape=f"[{cache.rows}]", axes=1)
        if image_tokens.shape != (cache.rows,):
            raise InputError(
                f"decode_step needs one token for each of the {cache.rows} rows of the cache, "
                f"not shape {list(image_tokens.shape)}."
            )
        if image_tokens.device.type == "cpu":  # on a GPU, looking would mean waiting at every step
            self._check_image_ids(image_tokens)
        self._check_room(cache, 1)
        with few_rows(cache.rows, self.dtype, self.device):
            if isinstance(cache, StaticCache):
                logits = cache.compiled.run(self._predict, image_tokens, cache)
            else:
                logits = self._predict(image_tokens, cache)
        cache.advance()
        return logits

    def extend(self, image_tokens: Tensor, cache: DecoderCache) -> Tensor:
        """Decode several positions that are known in one pass, and advance the cache by as many.

        `cache.advance(-n)` takes the last n of them back. Compiled code is not used. Where the
        kernels compute all of it, R * S is at most 64, each position has the bits of `decode_step`.

        Args:
            image_tokens: i64[R,S], 0 <= id < V, S from 1: the inputs of as many decoding steps.
            cache: from `init_cache`.

        Returns:
            Logits f[R,S,V]; those of position i are of the token that follows `image_tokens[:, i]`.

        Raises:
            InputTypeError: the tokens are not a tensor of integers.
            InputError: the number of rows differs from the cache's, or a picture has not so many
                positions left.
        """
        check_ids("image_tokens", image_tokens, shape=f"[{cache.rows}, S]", axes=2)
        rows, count = image_tokens.shape
        if rows != cache.rows or count < 1:
            raise InputError(
                f"extend needs tokens [{cache.rows}, S] with S from 1, one row for each of the "
                f"cache, not shape {list(image_tokens.shape)}."
            )
        self._check_image_ids(image_tokens)
        self._check_room(cache, count)
        with few_rows(rows * count, self.dtype, self.device):
            logits: Tensor = self.lm_head(self.decoder(image_tokens, cache=cache))
        cache.advance(count)
        return logits

    def _check_room(self, cache: DecoderCache, count: int) -> None:
        if cache.length + count > self.config.image_length:
            raise InputError(
                f"The picture is complete after {self.config.image_length} tokens; "
                "start another with init_cache."
            )

    def _predict(self, image_tokens: Tensor, cache: DecoderCache) -> Tensor:
        """Map i64[R] to logits f[R,V], unchecked: what `compile_decoding` compiles."""
        logits: Tensor = self.lm_head(self.decoder(image_tokens[:, None], cache=cache)[:, 0])
        return logits

    def compile_decoding(self, *, backend: str = "inductor") -> Self:
        """Let `torch.compile` make the decoding steps from now on; returns the model.

        The next drawing compiles, once for each number of rows, device and dtype; on a GPU every
        drawing then captures its step in a CUDA graph. `forward` and what it draws stay the same.
        Copies and pickles of the model are not compiled.

        Args:
            backend: of `torch.compile`; "eager" checks the step without generating code.

        Raises:
            InputTypeError: `backend` is not a string.
            InputError: torch has no such backend.
            UnsupportedOperationError: the weights are quantised, or torch has no compiler here.
        """
        if self.quantization is not None:
            raise UnsupportedOperationError(
                f"A Transformer with {self.quantization} weights cannot be compiled: torch's "
                "compiler does not see into their kernels. Load it without quantization, or draw "
                "without compiling."
            )
        self._compiled = CompiledStep(backend=backend)
        return self

    def quantize(self, quantization: Quantization = "int8") -> Self:
        """Turn the linear layers into integer ones, in place, as `QuantizableModule.quantize`.

        Raises:
            InputTypeError: `quantization` is not a string.
            InputError: there is no such quantisation, or the model has no weights.
            UnsupportedOperationError: it is compiled or quantised already, not on the CPU, or has
                adapters.
        """
        if self._compiled is not None:
            raise UnsupportedOperationError(
                "This Transformer is compiled, and int8 weights cannot be; load it anew with "
                "quantization='int8', without compiling."
            )
        return super().quantize(quantization)

    def __getstate__(self) -> dict[str, Any]:
        """Describe the model without compiled code, for pickle and copies."""
        state: dict[str, Any] = super().__getstate__()  # type: ignore[no-untyped-call]
        return {**state, "_compiled": None}

    def _check_text(self, tokens: TokenizedText) -> None:
        if not (hasattr(tokens, "input_ids") and hasattr(tokens, "attention_mask")):
            raise InputTypeError(
                "The transformer reads TextTokens, as a Tokenizer returns them, "
                f"not {type(tokens).__name__}."
            )
        input_ids, mask = tokens.input_ids, tokens.attention_mask
        shape = f"[B, T] with T from 1 to {self.config.max_text_length}"
        check_ids("input_ids", input_ids, shape=shape, axes=2)
        if not 0 < input_ids.shape[1] <= self.config.max_text_length:
            raise InputError(f"input_ids must have shape {shape}, not {list(input_ids.shape)}.")
        if mask.shape != input_ids.shape:
            raise InputError(
                f"input_ids {list(input_ids.shape)} and attention_mask {list(mask.shape)} must "
                "have the same shape."
            )
        hint = "use the tokenizer that belongs to this model"
        check_range("Token ids", input_ids, limit=self.config.text_vocab_size, hint=hint)
        if not mask.is_meta and not bool(mask.any(dim=1).all()):
            raise InputError("attention_mask must be True somewhere in every row.")

    def _moved(self, tensor: Tensor) -> Tensor:
        """Return a tensor on this device, which a GPU fetches from pinned memory by itself."""
        return tensor.to(self.device, non_blocking=self.device.type == "cuda")

    def _check_image_ids(self, image_tokens: Tensor) -> None:
        limit = self.config.image_vocab_size + 1
        check_range("Image tokens", image_tokens, limit=limit, hint="the image vocabulary")
