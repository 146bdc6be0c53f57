"""The origin in files: XMP in three formats, signatures, and what an inspection says of them."""

from __future__ import annotations

import dataclasses
import io
import json
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from certificates import make_signer
from dallemini import C2PASigner, Pipeline, Watermark
from dallemini.errors import InputError, MissingDependencyError, MissingFileError
from dallemini.pipeline.inspecting import inspect_picture
from dallemini.pipeline.origin import make_xmp, read_source_type, source_type, stamp
from dallemini.pipeline.signing import read_credentials
from dallemini.testing import tiny_pipeline
from fuzzing import ruled

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def pipe() -> Pipeline:
    return tiny_pipeline()


@pytest.fixture(scope="module")
def saved(pipe: Pipeline, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = pipe("a red apple", seed=7, progress=False)
    return out.save(tmp_path_factory.mktemp("saved"))[0]


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> C2PASigner:
    return make_signer(tmp_path_factory.mktemp("certificate"))


def encoded(kind: str, mode: str = "RGB", **settings: Any) -> bytes:
    levels = np.random.default_rng(0).integers(0, 255, (21, 34, len(mode)), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(levels, mode).save(file, kind, **settings)
    return file.getvalue()


@pytest.mark.parametrize(
    ("kind", "mode", "settings"),
    [
        ("PNG", "RGBA", {}),
        ("JPEG", "RGB", {"exif": Image.Exif()}),
        ("WEBP", "RGB", {}),
        ("WEBP", "RGBA", {"lossless": True}),
    ],
)
def test_a_stamp_says_the_origin_and_changes_no_pixel(kind: str, mode: str, settings: Any) -> None:
    content = encoded(kind, mode, **settings)
    before = Image.open(io.BytesIO(content))
    after = Image.open(io.BytesIO(stamp(content, {"model": 'a & <b> "c"'})))
    assert (after.mode, after.tobytes()) == (before.mode, before.tobytes())
    assert read_source_type(after.info["xmp"]) == "trainedAlgorithmicMedia"
    assert b"a &amp; &lt;b&gt;" in after.info["xmp"]


def test_xmp_is_xml_with_the_iptc_namespace() -> None:
    from xml.etree import ElementTree

    root = ElementTree.fromstring(make_xmp({"model": "m\x00\ud800\U0001f34e"}).decode())
    (found,) = root.iter("{http://www.w3.org/1999/02/22-rdf-syntax-ns#}Description")
    name = "{http://iptc.org/std/Iptc4xmpExt/2008-02-29/}DigitalSourceType"
    assert found.attrib[name] == (
        "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
    )


@pytest.mark.parametrize("operation", ["inpaint", "vary", "outpaint"])
def test_edits_are_composites(operation: str) -> None:
    expected = "compositeWithTrainedAlgorithmicMedia"
    assert source_type({"edit": json.dumps({"operation": operation, "paste": True})}) == expected
    assert source_type({"operation": operation}) == expected


@pytest.mark.parametrize(
    "xmp",
    [
        b'<r Iptc4xmpExt:DigitalSourceType="http://cv.iptc.org/newscodes/digitalsourcetype/a1"/>',
        b"<e:DigitalSourceType>https://cv.iptc.org/newscodes/digitalsourcetype/a1</e:x>",
        "<e:DigitalSourceType rdf:resource='http://cv.iptc.org/newscodes/digitalsourcetype/a1'/>",
    ],
)
def test_other_spellings_are_read(xmp: Any) -> None:
    assert read_source_type(xmp) == "a1"


@pytest.mark.parametrize("xmp", [b"", b"\xff\xfe\x00", "DigitalSourceType=", b"<a>" * 10**5])
def test_what_says_nothing_is_no_source_type(xmp: Any) -> None:
    assert read_source_type(xmp) is None


def test_other_files_are_not_stamped() -> None:
    with pytest.raises(InputError, match="PNG, JPEG, WEBP files, and this is none of them"):
        stamp(encoded("GIF", "RGB"), {})


def test_saved_pictures_say_their_origin_beside_their_texts(saved: Path) -> None:
    with Image.open(saved) as image:
        assert image.info["prompt"] == "a red apple"
        assert read_source_type(image.info["xmp"]) == "trainedAlgorithmicMedia"


def states(picture: Any, **rest: Any) -> dict[str, str]:
    return {layer.name: layer.state for layer in inspect_picture(picture, **rest).layers}


def test_an_inspection_reads_what_was_saved(saved: Path) -> None:
    told = inspect_picture(saved)
    assert told["texts"].state == told["source type"].state == "holds"
    assert "'a red apple', seed 7" in told["texts"].detail
    assert told["watermark"].state == "unknown"
    assert told.verdict.startswith("What holds: texts, source type")


def test_an_inspection_says_what_was_taken_off(saved: Path) -> None:
    with Image.open(saved) as image:
        image.load()
        bare, texts_only = io.BytesIO(), io.BytesIO()
        copy = Image.frombytes(image.mode, image.size, image.tobytes())
        xmp = image.info["xmp"]
    copy.save(bare, "PNG")
    copy.save(texts_only, "JPEG", xmp=xmp)
    found = states(texts_only.getvalue())
    assert (found["texts"], found["source type"]) == ("stripped", "holds")
    told = inspect_picture(bare.getvalue())
    assert (told["texts"].state, told["source type"].state) == ("missing", "missing")
    assert "which proves nothing" in told.verdict


def test_a_foreign_picture_is_not_called_stripped() -> None:
    content = stamp(encoded("PNG"), {})
    start, end = content.index(b"iTXt") - 4, content.index(b"IDAT") - 4
    assert b"dallemini" in content[start:end]
    chunk = content[start + 8 : end - 4].replace(b"dallemini", b"otherprog")
    checked = struct.pack(">I", zlib.crc32(b"iTXt" + chunk))
    foreign = content[: start + 8] + chunk + checked + content[end:]
    said = states(foreign)
    assert (said["texts"], said["source type"]) == ("missing", "holds")
    assert "stripped" not in said.values()
    assert states(encoded("JPEG"))["texts"] == "missing"
    with pytest.raises(InputError, match="cannot be read as a picture"):
        inspect_picture(content[:-30])


def test_a_photograph_of_a_camera_says_nothing_of_us(tmp_path: Path, pipe: Pipeline) -> None:
    exif = Image.Exif()
    exif[0x010F], exif[0x0112] = "Camera & Co", 6
    exif.get_ifd(0x8769)[0x9286] = b"ASCII\0\0\0a day at the sea"
    photograph = encoded("JPEG", exif=exif)
    mark: Any = {"watermark": Watermark("secret"), "vqgan": pipe.vqgan}
    assert states(photograph, **mark) == {
        **{"texts": "missing", "source type": "missing"},
        **{"watermark": "missing", "signature": states(photograph)["signature"]},
    }
    assert "which proves nothing" in inspect_picture(photograph, **mark).verdict
    (tmp_path / "sea.jpg").write_bytes(photograph)
    with pytest.raises(InputError, match="does not say how it was drawn"):
        pipe.redraw(tmp_path / "sea.jpg", progress=False)


@pytest.mark.parametrize("ending", ["png", "jpg", "webp"])
def test_grids_have_every_layer(
    ending: str, pipe: Pipeline, certificate: C2PASigner, tmp_path: Path
) -> None:
    out = pipe("a red 🍎", num_images_per_prompt=2, seed=4, progress=False)
    path = out.save_grid(tmp_path / f"all.{ending}", c2pa=certificate)
    told = inspect_picture(path)
    assert [told[name].state for name in ("texts", "source type", "signature")] == ["holds"] * 3
    assert "🍎" in told["texts"].detail
    with Image.open(path) as image:
        assert image.format == {"png": "PNG", "jpg": "JPEG", "webp": "WEBP"}[ending]


@pytest.mark.parametrize("comment", [b"{", b"[1]", b'{"prompt": 1}', b"\xff{}", b"{" * 9999])
def test_what_others_say_in_exif_is_no_text_of_ours(comment: bytes) -> None:
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0x9286] = b"ASCII\0\0\0" + comment
    assert states(encoded("WEBP", exif=exif))["texts"] == "missing"


def test_a_grid_too_large_for_its_format_says_so(pipe: Pipeline, tmp_path: Path) -> None:
    one = pipe("a red apple", seed=0, progress=False)
    wide = dataclasses.replace(one, images=[Image.new("RGB", (16_384, 1))])
    with pytest.raises(InputError, match=r"too large for a WEBP file.*16383; save it as PNG"):
        wide.save_grid(tmp_path / "all.webp", labels=False)
    assert wide.save_grid(tmp_path / "all.png", labels=False).exists()


def test_a_key_tells_whether_the_mark_is_there(pipe: Pipeline, tmp_path: Path) -> None:
    mark = Watermark("secret")
    path = pipe("a red apple", seed=1, watermark=mark, progress=False).save(tmp_path)[0]
    said = inspect_picture(path)["watermark"]
    assert said.state == "unknown"
    assert "it says that it has one" in said.detail
    looked = inspect_picture(path, watermark=Watermark("another"), vqgan=pipe.vqgan)  # type: ignore[arg-type]
    assert looked["watermark"].state == "stripped"
    assert "of another key, or changed since" in looked["watermark"].detail
    with pytest.raises(InputError, match="A key is looked for with vqgan="):
        inspect_picture(path, watermark=mark)


def test_what_is_no_picture_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match="There is no file"):
        inspect_picture(tmp_path / "nothing.png")
    with pytest.raises(InputError, match="cannot be read as a picture"):
        inspect_picture(b"hello")


