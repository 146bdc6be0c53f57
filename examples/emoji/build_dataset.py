"""Build the emoji data set of the bundled model from the npm registry, in one command.

Five emoji sets under permissive licences (Apache-2.0 and MIT) are drawn on transparent squares and
captioned with their CLDR names. The packages are pinned by version and digest, so every run selects
and captions the same images. This script knows nothing of the library: it writes plain PNG, JSON
lines and a NOTICE.

    python examples/emoji/build_dataset.py OUT [--packages DIR] [--size 320] [--workers 2]

It needs Pillow and resvg-py, and npm to fetch what DIR does not hold.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import multiprocessing
import re
import sys
import tempfile
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from emoji_sources import (
    EMOJIBASE,
    EMOJILIB,
    FLAT,
    NOTO,
    PACKAGES,
    SETS,
    SOLID,
    BuildError,
    EmojiSet,
    Package,
    fetch,
    notice,
    read_folder,
    read_json,
)

# What is no picture of a thing: signs, letters, buttons, arrows, flags, modifiers. Of symbols only
# the coloured circles, squares, diamonds and triangles stay: they show a model what a colour is.
DROPPED_GROUPS = frozenset({"component", "flags", "symbols"})
KEPT_SUBGROUPS = frozenset({"geometric"})
DROPPED_LABELS = re.compile(
    r"o.clock$|-thirty$"  # clock faces differ by the angle of a hand
    r"|^family\b"
    r"|^middle finger$"
    r"|^(zzz|hundred points)$"  # letters and digits
    r"|^(black|white) (medium|small)|^radio button$|square button$|^diamond with a dot$",
    re.IGNORECASE,
)
# Names that the old drawings kept where CLDR has since moved on.
FORMER_NAMES = {"bullseye": "direct-hit", "face with crossed-out eyes": "dizzy-face"}
TEST_SHARE = 0.03


@dataclass(frozen=True, kw_only=True)
class Concept:
    """What an emoji shows, whoever drew it."""

    hex: str
    label: str
    keywords: tuple[str, ...]
    group: str


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """A picture yet to be rendered: SVG text or an encoded bitmap, and the file it becomes."""

    source: str | bytes
    file: Path
    size: int


def normalise_hex(hexcode: str) -> str:
    """Lowercase a code point sequence and drop its variation selectors, which sets use at will."""
    points = hexcode.lower().replace("_", "-").split("-")
    return "-".join(point for point in points if point not in {"fe0e", "fe0f"})


def hex_of(emoji: str) -> str:
    """The normalised code point sequence of an emoji given as text."""
    return normalise_hex("-".join(f"{ord(character):04x}" for character in emoji))


def slug(label: str) -> str:
    """The icon name that a CLDR label usually becomes: `T-Rex` is `t-rex`, `piñata` is `pinata`."""
    plain = unicodedata.normalize("NFKD", label).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9]+", "-", plain.replace("'", "")).strip("-")


def split_of(hexcode: str, set_name: str) -> str:
    """The split of an image, by hash, so that it never depends on what else is in the set.

    A concept is held out in every style (`test_concept`), or one drawing of it is (`test_style`).
    """

    def share(text: str) -> float:
        return int(hashlib.sha1(text.encode()).hexdigest()[:8], 16) / 0xFFFFFFFF

    if share("c" + hexcode) < TEST_SHARE:
        return "test_concept"
    return "test_style" if share("s" + set_name + hexcode) < TEST_SHARE else "train"


def is_wanted(*, label: str, group: str, subgroup: str) -> bool:
    """Whether an emoji shows a thing, a being or a place, and not a sign, and offends nobody."""
    if group in DROPPED_GROUPS and subgroup not in KEPT_SUBGROUPS:
        return False
    return DROPPED_LABELS.search(label) is None


def assemble_keywords(label: str, *sources: Iterable[str]) -> tuple[str, ...]:
    """Join keyword lists in order: words with spaces, each once, none that repeats the label."""
    seen = {label.lower(): None}
    for keyword in (word for source in sources for word in source):
        words = keyword.replace("_", " ").strip().lower()
        if re.search(r"[a-z]{2}", words):  # not an emoticon, a digit or a letter
            seen.setdefault(words)
    return tuple(seen)[1:]


def read_concepts(
    emojis: Sequence[Mapping[str, Any]],
    groups: Mapping[str, Mapping[str, str]],
    keywords: Mapping[str, Sequence[str]],
) -> dict[str, Concept]:
    """Select and caption the wanted emoji, by normalised code point sequence, in its order.

    Args:
        emojis: `en/data.json` of emojibase-data.
        groups: `meta/groups.json` of emojibase-data.
        keywords: `dist/emoji-en-US.json` of emojilib.
    """
    extra = {hex_of(emoji): words for emoji, words in keywords.items()}
    concepts = {}
    for emoji in emojis:
        if "group" not in emoji:  # regional indicators, the letters of flags
            continue
        label, group = emoji["label"], groups["groups"][str(emoji["group"])]
        if not is_wanted(
            label=label, group=group, subgroup=groups["subgroups"][str(emoji["subgroup"])]
        ):
            continue
        hexcode = normalise_hex(emoji["hexcode"])
        words = assemble_keywords(label, emoji.get("tags", ()), extra.get(hexcode, ()))
        concepts[hexcode] = Concept(hex=hexcode, label=label, keywords=words, group=group)
    return dict(sorted(concepts.items()))


class Icons:
    """The drawings of an Iconify package, by name.

    Args:
        icons: `icons.json`: bodies, aliases, and the default width and height.
    """

    def __init__(self, icons: Mapping[str, Any]) -> None:
        self._defaults = {"left": 0, "top": 0, "width": 16, "height": 16} | {
            key: icons[key] for key in ("left", "top", "width", "height") if key in icons
        }
        self._icons: Mapping[str, Mapping[str, Any]] = icons["icons"]
        self._aliases: Mapping[str, Mapping[str, Any]] = icons.get("aliases", {})

    def __contains__(self, name: object) -> bool:
        """Whether an icon or an alias has this name."""
        return name in self._icons or name in self._aliases

    def __iter__(self) -> Iterator[str]:
        """Every name of an icon or an alias."""
        yield from self._icons
        yield from self._aliases

    def svg(self, name: str) -> str:
        """A whole SVG document, its view box made square around the drawing.

        Raises:
            BuildError: No icon or alias has this name, or it is turned in a way not known here.
        """
        icon = self._resolve(name)
        left, top, width, height = (icon[key] for key in ("left", "top", "width", "height"))
        body = icon["body"]
        if icon.get("hFlip"):
            body = f'<g transform="translate({2 * left + width} 0) scale(-1 1)">{body}</g>'
        side = max(width, height)
        box = f"{left - (side - width) / 2:g} {top - (side - height) / 2:g} {side:g} {side:g}"
        return (
            '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
            f' width="{side:g}" height="{side:g}" viewBox="{box}">{body}</svg>'
        )

    def _resolve(self, name: str) -> Mapping[str, Any]:
        if name in self._icons:
            return {**self._defaults, **self._icons[name]}
        if name not in self._aliases:
            raise BuildError(f"No icon is called {name!r} in a set of {len(self._icons)} icons.")
        alias = self._aliases[name]
        if unknown := alias.keys() - {
            "parent",
            "hFlip",
            "hidden",
            "left",
            "top",
            "width",
            "height",
        }:
            raise BuildError(f"Icon alias {name!r} uses {sorted(unknown)}, which is not supported.")
        return {**self._resolve(alias["parent"]), **alias}


def find_icon(concept: Concept, icons: Icons, chars: Sequence[Mapping[str, str]]) -> str | None:
    """The name of a concept's icon, or None where the artist drew none.

    Packages whose own `chars.json` is empty share names with their sister sets, so every table is
    tried, then the label itself.
    """
    names = [table[concept.hex] for table in chars if concept.hex in table]
    names += [slug(concept.label), FORMER_NAMES.get(concept.label, "")]
    return next((name for name in names if name in icons), None)


def render(drawing: Drawing) -> None:
    """Draw one picture on a transparent square and write it as RGBA PNG."""
    import resvg_py

    size = drawing.size
    if isinstance(drawing.source, str):
        # Without a resolution, every drawing that is sized in points fails.
        png = resvg_py.svg_to_bytes(
            svg_string=drawing.source, width=size, height=size, dpi=96, skip_system_fonts=True
        )
        image = Image.open(io.BytesIO(bytes(png))).convert("RGBA")
    else:
        # Premultiplied, or the colour of invisible pixels bleeds into the edges.
        bitmap = Image.open(io.BytesIO(drawing.source)).convert("RGBA").convert("RGBa")
        image = bitmap.resize((size, size), Image.Resampling.LANCZOS).convert("RGBA")
    if image.size != (size, size):
        raise BuildError(f"{drawing.file} came out as {image.size}, expected {(size, size)}.")
    image.save(drawing.file)


class Sources:
    """The packages, opened: concepts, and each set's drawings of them.

    Args:
        folder: Where the tarballs lie or are fetched to.
    """

    def __init__(self, folder: Path) -> None:
        self._tarballs = {package: fetch(package, folder) for package in PACKAGES}
        self._chars = [
            {normalise_hex(key): name for key, name in self._read(package, "chars.json").items()}
            for package in (FLAT.package, NOTO.package)
        ]
        self.concepts = read_concepts(
            self._read(EMOJIBASE, "en/data.json"),
            self._read(EMOJIBASE, "meta/groups.json"),
            self._read(EMOJILIB, "dist/emoji-en-US.json"),
        )

    def _read(self, package: Package, member: str) -> Any:
        return read_json(self._tarballs[package], member)

    def _bitmaps(self, emoji_set: EmojiSet) -> dict[str, bytes]:
        files = read_folder(self._tarballs[emoji_set.package], "assets")
        return {normalise_hex(Path(name).stem): content for name, content in files.items()}

    def drawings(self, emoji_set: EmojiSet) -> Iterator[tuple[Concept, str | bytes]]:
        """Every wanted concept that a set drew, with the SVG text or the encoded bitmap."""
        # LobeHub's package adds drawings that are not Microsoft's: only what Microsoft has counts.
        names_from = FLAT if emoji_set is SOLID else emoji_set
        icons = Icons(self._read(names_from.package, "icons.json"))
        bitmaps = self._bitmaps(emoji_set) if emoji_set is SOLID else {}
        for concept in self.concepts.values():
            name = find_icon(concept, icons, self._chars)
            if name is None:
                continue
            if emoji_set is not SOLID:
                yield concept, icons.svg(name)
            elif concept.hex in bitmaps:
                yield concept, bitmaps[concept.hex]


def record(concept: Concept, emoji_set: EmojiSet) -> dict[str, Any]:
    """The metadata line of one image."""
    return {
        "file": f"images/{emoji_set.name}/{concept.hex}.png",
        "set": emoji_set.name,
        "style": emoji_set.style,
        "hex": concept.hex,
        "label": concept.label,
        "caption": f"{concept.label}, {emoji_set.style}",
        "keywords": list(concept.keywords),
        "group": concept.group,
        "split": split_of(concept.hex, emoji_set.name),
        "license": emoji_set.package.license,
    }


def build(out: Path, *, packages: Path, size: int = 320, workers: int = 2) -> list[dict[str, Any]]:
    """Write images, `metadata.jsonl` and `NOTICE` under `out`, and return the metadata.

    The metadata is written last: where it lies, the images are complete.
    """
    metadata = out / "metadata.jsonl"
    metadata.unlink(missing_ok=True)
    sources = Sources(packages)
    records: list[dict[str, Any]] = []
    drawings: list[Drawing] = []
    for emoji_set in sorted(SETS, key=lambda emoji_set: emoji_set.name):
        (out / "images" / emoji_set.name).mkdir(parents=True, exist_ok=True)
        for concept, source in sources.drawings(emoji_set):
            records.append(record(concept, emoji_set))
            drawings.append(Drawing(source=source, file=out / records[-1]["file"], size=size))
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        for done, _ in enumerate(pool.imap_unordered(render, drawings, chunksize=16), start=1):
            if done % 500 == 0:
                print(f"{done} of {len(drawings)} images", file=sys.stderr)
    (out / "NOTICE").write_text(notice(), encoding="utf-8")
    lines = (json.dumps(line, ensure_ascii=False) + "\n" for line in records)
    metadata.write_text("".join(lines), encoding="utf-8")
    return records


def summary(records: Sequence[Mapping[str, Any]]) -> str:
    """How many images there are, in all, by set and by split, and of how many concepts."""
    lines = [f"{len(records)} images of {len({line['hex'] for line in records})} concepts"]
    for key in ("set", "split"):
        counts = Counter(line[key] for line in records)
        lines += [f"  {key} {name}: {count}" for name, count in sorted(counts.items())]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the command line, build, and say what came out."""
    parser = argparse.ArgumentParser(description="Build the emoji data set from the npm registry.")
    parser.add_argument("out", type=Path, metavar="OUT", help="folder to write")
    parser.add_argument("--packages", type=Path, help="folder with (or for) the npm tarballs")
    parser.add_argument("--size", type=int, default=320, help="side in pixels")
    parser.add_argument("--workers", type=int, default=2, help="rendering processes")
    options = parser.parse_args(arguments)
    try:
        if options.size < 1 or options.workers < 1:
            raise BuildError("--size and --workers must be 1 or more.")
        with tempfile.TemporaryDirectory() as temporary:
            folder: Path = options.packages or Path(temporary)
            folder.mkdir(parents=True, exist_ok=True)
            records = build(
                options.out, packages=folder, size=options.size, workers=options.workers
            )
    except BuildError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(summary(records))
    return 0


if __name__ == "__main__":
    sys.exit(main())
