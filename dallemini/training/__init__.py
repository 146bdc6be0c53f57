"""Training of every part: one loop, one task per network.

A task knows its loss, the loop knows steps, rates, checkpoints and logs. Data come as a function
from the step number to a batch, so that a resumed run sees what an uninterrupted one would have.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._lazy import load_when_asked
from .config import TrainingConfig

if TYPE_CHECKING:
    from ..sheets import Sheet
    from .callbacks import Callback, EarlyStopping
    from .clip import CLIPBatch, CLIPTask
    from .loop import run
    from .task import Task
    from .transformer import TransformerBatch, TransformerTask
    from .vqgan import VQGANTask

__all__ = [
    "CLIPBatch",
    "CLIPTask",
    "Callback",
    "EarlyStopping",
    "Sheet",
    "Task",
    "TrainingConfig",
    "TransformerBatch",
    "TransformerTask",
    "VQGANTask",
    "run",
]

_PLACES = {
    "CLIPBatch": "clip",
    "CLIPTask": "clip",
    "Callback": "callbacks",
    "EarlyStopping": "callbacks",
    "Sheet": "task",
    "Task": "task",
    "TransformerBatch": "transformer",
    "TransformerTask": "transformer",
    "VQGANTask": "vqgan",
    "run": "loop",
}

if not TYPE_CHECKING:
    __getattr__, __dir__ = load_when_asked(__name__, _PLACES)
