"""`dallemini train`: train or fine-tune a part from a file of settings, flags, or both.

Its flags are the fields of the training configurations, so nothing is written twice; a file named
by `--config` gives the defaults of the flags.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Union

import tyro

from ..config import Config, read_json, read_yaml
from ..errors import ConfigError
from ..training import recipes
from .parsing import parse
from .words import UsageError

_PARTS: dict[str, type[Config]] = {
    "vqgan": recipes.VQGANTrainingConfig,
    "transformer": recipes.TransformerTrainingConfig,
    "clip": recipes.CLIPTrainingConfig,
}
_USAGE = f"usage: dallemini train {{{','.join(_PARTS)}}} [--config FILE] [OPTIONS]"


def run(argv: Sequence[str]) -> int:
    """Parse the words after `dallemini train` and run the training.

    Returns:
        0, or the exit code of the parser where it showed its help.

    Raises:
        DalleMiniError: the training failed, or the file of settings is wrong; a UsageError where
            the words were not understood.
    """
    if not argv:
        raise UsageError(f"Name the part to train, one of {', '.join(_PARTS)}.")
    if argv[0] in ("-h", "--help"):
        print(f"{_USAGE}\n\nTrain or fine-tune one part; --help after its name lists its options.")
        return 0
    if argv[0] not in _PARTS:
        raise UsageError(f"There is no part {argv[0]!r} to train; name one of {', '.join(_PARTS)}.")
    path, flags = _take_config(argv[1:])
    kind = _PARTS[argv[0]]
    try:
        config = _parse(kind, flags, path, prog=f"dallemini train {argv[0]}")
    except SystemExit as stopped:  # it has shown its help
        return stopped.code if isinstance(stopped.code, int) else 0
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    getattr(recipes, f"train_{argv[0]}")(config)  # imported now, since torch takes seconds
    return 0


def for_completion() -> Any:
    """Return what tells the parser of the parts and their options, to complete them in a shell."""
    kinds = tuple(
        Annotated[kind, tyro.conf.subcommand(name, prefix_name=False)]
        for name, kind in _PARTS.items()
    )

    def train(part: Any) -> None:
        del part

    train.__annotations__["part"] = Annotated[Union[kinds], tyro.conf.arg(name="")]  # noqa: UP007
    return train


def _take_config(argv: Sequence[str]) -> tuple[Path | None, list[str]]:
    """Take `--config FILE` or `--config=FILE` out of the words."""
    words, path = list(argv), None
    for index, word in enumerate(words):
        name, equals, value = word.partition("=")
        if name == "--config":
            if not equals and index + 1 == len(words):
                raise UsageError("--config needs a file: --config run.yaml.")
            path = Path(value if equals else words[index + 1])
            del words[index : index + (1 if equals else 2)]
            break
    return path, words


def _parse(kind: type[Config], flags: Sequence[str], path: Path | None, *, prog: str) -> Any:
    return parse(kind, flags, prog=prog, default=None if path is None else _from_file(kind, path))


def _from_file(kind: type[Config], path: Path) -> Config:
    """Read settings, of which `steps` may be left to the flags."""
    values = (read_yaml if path.suffix in (".yaml", ".yml") else read_json)(path)
    try:
        settings = kind.from_dict({"steps": 1, **values})
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    if "steps" not in values:
        object.__setattr__(settings, "steps", tyro.MISSING)  # the parser asks for it
    return settings
