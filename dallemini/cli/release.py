"""`dallemini release`: a saved pipeline is made ready to be published."""

from __future__ import annotations

from dataclasses import dataclass
from json import dumps
from pathlib import Path
from typing import Annotated

import tyro

from ..files import as_path
from .options import OptionalPath, OptionalText
from .saving import tell


@dataclass(frozen=True, kw_only=True)
class Release:
    """Make a saved pipeline ready to be published: its card, checksums, and what it contains.

    The card gets the figures of an evaluation and the sections that it lacks; what is written there
    stays. SHA256SUMS and contents.cdx.json (CycloneDX: the files, and the packages that run them)
    are written beside it.

    Attributes:
        folder: of the pipeline.
        evaluation: report.json of `dallemini evaluate`, or a file like it; evaluation.json in the
            folder, if it is there, when not given.
        license: identifier for the card, such as apache-2.0.
        dataset: name of the data that it was trained on, for the card; may be repeated.
        check: write nothing, but compare the files with SHA256SUMS.
        json: print one line of JSON for each file instead of its path, or for --check their number.
    """

    folder: tyro.conf.Positional[Path]
    evaluation: OptionalPath = None
    license: OptionalText = None
    dataset: Annotated[
        tyro.conf.UseAppendAction[tuple[str, ...]], tyro.conf.arg(help_behavior_hint="")
    ] = ()
    check: tyro.conf.FlagCreatePairsOff[bool] = False
    json: tyro.conf.FlagCreatePairsOff[bool] = False

    def run(self) -> None:
        """Write the files and print their paths, or say how many were compared.

        Raises:
            DalleMiniError: it is no saved pipeline, a file is no good, or one has other bytes.
        """
        from ..pipeline.release import check_sums, release  # here, because torch takes seconds

        folder = as_path(self.folder)
        if self.check:
            count = check_sums(folder)
            told = f"{count} files are as they were released."
            print(dumps({"files": count}) if self.json else told)
            return
        written = release(
            folder, evaluation=self.evaluation, license=self.license, datasets=self.dataset
        )
        tell(({"path": str(path)} for path in written), as_json=self.json)
