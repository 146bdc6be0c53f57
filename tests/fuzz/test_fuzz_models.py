"""Whole folders of models, one of whose files is mutated; see tests/fuzzing.py for the rule."""

from __future__ import annotations

import dataclasses
import gzip
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import strategies as st

from conftest import FIXTURES
from dallemini import CLIP, VQGAN, ImageTokenizer, Pipeline, Tokenizer, Transformer, hub
from dallemini.models import Upscaler, UpscalerConfig
from dallemini.models.adapted import add_adapter
from dallemini.models.adapter_files import ADAPTER_FILES, read_adapter
from dallemini.scorer import CLIPTokenizer
from dallemini.testing import (
    TINY_VQGAN,
    tiny_clip_scorer,
    tiny_pipeline,
    tiny_tokenizer,
    tiny_transformer,
    tiny_vqgan,
)
from dallemini.text import Knowledge
from fuzzing import Search, edit_file, file_edits
from image_tokenizers import tiny_image_tokenizer
from random_checkpoints import config, write_transformer
from upscaler_files import COMPACT, RRDB, tensors_of, write_ncnn

PLAIN_VQGAN = dataclasses.replace(TINY_VQGAN, pixel_shuffle=1, ch_mult=(1, 1), num_res_blocks=1)
MOST_BYTES = 1 << 20  # of a file that is mutated; larger ones are weights like the others
PROMPT = "A red apple, 3 of them! \u00e9\u4eac #redapple"
Make = Callable[[Path], object]
Load = Callable[[Path, Path], object]


# What folders hold


def native(part: Callable[[], Any]) -> Make:
    return lambda folder: part().save_pretrained(folder)


def copied(name: str, *files: str) -> Make:
    def make(folder: Path) -> None:
        for path in (FIXTURES / name).iterdir():
            if path.is_file() and (not files or path.name in files):
                shutil.copy(path, folder)

    return make


def taming(folder: Path) -> None:
    fields = PLAIN_VQGAN.to_dict()
    names = ("ch", "ch_mult", "num_res_blocks", "attn_resolutions", "resolution", "in_channels")
    ddconfig = {name: fields[name] for name in (*names, "out_ch", "z_channels")}
    params = {"embed_dim": fields["embed_dim"], "n_embed": fields["n_embed"], "ddconfig": ddconfig}
    model = {"target": "taming.models.vqgan.VQModel", "params": params}
    (folder / "model.yaml").write_text(yaml.safe_dump({"model": model}))
    torch.save({"state_dict": tiny_vqgan(PLAIN_VQGAN).state_dict()}, folder / "last.ckpt")


def detokenizer(folder: Path) -> None:
    state = tiny_vqgan(PLAIN_VQGAN).state_dict()
    named = {name.removeprefix("quantize."): x for name, x in state.items() if "enc" not in name}
    torch.save(
        {k: v for k, v in named.items() if k[:5] in ("embed", "decod", "post_")},
        folder / "detoker.pt",
    )


def released_tokenizer(folder: Path) -> None:
    copied("tokenizer/hf", "vocab.json", "merges.txt")(folder)
    (folder / "config.json").write_text('{"model_type": "dallebart", "max_text_length": 64}')


def known_tokenizer() -> Tokenizer:
    plain = tiny_tokenizer()
    known = Knowledge(concepts=("apple", "bird"), words=("apple", "bird", "red"))
    words = {"red": 9, "apple": 5}
    return Tokenizer(plain.backend, config=plain.config, word_frequencies=words, knowledge=known)


def openai_merges(folder: Path) -> None:
    merges = (FIXTURES / "clip-tokenizer/merges.txt").read_bytes()
    (folder / "bpe_simple_vocab_16e6.txt.gz").write_bytes(gzip.compress(merges))


def real_esrgan(folder: Path) -> None:
    torch.save({"params_ema": tensors_of(Upscaler.from_config(RRDB, seed=1))}, folder / "net.pth")


def ncnn(sizes: UpscalerConfig) -> Make:
    return lambda folder: write_ncnn(folder, Upscaler.from_config(sizes, seed=0))


# How they are loaded


def loaded(part: Any) -> Load:
    return lambda folder, cache: part.from_pretrained(folder, cache_dir=cache)


def tokenized(folder: Path, cache: Path) -> None:
    ImageTokenizer.from_pretrained(folder, cache_dir=cache)


def drawn(folder: Path, cache: Path) -> None:
    tokenizer = ImageTokenizer.from_pretrained(folder, cache_dir=cache)
    if tokenizer.image_length <= 256:
        tokenizer.decode(torch.zeros(1, tokenizer.image_length, dtype=torch.int64))


def encoded(part: Any) -> Load:
    return lambda folder, cache: part.from_pretrained(folder, cache_dir=cache)(PROMPT)


