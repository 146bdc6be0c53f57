"""Pictures with captions: from folders, tables and tar shards to batches, or to codes.

`CaptionedImages` reads, `Batches` draws. `encode_images` writes image tokens with their captions,
which `EncodedImages` reads and `TokenBatches` draws by the same rules.
"""

from __future__ import annotations

from .batches import Batches
from .config import DataConfig
from .dataset import CaptionedImages
from .encode import EncodeReport, encode_images
from .records import BadRecord, BadRecordError, CaptionedImage, DataShard, ImageBatch
from .tokens import EncodedImage, EncodedImages, TokenBatch, TokenBatches

__all__ = [
    "BadRecord",
    "BadRecordError",
    "Batches",
    "CaptionedImage",
    "CaptionedImages",
    "DataConfig",
    "DataShard",
    "EncodeReport",
    "EncodedImage",
    "EncodedImages",
    "ImageBatch",
    "TokenBatch",
    "TokenBatches",
    "encode_images",
]
