"""A run on the Hugging Face Hub while it goes on: its newest checkpoint, its log, what it draws."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from .. import hub
from ..errors import DalleMiniError
from ..files import write_text
from ..sheets import Sheet
from .callbacks import Callback
from .log import LOG_NAME, read_log

CHECKPOINT, SAMPLES = "checkpoint", "samples"  # folders there
_PLACE = ".push-"  # what a folder in the run's begins with, where files are put together
_logger = logging.getLogger("dallemini.training")


class PushToHub(Callback):
    """Uploads the newest checkpoint, the log, the last sheets and a card with every checkpoint.

    What does not reach the Hub is a warning: the run goes on, and the next checkpoint is tried.

    Args:
        repo_id: "owner/name"; made if missing, as a private one.
        folder: of the run.

    Raises:
        HubError: the Hub cannot be reached or refuses; a first card was to be uploaded.
        InputError: `repo_id` is malformed.
    """

    def __init__(self, repo_id: str, folder: Path) -> None:
        self.repo_id, self.folder = repo_id, folder
        self._sheets: dict[str, Sheet] = {}
        for left in folder.glob(f"{_PLACE}*"):  # by a process that was killed
            shutil.rmtree(left, ignore_errors=True)
        with tempfile.TemporaryDirectory() as place:
            self._upload(Path(place), "It has not written a checkpoint yet.")

    def on_evaluation(
        self, step: int, values: Mapping[str, float], pictures: Mapping[str, Sheet]
    ) -> None:
        """Keep the sheets for the next upload."""
        self._sheets.update(pictures)

    def on_checkpoint(self, step: int, path: Path) -> None:
        """Upload everything."""
        try:
            # beside the checkpoint, which need not be copied then
            with tempfile.TemporaryDirectory(dir=self.folder, prefix=_PLACE) as place:
                shutil.copytree(path, Path(place) / CHECKPOINT, copy_function=_link)
                with contextlib.suppress(FileNotFoundError):
                    _link(self.folder / LOG_NAME, Path(place) / LOG_NAME)
                (Path(place) / SAMPLES).mkdir()
                for name, picture in self._sheets.items():
                    picture.draw().save(Path(place) / SAMPLES / f"{name}.png")
                self._upload(Path(place), self._state(step))
        except (DalleMiniError, OSError) as error:
            _logger.warning("Step %d did not reach %s: %s", step, self.repo_id, error)

    def _state(self, step: int) -> str:
        rows = read_log(self.folder) if (self.folder / LOG_NAME).exists() else iter(())
        last = {name: value for row in rows for name, value in row.items()}
        listed = "".join(f"| {name} | {value:.5g} |\n" for name, value in last.items())
        shown = "".join(f"\n![{name}]({SAMPLES}/{name}.png)\n" for name in self._sheets)
        return f"It has done {step} steps.\n\n| | last |\n|---|---|\n{listed}{shown}"

    def _upload(self, place: Path, state: str) -> None:
        about = (
            "A model in training. `dallemini train ... --resume-from checkpoint` goes on from what "
            f"is here, `dallemini convert checkpoint OUTPUT` makes a model of it. {state}"
        )
        card = hub.model_card(self.repo_id.rpartition("/")[2], summary=about)
        write_text(place / "README.md", card)
        hub.upload_folder(place, self.repo_id, private=True, commit_message="Train with dallemini")


def _link(source: str | Path, target: str | Path) -> str:
    """Give a file a second name, or copy it where that cannot be."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
    return str(target)
