"""Where a picture comes from, said in the file itself: IPTC's Digital Source Type, as XMP.

Works on the bytes of encoded files, so that any way of writing a picture can have it: an iTXt chunk
in PNG, an APP1 segment in JPEG, a chunk "XMP" in WebP. Sources: the XMP specification, part 3;
the IPTC photo metadata standard 2025.1; http://cv.iptc.org/newscodes/digitalsourcetype/.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Mapping
from typing import Literal, TypeAlias, get_args
from xml.sax.saxutils import quoteattr

from .._version import __version__
from ..errors import InputError
from ..sheets import Format

SourceType: TypeAlias = Literal["trainedAlgorithmicMedia", "compositeWithTrainedAlgorithmicMedia"]

VOCABULARY = "http://cv.iptc.org/newscodes/digitalsourcetype/"
EDITS = ("start", "inpaint", "vary", "outpaint")
"""Operations whose pictures hold a part of another picture."""

_XMP_KEYWORD = b"XML:com.adobe.xmp"
_XMP_SEGMENT = b"http://ns.adobe.com/xap/1.0/\0"
_PNG_START, _VP8X_HAS_ALPHA, _VP8X_HAS_XMP = b"\x89PNG\r\n\x1a\n", 0x10, 0x04
_MOST_XMP = 1 << 20
_TYPE = re.compile(
    # blanks without end could be shared out in endlessly many ways
    r"DigitalSourceType(?:\s{0,40}=\s{0,40}[\"']|\s{0,40}>|\s{1,40}[\w:]{0,40}resource\s{0,40}="
    r"\s{0,40}[\"'])\s{0,40}https?://cv\.iptc\.org/newscodes/digitalsourcetype/(\w{1,60})"
)


def source_type(texts: Mapping[str, str]) -> SourceType:
    """Return IPTC's name of what the texts of a picture say: drawn whole, or a part of it.

    Example:
        >>> from dallemini.pipeline.origin import source_type
        >>> source_type({"prompt": "a red apple"})
        'trainedAlgorithmicMedia'
    """
    edited = any(f'"{name}"' in texts.get("edit", "") for name in EDITS)
    if edited or texts.get("operation") in EDITS:
        return "compositeWithTrainedAlgorithmicMedia"
    return "trainedAlgorithmicMedia"


def make_xmp(texts: Mapping[str, str]) -> bytes:
    """Return an XMP packet with the origin of a picture.

    Args:
        texts: of the picture, as `GenerationOutput.metadata` returns them; `model` and whether it
            is an edit are read.
    """
    name = f"dallemini {texts.get('version', __version__)}"
    model = texts.get("model", "")
    attributes = {
        "xmlns:Iptc4xmpExt": "http://iptc.org/std/Iptc4xmpExt/2008-02-29/",
        "xmlns:xmp": "http://ns.adobe.com/xap/1.0/",
        "Iptc4xmpExt:DigitalSourceType": VOCABULARY + source_type(texts),
        "Iptc4xmpExt:AISystemUsed": f"dallemini: {model}" if model else "dallemini",
        "Iptc4xmpExt:AISystemVersionUsed": texts.get("version", __version__),
        "xmp:CreatorTool": name,
    }
    inside = "".join(f"\n   {key}={quoteattr(_clean(text))}" for key, text in attributes.items())
    return (
        '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>\n'
        '<x:xmpmeta xmlns:x="adobe:ns:meta/">\n'
        ' <rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">\n'
        f'  <rdf:Description rdf:about=""{inside}/>\n'
        ' </rdf:RDF>\n</x:xmpmeta>\n<?xpacket end="r"?>'
    ).encode()


def _clean(text: str) -> str:
    """Leave out what XML cannot hold."""
    return re.sub(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "?", text)[:2000]


def stamp(content: bytes, texts: Mapping[str, str]) -> bytes:
    """Return the file of a picture with its origin in it; no pixel changes.

    Args:
        content: an encoded PNG, JPEG or WebP file without XMP.
        texts: of the picture, as `GenerationOutput.metadata` returns them.

    Raises:
        InputError: the content is none of the three.

    Example:
        >>> import io
        >>> from PIL import Image
        >>> from dallemini.pipeline.origin import read_source_type, stamp
        >>> file = io.BytesIO()
        >>> Image.new("RGB", (8, 8)).save(file, "WEBP")
        >>> content = stamp(file.getvalue(), {"model": "dallemini/emoji"})
        >>> read_source_type(Image.open(io.BytesIO(content)).info["xmp"])
        'trainedAlgorithmicMedia'
    """
    insert = {"PNG": _into_png, "JPEG": _into_jpeg, "WEBP": _into_webp}
    return insert[file_format(content)](content, make_xmp(texts))


def file_format(content: bytes) -> Format:
    """Tell what an encoded picture is by its first bytes.

    Raises:
        InputError: it is neither a PNG nor a JPEG nor a WebP.
    """
    if content.startswith(_PNG_START):
        return "PNG"
    if content.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        return "WEBP"
    raise InputError(
        f"The origin of a picture is written into {', '.join(get_args(Format))} files, and this is "
        "none of them; save it as one."
    )


def read_source_type(xmp: bytes | str) -> str | None:
    """Return the IPTC name in an XMP packet, None where it has none.

    Whatever else is in the packet is not looked at, and no XML is parsed.
    """
    text = xmp if isinstance(xmp, str) else xmp[:_MOST_XMP].decode(errors="replace")
    found = _TYPE.search(text[:_MOST_XMP])
    return found[1] if found else None


def _into_png(content: bytes, xmp: bytes) -> bytes:
    """Put a chunk right behind the header."""
    body = b"iTXt" + _XMP_KEYWORD + b"\0" * 5 + xmp
    chunk = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    (length,) = struct.unpack(">I", content[8:12])
    end = 8 + 12 + length
    return content[:end] + chunk + content[end:]


def _into_jpeg(content: bytes, xmp: bytes) -> bytes:
    """Put a segment behind those of JFIF and Exif, which must be the first."""
    body = _XMP_SEGMENT + xmp
    segment = b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body
    end = 2
    while content[end : end + 2] == b"\xff\xe0" or content[end + 4 : end + 10] == b"Exif\0\0":
        end += 2 + int.from_bytes(content[end + 2 : end + 4], "big")
    return content[:end] + segment + content[end:]


def _into_webp(content: bytes, xmp: bytes) -> bytes:
    """Put a chunk at the end, and say so in the extended header, which a simple file gets first."""
    chunks = content[12:]
    if chunks[:4] != b"VP8X":
        width, height, alpha = _webp_size(chunks)
        flags = struct.pack("<I", _VP8X_HAS_ALPHA if alpha else 0)
        size = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
        chunks = b"VP8X" + struct.pack("<I", 10) + flags + size + chunks
    chunks = chunks[:8] + bytes([chunks[8] | _VP8X_HAS_XMP]) + chunks[9:]
    padded = xmp + b"\0" * (len(xmp) % 2)
    chunks += b"XMP " + struct.pack("<I", len(xmp)) + padded
    return b"RIFF" + struct.pack("<I", len(chunks) + 4) + b"WEBP" + chunks


def _webp_size(chunks: bytes) -> tuple[int, int, bool]:
    """Read the size of a simple WebP file, and whether it has transparency."""
    if chunks[:4] == b"VP8L":
        bits = int.from_bytes(chunks[9:13], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1, bool(bits >> 28 & 1)
    width, height = struct.unpack("<HH", chunks[14:18])
    return width & 0x3FFF, height & 0x3FFF, False