def test_a_signature_is_last_and_holds(
    pipe: Pipeline, certificate: C2PASigner, tmp_path: Path
) -> None:
    out = pipe("a red apple", seed=2, progress=False)
    (path,) = out.save(tmp_path, c2pa=certificate)
    told = inspect_picture(path)
    assert [told[name].state for name in ("texts", "source type", "signature")] == ["holds"] * 3
    assert "'dallemini test' with 'dallemini'" in told["signature"].detail
    assert "nobody vouches for" in told["signature"].detail
    with Image.open(path) as image:
        assert image.tobytes() == out.images[0].tobytes()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_a_signed_file_that_was_changed_is_broken(kind: str, certificate: C2PASigner) -> None:
    signed = certificate.sign(stamp(encoded(kind), {}), {"edit": '{"operation": "vary"}'})
    told = read_credentials(signed)
    assert told is not None
    assert (told.state, told.generator) == ("valid", "dallemini")
    place = signed.index(b"trainedAlgorithmicMedia" if kind != "PNG" else b"CreatorTool")
    changed = signed[:place] + bytes([signed[place] ^ 1]) + signed[place + 1 :]
    told = read_credentials(changed)
    assert told is not None
    assert told.state == "broken"


def test_a_picture_without_a_manifest_has_no_credentials(certificate: C2PASigner) -> None:
    assert read_credentials(encoded("PNG")) is None


