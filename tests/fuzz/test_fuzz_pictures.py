"""Pictures and what they say of themselves, mutated; see tests/fuzzing.py for the rule."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import strategies as st
from PIL import Image

from certificates import make_signer
from dallemini.images import open_image, read_image, read_mask
from dallemini.pipeline.inspecting import inspect_picture
from dallemini.pipeline.metadata import read_metadata
from dallemini.pipeline.origin import stamp
from dallemini.pipeline.redrawing import check_redrawing
from dallemini.sheets import image_bytes, png_bytes
from dallemini.testing import tiny_pipeline
from fuzzing import Search, edit_file, edit_tree, file_edits, json_text, ruled, tree_edits
from picture_files import encode

LEVELS = np.arange(12 * 9, dtype=np.uint8).reshape(9, 12)


def clear() -> Image.Image:
    picture = Image.fromarray(LEVELS).convert("RGBA")
    picture.putalpha(Image.fromarray(LEVELS * 2))
    return picture


def frames(kind: str) -> bytes:
    second = Image.new("RGB", (12, 9), "red")
    return encode(clear(), file_format=kind, save_all=True, append_images=[second])


def turned() -> bytes:
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "a picture"
    return encode(Image.fromarray(LEVELS).convert("RGB"), file_format="JPEG", exif=exif)


def tiff(picture: Any, **options: Any) -> bytes:
    return encode(Image.fromarray(picture), file_format="TIFF", **options)


RGB = Image.fromarray(LEVELS).convert("RGB")
PICTURES: dict[str, bytes] = {
    "rgb.png": encode(RGB),
    "clear.png": encode(clear()),
    "palette.png": encode(RGB.quantize(9), transparency=3),
    "bits.png": encode(Image.fromarray(LEVELS > 50)),
    "deep.png": encode(Image.fromarray(LEVELS.astype(np.uint16) * 600)),
    "said.png": stamp(png_bytes(RGB, texts={"prompt": "a", "config": "{}"}), {"version": "1"}),
    "moving.png": frames("PNG"),
    "rgb.jpg": encode(RGB, file_format="JPEG"),
    "turned.jpg": turned(),
    "cmyk.jpg": encode(RGB.convert("CMYK"), file_format="JPEG", progressive=True),
    "a.webp": encode(clear(), file_format="WEBP", lossless=True),
    "lossy.webp": encode(RGB, file_format="WEBP"),
    "moving.gif": frames("GIF"),
    "rgb.bmp": encode(RGB, file_format="BMP"),
    "float.tiff": tiff(LEVELS.astype(np.float32) / 255),
    "whole.tiff": tiff(LEVELS.astype(np.int32) * 9000),
    "packed.tiff": tiff(LEVELS, compression="tiff_lzw"),
    "gray.ppm": encode(Image.fromarray(LEVELS), file_format="PPM"),
    "a.jp2": encode(RGB, file_format="JPEG2000"),
}
READERS: tuple[Callable[[Path], object], ...] = (
    read_image,
    read_mask,
    lambda path: open_image(path, draft_side=4, keep_alpha=True),
    lambda path: open_image(path, still=True, opaque=True, max_pixels=10_000),
    inspect_picture,
)


def test_mutated_pictures_are_read_or_refused(tmp_path: Path, search: Search) -> None:
    for name, content in PICTURES.items():
        (tmp_path / name).write_bytes(content)
        read_image(tmp_path / name)  # the picture itself is good

    def check(chosen: tuple[Callable[[Path], object], str, Any]) -> None:
        read, name, edit = chosen
        path = tmp_path / name
        path.write_bytes(edit_file(name, PICTURES[name], edit))
        read(path)

    names = st.sampled_from([*PICTURES])
    chosen = names.flatmap(
        lambda name: st.tuples(st.sampled_from(READERS), st.just(name), file_edits(name))
    )
    search(check, chosen)


def test_mutated_signatures_are_read_or_refused(tmp_path: Path, search: Search) -> None:
    content = make_signer(tmp_path).sign(PICTURES["said.png"], {"version": "1"})
    assert inspect_picture(content)["signature"].state == "holds"
    search(
        lambda edit: inspect_picture(edit_file("signed.png", content, edit)),
        file_edits("signed.png"),
    )


# What a picture says of how it was drawn


def said(kind: str) -> dict[str, Any]:
    """Return what a picture or a grid says, the JSON in it parsed."""
    out = tiny_pipeline()("a red apple", num_images_per_prompt=2, seed=7, rank=True, progress=False)
    texts: dict[str, Any] = dict(out.metadata(0))
    texts["config"] = json.loads(texts["config"])
    texts |= {
        "adapters": [{"digest": "12", "weight": 0.5, "source": "ink"}, "34"],
        "edit": {"operation": "vary", "image": "ab", "mask": "cd"},
        "dtype": {"transformer": "int8", "vqgan": "float32"},
        "blend": {"a cat": 0.5, "a dog": 0.5},
        "safety": "blank: nudity",
        "sampler": "mine",
        "watermark": "green",
        "upscaler": "net",
    }
    if kind == "grid":
        del texts["prompt"], texts["blend"]
        grid = {"prompts": ["a", {"b": 1.0}], "seeds": [1, 2], "scores": [0.5], "safety": ["", "x"]}
        texts |= grid
    return texts


def texts_of(tree: Any) -> dict[str, str]:
    """Return the texts of a picture: JSON, but for values that are texts themselves."""
    texts = {key: tree[key] if isinstance(tree[key], str) else json_text(tree[key]) for key in tree}
    return {key.encode("latin-1", "replace").decode("latin-1")[:79]: texts[key] for key in texts}


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_mutated_notes_in_pictures_are_read_or_refused(
    kind: Literal["PNG", "JPEG"], tmp_path: Path, search: Search
) -> None:
    path = tmp_path / f"picture.{kind.lower()}"
    original = said("grid" if kind == "JPEG" else "picture")

    def read(tree: Any) -> None:
        content = image_bytes(RGB, kind, texts=texts_of(tree))
        if content is not None:
            path.write_bytes(stamp(content, {"model": str(tree.get("model"))}))
            inspect_picture(path)
            told = read_metadata(path)
            given = {"sampler": 1, "watermark": 1, "image": 1, "mask_image": 1}
            check_redrawing(told, str(path), given)

    read(original)  # the notes themselves are good
    search(lambda edits: read(edit_tree(copy.deepcopy(original), edits)), tree_edits)


# Pictures that are larger than their files


SIDES = (3000, 3000)
BLANK: dict[str, Any] = {
    "deep.png": np.uint16,
    "whole.tiff": np.int32,
    "float.tiff": np.float32,
}


@pytest.mark.parametrize("name", BLANK)
def test_a_large_picture_in_a_small_file_takes_little(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    options: Any = {"compress_level": 1} if name.endswith("png") else {"compression": "tiff_lzw"}
    Image.fromarray(np.zeros(SIDES, BLANK[name])).save(path, **options)
    with ruled():
        open_image(path)
