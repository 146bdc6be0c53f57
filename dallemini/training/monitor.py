"""Seeing a run learn: its log, a progress bar, pictures, curves, and dashboards if asked for.

Knows numbers and pixels by their names, not tasks or models. The log is JSON lines, one row for
each call of `Monitor.log`; everything else can be made again from it.
"""

from __future__ import annotations

import contextlib
import errno
import importlib
import json
import logging
import math
import os
import re
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, Protocol, Self

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from ..errors import (
    ConfigError,
    DalleMiniError,
    InputError,
    MissingDependencyError,
    StorageError,
)
from ..files import make_folder, replacing, write_text
from ..images import tensor_to_images
from ..sheets import make_grid
from .curves import plot_curves
from .log import LOG_NAME as LOG_NAME
from .log import forget_later_rows
from .log import read_log as read_log  # its former place

IMAGES_FOLDER = "images"
TrackerName = Literal["tensorboard", "wandb"]

_TRACKERS = {
    "tensorboard": ("TensorBoard", "torch.utils.tensorboard"),
    "wandb": ("Weights & Biases", "wandb"),
}
_NO_SPACE = errno.ENOSPC, errno.EDQUOT
_NAME = re.compile(r"\w[\w.-]*")
_BAR = "{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {images_fmt}{postfix}]"
_logger = logging.getLogger("dallemini.training")


class Tracker(Protocol):
    """A dashboard beside the log."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Take the numbers of a step."""

    def image(self, step: int, name: str, pixels: NDArray[np.uint8]) -> None:
        """Take a picture, u8[H,W,3]."""

    def close(self) -> None:
        """Write what is not yet written."""


class Monitor:
    """What a training loop tells, in a folder: `log.jsonl`, `images/`, and `curves.png` at the end.

    A run that starts at `start_step` goes on with the log that is there; rows of later steps, which
    will be done again, are dropped.

    Args:
        folder: of the run; made if missing.
        total_steps: at which the run is complete.
        batch_size: images of a step, over all processes.
        start_step: steps that are done already.
        progress: show a progress bar where standard error is a terminal.
        tracker: also write to TensorBoard, in the folder `tensorboard`, or to Weights & Biases,
            which heeds its own variables (`WANDB_MODE=offline`, `WANDB_PROJECT`).
        config: settings of the run, for the tracker.

    Raises:
        ConfigError: there is no such tracker.
        MissingDependencyError: the tracker is not installed.
        StorageError: the folder cannot be written.

    Example:
        >>> import tempfile
        >>> from dallemini.training.log import read_log
        >>> from dallemini.training.monitor import Monitor
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     monitor = Monitor(folder, total_steps=100, batch_size=8, progress=False)
        ...     monitor.log(50, {"loss": 0.25})
        ...     list(read_log(folder))
        [{'step': 50, 'loss': 0.25}]
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        total_steps: int,
        batch_size: int,
        start_step: int = 0,
        progress: bool = True,
        tracker: TrackerName | None = None,
        config: Mapping[str, Any] | None = None,
    ) -> None:
        self.folder = make_folder(folder)
        self._tracker = _open_tracker(tracker, self.folder, start_step, dict(config or {}))
        forget_later_rows(self.folder / LOG_NAME, start_step)
        self._bar = _Bar(
            total=total_steps,
            initial=start_step,
            batch_size=batch_size,
            bar_format=_BAR,
            unit="step",
            dynamic_ncols=True,
            disable=None if progress else True,  # None: hidden where no terminal reads it
        )
        self._has_news = self._told = False

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Write numbers down: a row of the log, the tracker, the loss in the progress bar.

        A number that is not finite is `null` in the log and NaN when read again.

        Raises:
            StorageError: the log cannot be written.
        """
        row = {name: _rounded(value) for name, value in values.items()}
        with self._while_disk_is_full():
            self._append(json.dumps({"step": step, **row}) + "\n")
        self._has_news = True
        if self._tracker is not None:
            self._tracker.log(step, values)
        if "loss" in values:
            self._bar.set_postfix_str(f"loss {values['loss']:.4g}", refresh=False)

    def advance(self, step: int) -> None:
        """Move the progress bar to this many steps."""
        self._bar.update(step - self._bar.n)

    def images(self, step: int, name: str, images: Tensor, *, columns: int | None = None) -> Path:
        """Write pictures as one grid, `images/<name>-<step>.png`, and give it to the tracker.

        Args:
            step: steps done.
            name: letters, digits, '-', '_' and '.', such as "samples".
            images: f[N,3,H,W] in [0, 1].
            columns: pictures in a row; as many as make the grid square when None.

        Returns:
            The file.

        Raises:
            InputError: `name` cannot be part of a file name, or `images` are no pictures.
            StorageError: the file cannot be written.
        """
        if not _NAME.fullmatch(name):
            raise InputError(f"name must be made of letters, digits, '-', '_', '.', not {name!r}.")
        pictures = tensor_to_images(images)
        grid = make_grid(pictures, columns=columns or math.ceil(len(pictures) ** 0.5))
        path = self.folder / IMAGES_FOLDER / f"{name}-{step:07}.png"
        with self._while_disk_is_full():
            make_folder(path.parent)
            with replacing(path) as file:
                grid.save(file, format="PNG")
        if self._tracker is not None:
            self._tracker.image(step, name, np.asarray(grid))
        return path

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
        """Close bar and tracker, and plot the curves if anything was logged.

        A plot that cannot be made is a warning in the log of the program, not an error: the run
        itself is done.
        """
        self._bar.close()
        tracker, self._tracker = self._tracker, None
        if tracker is not None:
            tracker.close()
        if not self._has_news:
            return
        self._has_news = False
        try:
            plot_curves(self.folder)
        except DalleMiniError as error:
            _logger.warning("No curves were plotted: %s", error)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Bar(tqdm):  # type: ignore[type-arg]
    """A progress bar that counts steps and tells images per second."""

    def __init__(self, *, batch_size: int, **settings: Any) -> None:
        self.batch_size = batch_size
        super().__init__(**settings)

    @property
    def format_dict(self) -> dict[str, Any]:
        """Add the images per second to what the bar's format can name."""
        values = super().format_dict
        done, elapsed = values["n"] - values["initial"], values["elapsed"]
        steps = values["rate"] or (done / elapsed if elapsed else 0.0)
        return {**values, "images_fmt": f"{steps * self.batch_size:.3g} images/s"}