def test_certificates_that_cannot_sign_are_refused(certificate: C2PASigner, tmp_path: Path) -> None:
    missing = C2PASigner(certificate=tmp_path / "no.pem", private_key=certificate.private_key)
    with pytest.raises(MissingFileError, match="There is no file"):
        missing.check()
    (tmp_path / "text.pem").write_text("hello")
    words = C2PASigner(certificate=tmp_path / "text.pem", private_key=certificate.private_key)
    with pytest.raises(InputError, match="is no PEM file; convert it with openssl"):
        words.check()
    swapped = C2PASigner(certificate=certificate.private_key, private_key=certificate.certificate)
    with pytest.raises(InputError, match="cannot sign a picture"):
        swapped.sign(encoded("PNG"), {})
    with pytest.raises(InputError, match="cannot sign a picture"):
        swapped.check()  # before anything is drawn
    certificate.check()


def test_without_the_extra_signing_names_it(monkeypatch: pytest.MonkeyPatch, saved: Path) -> None:
    monkeypatch.setitem(__import__("sys").modules, "c2pa", None)
    with pytest.raises(MissingDependencyError, match=r'pip install "\.\[c2pa\]"'):
        C2PASigner(certificate="chain.pem", private_key="key.pem").check()
    assert inspect_picture(saved)["signature"].state == "unknown"


@pytest.mark.parametrize(
    "blanks", [" " * 200_000, " \n" * 20 + "=" + " " * 200_000, "rdf:" * 50_000]
)
def test_a_packet_of_blanks_is_searched_at_once(blanks: str) -> None:
    with ruled():
        assert read_source_type(f"DigitalSourceType{blanks}" * 3) is None


def test_blanks_and_lines_around_a_type_are_read() -> None:
    name = "http://cv.iptc.org/newscodes/digitalsourcetype/digitalArt"
    for text in (
        f"= '{name}'",
        f"\n  = \n   ' {name}",
        f">\n    {name}",
        f" rdf:resource='{name}'",
    ):
        assert read_source_type(f"<Iptc4xmpExt:DigitalSourceType{text}") == "digitalArt"
