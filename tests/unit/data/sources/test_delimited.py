"""CSV and TSV as people write them: which rows are broken, and that the others are whole."""

from __future__ import annotations

from pathlib import Path

import pytest

from dallemini.data import CaptionedImages, DataConfig
from dallemini.data.records import RawRecord
from dallemini.errors import InputError
from picture_files import write_folder

CAN_BE_BROKEN = [  # a broken row, and what is said of it
    ('x.png,"Sunset over', "a quote is not closed"),
    ('x.png,"Sunset" over', "expected after"),
    ("x.png,one,too many", "it has 3 cells instead of 2"),
    ("too few", "it has 1 cells instead of 2"),
    ("x.png,caf\udce9", "is not UTF-8"),
]


def read(path: Path, text: str | None = None, **config: object) -> list[tuple[str, ...]]:
    """Return the captions of all records, as they are before decoding."""
    dataset = opened(path, text, **config)
    records = [dataset.raw(number) for number in range(len(dataset))]
    return [r.captions if isinstance(r, RawRecord) else (r.reason,) for r in records]


def opened(path: Path, text: str | None = None, **config: object) -> CaptionedImages:
    if text is not None:
        path.write_text(text, encoding="utf-8", errors="surrogateescape", newline="")
    return CaptionedImages.open(path, config=DataConfig.from_dict({"image_size": 8, **config}))


@pytest.fixture
def csv(tmp_path: Path) -> Path:
    return tmp_path / "a.csv"


@pytest.fixture
def tsv(tmp_path: Path) -> Path:
    return tmp_path / "a.tsv"


@pytest.mark.parametrize(("row", "detail"), CAN_BE_BROKEN)
@pytest.mark.parametrize("place", [0, 4])
def test_a_broken_row_is_named_with_its_line_and_costs_no_other(
    csv: Path, caplog: pytest.LogCaptureFixture, row: str, detail: str, place: int
) -> None:
    rows = [f'{number}.png,"row {number}, whole"' for number in range(4)]
    rows.insert(place, row)
    dataset = opened(csv, "image,caption\n" + "\n".join(rows) + "\n")
    assert read(csv) == [(f"row {number}, whole",) for number in range(4)]
    assert sum(dataset.bad.values()) == 1
    assert f"skipped a.csv:{place + 2}: " in caplog.text
    assert f"line {place + 2}" in caplog.text
    assert detail in caplog.text


def test_every_row_may_have_a_quote_that_is_not_closed(csv: Path) -> None:
    rows = "".join(f'{n}.png,"row {n}\n' if n % 2 else f"{n}.png,row {n}\n" for n in range(300))
    dataset = opened(csv, "image,caption\n" + rows)
    assert (len(dataset), dataset.bad) == (150, {"broken metadata": 150})


def test_several_open_quotes_do_not_close_each_other(csv: Path) -> None:
    rows = 'image,caption\n1.png,"one\n2.png,two"\n3.png,three\n4.png,"four\n'
    assert read(csv, rows) == [('two"',), ("three",)]
    assert opened(csv).bad == {"broken metadata": 2}


def test_in_tsv_quotes_are_text_unless_they_surround_a_cell(tsv: Path) -> None:
    rows = [
        ('"Sunset over', '"Sunset over'),
        ("a dog", "a dog"),
        ('the Ritz" hotel', 'the Ritz" hotel'),
        ('"a quoted cat"', "a quoted cat"),
        ('"a ""doubled"" cat"', 'a "doubled" cat'),
        ('"one" and "two"', '"one" and "two"'),
    ]
    text = "".join(f"{number}.png\t{cell}\n" for number, (cell, _) in enumerate(rows))
    assert read(tsv, "image\tcaption\n" + text) == [(caption,) for _, caption in rows]
    assert opened(tsv).bad == {}


@pytest.mark.parametrize(
    ("cell", "caption"),
    [
        (r'"a \"big\" cat"', 'a "big" cat'),
        (r'"a \"big\", cat"', 'a "big", cat'),
        ('"a ""big"" cat"', 'a "big" cat'),
        ('a "big" cat', 'a "big" cat'),
        (r'"C:\cats"', r"C:\cats"),
    ],
)
def test_quotes_in_quotes_are_doubled_or_behind_a_backslash(
    csv: Path, cell: str, caption: str
) -> None:
    assert read(csv, f"image,caption\n1.png,{cell}\n2.png,b\n") == [(caption,), ("b",)]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_line_ends_and_blank_lines_do_not_matter(csv: Path, end: str) -> None:
    lines = ["", " ", "image,caption", "", '1.png,"two', 'lines, in one"', "", "2.png,b", ""]
    (first,), second = read(csv, "\ufeff" + end.join(lines))
    assert first == f"two{end}lines, in one"
    assert second == ("b",)


def test_captions_of_several_lines_are_mentioned(
    csv: Path, caplog: pytest.LogCaptureFixture
) -> None:
    read(csv, 'image,caption\n1.png,"a\nb"\n2.png,c\n')
    assert "1 captions hold tabs or line breaks; look for quotes that are not closed" in caplog.text


def test_separators_that_are_no_line_ends_stay_in_a_caption(csv: Path) -> None:
    assert read(csv, "image,caption\n1.png,a\u2028b\x85c\x0cd\n") == [("a\u2028b\x85c\x0cd",)]


def test_columns_are_numbers_truth_values_or_texts(tmp_path: Path) -> None:
    write_folder(tmp_path, 3)
    text = "image,caption,n,f,t,s,none\n000.png,7,1,1.5,true,5,NA\n001.png,null,NA,,false,x,\n"
    dataset = opened(tmp_path / "a.csv", text)
    assert dict(dataset[0].columns) == {"n": 1, "f": 1.5, "t": True, "s": "5"}
    assert (dict(dataset[1].columns), dataset[1].captions) == ({"t": False, "s": "x"}, ("null",))
    assert read(tmp_path / "a.csv", where=("n >= 1", "t == true")) == [("7",)]


def test_a_table_of_broken_rows_alone_says_so(csv: Path) -> None:
    with pytest.raises(InputError, match=r"each of its 2 rows is broken, the first is a\.csv:2: "):
        opened(csv, "image,caption\na.png\nb.png\n")


def test_a_column_that_is_there_twice_is_refused(csv: Path) -> None:
    with pytest.raises(InputError, match="several columns 'caption'; give each a name"):
        opened(csv, "image,caption,caption\na.png,a,b\n")


def test_rows_of_ids_are_kept_apart_by_their_cells(csv: Path) -> None:
    text = 'image,caption\n0001,"open\n0002,two\n0003,"three"\n'
    assert read(csv, text) == [("two",), ("three",)]
