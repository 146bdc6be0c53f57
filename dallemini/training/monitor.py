"""The folder of a run: its log, sheets of pictures, and curves at the end.

Knows numbers and pictures by their names, not tasks or models. The log is JSON lines, a row for
each time that a run reports; everything else can be made again from it.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import math
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from ..errors import DalleMiniError, InputError, StorageError
from ..files import make_folder, replacing
from ..pipeline.origin import stamp
from ..sheets import Sheet, png_bytes
from .callbacks import Callback, EarlyStopping, Judge, ProgressBar
from .config import TrainingConfig
from .curves import plot_curves
from .log import LOG_NAME as LOG_NAME
from .log import forget_later_rows, past_judgements
from .log import read_log as read_log  # its former place
from .trackers import open_tracker

IMAGES_FOLDER = "images"

_NO_SPACE = errno.ENOSPC, errno.EDQUOT
_NAME = re.compile(r"\w[\w.-]*")
_logger = logging.getLogger("dallemini.training")


class Monitor(Callback):
    """Writes a run down in its folder: `log.jsonl`, `images/`, and `curves.png` at the end.

    A run that starts at `start_step` goes on with the log that is there; rows of later steps, which
    will be done again, are dropped.

    Args:
        folder: of the run; made if missing.
        start_step: steps that are done already.

    Raises:
        StorageError: the folder cannot be written.

    Example:
        >>> import tempfile
        >>> from dallemini.training.log import read_log
        >>> from dallemini.training.monitor import Monitor
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     monitor = Monitor(folder)
        ...     monitor.on_step(50, {"loss": 0.25})
        ...     list(read_log(folder))
        [{'step': 50, 'loss': 0.25}]
    """

    def __init__(self, folder: str | os.PathLike[str], *, start_step: int = 0) -> None:
        self.folder = make_folder(folder)
        forget_later_rows(self.folder / LOG_NAME, start_step)
        self._has_news = self._told = False

    def on_step(self, step: int, values: Mapping[str, float]) -> None:
        """Write a row of the log. A number that is not finite is `null` there, and NaN when read.

        Raises:
            StorageError: the log cannot be written.
        """
        if not values:
            return
        row = {name: _rounded(value) for name, value in values.items()}
        with self._while_disk_is_full():
            self._append(json.dumps({"step": step, **row}) + "\n")
        self._has_news = True

    def on_evaluation(
        self, step: int, values: Mapping[str, float], pictures: Mapping[str, Sheet]
    ) -> None:
        """Write a row of the log, and the sheets to `images/<name>-<step>.png`.

        Raises:
            InputError: a sheet's name cannot be part of a file name.
            StorageError: a file cannot be written.
        """
        self.on_step(step, values)
        for name, picture in pictures.items():
            if not _NAME.fullmatch(name):
                raise InputError(
                    f"name must be made of letters, digits, '-', '_', '.', not {name!r}."
                )
            with self._while_disk_is_full():
                path = make_folder(self.folder / IMAGES_FOLDER) / f"{name}-{step:07}.png"
                with replacing(path) as file:
                    file.write(stamp(png_bytes(picture.draw()), {}))

    def _append(self, line: str) -> None:
        """Write a row whole, or take back what was written of it."""
        path = self.folder / LOG_NAME
        size = path.stat().st_size if path.exists() else 0
        try:
            with path.open("a", encoding="utf-8") as log:
                log.write(line)
        except OSError as error:
            with contextlib.suppress(OSError):
                os.truncate(path, size)
            raise StorageError(f"Could not write {path}: {error}. Free some space.") from error

    @contextlib.contextmanager
    def _while_disk_is_full(self) -> Iterator[None]:
        """Warn, once, instead of ending a run for a row or a picture that finds no space."""
        try:
            yield
        except StorageError as error:
            if getattr(error.__cause__, "errno", None) not in _NO_SPACE:
                raise
            if not self._told:
                _logger.warning("%s The run goes on without it.", error)
            self._told = True

    def close(self) -> None:
        """Plot the curves if anything was logged.

        A plot that cannot be made is a warning in the log of the program, not an error: the run
        itself is done.
        """
        if not self._has_news:
            return
        self._has_news = False
        try:
            plot_curves(self.folder)
        except DalleMiniError as error:
            _logger.warning("No curves were plotted: %s", error)


def own_callbacks(
    config: TrainingConfig, folder: Path, *, start_step: int, judge: Judge
) -> Iterator[Callback]:
    """Open what follows a run by its settings.

    Args:
        config: of the run.
        folder: of the run; made if missing.
        start_step: steps that are done already.
        judge: what was measured to how good that is, lower is better.

    Raises:
        MissingDependencyError: the tracker is not installed; the log is left as it is then.
        StorageError: the folder cannot be written.
    """
    if config.tracker is not None:
        settings = config.to_dict()
        yield open_tracker(config.tracker, folder, start_step=start_step, config=settings)
    yield Monitor(folder, start_step=start_step)
    if config.patience:
        past = past_judgements(folder, judge)
        yield EarlyStopping(judge, patience=config.patience, **past)
    if config.progress:
        yield ProgressBar(
            total_steps=config.steps, batch_size=config.batch_size, start_step=start_step
        )


def _rounded(value: float) -> float | None:
    """Keep five decimals, or five digits of what is small such as a learning rate."""
    if isinstance(value, int):
        return value
    value = float(value)
    if not math.isfinite(value):
        return None
    return round(value, 5) if abs(value) >= 0.1 else float(f"{value:.5g}")
