"""Small data sets in every layout, and pictures of every trouble, written for a test."""

from __future__ import annotations

import contextlib
import functools
import http.server
import io
import json
import tarfile
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

Sample = Mapping[str, bytes | str]
SIDE = 24
_BAD_SIZES = {"tiny": (1, 1), "wide": (50_000, 20), "large": (4000, 4000)}
BAD_PICTURES = {  # name to the reason why it is bad
    "truncated": "broken image",
    "text": "not an image",
    "empty": "no image",
    "animated": "animated",
    "tiny": "too small",
    "wide": "too large",
    "large": "too large",
}


def picture(number: int, *, size: tuple[int, int] = (SIDE, SIDE), mode: str = "RGB") -> bytes:
    """Encode a picture of one colour that tells its number: `number_of` finds it again."""
    return encode(Image.new("RGB", size, (number * 10 % 250, number // 25, 0)).convert(mode))


def number_of(color: Sequence[float]) -> int:
    """Return the number of the picture with this colour, from 0 to 1."""
    red, green = (round(255 * float(part)) for part in color[:2])
    return red // 10 + 25 * green


def encode(image: Image.Image, *, file_format: str = "PNG", **options: Any) -> bytes:
    """Encode a picture."""
    content = io.BytesIO()
    image.save(content, file_format, **options)
    return content.getvalue()


def bad_picture(name: str) -> bytes:
    """Return one of `BAD_PICTURES`."""
    if name == "truncated":
        return picture(3, size=(64, 64))[:-40]
    if name == "text":
        return b"<html>not found</html>"
    if name == "empty":
        return b""
    if name == "animated":
        frames = [Image.new("RGB", (SIDE, SIDE), color) for color in ("red", "blue")]
        return encode(frames[0], file_format="GIF", save_all=True, append_images=frames[1:])
    return encode(Image.new("L", _BAD_SIZES[name]))


def write_folder(folder: Path, count: int = 6) -> Path:
    """Write pictures with .txt files beside them."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        (folder / f"{number:03}.png").write_bytes(picture(number))
        (folder / f"{number:03}.txt").write_text(f"picture {number}\n")
    return folder


def write_lines(path: Path, rows: Sequence[Any]) -> Path:
    """Write JSON lines; a string is written as it is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def write_parquet(path: Path, rows: Sequence[Mapping[str, Any]], *, group: int = 1000) -> Path:
    """Write a Parquet file."""
    import pyarrow
    import pyarrow.parquet

    path.parent.mkdir(parents=True, exist_ok=True)
    table = pyarrow.Table.from_pylist(list(rows))
    pyarrow.parquet.write_table(table, path, row_group_size=group)
    return path


def write_tar(path: Path, samples: Sequence[Sample], *, first: int = 0) -> Path:
    """Write a tar shard: the files of a sample by their endings."""
    files = {
        f"{number:06}.{ending}": content
        for number, sample in enumerate(samples, start=first)
        for ending, content in sample.items()
    }
    return write_tar_files(path, files.items())


def write_tar_files(path: Path, files: Iterable[tuple[str, bytes | str]]) -> Path:
    """Write a tar, packed as its ending says, of these names and contents in this order."""
    path.parent.mkdir(parents=True, exist_ok=True)
    packing: Any = {".gz": "w:gz", ".bz2": "w:bz2", ".xz": "w:xz"}.get(path.suffix, "w")
    with tarfile.open(path, packing) as tar:
        for name, content in files:
            data = content.encode() if isinstance(content, str) else content
            about = tarfile.TarInfo(name)
            about.size = len(data)
            tar.addfile(about, io.BytesIO(data))
    return path


def write_shards(folder: Path, *, shards: int = 4, size: int = 5) -> list[Path]:
    """Write tar shards of numbered pictures."""
    paths = []
    for shard in range(shards):
        numbers = range(shard * size, (shard + 1) * size)
        samples: list[Sample] = [{"png": picture(n), "txt": f"picture {n}"} for n in numbers]
        paths.append(write_tar(folder / f"{shard:05}.tar", samples, first=numbers.start))
    return paths


@contextlib.contextmanager
def served(folder: Path) -> Iterator[str]:
    """Serve a folder over HTTP on this machine, and give its address."""
    handler = functools.partial(_SilentHandler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


class _SilentHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""
