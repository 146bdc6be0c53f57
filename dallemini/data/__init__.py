"""Pictures with captions: from folders, tables and tar shards to batches, or to codes.

`CaptionedImages` reads, `Batches` draws. `encode_images` writes image tokens with their captions,
which `EncodedImages` reads and `TokenBatches` draws by the same rules.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._lazy import load_when_asked
from .config import DataConfig

if TYPE_CHECKING:
    from .batches import Batches
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

_PLACES = {
    "BadRecord": "records",
    "BadRecordError": "records",
    "Batches": "batches",
    "CaptionedImage": "records",
    "CaptionedImages": "dataset",
    "DataShard": "records",
    "EncodeReport": "encode",
    "EncodedImage": "tokens",
    "EncodedImages": "tokens",
    "ImageBatch": "records",
    "TokenBatch": "tokens",
    "TokenBatches": "tokens",
    "encode_images": "encode",
}

if not TYPE_CHECKING:
    __getattr__, __dir__ = load_when_asked(__name__, _PLACES)
