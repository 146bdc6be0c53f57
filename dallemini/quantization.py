"""The former place of `dallemini.models.int8`."""

from __future__ import annotations

from .models.int8 import Int8Linear, quantize_weight
from .models.precision import QUANTIZATIONS, Quantization

__all__ = ["Int8Linear", "QUANTIZATIONS", "Quantization", "quantize_weight"]
