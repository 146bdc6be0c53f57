"""`dallemini convert`: any known checkpoint to the native layout, one tensor at a time."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from ..errors import InputError
from ..files import as_path
from .options import Older, OptionalText, PrecisionName, Where, one_of
from .saving import tell
from .words import checking_usage


@dataclass(frozen=True, kw_only=True)
class Convert:
    """Convert a checkpoint in any known format to the native layout.

    One part is written to OUTPUT itself; several get a folder each. With a tokenizer, a
    transformer and a VQGAN the result is a whole pipeline. Of a run of `dallemini train` it is the
    model of a checkpoint: the one named, or of the run's folder the best or the newest.

    Attributes:
        source: Hub id, local folder or file; or a run's folder, or one of its checkpoints.
        output: folder to write, new or empty.
        vqgan: source of the VQGAN, to make a pipeline of a transformer that came without.
        scorer: source of a CLIP model, for ranking.
        upscaler: source of a model that makes pictures larger.
        subfolder: of a part inside the source.
        dtype: floating-point type to store, as in the source when not given; int8 for smaller
            weights of the transformer.
        quantization: an older spelling of --dtype int8.
        json: print one line of JSON for each folder instead of its path.
        where: of the source; --revision is that of SOURCE alone.
    """

    source: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="SOURCE")]
    output: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="OUTPUT")]
    vqgan: OptionalText = None
    scorer: OptionalText = None
    upscaler: OptionalText = None
    subfolder: OptionalText = None
    dtype: Annotated[PrecisionName | None, one_of(PrecisionName)] = None
    quantization: Older = None
    json: tyro.conf.FlagCreatePairsOff[bool] = False
    where: Where

    def run(self) -> None:
        """Convert everything, then put it in place all at once.

        Raises:
            DalleMiniError: the source is no good or its parts do not fit each other, or OUTPUT
                cannot be written. Nothing is left behind then.
        """
        output = as_path(self.output)
        _check_output(output)
        if self._is_of_a_run():
            return
        from .converting import Conversion  # here, because torch takes seconds

        task = Conversion(output=output, dtype=self.dtype, quantization=self.quantization)
        with checking_usage():
            _ = task.int8
        source = self.where.open(self.source, self.subfolder)
        named = {"vqgan": self.vqgan, "scorer": self.scorer, "upscaler": self.upscaler}
        where = self.where.elsewhere()
        others = {part: where.open(name) for part, name in named.items() if name is not None}
        written = task.run(source, others)
        tell(({"path": str(path)} for path in written), as_json=self.json)

    def _is_of_a_run(self) -> bool:
        """Write the model of a checkpoint that `dallemini train` left, if the source is one."""
        folder = as_path(self.source)
        if not any(folder.glob(".metadata")) and not any(folder.glob("checkpoint-*/.metadata")):
            return False
        from ..training.recipes.from_checkpoint import write_model

        write_model(folder, self.output)
        tell([{"path": str(self.output)}], as_json=self.json)
        return True


def _check_output(output: Path) -> None:
    """Refuse to write where something is: a source's own config.json would be lost.

    Raises:
        InputError: `output` is a file, or a folder that is not empty.
    """
    if output.is_file() or (output.is_dir() and any(output.iterdir())):
        raise InputError(f"{output} exists and is not an empty folder; name a new one.")
