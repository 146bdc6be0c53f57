"""Which checkpoints of a run there are: the last good one, one that is yet to prove good, the best.

Knows files by their marks, not what is in them.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from ..errors import StorageError
from . import checkpoint
from .distributed import rank

_logger = logging.getLogger("dallemini.training")


class Keeper:
    """Keeps the checkpoints of one run.

    Args:
        folder: of the run.
        keep: how many of the newest stay, besides the best.
    """

    def __init__(self, folder: Path, *, keep: int) -> None:
        self.folder, self.keep = folder, keep
        self.good: Path | None = None  # the last checkpoint whose weights computed a loss
        self.untried: Path | None = None  # one after it, until its weights have
        self.best: float | None = None  # how the best was judged, lower is better
        self.disk_is_full = False

    def go_on_from(self, path: Path) -> None:
        """Begin with a checkpoint that is there, and set aside those of this run after it.

        Raises:
            StorageError: they cannot be.
        """
        self.good = path
        if path.parent == self.folder:
            moved = checkpoint.set_aside(self.folder, after=path)
            if moved and rank() == 0:
                names = ", ".join(place.name for place in moved)
                _logger.info("What came after %s is kept as %s.", path, names)
            if checkpoint.is_untried(path):
                self.good = checkpoint.newest(self.folder, before=path)
                self.untried = path
        best = checkpoint.judged_best(self.folder)
        self.best = None if best is None else best[1]

    def is_better(self, judged: float | None) -> bool:
        """Tell whether a judgement is better than that of every checkpoint so far."""
        return judged is not None and judged < (float("inf") if self.best is None else self.best)

    def save(self, *, is_last: bool, judged: float | None, **state: Any) -> Path | None:
        """Write a checkpoint; go on without where the disk is full and an older one is there.

        Until `accept` is called the checkpoint before stays; at the end there is none.

        Args:
            is_last: whether no step will prove it good.
            judged: how good it is, if it is better than all before.
            **state: as `checkpoint.save` takes it.

        Raises:
            StorageError: the first checkpoint cannot be written.
        """
        marks: dict[str, Any] = {"untried": not is_last, "keep": self.keep, "judged": judged}
        try:
            path = checkpoint.save(self.folder, **state, **marks)
        except StorageError as error:
            self._go_on_without(error, is_last)
            return None
        self.good, self.untried = (path, None) if is_last else (self.good, path)
        self.best = self.best if judged is None else judged
        self.disk_is_full = False
        return path

    def accept(self) -> None:
        """Let the newest checkpoint count, as its weights have computed a loss and a gradient."""
        if self.untried is not None:
            checkpoint.accept(self.untried, keep=self.keep)
            self.good, self.untried = self.untried, None

    def withdraw(self) -> str:
        """Remove a checkpoint that has not proved good, and say what the run goes on from."""
        if self.untried is not None:
            checkpoint.withdraw(self.untried)
            self.untried = None
        if self.good is None:
            return "There is no checkpoint yet: started again, the run begins anew."
        return f"The last checkpoint is still good: the run goes on from {self.good.name}."

    def tell_best(self) -> None:
        """Say which checkpoint was best on held-out data, if that is an earlier one."""
        best = checkpoint.judged_best(self.folder) if rank() == 0 else None
        if best is not None and best[0] != checkpoint.newest(self.folder):
            _logger.info(
                "%s was best on held-out data; `dallemini convert %s OUTPUT` makes a model of it.",
                best[0].name,
                best[0],
            )

    def _go_on_without(self, error: StorageError, is_last: bool) -> None:
        """Warn once of a checkpoint that could not be written, if an older one is there."""
        kept = self.untried or self.good
        if kept is None and not is_last:
            raise error
        if not self.disk_is_full and rank() == 0:
            last = f"the last one is {kept.name}" if kept else "there is none"
            _logger.warning("%s The run goes on without this checkpoint; %s.", error, last)
        self.disk_is_full = True
