"""The emoji data set script: its pure functions, on inline data, without the network."""

from __future__ import annotations

import hashlib
import importlib
import io
import json
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest

EXAMPLE = Path(__file__).parents[3] / "examples" / "emoji"
ICONS = {
    "width": 32,
    "height": 32,
    "icons": {
        "red-apple": {"body": "<path/>"},
        "tall": {"body": "<rect/>", "height": 33},
        "direct-hit": {"body": "<circle/>"},
    },
    "aliases": {
        "apple": {"parent": "red-apple"},
        "elppa": {"parent": "apple", "hFlip": True},
        "turned": {"parent": "apple", "rotate": 1},
    },
}
GROUPS = {
    "groups": {"4": "food-drink", "8": "symbols"},
    "subgroups": {"42": "food-fruit", "85": "arrow", "96": "geometric"},
}


@pytest.fixture(scope="module", autouse=True)
def example_path() -> Any:
    """Let the script find the module beside it, as it does when it is run."""
    sys.path.insert(0, str(EXAMPLE))
    yield
    sys.path.remove(str(EXAMPLE))


@pytest.fixture(scope="module")
def script(example_path: None) -> Any:
    return importlib.import_module("build_dataset")


@pytest.fixture(scope="module")
def sources(example_path: None) -> Any:
    return importlib.import_module("emoji_sources")


