"""Where a model keeps its vocabulary, and what its configuration says about text.

Knows the layouts: our own (`tokenizer.json`), DalleBart's (the same, or `vocab.json` and
`merges.txt`), and that of https://github.com/kuprel/min-dalle, which has two models in one folder.
Knows nothing about what is in a vocabulary.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ..config import CONFIG_NAME, read_json
from ..errors import CheckpointError, MissingFileError, UnsupportedModelError
from ..foreign import show
from ..hub.source import Source
from .knowledge import KNOWLEDGE_FILE

TOKENIZER_FILE = "tokenizer.json"
WORDS_FILE = "word_frequencies.txt"

_PAIR = ("vocab.json", "merges.txt")
_MINI_PAIR = ("vocab_mini.json", "merges_mini.txt")
_MINI_CONFIG = "config_mini.json"
_WORDS_FILES = (WORDS_FILE, "enwiki-words-frequency.txt")
_MODEL_TYPE = "dallebart"


@dataclasses.dataclass(frozen=True)
class TokenizerFiles:
    """Names of the files that make a tokenizer.

    Attributes:
        vocabulary: `tokenizer.json`, or the vocabulary and its merges.
        config: None where the model has no configuration.
        words: word frequencies for hashtags, None where there are none.
        knowledge: what the model was taught, None where nobody says.
    """

    vocabulary: tuple[str, ...]
    config: str | None
    words: str | None
    knowledge: str | None = None

    def all(self) -> list[str]:
        """Return every name."""
        names = (*self.vocabulary, self.config, self.words, self.knowledge)
        return [name for name in names if name is not None]


def find_files(source: Source) -> TokenizerFiles:
    """Choose among the files of a source those that make its tokenizer.

    Raises:
        MissingFileError: none of the known layouts is there.
    """
    files = source.files()
    choices: list[tuple[str, ...]] = [(TOKENIZER_FILE,), _PAIR]
    choices.insert(0 if _is_mini(source, files) else 2, _MINI_PAIR)
    for choice in choices:
        if all(name in files for name in choice):
            configs = [_MINI_CONFIG, CONFIG_NAME] if choice == _MINI_PAIR else [CONFIG_NAME]
            optional = (
                _first(names, files) for names in (configs, _WORDS_FILES, (KNOWLEDGE_FILE,))
            )
            return TokenizerFiles(choice, *optional)
    wanted = ", or ".join(" and ".join(choice) for choice in choices)
    nested = f"tokenizer/{TOKENIZER_FILE}" in files
    hint = 'Pass subfolder="tokenizer".' if nested else "Check that it is the tokenizer's folder."
    raise MissingFileError(
        f"{source.name} has no vocabulary: looked for {wanted}; {source.told_files()}. {hint}"
    )


def read_text_settings(path: Path) -> dict[str, Any]:
    """Read the fields of a `TokenizerConfig` from our own or a released model's `config.json`.

    Raises:
        ConfigError: the file is not a JSON object.
        CheckpointError: it belongs to another part of a pipeline.
        UnsupportedModelError: it belongs to another architecture.
    """
    values = read_json(path)
    mark = values.pop("dallemini", None)
    if mark is None:
        return _released_settings(path, values)
    component = mark.get("component") if isinstance(mark, dict) else mark
    if component != "tokenizer":
        raise CheckpointError(f"{path} belongs to a {show(component)[1:-1]}, not to a tokenizer.")
    return values


def _is_mini(source: Source, files: Iterable[str]) -> bool:
    """Whether the smaller of the two models that min-dalle keeps in one folder is meant."""
    if source.selected is not None:
        return Path(source.selected).stem.endswith("_mini")
    return "encoder_mini.pt" in files and "encoder.pt" not in files


def _first(names: Iterable[str], files: Iterable[str]) -> str | None:
    return next((name for name in names if name in files), None)


def _released_settings(path: Path, values: Mapping[str, Any]) -> dict[str, Any]:
    model_type = values.get("model_type")
    if model_type not in (None, _MODEL_TYPE):
        raise UnsupportedModelError(
            f"{path}: model_type is {show(model_type)}; only {_MODEL_TYPE!r} can be loaded."
        )
    settings = {
        # False is the default of the released models' class, whose configs do say true; min-dalle's
        # files, which are conversions of the same weights, have no such key.
        "normalize_text": values.get("normalize_text", model_type is None),
        "max_length": values.get("max_text_length"),
    }
    return {name: value for name, value in settings.items() if value is not None}
