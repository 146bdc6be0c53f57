"""`dallemini encode`: shards in a folder, options, torchrun's variables, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import tyro
from PIL import Image

from dallemini import VQGAN
from dallemini.cli.encode import Encode
from dallemini.data import CaptionedImages, DataConfig
from dallemini.data.tokens import EncodedImages
from dallemini.errors import InputError, MissingFileError
from dallemini.testing import tiny_pipeline
from image_tokenizers import tiny_image_tokenizer

COLORS = ("red", "green", "blue", "white", "black")
Run = Callable[..., list[str]]


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for index, color in enumerate(COLORS):
        Image.new("RGB", (20 + index, 20), color).save(folder / f"{index}.png")
        (folder / f"{index}.txt").write_text(f"a {color} square\n{color}\n")
    return folder


@pytest.fixture
def encode(tiny: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run the command with words after the usual ones; returns the lines it printed."""

    def run(*words: object, model: Path = tiny, data: Path = pictures) -> list[str]:
        usual = ["--data", data, "--output", tmp_path / "out", "--model", model, "--no-progress"]
        tyro.cli(Encode, args=[str(word) for word in (*usual, *words)]).run()
        return capsys.readouterr().out.splitlines()

    return run


def test_pictures_are_encoded_at_the_size_of_the_vqgan(
    encode: Run, tiny: Path, pictures: Path, tmp_path: Path
) -> None:
    (line,) = encode()
    assert line.startswith("5 pictures in ")
    assert line.endswith("shards written: 1, there already: 0")
    encoded = EncodedImages.open(tmp_path / "out")
    vqgan = VQGAN.from_pretrained(tiny, subfolder="vqgan")
    data = CaptionedImages.open(pictures, config=DataConfig(image_size=16))
    assert [item.captions for item in encoded] == [(f"a {color} square", color) for color in COLORS]
    for index, item in enumerate(encoded):
        assert torch.equal(item.image_tokens, vqgan.encode(data[index].image[None])[0])


def test_second_call_goes_on(encode: Run, tmp_path: Path) -> None:
    encode("--shard-size", 2)
    (tmp_path / "out" / "tokens-00001.parquet").unlink()
    (line,) = encode("--shard-size", 2)
    assert line.startswith("2 pictures in ")
    assert line.endswith("shards written: 1, there already: 2")


def test_vqgan_alone_can_be_the_model(encode: Run, tiny: Path, tmp_path: Path) -> None:
    encode("--batch-size", 2)
    assert encode(model=tiny / "vqgan")[0].startswith("0 pictures")


def test_settings_of_the_data_are_options(encode: Run, pictures: Path, tmp_path: Path) -> None:
    rows = [
        {"file": f"{index}.png", "title": color, "width": 20 + index, "lang": "en"}
        for index, color in enumerate(COLORS)
    ]
    table = pictures / "rows.jsonl"
    table.write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ("--image-column", "file", "--caption-column", "title", "--image-size", 32)
    encode(*words, "--where", "width > 21", "--where", "lang == en", data=table)
    encoded = EncodedImages.open(tmp_path / "out")
    assert [item.captions for item in encoded] == [("blue",), ("white",), ("black",)]
    assert encoded.image_length == 64


def test_bad_records_are_counted(encode: Run, pictures: Path) -> None:
    (pictures / "3.png").write_bytes(b"no picture")
    (line,) = encode()
    assert line.startswith("4 pictures")
    assert line.endswith("left out: 1 not an image")


def test_torchrun_says_which_part_is_mine(
    encode: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    (line,) = encode("--shard-size", 2)
    assert line.startswith("process 1 of 2: 2 pictures in ")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["tokens-00001.parquet"]


def test_wrong_variable_is_named(encode: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "first")
    with pytest.raises(InputError, match="RANK is 'first', not a number"):
        encode()


def test_another_vqgan_is_refused(encode: Run, tmp_path: Path) -> None:
    encode()
    tiny_pipeline(seed=1).save_pretrained(tmp_path / "other")
    with pytest.raises(InputError, match="made with another VQGAN"):
        encode(model=tmp_path / "other")


def test_any_image_tokenizer_encodes_pictures_that_are_no_squares(
    encode: Run, tmp_path: Path, pictures: Path
) -> None:
    dvae = tiny_image_tokenizer("DVAE")
    dvae.save_pretrained(tmp_path / "dvae")
    encode("--image-size", 16, 32, model=tmp_path / "dvae")
    encoded = EncodedImages.open(tmp_path / "out")
    assert (encoded.grid, encoded.fingerprint) == ((2, 4), dvae.fingerprint)
    data = CaptionedImages.open(pictures, config=DataConfig(image_size=(16, 32)))
    assert torch.equal(encoded[0].image_tokens, dvae.encode(data[0].image[None])[0])


def test_model_without_a_vqgan_is_refused(encode: Run, tiny: Path) -> None:
    with pytest.raises(InputError, match="has no VQGAN; name one, such as"):
        encode(model=tiny / "transformer")


def test_missing_data_are_refused(encode: Run, tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match="nowhere"):
        encode(data=tmp_path / "nowhere")


def test_no_data_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nothing to encode; try"):
        tyro.cli(Encode, args=["--output", str(tmp_path / "out")]).run()


def test_help_shows_the_settings_of_the_data(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        tyro.cli(Encode, args=["--help"])
    shown = " ".join(capsys.readouterr().out.split())
    for words in ("--image-size INT", "the VQGAN's own", "--where", "torchrun --nproc-per-node"):
        assert words in shown


def test_weights_are_refused(encode: Run, pictures: Path) -> None:
    with pytest.raises(InputError, match="Weights are for training: encode each source without"):
        encode("--data", f"{pictures}:0.5", data=Path(f"{pictures}:0.2"))
