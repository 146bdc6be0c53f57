"""A run on the Hub: what is there after each checkpoint, and what happens where it cannot be."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
import torch

from dallemini.errors import HubError
from dallemini.training import Sheet
from dallemini.training.log import LOG_NAME
from dallemini.training.uploads import PushToHub
from hub_server import TOKEN, HubServer

REPO = "me/mine"


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    folder = tmp_path / "mine-run"
    for number in (2, 4):
        path = folder / f"checkpoint-{number:08}"
        path.mkdir(parents=True)
        (path / ".metadata").write_text(f"of step {number}")
    (folder / LOG_NAME).write_text(json.dumps({"step": 2, "loss": 1.5}) + "\n")
    return folder


def test_checkpoint_log_samples_and_card_are_uploaded(hub: HubServer, run: Path) -> None:
    push = PushToHub(REPO, run)
    assert hub.models[REPO].private
    assert "has not written a checkpoint yet" in hub.files(REPO)["README.md"].decode()
    push.on_evaluation(2, {}, {"samples": Sheet(images=torch.zeros(1, 3, 4, 4))})
    for number in (2, 4):
        push.on_checkpoint(number, run / f"checkpoint-{number:08}")
    there = hub.files(REPO)
    assert there["checkpoint/.metadata"] == b"of step 4"
    assert json.loads(there[LOG_NAME]) == {"step": 2, "loss": 1.5}
    assert there["samples/samples.png"].startswith(b"\x89PNG")
    card = there["README.md"].decode()
    assert "It has done 4 steps" in card
    assert "| loss | 1.5 |" in card
    names = ["checkpoint-00000002", "checkpoint-00000004", LOG_NAME]
    assert sorted(path.name for path in run.iterdir()) == names, "nothing is left behind"


def test_a_hub_that_fails_on_the_way_is_a_warning(
    hub: HubServer, run: Path, caplog: pytest.LogCaptureFixture
) -> None:
    push = PushToHub(REPO, run)
    hub.fail("POST", status=500)
    with caplog.at_level(logging.WARNING, logger="dallemini.training"):
        push.on_checkpoint(4, run / "checkpoint-00000004")
    assert "Step 4 did not reach me/mine: " in caplog.text


def test_a_hub_that_refuses_at_the_start_is_told(
    hub: HubServer, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(HubError):
        PushToHub(REPO, run)