class _TensorBoard:
    def __init__(self, folder: Path, start_step: int, config: Mapping[str, Any]) -> None:
        # what an interrupted run wrote of later steps is hidden
        self.writer = find_tracker("tensorboard").SummaryWriter(
            str(folder / "tensorboard"), purge_step=start_step + 1 if start_step else None
        )
        if config and not start_step:
            self.writer.add_text("config", f"```json\n{json.dumps(config, indent=2)}\n```", 0)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)

    def image(self, step: int, name: str, pixels: NDArray[np.uint8]) -> None:
        self.writer.add_image(name, pixels, step, dataformats="HWC")

    def close(self) -> None:
        self.writer.close()


class _WandB:
    def __init__(self, folder: Path, start_step: int, config: Mapping[str, Any]) -> None:
        self.wandb = find_tracker("wandb")
        self.run = self.wandb.init(
            project=os.environ.get("WANDB_PROJECT", "dallemini"),
            name=folder.absolute().name,
            id=_run_id(folder / "wandb_id", start_step),
            dir=str(folder),
            config=dict(config),
            resume="allow",
        )
        # steps that are done again after an interruption would be refused as wandb's own steps
        self.run.define_metric("*", step_metric="step")

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self.run.log({"step": step, **values})

    def image(self, step: int, name: str, pixels: NDArray[np.uint8]) -> None:
        self.run.log({"step": step, name: self.wandb.Image(pixels)})

    def close(self) -> None:
        self.run.finish()


def _open_tracker(
    name: str | None, folder: Path, start_step: int, config: Mapping[str, Any]
) -> Tracker | None:
    if name is None:
        return None
    if name == "tensorboard":
        return _TensorBoard(folder, start_step, config)
    if name == "wandb":
        return _WandB(folder, start_step, config)
    raise ConfigError(f"tracker must be 'tensorboard', 'wandb' or None, not {name!r}.")


def find_tracker(name: str | None) -> Any:
    """Import the module of a tracker, if one is asked for.

    Raises:
        MissingDependencyError: it is not installed.
    """
    if name is None:
        return None
    title, module = _TRACKERS[name]
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingDependencyError(
            f"{title} is not installed: pip install {name}, or train without tracker={name!r}; "
            f"the log {LOG_NAME} is written in any case."
        ) from error


def _run_id(path: Path, start_step: int) -> str:
    """Return the name under which a resumed run goes on; a run from the start has a new one."""
    if start_step and path.exists():
        return path.read_text(encoding="utf-8").strip()
    name = uuid.uuid4().hex[:12]
    write_text(path, name + "\n")
    return name


def _rounded(value: float) -> float | None:
    """Keep five decimals, or five digits of what is small such as a learning rate."""
    if isinstance(value, int):
        return value
    value = float(value)
    if not math.isfinite(value):
        return None
    return round(value, 5) if abs(value) >= 0.1 else float(f"{value:.5g}")
