"""From words to a command."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from typing import Any

import tyro

from .._version import __version__
from ..config import suggest
from .parsing import parse
from .words import UsageError

# The class of each command, imported when it is called.
_COMMANDS = {
    "generate": ("Generate", "draw pictures from prompts"),
    "edit": ("Edit", "redraw a part of a picture"),
    "extend": ("Extend", "go on beyond the edges of a picture"),
    "redraw": ("Redraw", "draw pictures again from what their files say"),
    "upscale": ("Upscale", "make pictures larger"),
    "app": ("App", "draw in the browser"),
    "serve": ("Serve", "draw for others over HTTP"),
    "inspect": ("Inspect", "say what files tell of their pictures' origin"),
    "detect": ("Detect", "look for the mark of a key in pictures"),
    "score": ("Score", "say how well pictures fit a prompt"),
    "info": ("Info", "tell what a checkpoint holds"),
    "convert": ("Convert", "write a checkpoint in the library's own format"),
    "data": ("Data", "tell what a run would see of pictures with captions"),
    "encode": ("Encode", "turn pictures with captions into tokens"),
    "evaluate": ("Evaluate", "measure a model, and report it"),
    "audit": ("Audit", "say what a model leans towards"),
    "train": ("", "train or fine-tune a part"),
    "release": ("Release", "fill the card of a model, and list what it contains"),
}


def run(argv: Sequence[str]) -> int:
    """Parse the words after `dallemini` and run the command.

    Returns:
        0, or the exit code of the parser where it showed its help.

    Raises:
        DalleMiniError: the command failed; a UsageError where it was not understood.
    """
    words = list(argv)
    if words == ["--version"]:
        print(__version__)
        return 0
    if words and words[0] in ("-h", "--help"):
        print(_help())
        return 0
    if words and words[0].startswith("--tyro-"):
        return _complete(words)
    name = words[0] if words else ""
    if name not in _COMMANDS:
        if not name:
            raise UsageError("Name a command; dallemini --help lists them.")
        known = suggest(name, [*_COMMANDS, "--help", "--version"])
        raise UsageError(f"There is no command {name!r}.{known}")
    if name == "train":  # its options depend on the part that is trained
        from . import train

        return train.run(words[1:])
    try:
        command = parse(_load(name), words[1:], prog=f"dallemini {name}")
    except SystemExit as stopped:  # it has shown its help
        return stopped.code if isinstance(stopped.code, int) else 0
    command.run()
    return 0


def _load(name: str) -> Any:
    place = {"extend": "edit", "detect": "inspect", "app": "gui"}.get(name, name)
    module = importlib.import_module(f".{place}", package=__package__)
    return getattr(module, _COMMANDS[name][0])


def _help() -> str:
    commands = "\n".join(f"  {name:<10} {about}" for name, (_, about) in _COMMANDS.items())
    return (
        "usage: dallemini COMMAND [OPTIONS]\n\n"
        "Text to image with the DALL-E Mini family of models.\n\n"
        f"{commands}\n\n"
        "dallemini COMMAND --help lists the options of one, dallemini --version the version."
    )


def _complete(words: list[str]) -> int:
    """Print or write the completion of a shell, for which all commands are loaded."""
    from . import train

    commands = {name: _load(name) for name, (kind, _) in _COMMANDS.items() if kind}
    commands["train"] = train.for_completion()
    try:
        tyro.extras.subcommand_cli_from_dict(commands, prog="dallemini", args=words)
    except SystemExit as stopped:
        return stopped.code if isinstance(stopped.code, int) else 0
    sys.stdout.flush()
    return 0
