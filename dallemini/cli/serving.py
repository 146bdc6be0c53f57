"""Options of the commands that draw for others: `app` and `serve`."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ..app.listening import check_port
from ..hub.source import BUNDLED_MODEL
from .options import (
    Drawing,
    OptionalPath,
    Safety,
    SafetyOptions,
    Signing,
    SigningOptions,
    Where,
    read_watermark,
)
from .words import checking_usage

if TYPE_CHECKING:
    from ..generation.watermark import Watermark
    from ..pipeline.signing import C2PASigner
    from ..safety import SafetyChecker

WATERMARK_VARIABLE = "DALLEMINI_WATERMARK_KEY"


def _watermark(path: Path | None) -> Watermark | None:
    """Return the watermark of the key in a file, or else in DALLEMINI_WATERMARK_KEY, if it is set.

    Raises:
        MissingFileError: there is no such file.
        InputError: the key is empty or too large.
    """
    key = os.environ.get(WATERMARK_VARIABLE)
    if path is not None or key is None:
        return read_watermark(path)
    from ..generation.watermark import Watermark  # here, because torch takes seconds

    return Watermark(key.strip())


@dataclass(frozen=True)
class Safeguards:
    """What is done about what others ask for.

    Attributes:
        checker: looks at prompts and pictures.
        watermark: whose mark the pictures get.
        c2pa: signs their files.
    """

    checker: SafetyChecker | None
    watermark: Watermark | None
    c2pa: C2PASigner | None

    def __str__(self) -> str:
        from ..safety.checker import describe_checker  # here, because torch takes seconds

        mark = "none" if self.watermark is None else "of your key"
        signed = "none" if self.c2pa is None else f"by {os.fspath(self.c2pa.certificate)}"
        checked = describe_checker(self.checker)
        return f"safety check: {checked}; watermark: {mark}; C2PA signature: {signed}"


@dataclass(frozen=True, kw_only=True)
class Serving:
    """A model that draws for others.

    Attributes:
        model: Hub id or local folder of a pipeline.
        host: address to listen on; 0.0.0.0 lets in everybody who can reach this machine.
        port: to listen on; 0 for a free one.
        watermark_key_file: a file with a secret, whose mark all pictures get; the environment
            variable DALLEMINI_WATERMARK_KEY is another place for the secret itself.
        signing: of finished pictures.
        safety: what looks at prompts and pictures.
        drawing: of the model.
        where: of the model.
    """

    model: str = BUNDLED_MODEL
    host: str = "127.0.0.1"
    port: int
    watermark_key_file: OptionalPath = None
    signing: Signing = field(default_factory=SigningOptions)
    safety: Safety = field(default_factory=lambda: SafetyOptions(safety="auto"))
    drawing: Drawing
    where: Where

    def check_address(self) -> None:
        """Look at the address, before what takes seconds is imported.

        Raises:
            UsageError: the port is none.
        """
        with checking_usage():
            check_port(self.port)

    def safeguards(self) -> Safeguards:
        """Try the options before anything is loaded.

        Raises:
            UsageError: one of them is no good.
        """
        with checking_usage():
            self.drawing.check()
            mark, signer = _watermark(self.watermark_key_file), self.signing.signer()
            return Safeguards(self.safety.checker(), mark, signer)
