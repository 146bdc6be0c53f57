"""What follows a run while it goes on: the protocol, a progress bar, and stopping early.

The log, the dashboards and uploads are callbacks as well, in `monitor`, `trackers` and `uploads`.
Of several processes the first one calls them. Knows numbers by their names, not tasks or models.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ..sheets import Sheet

_BAR = "{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {images_fmt}{postfix}]"
Judge = Callable[[Mapping[str, float]], float | None]


class Callback:
    """Follows a run; each method may be left as it is.

    A method that returns True ends the run after this step, as if its steps were done.

    Example:
        >>> from dallemini.training import Callback
        >>> class UntilBelow(Callback):
        ...     def on_step(self, step, values):
        ...         return values.get("loss", 1.0) < 0.01
    """

    def on_step(self, step: int, values: Mapping[str, float]) -> bool | None:
        """Hear that a step is done.

        Args:
            step: steps done.
            values: a row of the log, every `log_every` steps; between them empty.
        """
        return None

    def on_evaluation(
        self, step: int, values: Mapping[str, float], pictures: Mapping[str, Sheet]
    ) -> bool | None:
        """Hear what the averaged weights were measured to do, and see what they draw.

        Args:
            step: steps done.
            values: what was measured, by name.
            pictures: sheets to look at, by name, such as "samples".
        """
        return None

    def on_checkpoint(self, step: int, path: Path) -> bool | None:
        """Hear that a checkpoint was written.

        Args:
            step: steps done.
            path: its folder, which later ones replace.
        """
        return None

    def close(self) -> None:
        """Hear that the run is over, however it ended."""


class ProgressBar(Callback):
    """A bar on standard error where that is a terminal: steps, loss, pictures per second.

    Args:
        total_steps: at which the run is complete.
        batch_size: pictures of a step, over all processes.
        start_step: steps that are done already.
    """

    def __init__(self, *, total_steps: int, batch_size: int, start_step: int = 0) -> None:
        self._bar = _Bar(
            total=total_steps,
            initial=start_step,
            batch_size=batch_size,
            bar_format=_BAR,
            unit="step",
            dynamic_ncols=True,
            disable=None,  # hidden where no terminal reads it
        )

    def on_step(self, step: int, values: Mapping[str, float]) -> None:
        """Move the bar."""
        if "loss" in values:
            self._bar.set_postfix_str(f"loss {values['loss']:.4g}", refresh=False)
        self._bar.update(step - self._bar.n)

    def close(self) -> None:
        """Leave the bar as it is."""
        self._bar.close()


class EarlyStopping(Callback):
    """Ends a run whose held-out data no longer get better.

    Args:
        judge: what was measured to how good that is, lower is better; None where it does not say.
        patience: evaluations without a better one after which the run ends.
        best: how good the best one before was.
        waited: evaluations since then.
    """

    def __init__(
        self, judge: Judge, *, patience: int, best: float | None = None, waited: int = 0
    ) -> None:
        self.judge, self.patience = judge, patience
        self.best, self.waited = best, waited

    def on_evaluation(
        self, step: int, values: Mapping[str, float], pictures: Mapping[str, Sheet]
    ) -> bool:
        """Count this evaluation."""
        judged = self.judge(values)
        if judged is None:
            return False
        if self.best is None or judged < self.best:
            self.best, self.waited = judged, 0
        else:
            self.waited += 1
        return self.waited >= self.patience


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
