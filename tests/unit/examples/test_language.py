"""The student starts as the teacher, and learns from everyday captions what names had meant."""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[3] / "examples" / "emoji"))

from captions import Speaker
from dallemini import Pipeline, Tokenizer
from dataset import SIZE, Emojis, caption
from train_language import Lesson, Record, answers, ask, decoder_layers, named, student_of, teach
from train_transformer import Reader, vocabulary_texts

NAMES = {"1f355": "pizza", "1f436": "dog face", "1f680": "rocket", "1f431": "cat face"}


@pytest.fixture(scope="module")
def teacher() -> Pipeline:
    return Pipeline.from_pretrained().to(dtype=torch.float32)


@pytest.fixture(scope="module")
def emojis(tmp_path_factory: pytest.TempPathFactory) -> Emojis:
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
    return Emojis(folder, split="train")


@pytest.fixture(scope="module")
def tokenizer(emojis: Emojis) -> Tokenizer:
    texts = vocabulary_texts(emojis, Speaker(emojis.rows))
    return Tokenizer.train(texts, vocab_size=800, max_length=32, normalize_text=True)


def test_a_student_with_the_old_vocabulary_answers_as_its_teacher(teacher: Pipeline) -> None:
    student = student_of(teacher, teacher.tokenizer)
    tokens = teacher.tokenizer(["pizza", "dog face, noto emoji"]).trim()
    queries = torch.randn(2, 6, 3, 256, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        pairs = zip(
            answers(student, tokens, queries),
            answers(teacher.transformer, tokens, queries),
            strict=True,
        )
        for found, wanted in pairs:
            error = (found - wanted).square().mean() / wanted.square().mean()
            assert error < 0.1  # the layers that are new start as almost nothing
    assert student.config.encoder_layers == 4
    assert teacher.transformer.config.encoder_layers in (3, 4)


def test_recorded_queries_are_kept_and_named_as_the_teacher_was_trained(
    teacher: Pipeline, emojis: Emojis, tmp_path: Path
) -> None:
    record = Record.made(tmp_path, teacher, emojis, count=6)
    assert record.take([0, 5]).shape == (2, 6, 8, 256)
    again = Record.made(tmp_path, teacher, emojis, count=6)
    assert torch.equal(record.take([3]), again.take([3]))
    assert named(emojis, (2, -1, 1, 0)) == caption("rocket", "noto emoji", "white")
    assert named(emojis, (2, 0, 0, 0)) == "a rocket and a pizza"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*tokens, but the model reads")  # of so small a vocabulary
def test_lessons_lower_the_error_and_go_on_where_they_stopped(
    teacher: Pipeline, emojis: Emojis, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    record = Record.made(tmp_path, teacher, emojis, count=6)
    speaker = Speaker(emojis.rows)

    def lesson() -> Lesson:
        return Lesson(teacher, tokenizer, record, emojis)

    first = lesson()
    texts, chosen = ask(record, emojis, speaker, random.Random(0), 16)
    with torch.no_grad():
        before = float(first(texts, chosen))
    decoder = decoder_layers(first.student)[0].cross_attn.kv_proj.weight.clone()
    teach(first, speaker, folder=tmp_path, steps=8)
    with torch.no_grad():
        after = float(first(texts, chosen))
    assert after < 0.9 * before
    assert torch.equal(decoder, decoder_layers(first.student)[0].cross_attn.kv_proj.weight)
    second = lesson()
    teach(second, speaker, folder=tmp_path, steps=8)  # done before: nothing is left to do
    with torch.no_grad():
        assert float(second(texts, chosen)) == pytest.approx(after, rel=1e-4)


def test_reader_reads_none_as_the_blank_caption(tokenizer: Tokenizer) -> None:
    rows = Reader(tokenizer)(["a pizza", None])
    blank = tokenizer.unconditional()
    assert torch.equal(
        rows.input_ids[1][rows.attention_mask[1]], blank.input_ids[0][blank.attention_mask[0]]
    )
