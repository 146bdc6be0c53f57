"""Whole folders with a mutated configuration; see tests/fuzzing.py for the rule."""

from __future__ import annotations

import copy
import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from dallemini import CLIP, VQGAN, Transformer
from dallemini.testing import TINY_VQGAN, tiny_clip_scorer, tiny_transformer, tiny_vqgan
from fuzzing import edit_tree, search, tree_edits
from random_checkpoints import config, write_transformer

PLAIN_VQGAN = dataclasses.replace(TINY_VQGAN, pixel_shuffle=1, ch_mult=(1, 1), num_res_blocks=1)
Make = Callable[[Path, Path], object]


def native(part: Any) -> Make:
    return lambda folder, _: part().save_pretrained(folder)


def taming(folder: Path, _: Path) -> None:
    fields = PLAIN_VQGAN.to_dict()
    names = ("ch", "ch_mult", "num_res_blocks", "attn_resolutions", "resolution", "in_channels")
    ddconfig = {name: fields[name] for name in (*names, "out_ch", "z_channels")}
    params = {"embed_dim": fields["embed_dim"], "n_embed": fields["n_embed"], "ddconfig": ddconfig}
    model = {"target": "taming.models.vqgan.VQModel", "params": params}
    (folder / "model.yaml").write_text(yaml.safe_dump({"model": model}))
    torch.save({"state_dict": tiny_vqgan(PLAIN_VQGAN).state_dict()}, folder / "last.ckpt")


def copied(name: str) -> Make:
    return lambda folder, fixtures: shutil.copytree(
        fixtures / name / "model", folder, dirs_exist_ok=True
    )


FOLDERS: dict[str, tuple[Make, str, Any]] = {
    "native transformer": (native(tiny_transformer), "config.json", Transformer),
    "native vqgan": (native(tiny_vqgan), "config.json", VQGAN),
    "native clip": (native(lambda: tiny_clip_scorer().clip), "config.json", CLIP),
    "dallebart": (
        lambda folder, _: write_transformer(folder, config("tiny")),
        "config.json",
        Transformer,
    ),
    "taming": (taming, "model.yaml", VQGAN),
    "transformers": (copied("clip-hf-tiny"), "config.json", CLIP),
    "preprocessor": (copied("clip-hf-tiny"), "preprocessor_config.json", CLIP),
    "open_clip": (copied("clip-open_clip-tiny-quickgelu"), "open_clip_config.json", CLIP),
}


@pytest.mark.parametrize("kind", FOLDERS)
def test_mutated_configuration_is_read_or_refused(
    tmp_path: Path, fixtures: Path, kind: str, seconds: float
) -> None:
    make, name, part = FOLDERS[kind]
    folder, cache = tmp_path / "model", tmp_path / "cache"
    folder.mkdir()
    make(folder, fixtures)
    is_yaml = name.endswith(".yaml")
    text = (folder / name).read_text()
    original = yaml.safe_load(text) if is_yaml else json.loads(text)
    part.from_pretrained(folder, cache_dir=cache)  # the folder itself is good

    def check(edits: Any) -> None:
        changed = edit_tree(copy.deepcopy(original), edits)
        written = yaml.safe_dump(changed) if is_yaml else json.dumps(changed)
        (folder / name).write_text(written)
        shutil.rmtree(cache, ignore_errors=True)
        part.from_pretrained(folder, cache_dir=cache)

    search(check, tree_edits, seconds)
