"""The bundled model's whole training runs from pictures to figures, at small size."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

sys.path.insert(0, str(Path(__file__).parents[2] / "examples" / "emoji"))

import train_all
from captions import PHRASES
from dallemini import Pipeline


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Hand-drawn discs named as emoji that have phrases, in three styles, some held out."""
    rows = [json.loads(line) for line in PHRASES.read_text(encoding="utf-8").splitlines()]
    folder, lines = tmp_path / "pictures", []
    styles = {"noto": "noto emoji", "fluent-emoji-flat": "flat emoji", "noto-v1": "blob emoji"}
    for number, row in enumerate(rows[:104]):
        for name, style in styles.items():
            (folder / "images" / name).mkdir(parents=True, exist_ok=True)
            file = f"images/{name}/{row['hex']}.png"
            picture = Image.new("RGBA", (160, 160), (0, 0, 0, 0))
            paint = (number * 37 % 256, number * 91 % 256, number * 13 % 256, 255)
            ImageDraw.Draw(picture).ellipse((20, 20 + number % 40, 140, 140), fill=paint)
            picture.save(folder / file)
            split = "test_style" if number % 20 == 3 and name == "noto" else "train"
            line = {"file": file, "set": name, "style": style, "hex": row["hex"], "split": split}
            line |= {"label": row["label"], "caption": row["label"], "keywords": [], "group": "x"}
            lines.append(json.dumps(line | {"license": "MIT"}) + "\n")
    (folder / "metadata.jsonl").write_text("".join(lines))
    (folder / "NOTICE").write_text("Drawn by a test.\n")
    return folder


@pytest.mark.slow
def test_training_from_one_packed_file_leaves_a_pipeline_and_figures(
    data: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    packed, work = tmp_path / "data.tar", tmp_path / "work"
    train_all.main(["--pack", str(data), str(packed)])
    command = [str(work), "--settings", "small", "--data", str(packed)]
    train_all.main(command)
    report = json.loads((work / "evaluation.json").read_text())
    assert {"everyday_sentences", "bare_names", "control"} <= report.keys()
    pipe = Pipeline.from_pretrained(work / "bundle")
    assert pipe("a pizza", seed=0, progress=False).images[0].size == (320, 320)
    capfd.readouterr()
    train_all.main(command)
    assert capfd.readouterr().out.count("done before") == 7


@pytest.mark.thorough
def test_packing_keeps_the_pictures(data: Path, tmp_path: Path) -> None:
    train_all.pack(data, tmp_path / "data.tar")
    folder = train_all.opened(tmp_path / "data.tar", tmp_path)
    for path in sorted(data.rglob("*.png"))[:5]:
        with Image.open(path) as one, Image.open(folder / path.relative_to(data)) as other:
            first, second = (np.asarray(i.convert("RGBA"), dtype=float) for i in (one, other))
            assert np.array_equal(first[..., 3], second[..., 3])
            seen = first[..., 3] > 0
            assert np.abs(first[seen] - second[seen]).mean() < 4


def test_a_step_that_fails_is_named(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="The step 'evaluate' failed"):
        train_all.do("evaluate", ["no such script.py"], work=tmp_path)
    assert not (tmp_path / "done").exists()
