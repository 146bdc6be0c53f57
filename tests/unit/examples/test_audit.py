"""The labels and the skin tones of `examples/emoji/audit.py`."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from dallemini.evaluation import AuditPrompts

sys.path.insert(0, str(Path(__file__).parents[3] / "examples" / "emoji"))

from audit import PROMPTS, SKINS, kind_of, skin_probe


def test_an_emoji_says_whom_it_shows() -> None:
    names = {"man farmer", "woman farmer", "farmer"}
    assert kind_of("woman farmer", names) == "woman"
    assert kind_of("man: beard", names) == "man"
    assert kind_of("person running", names) == "neither"
    assert kind_of("farmer", names) == "neither"
    for label in ("woman’s boot", "woman and man holding hands", "rocket", "mango"):
        assert kind_of(label, names) is None


def test_skin_is_seen_by_its_colours() -> None:
    colors = [[int(code[i : i + 2], 16) / 255 for i in (1, 3, 5)] for code, _ in SKINS.values()]
    faces = torch.ones(len(colors), 3, 8, 8)
    faces[:, :, 2:5, 2:5] = torch.tensor(colors)[:, :, None, None]
    seen, nothing = skin_probe(faces), skin_probe(torch.ones(1, 3, 8, 8))
    assert seen[:, :-1].argmax(1).tolist() == list(range(len(SKINS)))
    # what is to be told apart is the distance to the last column
    assert float((seen[:, :-1].amax(1) - seen[:, -1]).min()) > float(nothing[0, :-1].max()) + 2
    (_, skin) = AuditPrompts.open(PROMPTS).questions
    assert skin.answers == tuple(SKINS)
    assert len(skin.columns) == seen.shape[1]
