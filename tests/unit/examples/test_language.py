"""The student starts as the teacher, and learns from everyday captions what names had meant."""

from __future__ import annotations

import copy
import json
import random
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[3] / "examples" / "emoji"))

from captions import PHRASES, Speaker, key_of, read_phrases, split_of_phrase
from control import Scene
from dallemini import Pipeline
from dataset import SIZE, Emojis
from train_language import Album, Lesson, Record, decoder_layers, teach
from train_transformer import Reader

NAMES = {"1f355": "pizza", "1f436": "dog face", "1f680": "rocket", "1f431": "cat face"}


@pytest.fixture(scope="module")
def teacher() -> Pipeline:
    return Pipeline.from_pretrained().to(dtype=torch.float32)


@pytest.fixture(scope="module")
def album(tmp_path_factory: pytest.TempPathFactory, teacher: Pipeline) -> Album:
    folder, lines = tmp_path_factory.mktemp("emojis"), []
    for number, (code, name) in enumerate(NAMES.items()):
        picture = Image.new("RGBA", (SIZE, SIZE), (60 * number, 120, 200, 255))
        picture.save(folder / f"{code}.png")
        line: dict[str, object] = {
            "file": f"{code}.png",
            "set": "noto",
            "style": "noto emoji",
            "hex": code,
        }
        line |= {"label": name, "caption": name, "keywords": [], "group": "x"}
        lines.append(json.dumps(line | {"split": "train", "license": "MIT"}) + "\n")
    (folder / "metadata.jsonl").write_text("".join(lines))
    emojis = Emojis(folder, split="train")
    codes = teacher.vqgan.encode(torch.rand(5, 3, 160, 160)).short()
    composed = ([Scene(indices=(0,), count=3)], codes[4:])
    return Album(emojis, codes[:4], composed, Speaker(emojis.rows))


@pytest.fixture(scope="module")
def reader(teacher: Pipeline) -> Reader:
    return Reader(teacher.tokenizer)


def test_what_is_recorded_is_kept(
    teacher: Pipeline, album: Album, reader: Reader, tmp_path: Path
) -> None:
    items = album.choose(5, 1)
    assert items[-1] == -1
    assert set(items[:4]) == {0, 1, 2, 3}
    record = Record.made(tmp_path, teacher.transformer, reader, album, items)
    assert [part.shape for part in record.take([0, 5])] == [(2, 6, 8, 256)] * 2
    again = Record.made(tmp_path, teacher.transformer, reader, album, items)
    assert torch.equal(record.take([3])[0], again.take([3])[0])
    assert record.items == again.items


def test_the_teacher_is_told_the_name_and_of_a_scene_the_student_is_told_the_same(
    album: Album,
) -> None:
    told = {album.told(0, random.Random(seed)) for seed in range(60)}
    assert told == {("pizza", None), ("pizza, noto emoji", "noto emoji")}
    said, style = album.told(-1, random.Random(0))
    assert album.asked(-1, said, style, random.Random(1)) == said
    assert len({album.asked(0, "pizza", None, random.Random(n)) for n in range(60)}) > 20


def test_phrases_added_later_are_never_wordings_of_dev_or_test() -> None:
    rows = [json.loads(line) for line in PHRASES.read_text(encoding="utf-8").splitlines()]
    later = sum(len(row["more"]) for row in rows)
    first = [text for row in rows for text in row["phrases"]]
    kept = {key_of(text) for text in first if split_of_phrase(text) != "train"}
    train = [key_of(text) for texts in read_phrases("train").values() for text in texts]
    assert later > 12_000
    assert len(train) > 24_000
    assert not kept & set(train)


@pytest.mark.slow
def test_lessons_lower_the_error_and_go_on_where_they_stopped(
    teacher: Pipeline, album: Album, reader: Reader, tmp_path: Path
) -> None:
    record = Record.made(tmp_path, teacher.transformer, reader, album, album.choose(5, 1))

    def lesson() -> Lesson:
        return Lesson(copy.deepcopy(teacher.transformer), reader, record, album)

    first = lesson()
    names = [told for _, told, _ in record.items]
    with torch.no_grad():
        assert float(first(names, list(range(6)))) < 1e-3  # but for float16
    decoder = decoder_layers(first.student)[0].cross_attn.kv_proj.weight.clone()
    teach(first, folder=tmp_path, steps=12)
    asked, chosen = first.ask(random.Random(3), 32)
    with torch.no_grad():
        after, untaught = float(first(asked, chosen)), float(lesson()(asked, chosen))
    assert after < untaught
    assert torch.equal(decoder, decoder_layers(first.student)[0].cross_attn.kv_proj.weight)
    second = lesson()
    teach(second, folder=tmp_path, steps=12)  # done before: nothing is left to do
    with torch.no_grad():
        assert float(second(asked, chosen)) == pytest.approx(after, rel=1e-4)


def test_reader_reads_none_as_the_blank_caption(reader: Reader, teacher: Pipeline) -> None:
    rows = reader(["a pizza", None])
    blank = teacher.tokenizer.unconditional()
    assert torch.equal(
        rows.input_ids[1][rows.attention_mask[1]], blank.input_ids[0][blank.attention_mask[0]]
    )
