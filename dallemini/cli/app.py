"""From words to a command: the only place where the command line is parsed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tyro

from .._version import __version__
from . import train
from .convert import Convert
from .edit import Edit, Extend
from .encode import Encode
from .evaluate import Evaluate
from .generate import Generate
from .gui import App
from .info import Info
from .score import Score
from .upscale import Upscale

_COMMANDS: dict[str, Any] = {
    "generate": Generate,
    "edit": Edit,
    "extend": Extend,
    "convert": Convert,
    "info": Info,
    "score": Score,
    "upscale": Upscale,
    "encode": Encode,
    "evaluate": Evaluate,
    "app": App,
}
_DESCRIPTION = """Text to image with the DALL-E Mini family of models.

To train or fine-tune a model: dallemini train --help."""


def run(argv: Sequence[str]) -> int:
    """Parse the words after `dallemini` and run the command.

    Returns:
        0, or the exit code of the parser where it showed its help or did not understand.

    Raises:
        DalleMiniError: the command failed.
    """
    if list(argv) == ["--version"]:
        print(__version__)
        return 0
    if argv and argv[0] == "train":  # its options depend on the part that is trained
        return train.run(argv[1:])
    try:
        command = tyro.extras.subcommand_cli_from_dict(
            _COMMANDS, prog="dallemini", description=_DESCRIPTION, args=list(argv)
        )
    except SystemExit as stopped:
        return stopped.code if isinstance(stopped.code, int) else 0
    command.run()
    return 0
