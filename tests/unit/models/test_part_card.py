"""Cards of parts that are saved alone, and where there are none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dallemini.hub.card import split_card
from dallemini.testing import (
    tiny_clip_scorer,
    tiny_pipeline,
    tiny_tokenizer,
    tiny_transformer,
    tiny_vqgan,
)
from hub_server import TOKEN, HubServer

SECTIONS = ("Training data", "Measured", "Bias", "Limits", "Provenance")


def made() -> dict[str, tuple[Any, str | None]]:
    return {
        "Transformer": (tiny_transformer(), "text-to-image"),
        "VQGAN": (tiny_vqgan(), None),
        "CLIPScorer": (tiny_clip_scorer(), "zero-shot-image-classification"),
        "Tokenizer": (tiny_tokenizer(), None),
    }


def test_a_part_that_is_saved_alone_has_a_card_with_the_usual_sections(tmp_path: Path) -> None:
    for kind, (part, task) in made().items():
        part.save_pretrained(tmp_path / kind)
        header, body = split_card((tmp_path / kind / "README.md").read_text(encoding="utf-8"))
        assert header["library_name"] == "dallemini"
        assert header.get("pipeline_tag") == task
        assert "" not in header["tags"]
        assert body.startswith(f"# {kind}\n")
        assert [line[3:] for line in body.splitlines() if line.startswith("## ")] == [*SECTIONS]
        type(part).from_pretrained(tmp_path / kind)
    count = sum(parameter.numel() for parameter in tiny_vqgan().parameters())
    assert f"| VQGAN | {count:,} | float32 |" in (tmp_path / "VQGAN" / "README.md").read_text()


def test_a_card_of_your_own_stays_and_one_of_other_weights_does_not(tmp_path: Path) -> None:
    card = tmp_path / "README.md"
    tiny_vqgan().save_pretrained(tmp_path)
    tiny_transformer().save_pretrained(tmp_path)
    assert "| Transformer |" in card.read_text()
    assert "| VQGAN |" not in card.read_text()
    card.write_text("mine")
    tiny_vqgan().save_pretrained(tmp_path)
    assert card.read_text() == "mine"


def test_folders_of_a_pipeline_have_the_card_of_the_pipeline_alone(tmp_path: Path) -> None:
    tiny_pipeline().save_pretrained(tmp_path)
    tiny_vqgan().save_pretrained(tmp_path / "vqgan")
    assert [path.relative_to(tmp_path) for path in tmp_path.rglob("README.md")] == [
        Path("README.md")
    ]


@pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # of the Hub's client
def test_a_published_part_has_a_card_and_the_card_of_the_hub_stays(hub: HubServer) -> None:
    tiny_vqgan().push_to_hub("someone/vqgan", token=TOKEN)
    card = hub.files("someone/vqgan")["README.md"].decode()
    assert "\n# vqgan\n" in card
    tiny_transformer().push_to_hub("someone/vqgan", token=TOKEN)
    assert hub.files("someone/vqgan")["README.md"].decode() == card
    assert "model.safetensors" in hub.files("someone/vqgan")
