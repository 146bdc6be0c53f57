"""CLIPTokenizer: ids, training, every kind of folder, and what it refuses."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
import tokenizers
import torch

from dallemini.errors import (
    CheckpointError,
    ConfigError,
    DalleMiniWarning,
    InputError,
    InputTypeError,
    MissingFileError,
)
from dallemini.scorer import CLIPTokenizer, CLIPTokenizerConfig
from dallemini.text import clip_tokenizer

TEXTS = ["a red apple on a white ground", "a blue rocket", "the face of a cat"] * 4


@pytest.fixture
def tokenizer() -> CLIPTokenizer:
    return CLIPTokenizer.train(TEXTS, vocab_size=560, context_length=12)


def test_prompts_become_start_ids_end_and_padding(tokenizer: CLIPTokenizer) -> None:
    start, end = tokenizer.start_token_id, tokenizer.end_token_id
    row = tokenizer("a cat").tolist()[0]
    assert row[0] == start
    assert row[row.index(end) :] == [end] * (12 - row.index(end))
    assert tokenizer(["a cat", "a blue rocket"]).dtype == torch.int64


def test_case_and_spaces_do_not_matter(tokenizer: CLIPTokenizer) -> None:
    assert torch.equal(tokenizer("a red apple"), tokenizer("  A Red \n\tAPPLE "))


def test_training_learns_words_and_puts_the_end_token_last(tokenizer: CLIPTokenizer) -> None:
    assert tokenizer.vocab_size <= 560
    assert tokenizer.end_token_id == tokenizer.vocab_size - 1
    assert tokenizer.start_token_id == tokenizer.vocab_size - 2
    assert (tokenizer("a red apple")[0] == tokenizer.end_token_id).nonzero()[0] == 4


def test_training_is_reproducible(tokenizer: CLIPTokenizer) -> None:
    again = CLIPTokenizer.train(TEXTS, vocab_size=560, context_length=12)
    assert again.backend.to_str() == tokenizer.backend.to_str()


def test_any_text_has_ids_although_it_was_never_seen(tokenizer: CLIPTokenizer) -> None:
    vocabulary = {index: piece for piece, index in tokenizer.backend.get_vocab().items()}
    ids = [index for index in tokenizer("北ß")[0].tolist() if index < tokenizer.start_token_id]
    assert len(ids) == len("北ß".encode())
    assert all(len(vocabulary[index].removesuffix("</w>")) == 1 for index in ids)


def test_long_prompts_are_cut_with_a_warning_and_keep_the_end(tokenizer: CLIPTokenizer) -> None:
    with pytest.warns(DalleMiniWarning, match="reads only 10 tokens.*prompt 1 has 30"):
        input_ids = tokenizer(["a cat", "a " * 30])
    assert input_ids.shape == (2, 12)
    assert int(input_ids[1, -1]) == tokenizer.end_token_id


def test_special_tokens_in_a_prompt_are_plain_text_where_asked(tokenizer: CLIPTokenizer) -> None:
    special = CLIPTokenizer(tokenizer.backend, CLIPTokenizerConfig(context_length=30))
    plain = CLIPTokenizer(
        tokenizer.backend, CLIPTokenizerConfig(context_length=30, split_special_tokens=True)
    )
    assert int((special("a <|startoftext|>") == tokenizer.start_token_id).sum()) == 2
    assert int((plain("a <|startoftext|>") == tokenizer.start_token_id).sum()) == 1


def test_save_and_load_is_identity(tokenizer: CLIPTokenizer, tmp_path: Path) -> None:
    config = CLIPTokenizerConfig(context_length=9, pad_token_id=0, clean_text=True)
    saved = CLIPTokenizer(tokenizer.backend, config)
    saved.save_pretrained(tmp_path)
    loaded = CLIPTokenizer.from_pretrained(tmp_path)
    assert loaded.config == config
    assert torch.equal(loaded(["a red cat", "Caf\u00e9"]), saved(["a red cat", "Caf\u00e9"]))


def test_reads_openai_merges(tokenizer: CLIPTokenizer, tmp_path: Path) -> None:
    merges = json.loads(tokenizer.backend.to_str())["model"]["merges"]
    lines = ['"bpe_simple_vocab#version: 0.2', *(" ".join(merge) for merge in merges), ""]
    path = tmp_path / "bpe_simple_vocab_16e6.txt.gz"
    path.write_bytes(gzip.compress("\n".join(lines).encode()))
    loaded = CLIPTokenizer.from_pretrained(tmp_path)
    assert loaded.backend.get_vocab() == tokenizer.backend.get_vocab()
    assert loaded.config == CLIPTokenizerConfig(clean_text=True, pad_token_id=0)


def test_only_the_merges_of_openai_are_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clip_tokenizer, "_NUM_OPENAI_MERGES", 2)
    path = tmp_path / "bpe_simple_vocab_16e6.txt.gz"
    path.write_bytes(gzip.compress(b"#version: 0.2\nr e\nre d\n" + b"not a pair\n" * 700_000))
    loaded = CLIPTokenizer.from_pretrained(tmp_path)
    assert loaded.vocab_size == 516
    assert loaded.backend.token_to_id("red") == 513


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (gzip.compress(b"a b\n" * 3_000_000), "holds more than 8388608 bytes of merges"),
        (b"version https://git-lfs.github.com/spec/v1\n", "is a Git LFS pointer: run git lfs"),
        (b"<!DOCTYPE html>", "is a web page"),
        (b"", "is empty"),
    ],
)
def test_what_stands_in_for_the_merges_of_openai_is_named(
    tmp_path: Path, content: bytes, message: str
) -> None:
    (tmp_path / "bpe_simple_vocab_16e6.txt.gz").write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        CLIPTokenizer.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (["config.json", "old.pt"], CLIPTokenizerConfig(context_length=20)),
        ([], CLIPTokenizerConfig(context_length=20)),
        (
            ["open_clip_config.json", "config.json"],
            CLIPTokenizerConfig(
                context_length=20, pad_token_id=0, clean_text=True, split_special_tokens=True
            ),
        ),
        (["ViT.pt"], CLIPTokenizerConfig(context_length=20, pad_token_id=0, clean_text=True)),
    ],
)
def test_foreign_folders_are_read_as_their_own_code_does(
    tokenizer: CLIPTokenizer,
    tmp_path: Path,
    files: list[str],
    expected: CLIPTokenizerConfig,
) -> None:
    tokenizer.backend.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text('{"model_max_length": 20}')
    for name in files:
        (tmp_path / name).write_text("{}")
    assert CLIPTokenizer.from_pretrained(tmp_path).config == expected


def test_broken_text_is_repaired_where_asked(tokenizer: CLIPTokenizer) -> None:
    repairing = CLIPTokenizer(
        tokenizer.backend, CLIPTokenizerConfig(context_length=20, clean_text=True)
    )
    assert torch.equal(repairing("a &amp;lt; cat\u2019s"), repairing("a < cat's"))


def test_rejects_no_prompt(tokenizer: CLIPTokenizer) -> None:
    with pytest.raises(InputError, match="no prompt; pass at least one"):
        tokenizer([])


def test_rejects_prompts_that_are_no_strings(tokenizer: CLIPTokenizer) -> None:
    with pytest.raises(InputTypeError, match="must be a str, not int"):
        tokenizer(["a cat", 3])  # type: ignore[list-item]
    with pytest.raises(InputTypeError, match="sequence of str, not NoneType"):
        tokenizer(None)  # type: ignore[arg-type]


def test_training_rejects_a_vocabulary_without_room_for_the_bytes() -> None:
    with pytest.raises(InputError, match="at least 514"):
        CLIPTokenizer.train(TEXTS, vocab_size=513)


def test_config_rejects_a_context_without_room() -> None:
    for length in (2, 10**400):
        with pytest.raises(ConfigError, match=r"from 3 to 65,536, not (2|a number of about 401)"):
            CLIPTokenizerConfig(context_length=length)


@pytest.mark.parametrize("pad", [-1, 10**30])
def test_config_rejects_padding_that_no_vocabulary_has(pad: int) -> None:
    with pytest.raises(ConfigError, match="pad_token_id must be from 0 to 16,777,215, not"):
        CLIPTokenizerConfig(pad_token_id=pad)


def test_rejects_the_vocabulary_of_another_model(tmp_path: Path) -> None:
    tokenizers.Tokenizer(tokenizers.models.BPE()).save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(CheckpointError, match=r"needs the tokens <\|startoftext\|>"):
        CLIPTokenizer.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("name", "content"),
    [("tokenizer.json", b'{"model": '), ("bpe_simple_vocab_16e6.txt.gz", b"\x1f\x8b broken")],
)
def test_rejects_a_broken_vocabulary(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(
        CheckpointError,
        match=r"(cannot be read|readable vocabulary); download",
    ):
        CLIPTokenizer.from_pretrained(tmp_path)


def test_a_folder_without_vocabulary_says_where_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match=r"tokenizer\.json of openai/clip-vit-base-patch32"):
        CLIPTokenizer.from_pretrained(tmp_path)
