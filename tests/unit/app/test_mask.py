"""What was painted becomes a mask."""

from __future__ import annotations

from pathlib import Path

import PIL.Image
import pytest

from dallemini.app.mask import read_painting, read_picture
from dallemini.errors import InputError

PICTURE = PIL.Image.new("RGBA", (8, 8), "blue")


def layer(left: int, top: int, right: int, bottom: int) -> PIL.Image.Image:
    image = PIL.Image.new("RGBA", (8, 8))
    image.paste((255, 0, 0, 255), (left, top, right, bottom))
    return image


def test_all_layers_make_one_mask() -> None:
    layers = [layer(0, 0, 2, 2), layer(6, 6, 8, 8)]
    picture, mask = read_painting({"background": PICTURE, "layers": layers, "composite": None})
    assert (picture.mode, picture.getpixel((0, 0))) == ("RGB", (0, 0, 255))
    assert mask.mode == "L"
    white = {(x, y) for x in range(8) for y in range(8) if mask.getpixel((x, y)) == 255}
    assert white == {(x, y) for lo in (0, 6) for x in (lo, lo + 1) for y in (lo, lo + 1)}
    assert mask.getextrema() == (0, 255)


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (None, "There is no picture"),
        ({"background": None, "layers": []}, "There is no picture"),
        ({"background": PIL.Image.new("RGBA", (8, 8)), "layers": []}, "There is no picture"),
        ({"background": PICTURE, "layers": [PIL.Image.new("RGBA", (8, 8))]}, "Nothing is painted"),
        ({"background": PICTURE, "layers": None}, "Nothing is painted"),
    ],
)
def test_missing_picture_or_paint_is_told(value: object, told: str) -> None:
    with pytest.raises(InputError, match=told):
        read_painting(value)


def test_what_is_transparent_lies_on_white(tmp_path: Path) -> None:
    clear = PIL.Image.new("RGBA", (8, 8))
    clear.paste((255, 0, 0, 255), (0, 0, 2, 2))
    clear.save(tmp_path / "sent.png")
    painted, _ = read_painting({"background": clear, "layers": [layer(0, 0, 2, 2)]})
    for picture in (painted, read_picture(str(tmp_path / "sent.png"))):
        assert picture.getpixel((0, 0)) == (255, 0, 0)
        assert picture.getpixel((7, 7)) == (255, 255, 255)


def test_a_file_that_is_no_picture_is_told_without_its_place(tmp_path: Path) -> None:
    (tmp_path / "sent.png").write_text("a text")
    with pytest.raises(InputError) as caught:
        read_picture(str(tmp_path / "sent.png"))
    assert str(tmp_path) not in str(caught.value)
    with pytest.raises(InputError, match="There is no picture; choose one of yours"):
        read_picture(None)
    PIL.Image.new("1", (5000, 4000)).save(tmp_path / "large.png")
    with pytest.raises(InputError, match="5000x4000"):
        read_picture(str(tmp_path / "large.png"))