def enlarged(folder: Path, cache: Path) -> None:
    Upscaler.from_pretrained(folder, cache_dir=cache).upscale(torch.zeros(1, 3, 4, 4))


def adapted(folder: Path, _: Path) -> None:
    add_adapter(tiny_transformer(), read_adapter(hub.open(folder)), name="ink")


def piped(folder: Path, cache: Path) -> None:
    Pipeline.from_pretrained(folder, cache_dir=cache)


FOLDERS: dict[str, tuple[Make, Load]] = {
    "native transformer": (native(tiny_transformer), loaded(Transformer)),
    "native vqgan": (native(tiny_vqgan), drawn),
    "native clip": (native(lambda: tiny_clip_scorer().clip), loaded(CLIP)),
    "native int8": (native(lambda: tiny_transformer().quantize("int8")), loaded(Transformer)),
    "dallebart": (lambda folder: write_transformer(folder, config("tiny")), loaded(Transformer)),
    "min-dalle": (copied("min-dalle-tiny-fp16"), loaded(Transformer)),
    "min-dalle detokenizer": (detokenizer, drawn),
    "taming": (taming, loaded(VQGAN)),
    "vqgan-jax": (copied("vqgan-jax-tiny/model"), drawn),
    "transformers": (copied("clip-hf-tiny/model"), loaded(CLIP)),
    "open_clip": (copied("clip-open_clip-tiny-quickgelu/model"), loaded(CLIP)),
    "OpenAI CLIP": (copied("clip-openai-tiny", "state_dict_openai_fp16.pt"), loaded(CLIP)),
    "gumbel vqgan": (native(lambda: tiny_image_tokenizer("gumbel")), drawn),
    "wavelet vqgan": (native(lambda: tiny_image_tokenizer("wavelet")), drawn),
    "refined vqgan": (native(lambda: tiny_image_tokenizer("finer")), drawn),
    "native dvae": (native(lambda: tiny_image_tokenizer("DVAE")), drawn),
    "native discrete vae": (native(lambda: tiny_image_tokenizer("DiscreteVAE")), drawn),
    "OpenAI dVAE": (
        copied("image-tokenizers", "encoder.pkl", "decoder.pkl"),
        loaded(ImageTokenizer),
    ),
    "DALLE-pytorch": (copied("image-tokenizers", "vae.pt"), drawn),
    "native upscaler": (native(lambda: Upscaler.from_config(COMPACT, seed=0)), enlarged),
    "Real-ESRGAN": (real_esrgan, enlarged),
    "ncnn": (lambda folder: write_ncnn(folder, Upscaler.from_config(COMPACT, seed=0)), enlarged),
    "ncnn of blocks": (
        lambda folder: write_ncnn(folder, Upscaler.from_config(RRDB, seed=0)),
        enlarged,
    ),
    "peft": (copied("adapters/peft", *ADAPTER_FILES), adapted),
    "former adapter": (copied("adapters/former"), adapted),
    "tokenizer": (native(known_tokenizer), encoded(Tokenizer)),
    "released tokenizer": (released_tokenizer, encoded(Tokenizer)),
    "native CLIP tokenizer": (native(lambda: tiny_clip_scorer().tokenizer), encoded(CLIPTokenizer)),
    "CLIP vocabulary": (
        copied("clip-tokenizer", "vocab.json", "merges.txt"),
        encoded(CLIPTokenizer),
    ),
    "OpenAI merges": (openai_merges, encoded(CLIPTokenizer)),
    "pipeline": (native(tiny_pipeline), piped),
}


# Those whose files another kind has in smaller ones, or whose networks.
SIBLINGS = (
    *("vqgan-jax", "OpenAI dVAE", "OpenAI CLIP", "gumbel vqgan", "wavelet vqgan", "refined vqgan"),
    *("native int8", "native clip", "native discrete vae", "min-dalle detokenizer", "open_clip"),
    *("ncnn of blocks", "taming", "min-dalle"),
)


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param(kind, marks=pytest.mark.thorough if kind in SIBLINGS else ())
        for kind in FOLDERS
    ],
)
def test_mutated_folder_is_read_or_refused(tmp_path: Path, kind: str, search: Search) -> None:
    make, load = FOLDERS[kind]
    folder, cache = tmp_path / "model", tmp_path / "cache"
    folder.mkdir()
    make(folder)
    load(folder, cache)  # the folder itself is good
    files = {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
    small = [path for path, content in files.items() if len(content) <= MOST_BYTES]

    def check(chosen: tuple[Path, Any]) -> None:
        path, edit = chosen
        path.write_bytes(edit_file(path.name, files[path], edit))
        shutil.rmtree(cache, ignore_errors=True)
        try:
            load(folder, cache)
        finally:
            path.write_bytes(files[path])

    search(
        check,
        st.sampled_from(small or [*files]).flatmap(
            lambda path: st.tuples(st.just(path), file_edits(path.name))
        ),
    )
