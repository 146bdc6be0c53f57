"""Measure the bundled model: does it draw what was asked for, on the ground that was asked for?

    python examples/emoji/evaluate.py DATA [--model MODEL] [--quantization int8]
        [--guidance-scale 1.5] [--captions 200] [--only MEASURE ...] [--output FILE]

A drawn picture counts as right when, among 100 real pictures of its style, the one of its caption
is the nearest (first) or among the five nearest, in the centred features of EfficientNet-Lite0.
Eight pictures are drawn for each caption and the best by CLIP is taken. Nothing is picked by hand;
the seeds are fixed.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from controlled import Examiner
from dallemini import VQGAN, Pipeline
from dallemini.evaluation import codebook_use, mean_interval, psnr, rank_of, wilson_interval
from dallemini.evaluation.efficientnet import EfficientNetFeatures
from dallemini.hub.source import BUNDLED_MODEL
from dallemini.images import image_to_tensor
from dallemini.models.precision import QUANTIZATIONS
from dallemini.training import TransformerBatch, TransformerTask
from dallemini.training.perceptual import feature_distance
from dataset import COLORS, SIZE, Emoji, Emojis, caption, color_table, is_held_out, pair_label
from everyday import Candidates, Judge, draw, draw_candidates

GALLERY_SIZE = 100
EYE_SIZE = 224
CONTENT_SIZE = 64  # at which reconstructions are compared as well
LARGE_SIZE = 256
TWINS = {"fluent-emoji": "fluent-emoji-3d", "fluent-emoji-3d": "fluent-emoji"}
Report = dict[str, object]


class Gallery:
    """The real pictures of a split on white, with their features.

    Args:
        data: what `build_dataset.py` wrote; features are computed once and kept there.
        split: "train" or "test_style".
        eye: the network that looks.
    """

    def __init__(self, data: Path, eye: EfficientNetFeatures, *, split: str) -> None:
        self.emojis, self.eye = Emojis(data, split=split), eye
        self.path = data / f"{split}_features_{SIZE}.npy"

    @property
    def features(self) -> Tensor:
        """f[M,1280] of every picture."""
        return self._kept(self.path, lambda images: images)

    @property
    def half_features(self) -> Tensor:
        """f[M,1280] of every picture at half its size."""
        path = self.path.with_name(f"half_{self.path.name}")
        return self._kept(path, lambda images: F.avg_pool2d(images, 2))

    def _kept(self, path: Path, change: Callable[[Tensor], Tensor]) -> Tensor:
        if not path.exists():
            parts = torch.arange(len(self.emojis)).split(64)
            found = [look(self.eye, change(on_white(self.emojis, part))) for part in parts]
            np.save(path, torch.cat(found).numpy())
        return torch.from_numpy(np.load(path))

    def rivals(self, row: Emoji, count: int, generator: torch.Generator) -> list[int]:
        """Choose other emoji of the same style."""
        others = [
            index
            for index, rival in enumerate(self.emojis.rows)
            if rival.set == row.set and rival.hex != row.hex
        ]
        order = torch.randperm(len(others), generator=generator)[:count]
        return [others[index] for index in order.tolist()]


class Eye:
    """What all measures share: the pipeline, the network that looks, and the galleries."""

    def __init__(self, data: Path, pipe: Pipeline, *, count: int) -> None:
        network = EfficientNetFeatures()
        self.network, self.pipe, self.count, self.data = network, pipe, count, data
        self.train = Gallery(data, network, split="train")
        self.unseen = Gallery(data, network, split="test_style")

    @cached_property
    def judge(self) -> Judge:
        """Finds which concept a picture is nearest to."""
        return Judge(self.data)

    def draw(self, captions: Sequence[str], *, seed: int) -> Tensor:
        """Draw eight pictures a caption and return the best of each, f[N,3,H,W]."""
        best = []
        for number, text in enumerate(captions):
            out = self.pipe(
                text,
                num_images_per_prompt=8,
                candidates=1,
                rank=True,
                seed=seed + 8 * number,
                progress=False,
            )
            best.append(image_to_tensor(out.images[0]))
        return as_data(torch.stack(best))


def as_data(images: Tensor) -> Tensor:
    """Make drawn pictures f[N,3,S,S] as large as those of the data."""
    return F.interpolate(images, size=SIZE, mode="area")


def look(network: EfficientNetFeatures, images: Tensor) -> Tensor:
    """Map f[N,3,H,W] in [0, 1] to f[N,1280]."""
    with torch.no_grad():
        parts = [
            network.pooled(F.interpolate(part, size=EYE_SIZE, mode="bilinear", antialias=True))
            for part in images.split(16)
        ]
    return torch.cat(parts)


def on_white(emojis: Emojis, indices: Tensor) -> Tensor:
    """Draw pictures i64[N] on white, f[N,3,S,S]."""
    return emojis.draw(indices, torch.full((len(indices), 3), 255, dtype=torch.uint8))


def share(hits: Iterable[bool]) -> dict[str, float]:
    """Return the share of hits with its 95 % interval (Wilson)."""
    counted = [bool(hit) for hit in hits]
    return rounded(wilson_interval(sum(counted), count=len(counted)))


def rounded(interval: object) -> dict[str, float]:
    """Return an interval as JSON."""
    values = dataclasses.asdict(interval)  # type: ignore[call-overload]
    return {name: round(value, 3) for name, value in values.items()}


def shares(ranks: Sequence[int]) -> Report:
    """Return how often the right picture was the nearest, and among the five nearest."""
    return {"first": share(r < 1 for r in ranks), "among_five": share(r < 5 for r in ranks)}


def ranks_of(eye: Eye, asked: Gallery, chosen: Sequence[int], drawn: Tensor) -> list[int]:
    """Return the rank of each right picture among 100 of its style, for drawn f[N,3,H,W]."""
    generator = torch.Generator().manual_seed(0)
    own, others = asked.features, eye.train.features
    ranks = []
    for index, found in zip(chosen, look(eye.network, drawn), strict=True):
        rivals = eye.train.rivals(asked.emojis.rows[index], GALLERY_SIZE - 1, generator)
        ranks.append(rank_of(found, torch.cat([own[index][None], others[rivals]])))
    return ranks


def choose(emojis: Emojis, count: int) -> list[int]:
    """Choose pictures at random, none twice."""
    generator = torch.Generator().manual_seed(0)
    chosen: list[int] = torch.randperm(len(emojis), generator=generator)[:count].tolist()
    return chosen


def concepts(eye: Eye, asked: Gallery) -> Report:
    """Measure captions of concept and style."""
    chosen = choose(asked.emojis, eye.count)
    rows = [asked.emojis.rows[index] for index in chosen]
    drawn = eye.draw([caption(row.label, row.style, "white") for row in rows], seed=0)
    ranks = ranks_of(eye, asked, chosen, drawn)
    report = shares(ranks)
    if asked is eye.unseen:  # two of the styles are nearly alike
        known = {(row.set, row.hex) for row in eye.train.emojis.rows}
        alone = [(TWINS.get(row.set, ""), row.hex) not in known for row in rows]
        report["without_a_trained_twin"] = shares(
            [rank for rank, kept in zip(ranks, alone, strict=True) if kept]
        )
    return report


def ceiling(eye: Eye) -> Report:
    """Measure what the VQGAN makes of the right pictures: no drawing can be nearer."""
    chosen = choose(eye.train.emojis, eye.count)
    real = on_white(eye.train.emojis, torch.tensor(chosen))
    return shares(ranks_of(eye, eye.train, chosen, reconstruct(eye.pipe, real)[0]))


def colors(eye: Eye, *, held_out: bool) -> Report:
    """Measure captions that ask for a background: is the border of the picture of that colour?"""
    emojis, names = eye.train.emojis, list(COLORS)
    generator = torch.Generator().manual_seed(1)
    pairs: list[tuple[Emoji, int]] = []
    while len(pairs) < eye.count:
        row = emojis.rows[int(torch.randint(len(emojis), (1,), generator=generator))]
        color = int(torch.randint(1, len(COLORS), (1,), generator=generator))
        if is_held_out(row, names[color]) == held_out:
            pairs.append((row, color))
    texts = [caption(row.label, row.style, names[color]) for row, color in pairs]
    table = color_table().float() / 255
    hits = []
    for picture, (_, color) in zip(eye.draw(texts, seed=10_000), pairs, strict=True):
        edge = torch.cat([picture[:, :3].flatten(1), picture[:, -3:].flatten(1)], dim=1)
        nearest = (table - edge.median(dim=1).values).square().sum(1).argmin()
        hits.append(int(nearest) == color)
    return {"right": share(hits)}


def pairs(eye: Eye, *, drawn_by_model: bool = True) -> Report:
    """Measure captions of two objects: is each among the five nearest of its half?"""
    emojis, generator = eye.train.emojis, torch.Generator().manual_seed(2)
    chosen = []
    for _ in range(eye.count):
        left = int(torch.randint(len(emojis), (1,), generator=generator))
        chosen.append((left, eye.train.rivals(emojis.rows[left], 1, generator)[0]))
    if drawn_by_model:
        labels = [pair_label(*(emojis.rows[index].label for index in both)) for both in chosen]
        styles = [emojis.rows[left].style for left, _ in chosen]
        texts = [caption(a, b, "white") for a, b in zip(labels, styles, strict=True)]
        drawn = eye.draw(texts, seed=20_000)
    else:
        left, right = torch.tensor(chosen).T
        white = torch.full((len(chosen), 3), 255, dtype=torch.uint8)
        drawn = reconstruct(eye.pipe, emojis.draw_pairs(left, right, white))[0]
    middle, quarter = SIZE // 2, SIZE // 4
    features, found = eye.train.half_features, []
    for start, column in ((0, 0), (middle, 1)):
        half = drawn[:, :, quarter : SIZE - quarter, start : start + middle]
        ranks = []
        for both, seen in zip(chosen, look(eye.network, half), strict=True):
            right_one = both[column]
            rivals = eye.train.rivals(emojis.rows[right_one], GALLERY_SIZE - 1, generator)
            ranks.append(rank_of(seen, features[[right_one, *rivals]]))
        found.append(ranks)
    return {
        "both_first": share(a < 1 and b < 1 for a, b in zip(*found, strict=True)),
        "both_among_five": share(a < 5 and b < 5 for a, b in zip(*found, strict=True)),
        "left_among_five": share(a < 5 for a in found[0]),
        "right_among_five": share(b < 5 for b in found[1]),
    }


def reconstruct(pipe: Pipeline, images: Tensor) -> tuple[Tensor, Tensor]:
    """Return what the VQGAN makes of f[N,3,S,S], and the codes i64[N,L]."""
    assert isinstance(pipe.vqgan, VQGAN)
    codes = torch.cat([pipe.vqgan.encode(part) for part in images.split(32)])
    drawn = torch.cat([as_data(pipe.vqgan.decode(part).float()) for part in codes.split(32)])
    return drawn, codes


def reconstruction(eye: Eye) -> Report:
    """Measure held-out pictures: PSNR at full size and at 64x64, and the codes in use."""
    real = on_white(eye.unseen.emojis, torch.arange(len(eye.unseen.emojis)))
    drawn, codes = reconstruct(eye.pipe, real)
    assert isinstance(eye.pipe.vqgan, VQGAN)
    use = codebook_use(codes, codebook_size=eye.pipe.vqgan.codebook_size)
    small = [F.interpolate(part, size=CONTENT_SIZE, mode="area") for part in (real, drawn)]
    return {
        "psnr": rounded(mean_interval(psnr(real, drawn))),
        "psnr_at_64": rounded(mean_interval(psnr(*small))),
        "codes_used": round(use.share, 3),
    }


@torch.no_grad()
def enlargement(eye: Eye) -> Report:
    """Measure held-out pictures at 256x256: how far their features are from the decoded ones."""
    vqgan, white = eye.pipe.vqgan, torch.full((16, 3), 255, dtype=torch.uint8)
    assert isinstance(vqgan, VQGAN)
    large = Emojis(eye.data, split="test_style", size=2 * SIZE)
    distances = []
    for part in torch.arange(len(large)).split(16):
        real = large.draw(part, white[: len(part)])
        small = F.interpolate(real, size=vqgan.image_size, mode="area")
        drawn = vqgan.decode(vqgan.encode(small)).float()
        seen = [resized(images, LARGE_SIZE) for images in (real, drawn)]
        for pair in zip(*(images.split(1) for images in seen), strict=True):
            features = [eye.network(image) for image in pair]
            distances.append(float(feature_distance(*features)))
    return {"feature_distance_at_256": rounded(mean_interval(torch.tensor(distances)))}


def resized(images: Tensor, side: int) -> Tensor:
    """Make f[N,3,S,S] smaller or larger, by bicubic filters."""
    return F.interpolate(images, size=side, mode="bicubic", antialias=True).clamp(0, 1)


def likelihood(eye: Eye) -> Report:
    """Measure nats a token: of trained pictures, of unseen ones, and what the caption is worth."""
    pipe, batches = eye.pipe, {}
    for name, gallery in (("train", eye.train), ("unseen", eye.unseen)):
        chosen = choose(gallery.emojis, 256)
        rows = [gallery.emojis.rows[index] for index in chosen]
        tokens = pipe.tokenizer([caption(row.label, row.style, "white") for row in rows]).trim()
        codes = reconstruct(pipe, on_white(gallery.emojis, torch.tensor(chosen)))[1]
        batches[name] = TransformerBatch(tokens, codes)
    task = TransformerTask(
        pipe.transformer,
        batches=lambda _: batches["train"],
        evaluation=batches,
        blank=pipe.tokenizer.unconditional(),
        codebook_size=pipe.vqgan.codebook_size,
    )
    with torch.no_grad():
        return {name: round(value, 3) for name, value in task.evaluate(0).items()}


def everyday(eye: Eye, *, names: bool = False) -> Report:
    """Measure a picture each of unseen everyday sentences, or of bare names.

    One is the only candidate, the other is drawn with the default settings.
    """
    return {
        "single": _asked(eye, names=names, candidates=1),
        "default": _asked(eye, names=names, candidates=eye.pipe.config.candidates),
    }


def _asked(eye: Eye, *, names: bool, candidates: int) -> Report:
    judge = eye.judge
    asked = judge.names(eye.count) if names else judge.sentences("test", eye.count)
    images = draw(eye.pipe, [text for text, _ in asked], seed=9000, candidates=candidates)
    return shares(judge.ranks(images, [code for _, code in asked]))


def choice(eye: Eye) -> Report:
    """Measure what ranking is worth: eight candidates of each unseen everyday sentence."""
    asked = eye.judge.sentences("test", eye.count)
    return choices(draw_candidates(eye.pipe, eye.judge, asked, count=8))


def choices(drawn: Candidates) -> Report:
    """Return how often the choice among 2, 4 and all candidates is right, by each way to choose.

    "gain" is how much more often than without a choice. Means over all sets of so many candidates;
    the intervals are over sentences.
    """
    report: dict[str, dict[str, Report]] = {}
    for size in (1, 2, 4, drawn.ranks.shape[1]):
        for way in ("none",) if size == 1 else (*drawn.scores, "any"):
            kind = report.setdefault(f"best_of_{size}", {}).setdefault(way, {})
            for name, below in (("first", 1), ("among_five", 5)):
                found = drawn.right(way, size, below=below)
                kind[name] = rounded(mean_interval(found))
                if size > 1:
                    gain = found - drawn.right("none", 1, below=below)
                    kind[f"gain_{name}"] = rounded(mean_interval(gain))
    return dict(report)


def control(eye: Eye, *, held_out: bool) -> Report:
    """Measure colours, numbers, relations and rendering styles, as trained or held out."""
    examiner = Examiner(eye.judge, eye.pipe, count=eye.count)
    both, placed = examiner.relations(held_out=held_out)
    return {
        "color": share(examiner.colors(held_out=held_out)),
        "count": share(examiner.counts(held_out=held_out)),
        "both_among_five": share(both),
        "relation": share(placed),
        "rendering": share(examiner.filters(held_out=held_out)),
    }


MEASURES: dict[str, Callable[[Eye], Report]] = {
    "reconstruction_of_unseen_drawings": reconstruction,
    "enlargement_of_unseen_drawings": enlargement,
    "likelihood": likelihood,
    "ceiling_known_concept_and_style": ceiling,
    "known_concept_and_style": lambda eye: concepts(eye, eye.train),
    "known_concept_in_unseen_style": lambda eye: concepts(eye, eye.unseen),
    "background_color": lambda eye: colors(eye, held_out=False),
    "background_color_never_trained": lambda eye: colors(eye, held_out=True),
    "ceiling_two_objects": lambda eye: pairs(eye, drawn_by_model=False),
    "two_objects": pairs,
    "everyday_sentences": everyday,
    "bare_names": lambda eye: everyday(eye, names=True),
    "choice_among_candidates": choice,
    "control": lambda eye: control(eye, held_out=False),
    "control_never_trained": lambda eye: control(eye, held_out=True),
}


def main() -> None:
    """Read the arguments, measure, print JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--model")
    parser.add_argument("--quantization", choices=QUANTIZATIONS)
    parser.add_argument("--guidance-scale", type=float, help="another than the model's own")
    parser.add_argument("--captions", type=int, default=200)
    parser.add_argument("--only", nargs="*", default=list(MEASURES), choices=list(MEASURES))
    parser.add_argument("--output")
    arguments = parser.parse_args()
    pipe = Pipeline.from_pretrained(
        arguments.model or BUNDLED_MODEL, quantization=arguments.quantization
    )
    if arguments.guidance_scale is not None:
        pipe.config = pipe.config.override(guidance_scale=arguments.guidance_scale)
    eye = Eye(arguments.data, pipe, count=arguments.captions)
    report: Report = {"model": pipe.name, "settings": pipe.config.to_dict()}
    for name in arguments.only:
        report[name] = MEASURES[name](eye)
        print(json.dumps({name: report[name]}), flush=True)
    if arguments.output:
        text = json.dumps(report, indent=2) + "\n"
        Path(arguments.output).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
