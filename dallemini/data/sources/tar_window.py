"""Which files of a tar belong together: those of one name, a few megabytes apart at most.

Knows names and bytes, not captions or pictures. Every picture is a record. Its texts are called as
it is, up to the ending (`a.b.jpg`, `a.b.txt`), or as it is and more (`a.b.jpg.txt`), or up to the
first point (`000.left.png`, `000.txt`), where only one picture can have them.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from ..config import DataConfig
from .base import CAPTION_NAMES, IMAGE_ENDINGS, IMAGE_NAMES, TEXT_ENDINGS
from .tar_members import Member

WINDOW = 2**25  # bytes that are held until their texts come
_MOST_HELD = 10_000  # names, likewise
_TEXTS = {name.lower() for name in (*CAPTION_NAMES, *TEXT_ENDINGS)}

Kind = Literal["image", "text", "columns", "other"]


@dataclass(frozen=True)
class TarName:
    """What the name of a file in a tar says.

    Attributes:
        stem: what it has in common with the other files of its record.
        kind: what it is there.
        rank: of two pictures of one stem, the one with the lower rank is taken.
    """

    stem: str
    kind: Kind
    rank: int = 0

    @property
    def group(self) -> str:
        """The stem up to the first point of the file's name."""
        folder, slash, name = self.stem.rpartition("/")
        return folder + slash + name.partition(".")[0]


def parse_name(name: str, config: DataConfig) -> TarName | None:
    """Return what a name says; None for hidden files, and those without an ending."""
    name = unicodedata.normalize("NFC", name)
    base = name.rpartition("/")[2]
    if base.startswith((".", "__")) or "." not in base:
        return None
    kinds: tuple[tuple[str | None, Kind], ...] = (
        (config.image_column, "image"),
        (config.caption_column, "text"),
    )
    for column, kind in kinds:
        if column is not None and base.lower().endswith(f".{column.lower()}"):
            return TarName(name[: -len(column) - 1], kind)
    stem, _, ending = name.rpartition(".")
    ending = ending.lower()
    if config.image_column is None and ending in IMAGE_NAMES:
        return TarName(stem, "image", IMAGE_NAMES.index(ending))
    is_text = config.caption_column is None and ending in _TEXTS
    if ending == "json" or is_text:
        short, _, before = stem.rpartition(".")
        stem = short if before.lower() in IMAGE_ENDINGS and short else stem
        return TarName(stem, "text" if is_text else "columns")
    is_image = ending in IMAGE_ENDINGS  # but not of the name that was asked for
    return TarName(TarName(stem, "other").group if is_image else stem, "other")


@dataclass
class Unit:
    """The files of one stem.

    Attributes:
        name: what their names say.
        files: of each kind, the file that is taken.
        rest: other pictures of this stem.
        listed: endings of all files, for messages.
        is_cut: whether the files were too far apart to be waited for.
        first: the picture of its group that has the texts, if it is not this one.
    """

    name: TarName
    files: dict[Kind, Member] = field(default_factory=dict)
    rest: list[Member] = field(default_factory=list)
    listed: list[str] = field(default_factory=list)
    is_cut: bool = False
    first: str = ""

    @property
    def has_texts(self) -> bool:
        """Whether there is a caption or a .json file."""
        return "text" in self.files or "columns" in self.files

    @property
    def size(self) -> int:
        """Bytes that are held."""
        return sum(len(file.content or b"") for file in self.files.values())


class Window:
    """Gathers the files of a tar to units, in the order in which the units begin."""

    def __init__(self) -> None:
        self.units: dict[str, Unit] = {}
        self.pictures: dict[str, list[Unit]] = {}  # of each group, those called otherwise
        self.gone: dict[str, bool] = {}  # stems of pictures that were given: did they have texts
        self.takers: dict[str, str] = {}  # group to the stem that has its texts
        self.held = 0
        self.lost = 0  # texts that came too late

    def add(self, name: TarName, member: Member) -> Iterator[Unit]:
        """Add a file; yields the units that are whole, or that cannot be waited for."""
        if name.stem in self.gone:
            if name.kind != "image":
                self.lost += not self.gone[name.stem]
                return
            yield Unit(name, rest=[member])
        else:
            unit = self.units.setdefault(name.stem, Unit(name))
            self.held -= unit.size
            self._put(unit, name, member)
            self.held += unit.size
        while self.units:
            first = next(iter(self.units.values()))
            is_cut = self.held > WINDOW or len(self.units) > _MOST_HELD
            is_own = first.name.stem == name.stem
            if is_own or not (is_cut or self._is_whole(first, name)):
                break
            first.is_cut = is_cut and not self._is_whole(first, name)
            yield from self._give(first)

    def end(self) -> Iterator[Unit]:
        """Yield what is left."""
        while self.units:
            yield from self._give(next(iter(self.units.values())))

    def _put(self, unit: Unit, name: TarName, member: Member) -> None:
        unit.listed.append(member.name.rpartition(".")[2][:40])
        old = unit.files.get(name.kind)
        if name.kind != "image" or old is None:
            unit.files[name.kind] = member
        elif name.rank < unit.name.rank:
            unit.files["image"] = member
            unit.rest.append(old)
        else:
            unit.rest.append(member)
        if name.kind == "image" and old is None and name.stem != name.group:
            self.pictures.setdefault(name.group, []).append(unit)
        if unit.files.get("image") is member:
            unit.name = name

    def _is_whole(self, unit: Unit, current: TarName) -> bool:
        """Tell whether nothing more is to be expected, where files of a group follow each other."""
        if "image" in unit.files and unit.has_texts:
            return True
        if current.group == unit.name.group:
            return False
        if "image" in unit.files:
            group = self.units.get(unit.name.group)
            return unit.name.group in self.takers or (group is not None and group.has_texts)
        return not unit.has_texts or self._picture_of(unit) is not None

    def _picture_of(self, texts: Unit) -> Unit | None:
        """Return the first picture of a group whose texts these are."""
        return next(filter(_lacks_texts, self.pictures.get(texts.name.stem, ())), None)

    def _give(self, unit: Unit) -> Iterator[Unit]:
        """Yield a unit, with the texts of its group if it has none of its own."""
        stem, group = unit.name.stem, unit.name.group
        del self.units[stem]
        self.held -= unit.size
        if "image" in unit.files:
            if stem != group:
                self.pictures[group].remove(unit)
                self._take_from_group(unit, group)
            self.gone[stem] = unit.has_texts
            yield unit
        elif stem not in self.takers:
            picture = self._picture_of(unit) if unit.has_texts else None
            if picture is None:
                yield unit
            else:
                self._move_texts(unit, picture)

    def _take_from_group(self, unit: Unit, group: str) -> None:
        texts = self.units.get(group)
        if unit.has_texts:
            return
        if group in self.takers:
            unit.first = self.takers[group]
        elif texts is not None and texts.has_texts:
            if "image" in texts.files:
                unit.first = group
            else:
                self._move_texts(texts, unit)

    def _move_texts(self, texts: Unit, picture: Unit) -> None:
        self.takers[texts.name.stem] = picture.name.stem
        self.held -= texts.size if texts.name.stem in self.units else 0
        for kind in ("text", "columns"):
            if kind in texts.files:
                picture.files[kind] = texts.files.pop(kind)
                content = picture.files[kind].content or b""
                self.held += len(content) if picture.name.stem in self.units else 0
        self.held += texts.size if texts.name.stem in self.units else 0


def _lacks_texts(unit: Unit) -> bool:
    return "image" in unit.files and not unit.has_texts
