"""Where drawn pictures go: saved as soon as they are there, listed at the end."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from ..files import as_path, make_folder

if TYPE_CHECKING:
    from ..pipeline.outputs import GenerationOutput
    from ..pipeline.signing import C2PASigner


class Saving:
    """Saves pictures, and prints the paths of all files when it is left, also by an error.

    Args:
        output: folder for the pictures; None for the current one, or for none with a grid.
        grid: file for all of them together.
        as_json: print a line of JSON for each file.
        c2pa: signs the files.

    Raises:
        StorageError: a folder cannot be made or written.
    """

    def __init__(
        self,
        output: Path | None,
        grid: Path | None,
        *,
        as_json: bool,
        c2pa: C2PASigner | None = None,
    ) -> None:
        self._grid = None if grid is None else as_path(grid)
        self._folder = Path() if output is None and grid is None else output
        for place in (self._folder, self._grid and self._grid.parent):
            if place is not None:
                make_folder(place)
        self._as_json, self._c2pa = as_json, c2pa
        self._drawn: list[GenerationOutput] = []
        self._files: list[dict[str, Any]] = []

    def add(self, drawn: GenerationOutput) -> None:
        """Save the pictures of a call."""
        from ..pipeline.bulk import facts

        if self._folder is not None:
            for index, path in enumerate(drawn.save(self._folder, c2pa=self._c2pa)):
                self._files.append({"path": str(path), **facts(drawn, index)})
        if self._grid is not None:
            self._drawn.append(drawn)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if error is None and self._grid is not None:
                path = join(self._drawn).save_grid(self._grid, c2pa=self._c2pa)
                self._files.append({"path": str(path), "grid": True})
        finally:
            tell(self._files, as_json=self._as_json)


def tell(files: Iterable[Mapping[str, Any]], *, as_json: bool) -> None:
    """Print the path of each file, or all that is known of it in a line of JSON."""
    for known in files:
        print(json.dumps(known) if as_json else known["path"])


def join(parts: list[GenerationOutput]) -> GenerationOutput:
    """Return the pictures of several calls with the same settings as those of one.

    Example:
        >>> from dallemini.cli.saving import join
        >>> from dallemini.testing import tiny_pipeline
        >>> pipe = tiny_pipeline()
        >>> join([pipe("a cat", seed=0), pipe("a dog", seed=1)])
        <GenerationOutput: 2 pictures of 16x16 of 2 prompts, seeds 0, 1>
    """
    first = parts[0]
    if len(parts) == 1:
        return first
    import torch  # here, because it takes seconds

    scored = all(part.scores is not None for part in parts)
    checked = all(part.safety_flags is not None for part in parts)
    return dataclasses.replace(
        first,
        prompts=tuple(prompt for part in parts for prompt in part.prompts),
        images=[image for part in parts for image in part.images],
        image_tokens=torch.cat([part.image_tokens for part in parts]),
        seeds=tuple(seed for part in parts for seed in part.seeds),
        scores=tuple(score for part in parts for score in part.scores or ()) if scored else None,
        safety_flags=tuple(flag for part in parts for flag in part.safety_flags or ())
        if checked
        else None,
    )
