"""Pictures of tables that hold addresses, such as LAION's: fetched once, beside their table.

Each goes to a file that its address names, so that what was interrupted goes on, and reading finds
it there. `downloads.jsonl` says what came of every address, in the columns of img2dataset.
"""

from __future__ import annotations

import collections
import concurrent.futures
import hashlib
import io
import json
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path

from tqdm import tqdm

from .._version import __version__
from ..errors import StorageError
from ..files import make_folder, replacing
from .dataset import CaptionedImages
from .sources.files import LARGEST_PICTURE

LOG = "downloads.jsonl"
_HEADERS = {"User-Agent": f"dallemini/{__version__}", "Accept": "image/*"}


@dataclass(frozen=True)
class DownloadReport:
    """What came of the addresses of a data set.

    Attributes:
        images: pictures fetched now.
        there: records whose picture was there already, or that need none.
        failed: addresses that gave no picture, by what went wrong.
    """

    images: int
    there: int
    failed: Mapping[str, int]


def download_images(
    dataset: CaptionedImages, *, threads: int = 16, timeout: float = 20.0, progress: bool = True
) -> DownloadReport:
    """Fetch the pictures that a data set names by address and that are not there yet.

    Args:
        dataset: rows, as its filters leave them; those that were bad before are tried again.
        threads: addresses that are asked at a time.
        timeout: seconds that one may keep us waiting.
        progress: whether to show a bar.

    Raises:
        InputTypeError: `dataset` is a stream, which has no addresses.
        StorageError: a picture cannot be written.
    """
    missing = [e for e in map(dataset.missing_download, range(len(dataset))) if e is not None]
    wanted = {error.url: error.place for error in missing}
    failed: collections.Counter[str] = collections.Counter()
    pool = concurrent.futures.ThreadPoolExecutor(threads)
    try:
        tries = pool.map(lambda url: _fetch(url, wanted[url], timeout), wanted)
        hidden = None if progress else True
        for row in tqdm(tries, "download", len(wanted), unit=" images", disable=hidden):
            place = wanted[str(row["url"])]
            _note(place.parent.parent, row)
            failed.update([str(row["error_message"])] if row["error_message"] else [])
    finally:
        pool.shutdown(cancel_futures=True)
    images = len(wanted) - sum(failed.values())
    return DownloadReport(images, len(dataset) - len(missing), dict(failed))


def _fetch(url: str, place: Path, timeout: float) -> dict[str, object]:
    """Fetch a picture, and return its row of the log."""
    from PIL import Image

    row: dict[str, object] = {"url": url, "key": place.name, "status": "failed_to_download"}
    row |= {"error_message": None, "width": None, "height": None, "sha256": None}
    try:
        request = urllib.request.Request(url, headers=_HEADERS)
        with urllib.request.urlopen(request, timeout=timeout) as answer:
            content = answer.read(LARGEST_PICTURE + 1)
        if len(content) > LARGEST_PICTURE:
            raise ValueError(f"more than {LARGEST_PICTURE} bytes")
        with Image.open(io.BytesIO(content)) as image:
            row["width"], row["height"] = image.size
    except (OSError, ValueError, HTTPException) as error:  # PIL's for no picture is an OSError
        text = "no picture" if "cannot identify" in str(error) else str(error)
        return row | {"error_message": text[:200] or type(error).__name__}
    make_folder(place.parent)
    with replacing(place) as file:
        file.write(content)
    return row | {"status": "success", "sha256": hashlib.sha256(content).hexdigest()}


def _note(folder: Path, row: Mapping[str, object]) -> None:
    path = make_folder(folder) / LOG
    try:
        with path.open("a", encoding="utf-8") as log:
            log.write(json.dumps(row) + "\n")
    except OSError as error:
        raise StorageError(f"Could not write {path}: {error}. Free some space.") from error
