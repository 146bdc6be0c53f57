"""Training of every part: one loop, one task per network.

A task knows its loss, the loop knows steps, rates, checkpoints and logs. Data come as a function
from the step number to a batch, so that a resumed run sees what an uninterrupted one would have.
"""

from __future__ import annotations

from ..sheets import Sheet
from .callbacks import Callback, EarlyStopping
from .clip import CLIPBatch, CLIPTask
from .config import TrainingConfig
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
