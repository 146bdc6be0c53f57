"""What does the bundled model show when nobody says who? `dallemini audit`, with real labels.

    python examples/emoji/audit.py DATA OUTPUT [--packages DIR] [--count 16] [--model MODEL]

DATA is what `build_dataset.py` wrote. Its emoji say whether they show a woman, a man or neither:
these calibrate the scorer. Skin tones were left out of the training, so that the scorer has no
words for them; a probe that looks at colours takes its place, calibrated on emoji with skin tones,
which are rendered from the same packages (fetched into DIR by npm where they do not lie there).
"""

from __future__ import annotations

import argparse
import io
import random
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from build_dataset import Icons
from dallemini import Pipeline
from dallemini.evaluation import AuditConfig, AuditPrompts, audit
from dallemini.hub.source import BUNDLED_MODEL
from dallemini.images import Picture
from dataset import SIZE, Emojis
from emoji_sources import FLAT, NOTO, fetch, read_json

PROMPTS = Path(__file__).with_name("audit.yaml")
EACH_KIND, EACH_TONE = 150, 40
PEOPLE = r"(man|woman|person|boy|girl|child|baby|artist|cook|farmer|judge|pilot|singer|student)"
# The skin of Noto and of Fluent, in the order of the answers of `audit.yaml`.
SKINS = {
    "yellow": ("#ffca28", "#ffc83d"),
    "light": ("#f9ddbd", "#ffd7c2"),
    "medium-light": ("#e0bb95", "#eebfaa"),
    "medium": ("#ba8d68", "#c68d7b"),
    "medium-dark": ("#a56c43", "#966661"),
    "dark": ("#70534a", "#573739"),
}
NEAR, LEAST = 0.1, 0.003  # distance in RGB that counts as the same; share that counts as none


def skin_probe(images: Tensor) -> Tensor:
    """Return f32[N,7], how much of each picture f[N,3,H,W] has the colours of each skin.

    The last column stands for none of them, and is 0: calibration finds out how little that is.
    """
    shares = []
    for codes in SKINS.values():
        colors = torch.tensor(
            [[int(code[i : i + 2], 16) / 255 for i in (1, 3, 5)] for code in codes]
        )
        apart = (images[:, None] - colors[None, :, :, None, None]).square().sum(2).sqrt()
        shares.append((apart.amin(1) < NEAR).float().mean((1, 2)))
    skins = torch.stack(shares, dim=1).add(LEAST).log()
    return torch.cat([skins, skins.new_zeros(len(images), 1)], dim=1)


def gendered(data: Path) -> dict[str, list[Picture]]:
    """Return emoji on white by whom they show: those the scorer did not learn from come first."""
    found: dict[str, list[Picture]] = {"woman": [], "man": [], "neither": []}
    every = [Emojis(data, split=split) for split in ("test_style", "test_concept", "train")]
    names = {row.label for emojis in every for row in emojis.rows}
    for emojis in every:
        chosen = list(enumerate(emojis.rows))
        random.Random(0).shuffle(chosen)
        for index, row in chosen:
            kind = kind_of(row.label, names)
            if kind is not None and len(found[kind]) < EACH_KIND:
                found[kind].append(_on_white(emojis, index))
    return found


def kind_of(label: str, names: set[str]) -> str | None:
    """Say whom an emoji shows; one that men and women have too, such as a farmer, shows neither."""
    match = re.match(r"(man|woman|person)(?=$|[ :])(?! and)", label)
    if match is not None:
        return {"person": "neither"}.get(match[1], match[1])
    return "neither" if {f"man {label}", f"woman {label}"} <= names else None


def toned(packages: Path) -> dict[str, list[Picture]]:
    """Return emoji on white by their skin tones, yellow for none."""
    found: dict[str, list[Picture]] = {tone: [] for tone in SKINS}
    for emoji_set in (NOTO, FLAT):
        icons = Icons(read_json(fetch(emoji_set.package, packages), "icons.json"))
        for tone, pictures in found.items():
            names = sorted(_names(icons, tone))
            random.Random(0).shuffle(names)
            pictures += [_render(icons.svg(name)) for name in names[: EACH_TONE // 2]]
    return found


def things(data: Path) -> list[Picture]:
    """Return emoji on white that show no people and no faces."""
    emojis = Emojis(data, split="train")
    chosen = [
        index
        for index, row in enumerate(emojis.rows)
        if row.group not in ("people-body", "smileys-emotion")
    ]
    random.Random(0).shuffle(chosen)
    return [_on_white(emojis, index) for index in chosen[:EACH_KIND]]


def _on_white(emojis: Emojis, index: int) -> Tensor:
    white = torch.full((1, 3), 255, dtype=torch.uint8)
    return emojis.draw(torch.tensor([index]), white)[0]


def _names(icons: Icons, tone: str) -> Iterator[str]:
    """Yield the people of an icon set that have one tone, whose names end with it."""
    ending = "" if tone == "yellow" else rf"-{tone}(-skin-tone)?"
    for name in icons:
        bare = re.fullmatch(rf"({PEOPLE}(?:-(?!skin|light|medium|dark)[a-z]+)*){ending}", name)
        toned = ("-light", "-medium-light", "-light-skin-tone")
        if bare is not None and any(f"{bare[1]}{end}" in icons for end in toned):
            yield name


def _render(svg: str) -> Image.Image:
    import resvg_py

    png = resvg_py.svg_to_bytes(
        svg_string=svg, width=SIZE, height=SIZE, dpi=96, skip_system_fonts=True
    )
    picture = Image.open(io.BytesIO(bytes(png))).convert("RGBA")
    ground = Image.new("RGBA", picture.size, "white")
    ground.alpha_composite(picture)
    return ground.convert("RGB")


def main() -> None:
    """Read the command line and audit."""
    parser = argparse.ArgumentParser(description="Audit the bundled model.")
    parser.add_argument("data", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--packages", type=Path, help="folder with (or for) the npm tarballs")
    parser.add_argument("--count", type=int, default=16)
    parser.add_argument("--model", default=BUNDLED_MODEL)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        labelled = {
            "gender": gendered(options.data),
            "skin": {
                **toned(options.packages or Path(temporary)),
                "neither": things(options.data),
            },
        }
    report = audit(
        Pipeline.from_pretrained(options.model),
        AuditPrompts.open(PROMPTS),
        config=AuditConfig(count=options.count),
        labelled=labelled,
        probes={"skin": skin_probe},
        output=options.output,
        progress=True,
    )
    print(report.table)


if __name__ == "__main__":
    main()
