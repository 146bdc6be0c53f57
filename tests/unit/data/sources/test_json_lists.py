"""Lists of pictures in one JSON, and names that a file system writes in another way."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path
from typing import Any

import pytest

from dallemini.data import BadRecordError, CaptionedImages, DataConfig
from dallemini.errors import InputError
from picture_files import picture

SMALL = DataConfig(image_size=8, min_side=4)
COCO = {
    "images": [{"id": 7, "file_name": "a.png", "width": 24}, {"id": 8, "file_name": "b.png"}],
    "annotations": [
        {"image_id": 8, "caption": "a dog"},
        {"image_id": 7, "caption": "a cat"},
        {"image_id": 7, "caption": "a grey cat"},
    ],
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number, name in enumerate("ab"):
        (tmp_path / f"{name}.png").write_bytes(picture(number))
    return tmp_path


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("captions.json", {"a.png": ["a cat", "a grey cat"], "b.png": "a dog"}),
        ("metadata.json", {"a.png": {"caption": ["a cat", "a grey cat"]}, "b.png": {"text": "?"}}),
        ("list.json", COCO),
        ("list.jsonl", [{"file_name": "a.png", "caption": ["a cat", "a grey cat"]}, 3]),
    ],
)
def test_captions_come_from_any_usual_list(folder: Path, name: str, value: Any) -> None:
    (folder / name).write_text(json.dumps(value), encoding="utf-8-sig")
    data = CaptionedImages.open(folder / name if "list" in name else folder, config=SMALL)
    assert len(data) == 2
    assert data[0].captions == ("a cat", "a grey cat")
    if name in ("metadata.json", "list.jsonl"):
        with pytest.raises(BadRecordError, match=r"no caption|list.jsonl:1 is bad: broken metadat"):
            data[1]
    else:
        assert data[1].captions == ("a dog",)


def test_filters_look_at_the_columns_of_a_list(folder: Path) -> None:
    (folder / "coco.json").write_text(json.dumps(COCO))
    config = DataConfig(image_size=8, min_side=4, where=("width >= 20",))
    assert [image.key for image in map(CaptionedImages.open(folder / "coco.json", config=config).
            __getitem__, range(1))] == ["a.png"]  # fmt: skip


@pytest.mark.parametrize(
    ("content", "message"),
    [("{", "cannot be read as JSON: "), ("3", "is no list of pictures"), ("[]", "is no list of")],
)
def test_what_is_no_list_is_refused(folder: Path, content: str, message: str) -> None:
    (folder / "metadata.json").write_text(content)
    with pytest.raises(InputError, match=message):
        CaptionedImages.open(folder, config=SMALL)


@pytest.mark.parametrize(("listed", "written"), [("NFC", "NFD"), ("NFD", "NFC")])
def test_accents_in_a_list_find_their_file(tmp_path: Path, listed: str, written: str) -> None:
    name = "Zürich/Äpfel.png"
    path = tmp_path / unicodedata.normalize(written, name)  # type: ignore[arg-type]
    path.parent.mkdir()
    path.write_bytes(picture(1))
    row = {"file_name": unicodedata.normalize(listed, name), "caption": "x"}  # type: ignore[arg-type]
    (tmp_path / "metadata.jsonl").write_text(json.dumps(row, ensure_ascii=False) + "\n")
    assert CaptionedImages.open(tmp_path, config=SMALL)[0].captions == ("x",)


def test_folders_and_files_name_their_pictures(tmp_path: Path) -> None:
    for name in ("cats/grey_one.png", "old-dogs/x.png", "top.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(picture(1))
    with pytest.raises(InputError, match=r'caption_from="folder" or "name" \(--data\.caption-from'):
        CaptionedImages.open(tmp_path, config=SMALL)

    def captions(caption_from: Any) -> list[tuple[str, ...]]:
        config = DataConfig(image_size=8, min_side=4, caption_from=caption_from)
        data = CaptionedImages.open(tmp_path, config=config)
        return [data[number].captions for number in range(3)]

    assert captions("folder")[:2] == [("cats",), ("old dogs",)]
    assert captions("folder")[2] == (tmp_path.name.replace("_", " ").replace("-", " "),)
    assert captions("name") == [("grey one",), ("x",), ("top",)]


def test_all_lines_of_a_file_can_be_one_caption(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(picture(1))
    (tmp_path / "a.TXT").write_text("a cat,\n\ngrey,\u2028small\n", encoding="utf-8")
    assert CaptionedImages.open(tmp_path, config=SMALL)[0].captions == (
        "a cat,",
        "grey,\u2028small",
    )
    joined = DataConfig(image_size=8, min_side=4, caption_lines="joined")
    assert CaptionedImages.open(tmp_path, config=joined)[0].captions == ("a cat, grey,\u2028small",)
