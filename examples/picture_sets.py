"""Two sets of captioned pictures to try fine-tuning on: Debian's stamps and OpenMoji.

    apt-get download tuxpaint-stamps-default && dpkg -x tuxpaint-stamps-default_*.deb unpacked
    python examples/picture_sets.py stamps unpacked stamps

    npm pack @iconify-json/openmoji && tar xzf iconify-json-openmoji-*.tgz
    python examples/picture_sets.py openmoji package openmoji

Each writes `learn` and `held-out`, with a .txt beside every .png. The stamps are photographs and
drawings of Tux Paint (GPL-2), 785 of them with a caption of their own; OpenMoji is
licensed under CC BY-SA 4.0: 2,241 of its pictures are taken, without flags and skin tones. What is
held out is decided by chance with a fixed seed, so that everybody gets the same sets.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import random
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

HELD_OUT_STAMPS = 80
SIDE = 320


def stamps(source: Path) -> Iterator[tuple[str, str, Image.Image, str]]:
    """Yield part, name, picture and caption of every stamp that has a caption of its own."""
    found = []
    for path in sorted(source.rglob("*.png")):
        text = path.with_suffix(".txt")
        if not text.exists() or path.stem.endswith(("_mirror", "_flip")):
            continue
        lines = text.read_bytes().decode("utf-8-sig", "replace").splitlines()
        caption = lines[0].strip() if lines else ""  # the others are translations
        if caption and ".utf8=" not in caption:
            found.append((path, caption.rstrip(".")))
    random.Random(0).shuffle(found)
    first = len(found) - HELD_OUT_STAMPS
    for number, (path, caption) in enumerate(found):
        part, place = ("learn", number) if number < first else ("held-out", number - first)
        with Image.open(path) as image:
            yield part, f"{place:04}-{path.stem}", _on_white(image), caption


def openmoji(source: Path) -> Iterator[tuple[str, str, Image.Image, str]]:
    """Yield part, name, picture and caption of the icons of the package; about 5 % held out."""
    import resvg_py

    icons = json.loads((source / "icons.json").read_text(encoding="utf-8"))
    for name, icon in sorted(icons["icons"].items()):
        if icon.get("hidden") or "skin-tone" in name or name.startswith("flag-"):
            continue
        box = (icon.get("left", 0), icon.get("top", 0))
        box += tuple(icon.get(side, icons[side]) for side in ("width", "height"))
        svg = (
            '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
            f'viewBox="{" ".join(map(str, box))}">{icon["body"]}</svg>'
        )
        png = resvg_py.svg_to_bytes(
            svg_string=svg, width=SIDE, height=SIDE, dpi=96, skip_system_fonts=True
        )
        is_held_out = hashlib.sha256(name.encode()).digest()[0] < 13
        image = _on_white(Image.open(io.BytesIO(bytes(png))))
        words = name.replace("-", " ")
        yield "held-out" if is_held_out else "learn", name, image, f"{words}, openmoji"


def _on_white(image: Image.Image) -> Image.Image:
    image = image.convert("RGBA")
    white = Image.new("RGBA", image.size, "white")
    white.alpha_composite(image)
    return white.convert("RGB")


SETS = {"stamps": stamps, "openmoji": openmoji}


def main() -> None:
    """Write a set."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=SETS)
    parser.add_argument("source", type=Path, help="folder of the unpacked package")
    parser.add_argument("output", type=Path)
    asked = parser.parse_args()
    counts = {"learn": 0, "held-out": 0}
    for part, name, image, caption in SETS[asked.name](asked.source):
        folder = asked.output / part
        folder.mkdir(parents=True, exist_ok=True)
        image.save(folder / f"{name}.png")
        (folder / f"{name}.txt").write_text(caption + "\n", encoding="utf-8")
        counts[part] += 1
    print(json.dumps(counts))


if __name__ == "__main__":
    main()
