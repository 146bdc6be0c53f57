"""The former place of `dallemini.models.int8`."""

from __future__ import annotations

from .models.int8 import QUANTIZATIONS, Int8Linear, Quantization, quantize_weight

__all__ = ["Int8Linear", "QUANTIZATIONS", "Quantization", "quantize_weight"]