def pack(path: Path, files: dict[str, bytes]) -> Path:
    """Write an npm tarball."""
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(f"package/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def apple(script: Any, *, label: str = "red apple") -> Any:
    return script.Concept(hex="1f34e", label=label, keywords=("fruit",), group="food-drink")


@pytest.mark.parametrize(
    ("hexcode", "normal"),
    [
        ("1F34E", "1f34e"),
        ("2764-FE0F", "2764"),
        ("1f441-fe0f-200d-1f5e8-fe0f", "1f441-200d-1f5e8"),
        ("1F3F4_200D_2620", "1f3f4-200d-2620"),
        ("2764-fe0e", "2764"),
    ],
)
def test_normalise_hex_drops_case_and_variation_selectors(
    script: Any, hexcode: str, normal: str
) -> None:
    assert script.normalise_hex(hexcode) == normal
    assert script.normalise_hex(normal) == normal


def test_hex_of_text_equals_normalised_hexcode(script: Any) -> None:
    assert script.hex_of("\u2764\ufe0f") == "2764"
    assert script.hex_of("\U0001f34e") == "1f34e"
    assert script.hex_of("\u00a9") == "00a9"


@pytest.mark.parametrize(
    ("label", "name"),
    [
        ("T-Rex", "t-rex"),
        ("piñata", "pinata"),
        ("man’s shoe", "mans-shoe"),
        ("ON! arrow", "on-arrow"),
    ],
)
def test_slug_is_the_icon_name(script: Any, label: str, name: str) -> None:
    assert script.slug(label) == name


def test_split_follows_the_hash_rule(script: Any) -> None:
    def share(text: str) -> float:
        return int(hashlib.sha1(text.encode()).hexdigest()[:8], 16) / 0xFFFFFFFF

    splits = set()
    for number in range(0x1F300, 0x1F400):
        hexcode = f"{number:x}"
        split = script.split_of(hexcode, "noto")
        splits.add(split)
        concept, style = share("c" + hexcode) < 0.03, share("snoto" + hexcode) < 0.03
        assert split == ("test_concept" if concept else "test_style" if style else "train")
    assert splits == {"train", "test_style", "test_concept"}


def test_split_holds_out_a_concept_in_every_style(script: Any) -> None:
    names = [emoji_set.name for emoji_set in script.SETS]
    for number in range(0x1F300, 0x1F400):
        splits = [script.split_of(f"{number:x}", name) for name in names]
        assert splits.count("test_concept") in {0, len(names)}


@pytest.mark.parametrize(
    ("label", "group", "subgroup"),
    [
        ("flag: Japan", "flags", "country-flag"),
        ("light skin tone", "component", "skin-tone"),
        ("keycap: 1", "symbols", "keycap"),
        ("up arrow", "symbols", "arrow"),
        ("A button (blood type)", "symbols", "alphanum"),
        ("black medium-small square", "symbols", "geometric"),
        ("radio button", "symbols", "geometric"),
        ("twelve o’clock", "travel-places", "time"),
        ("one-thirty", "travel-places", "time"),
        ("family: man, boy", "people-body", "family"),
        ("family", "people-body", "person-symbol"),
        ("middle finger", "people-body", "hand-single-finger"),
        ("ZZZ", "smileys-emotion", "emotion"),
    ],
)
def test_is_wanted_drops_signs_and_doubles(
    script: Any, label: str, group: str, subgroup: str
) -> None:
    assert not script.is_wanted(label=label, group=group, subgroup=subgroup)


@pytest.mark.parametrize(
    ("label", "group", "subgroup"),
    [
        ("red apple", "food-drink", "food-fruit"),
        ("alarm clock", "travel-places", "time"),
        ("speaker medium volume", "objects", "sound"),
        ("blue circle", "symbols", "geometric"),
        ("small blue diamond", "symbols", "geometric"),
    ],
)
def test_is_wanted_keeps_things_and_coloured_shapes(
    script: Any, label: str, group: str, subgroup: str
) -> None:
    assert script.is_wanted(label=label, group=group, subgroup=subgroup)


def test_assemble_keywords_is_ordered_unique_and_without_the_label(script: Any) -> None:
    tags = ["apple", "fruit", "Red Apple"]
    more = ["red_apple", "fruit", "granny_smith", ":)", "<3", "x", "100"]
    assert script.assemble_keywords("red apple", tags, more) == ("apple", "fruit", "granny smith")


def test_read_concepts_selects_captions_and_sorts(script: Any) -> None:
    emojis = [
        {"hexcode": "1F535", "label": "blue circle", "group": 8, "subgroup": 96},
        {"hexcode": "1F34E", "label": "red apple", "tags": ["fruit"], "group": 4, "subgroup": 42},
        {"hexcode": "2B06", "label": "up arrow", "tags": [], "group": 8, "subgroup": 85},
        {"hexcode": "1F1E6", "label": "regional indicator A"},
    ]
    keywords = {"\U0001f34e\ufe0f": ["red_apple", "school"]}
    concepts = script.read_concepts(emojis, GROUPS, keywords)
    assert list(concepts) == ["1f34e", "1f535"]
    assert concepts["1f34e"] == script.Concept(
        hex="1f34e", label="red apple", keywords=("fruit", "school"), group="food-drink"
    )
    assert concepts["1f535"].keywords == ()


def test_svg_is_whole_and_square(script: Any) -> None:
    icons = script.Icons(ICONS)
    assert 'viewBox="0 0 32 32"><path/></svg>' in icons.svg("red-apple")
    assert 'viewBox="-0.5 0 33 33"><rect/></svg>' in icons.svg("tall")


def test_svg_follows_aliases_and_flips(script: Any) -> None:
    icons = script.Icons(ICONS)
    assert icons.svg("apple") == icons.svg("red-apple")
    assert '<g transform="translate(32 0) scale(-1 1)"><path/></g>' in icons.svg("elppa")


def test_svg_rejects_unknown_names_and_turns(script: Any) -> None:
    icons = script.Icons(ICONS)
    with pytest.raises(script.BuildError, match=r"No icon is called 'pear' in a set of 3 icons"):
        icons.svg("pear")
    with pytest.raises(script.BuildError, match=r"'turned' uses \['rotate'\]"):
        icons.svg("turned")


def test_find_icon_tries_tables_then_label_then_former_name(script: Any) -> None:
    icons = script.Icons(ICONS)
    assert script.find_icon(apple(script), icons, [{}, {"1f34e": "apple"}]) == "apple"
    assert script.find_icon(apple(script), icons, [{"1f34e": "gone"}]) == "red-apple"
    assert script.find_icon(apple(script, label="bullseye"), icons, []) == "direct-hit"
    assert script.find_icon(apple(script, label="pear"), icons, []) is None


def test_record_has_the_documented_keys(script: Any) -> None:
    line = json.loads(json.dumps(script.record(apple(script), script.NOTO)))
    assert line == {
        "file": "images/noto/1f34e.png",
        "set": "noto",
        "style": "noto emoji",
        "hex": "1f34e",
        "label": "red apple",
        "caption": "red apple, noto emoji",
        "keywords": ["fruit"],
        "group": "food-drink",
        "split": script.split_of("1f34e", "noto"),
        "license": "Apache-2.0",
    }
    assert script.summary([line]).startswith("1 images of 1 concepts\n  set noto: 1")


def test_package_file_is_what_npm_pack_writes(sources: Any) -> None:
    assert sources.NOTO.package.file == "iconify-json-noto-1.2.9.tgz"
    assert sources.EMOJILIB.file == "emojilib-4.0.3.tgz"


def test_read_member_and_folder_read_a_tarball(sources: Any, tmp_path: Path) -> None:
    files = {"assets/b.webp": b"2", "assets/a.webp": b"1", "data.json": b'{"a": 1}'}
    tarball = pack(tmp_path / "some.tgz", files)
    assert sources.read_json(tarball, "data.json") == {"a": 1}
    assert list(sources.read_folder(tarball, "assets").items()) == [
        ("a.webp", b"1"),
        ("b.webp", b"2"),
    ]


def test_read_names_what_a_tarball_lacks(sources: Any, tmp_path: Path) -> None:
    tarball = pack(tmp_path / "some.tgz", {"data.json": b"{}"})
    with pytest.raises(sources.BuildError, match=r"has no file package/icons\.json"):
        sources.read_member(tarball, "icons.json")
    with pytest.raises(sources.BuildError, match=r"has no files in package/assets"):
        sources.read_folder(tarball, "assets")


def test_fetch_says_that_npm_is_missing(
    sources: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(sources.BuildError, match=r"npm is not installed.*--packages"):
        sources.fetch(sources.EMOJILIB, tmp_path)


def test_fetch_rejects_another_tarball(sources: Any, tmp_path: Path) -> None:
    pack(tmp_path / sources.EMOJILIB.file, {"data.json": b"{}"})
    with pytest.raises(sources.BuildError, match=r"has sha256 .*, expected 7f9a6b43"):
        sources.fetch(sources.EMOJILIB, tmp_path)


def test_notice_names_every_package_and_licence(sources: Any) -> None:
    text = sources.notice()
    for package in sources.PACKAGES:
        assert f"{package.name} {package.version}, licence {package.license}" in text
        assert package.attribution in text
        assert f"Licence {package.license}\n===" in text
    assert "Licence Unicode-3.0\n===" in text


def test_main_reports_an_error_without_a_traceback(
    script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert script.main([str(tmp_path / "out")]) == 1
    assert capsys.readouterr().err.startswith("error: npm is not installed")
    assert script.main([str(tmp_path / "out"), "--size", "0"]) == 1
    assert "--size and --workers must be 1 or more" in capsys.readouterr().err


def test_render_premultiplies_and_resizes_a_bitmap(script: Any, tmp_path: Path) -> None:
    from PIL import Image

    bitmap = Image.new("RGBA", (16, 16), (255, 0, 0, 0))  # invisible red must not bleed
    bitmap.paste((0, 0, 255, 255), (8, 0, 16, 16))
    buffer = io.BytesIO()
    bitmap.save(buffer, "PNG")
    script.render(script.Drawing(source=buffer.getvalue(), file=tmp_path / "a.png", size=5))
    with Image.open(tmp_path / "a.png") as image:
        assert image.size == (5, 5)
        pixels = [image.getpixel((column, 2)) for column in range(5)]
    visible = [pixel for pixel in pixels if isinstance(pixel, tuple) and pixel[3] > 0]
    assert visible
    assert all(pixel[0] == 0 for pixel in visible)
