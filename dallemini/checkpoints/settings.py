"""Foreign configurations: what they ask for, and that nothing in them is passed over unseen.

Every key is read, known to change nothing here, or refused by name: a setting that a reader does
not know may be one that changes what the model computes. Knows no format.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any

from ..config import LARGEST_SIZE, MOST_LAYERS
from ..errors import CheckpointError, ConfigError, UnsupportedModelError
from ..foreign import show, show_names, with_article
from .formats import CLASS_NAMES, Component

# What PretrainedConfig of transformers writes into every config.json: labels, generation, training.
TRANSFORMERS_INERT = frozenset(
    [
        "_attn_implementation",
        "_attn_implementation_autoset",
        "_commit_hash",
        "_name_or_path",
        "add_cross_attention",
        "architectures",
        "attention_dropout",
        "attn_implementation",
        "bad_words_ids",
        "begin_suppress_tokens",
        "bos_token_id",
        "chunk_size_feed_forward",
        "cross_attention_hidden_size",
        "decoder_start_token_id",
        "diversity_penalty",
        "do_sample",
        "dropout",
        "dtype",
        "early_stopping",
        "encoder_no_repeat_ngram_size",
        "eos_token_id",
        "exponential_decay_length_penalty",
        "finetuning_task",
        "forced_bos_token_id",
        "forced_eos_token_id",
        "gradient_checkpointing",
        "id2label",
        "initializer_factor",
        "initializer_range",
        "is_composition",
        "is_decoder",
        "is_encoder_decoder",
        "label2id",
        "length_penalty",
        "max_length",
        "min_length",
        "no_repeat_ngram_size",
        "num_beam_groups",
        "num_beams",
        "num_labels",
        "num_return_sequences",
        "output_attentions",
        "output_hidden_states",
        "output_scores",
        "pad_token_id",
        "prefix",
        "problem_type",
        "remove_invalid_values",
        "repetition_penalty",
        "return_dict",
        "return_dict_in_generate",
        "sep_token_id",
        "suppress_tokens",
        "task_specific_params",
        "temperature",
        "tf_legacy_loss",
        "tie_encoder_decoder",
        "tie_word_embeddings",
        "tokenizer_class",
        "top_k",
        "top_p",
        "torch_dtype",
        "torchscript",
        "transformers_version",
        "typical_p",
        "use_bfloat16",
        "use_cache",
    ]
)


def account(
    config: Mapping[str, Any],
    *known: Collection[str],
    origin: str,
    what: str,
) -> None:
    """Refuse a configuration with a key that nobody reads.

    Args:
        config: the foreign values.
        known: the keys that are read, refused unless they have one value, or change nothing.
        origin: where the configuration comes from, for messages.
        what: which part of it this is, for messages.

    Raises:
        UnsupportedModelError: there is another key; the message names it.
    """
    unknown = [key for key in config if not any(key in keys for keys in known)]
    if unknown:
        raise UnsupportedModelError(
            f"{origin}: {what} has settings that are not known here ({show_names(unknown)}), so "
            "what the model computes may differ. Remove them if they change nothing."
        )


def refuse_values(
    config: Mapping[str, Any], supported: Mapping[str, Any], *, origin: str, model: str
) -> None:
    """Refuse a foreign configuration that asks for another computation.

    Args:
        config: the foreign values.
        supported: the only value of each key that is computed here, which is also its default.
        origin: where the configuration comes from, for messages.
        model: whose architecture is computed, for messages.

    Raises:
        UnsupportedModelError: a key has another value; the message names it and both values.
    """
    for key, value in supported.items():
        if config.get(key, value) != value:
            raise UnsupportedModelError(
                f"{origin} has {key} {show(config[key])}, but only {value!r} is supported: the "
                f"architecture of {model}."
            )


def refuse_other_component(config: Mapping[str, Any], component: Component, origin: str) -> None:
    """Refuse a foreign configuration that clearly belongs to another part of the pipeline.

    Raises:
        CheckpointError: it does; the message names the class that loads it.
    """
    holds: Component | None = None
    if "encoder_vocab_size" in config or config.get("model_type") == "dallebart":
        holds = "transformer"
    elif "ch_mult" in config:
        holds = "vqgan"
    elif config.get("model_type") == "clip":
        holds = "clip"
    if holds not in (None, component):
        raise CheckpointError(
            f"{origin} holds {with_article(CLASS_NAMES[holds])}, not "
            f"{with_article(CLASS_NAMES[component])}. Load it with "
            f"{CLASS_NAMES[holds]}.from_pretrained."
        )


def section(config: Mapping[str, Any], key: str, *, origin: str) -> Mapping[str, Any]:
    """Return a part of a foreign configuration that is an object, empty where it is absent.

    Raises:
        ConfigError: it is something else.
    """
    value = config.get(key)
    if value is not None and not isinstance(value, dict):
        raise ConfigError(f"{origin}: {key} must be an object with settings, not {show(value)}.")
    return value or {}


def whole_number(config: Mapping[str, Any], key: str, default: int, *, origin: str) -> int:
    """Return a size from a foreign configuration.

    Raises:
        ConfigError: it is not a positive whole number, or larger than any model's.
    """
    value = config.get(key, default)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ConfigError(f"{origin}: {key} must be a whole number, not {show(value)}.")
    if value < 1 and not key.endswith("_id"):
        raise ConfigError(f"{origin}: {key} must be at least 1, not {value}.")
    most = MOST_LAYERS if key.endswith(("layers", "blocks")) else LARGEST_SIZE
    if value > most:
        raise ConfigError(f"{origin}: {key} must be at most {most}, not {show(value)}.")
    return value


def flag(config: Mapping[str, Any], key: str, default: bool = False, *, origin: str) -> bool:
    """Return a switch from a foreign configuration.

    Raises:
        ConfigError: it is neither true nor false.
    """
    value = config.get(key, default)
    if not isinstance(value, bool):
        raise ConfigError(f"{origin}: {key} must be true or false, not {show(value)}.")
    return value


def choice(
    config: Mapping[str, Any], key: str, known: Collection[str], default: str, *, origin: str
) -> str:
    """Return a word from a foreign configuration.

    Raises:
        UnsupportedModelError: it is none of those that are known here; the message names it.
    """
    value = config.get(key, default)
    if not isinstance(value, str) or value not in known:
        raise UnsupportedModelError(
            f"{origin} has {key} {show(value)}, but only {', '.join(map(repr, known))} are known "
            "here; use a model with one of them."
        )
    return value


def number(config: Mapping[str, Any], key: str, default: float, *, origin: str) -> float:
    """Return a finite number from a foreign configuration.

    Raises:
        ConfigError: it is something else.
    """
    value = config.get(key, default)
    right = isinstance(value, int | float) and not isinstance(value, bool)
    if not right or not abs(value) < LARGEST_SIZE or math.isnan(value):
        raise ConfigError(f"{origin}: {key} must be a number, not {show(value)}.")
    return float(value)


def picture_size(
    config: Mapping[str, Any], key: str, default: int | tuple[int, int], *, origin: str
) -> int | tuple[int, int]:
    """Return the side of a square picture, or height and width, given as one number or as two.

    Raises:
        ConfigError: a side is not a whole number.
    """
    value = config.get(key, default)
    if not isinstance(value, list | tuple) or len(value) != 2:
        return whole_number({key: value}, key, 0, origin=origin)
    height, width = (whole_number({key: side}, key, 0, origin=origin) for side in value)
    return height if height == width else (height, width)


def square_side(config: Mapping[str, Any], key: str, default: int, *, origin: str) -> int:
    """Return the side of a square picture, given as one number or as two that are equal.

    Raises:
        UnsupportedModelError: they differ.
        ConfigError: a side is not a whole number.
    """
    value = config.get(key, default)
    sides = value if isinstance(value, list) and len(value) == 2 else [value]
    whole = [whole_number({key: side}, key, default, origin=origin) for side in sides]
    if min(whole) != max(whole):
        raise UnsupportedModelError(
            f"{origin} has {key} {show(value)}, but only squares are supported."
        )
    return whole[0]
