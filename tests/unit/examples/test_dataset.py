"""The emoji in memory: what is drawn, what is said about it, and what is never shown together."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[3] / "examples" / "emoji"))

from dataset import (
    COLORS,
    SIZE,
    Captioner,
    Emojis,
    caption,
    caption_texts,
    color_table,
    is_held_out,
    pair_label,
)

NAMES = ("red apple", "cat", "rocket", "owl", "ice cream", "tree")


@pytest.fixture
def emojis(tmp_path: Path) -> Emojis:
    """Six concepts in two styles: a square of one colour in the middle of nothing."""
    lines = []
    for style in ("noto", "flat"):
        for number, name in enumerate(NAMES):
            file = f"{style}-{number}.png"
            picture = Image.new("RGBA", (SIZE, SIZE), (0, 0, 0, 0))
            picture.paste((40 * number, 10, 200, 255), (40, 40, 120, 120))
            picture.save(tmp_path / file)
            line = {"file": file, "set": style, "style": f"{style} emoji", "hex": f"1f{number}"}
            keywords = [f"{name} thing", "everywhere", f"word{number}"]
            words = {"label": name, "caption": name, "keywords": keywords, "group": "x"}
            lines.append({**line, **words, "split": "train", "license": "MIT"})
    (tmp_path / "metadata.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return Emojis(tmp_path, split="train")


def test_the_ground_shows_where_the_picture_is_transparent(emojis: Emojis) -> None:
    drawn = emojis.draw(torch.tensor([2]), torch.tensor([[0, 255, 0]], dtype=torch.uint8))
    assert drawn.shape == (1, 3, SIZE, SIZE)
    torch.testing.assert_close(drawn[0, :, 0, 0], torch.tensor([0.0, 1.0, 0.0]))
    middle = torch.tensor([80 / 255, 10 / 255, 200 / 255])
    torch.testing.assert_close(drawn[0, :, 80, 80], middle, atol=1 / 255, rtol=0)


def test_a_pair_shows_the_first_on_the_left_at_half_its_size(emojis: Emojis) -> None:
    white = torch.full((1, 3), 255, dtype=torch.uint8)
    pair = emojis.draw_pairs(torch.tensor([0]), torch.tensor([5]), white)[0]
    left, right = pair[0, 80, 40], pair[0, 80, 120]
    assert (float(left), float(right)) == pytest.approx((0.0, 200 / 255), abs=1 / 255)
    assert float(pair[:, :40].min()) == 1.0
    assert float(pair[:, 120:].min()) == 1.0


def test_one_or_two_are_shown_as_asked(emojis: Emojis) -> None:
    indices, white = torch.tensor([0, 0]), torch.full((2, 3), 255, dtype=torch.uint8)
    shown = emojis.show(indices, torch.tensor([-1, 3]), white)
    assert torch.equal(shown[0], emojis.draw(indices[:1], white[:1])[0])
    assert torch.equal(shown[1], emojis.draw_pairs(indices[:1], torch.tensor([3]), white[:1])[0])


def test_held_out_pairs_of_concept_and_color_are_never_drawn(emojis: Emojis) -> None:
    names, drawing = list(COLORS), Captioner(emojis, white=0.0, pairs=0.3)(2000, seed=0)
    held_out = {(row.hex, color) for row in emojis.rows for color in names}
    held_out = {(h, c) for h, c in held_out if is_held_out(emojis.rows[int(h[2:])], c)}
    assert held_out, "none of 60 pairs is held out"
    for first, second, color in zip(
        drawing.indices.tolist(), drawing.seconds.tolist(), drawing.colors.tolist(), strict=True
    ):
        for index in (first, second) if second >= 0 else (first,):
            assert (emojis.rows[index].hex, names[color]) not in held_out


def test_white_is_never_held_out(emojis: Emojis) -> None:
    assert not any(is_held_out(row, "white") for row in emojis.rows)


def test_captions_say_what_is_shown(emojis: Emojis) -> None:
    names, drawing = list(COLORS), Captioner(emojis, keywords=0.0)(500, seed=1)
    for number, text in enumerate(drawing.captions):
        row = emojis.rows[int(drawing.indices[number])]
        color = names[int(drawing.colors[number])]
        assert row.label in text
        assert (row.style in text) == bool(drawing.named_style[number])
        assert (f"{color} background" in text) == (color != "white")
        if int(drawing.seconds[number]) >= 0:
            second = emojis.rows[int(drawing.seconds[number])]
            assert second.style == row.style
            assert second.label in text.partition(" and ")[2]


def test_shares_are_kept(emojis: Emojis) -> None:
    drawing = Captioner(emojis, white=0.7, pairs=0.25)(4000, seed=2)
    assert float((drawing.seconds >= 0).float().mean()) == pytest.approx(0.25, abs=0.03)
    assert float((drawing.colors == 0).float().mean()) == pytest.approx(0.73, abs=0.05)
    assert float(drawing.named_style.float().mean()) == pytest.approx(0.6, abs=0.03)


def test_keywords_that_many_concepts_share_are_not_used(emojis: Emojis) -> None:
    drawing = Captioner(emojis, keywords=1.0, pairs=0.0)(300, seed=3)
    assert not any("everywhere" in text for text in drawing.captions)
    assert any("word1" in text for text in drawing.captions)


def test_the_same_seed_draws_the_same(emojis: Emojis) -> None:
    first, second = (Captioner(emojis)(50, seed=4) for _ in range(2))
    assert first.captions == second.captions
    assert torch.equal(first.indices, second.indices)


def test_captions_read_well() -> None:
    assert caption("cat", None, "white") == "cat"
    assert caption("cat", "noto emoji", "orange") == "cat, noto emoji, on an orange background"
    assert pair_label("owl", "red apple") == "an owl and a red apple"


def test_vocabularies_see_every_word(emojis: Emojis) -> None:
    text = " ".join(caption_texts(emojis))
    assert all(word in text for word in (*NAMES, "everywhere", "word5", "noto emoji", "blue"))
    assert color_table().shape == (len(COLORS), 3)
