"""`dallemini score`: how well image files fit a prompt."""

from __future__ import annotations

from dataclasses import dataclass
from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from ..errors import InputError
from ..hub.source import BUNDLED_MODEL
from .options import DtypeName, Where
from .words import UsageError, checking_usage

if TYPE_CHECKING:
    import torch

    from ..scorer import CLIPScorer


@dataclass(frozen=True, kw_only=True)
class Score:
    """Print how well pictures fit a prompt, by CLIP: score, file and prompt, one line each.

    Photographs are turned upright; of a moving picture the first frame counts.

    Attributes:
        images: image files.
        prompt: what they should show; may be repeated.
        model: a CLIP model, or a pipeline with a scorer.
        device: where to compute: cpu, cuda, cuda:1, mps.
        dtype: floating-point type of the weights.
        json: print one line of JSON for each score.
        where: of the model.
    """

    images: Annotated[
        tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="IMAGE [IMAGE ...]")
    ]
    prompt: tyro.conf.UseAppendAction[tuple[str, ...]]
    model: str = BUNDLED_MODEL
    device: str = "cpu"
    dtype: DtypeName = "float32"
    json: tyro.conf.FlagCreatePairsOff[bool] = False
    where: Where

    def run(self) -> None:
        """Print the scores, higher is better; they compare only within one model.

        Raises:
            DalleMiniError: a file is no picture, or the model has no scorer.
        """
        if not self.images or not self.prompt:
            raise UsageError(
                'There is nothing to score; try: dallemini score a.png --prompt "a cat".'
            )
        from ..images import read_image  # here, because torch takes seconds
        from ..models.pretrained import check_device

        with checking_usage():
            device = check_device(self.device)
        pictures = [read_image(path) for path in self.images]
        scorer = self._scorer(device)
        for path, picture in zip(self.images, pictures, strict=True):
            copies = picture.expand(len(self.prompt), -1, -1, -1)
            scores = scorer.score(copies, self.prompt).tolist()
            for score, prompt in zip(scores, self.prompt, strict=True):
                if self.json:
                    print(dumps({"path": str(path), "prompt": prompt, "score": score}))
                else:
                    print(f"{score:.4f}\t{path}\t{prompt}")

    def _scorer(self, device: torch.device) -> CLIPScorer:
        from ..pipeline.parts import Parts
        from ..scorer import CLIPScorer

        place = Parts(self.where.open(self.model)).all().get("scorer")
        if place is None:
            raise InputError(
                f"{self.model} has no scorer; name a CLIP model, such as "
                "--model openai/clip-vit-base-patch32."
            )
        return CLIPScorer.from_pretrained(place, device=device, dtype=self.dtype)
