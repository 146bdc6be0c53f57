"""The former place of `dallemini.models.lora`."""

from __future__ import annotations

from ..models.lora import (
    LoRAConfig,
    LoRALinear,
    add_lora,
    load_lora,
    lora_state_dict,
    merge_lora,
    save_lora,
)

__all__ = [
    "LoRAConfig",
    "LoRALinear",
    "add_lora",
    "load_lora",
    "lora_state_dict",
    "merge_lora",
    "save_lora",
]
