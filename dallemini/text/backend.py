"""Vocabularies of the package tokenizers: how BART's are made, which are read, and their failures.

A `tokenizer.json` is a small program: its normalizer may write a gigabyte for a letter, its
patterns may search for hours, and what it cannot do ends in a Rust panic, which is a
`BaseException`, or in the end of the process. So the file is looked at as JSON first: only the
pieces of which the tokenizers of DALL-E Mini and CLIP are made are handed on, in forms whose work
grows with the prompt; and a few strings are tried before a vocabulary is trusted.
"""

from __future__ import annotations

import contextlib
import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import CheckpointError, DalleMiniError
from ..files import write_text
from ..foreign import check_file

if TYPE_CHECKING:
    import tokenizers

START, PADDING, END = "<s>", "<pad>", "</s>"
SPECIAL_TOKENS = (START, PADDING, END, "<unk>", "<mask>")

MAX_LENGTH = 65_536
"""The most tokens of a prompt that any configuration may ask for; the released models read 64."""

_TRIED = ("", "a", "A red apple, 3 of them!", "\u00e9\u4eac \n x" * 20)
_MOST_IDS = 64  # for a character that is tried: UTF-8 has four bytes, special tokens are few
_LARGEST_FILE = 16 << 20  # the released ones have 2 MB; indented, with 50,000 ids, 4 MB
_MOST_LISTS = 400_000  # in a file of that size; each takes 60 bytes once it is read
MOST_MERGES = 300_000
_DEPTH = 4  # of sequences in sequences
_SHORT = 32  # characters of a prefix or suffix, or of what takes the place of something
_NORMALIZERS = frozenset({"NFC", "NFD", "NFKC", "NFKD", "Lowercase", "Strip", "StripAccents"})
_PRE_TOKENIZERS = frozenset({"ByteLevel", "Whitespace", "WhitespaceSplit", "Digits", "Punctuation"})
_PROCESSORS = frozenset({"ByteLevel", "RobertaProcessing", "BertProcessing", "TemplateProcessing"})
_DECODERS = frozenset({"ByteLevel", "BPEDecoder", "Fuse"})
_MEMBERS = {
    "normalizer": "normalizers",
    "pre_tokenizer": "pretokenizers",
    "post_processor": "processors",
    "decoder": "decoders",
}
_ALLOWED = {
    "normalizer": _NORMALIZERS,
    "pre_tokenizer": _PRE_TOKENIZERS,
    "post_processor": _PROCESSORS,
    "decoder": _DECODERS,
}
_REPLACING = (("normalizer", "Replace"), ("pre_tokenizer", "Split"), ("decoder", "Replace"))
_ONE_CHARACTER = re.compile(r"\\[pP]\{\^?\w+\}|\\[^gkKGXR1-9]|\[(?:\\.|[^\]\\])*\]", re.DOTALL)
_UNBOUNDED = re.compile(r"(?:[*+]|\{\d*,\d*\}|\{\d\d+\})[+?]?")
_OPTIONAL = re.compile(r"(?<![(*+?}])\?")
_ENDLESS = re.compile(r"\\|[)}]\s*[*+{]|[*+?]\s*[*{]|\(\?(?!i?:|<?[!=])")
_MOST_UNBOUNDED, _MOST_OPTIONAL, _MOST_GROUPS = 2, 4, 3  # of an alternative


@contextlib.contextmanager
def refusing(what: str) -> Iterator[None]:
    """Turn whatever the package raises, panics included, into one error.

    Args:
        what: the beginning of the message: what cannot be done.

    Raises:
        CheckpointError: something was raised that is neither ours nor meant to end the process.
    """
    try:
        yield
    except DalleMiniError:
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise CheckpointError(f"{what} ({reason}).") from error


class _RefusedError(ValueError):
    """What a vocabulary file does that it must not."""


def read_backend(path: Path) -> tokenizers.Tokenizer:
    """Build a vocabulary from a `tokenizer.json`, after looking at what it asks for.

    Raises:
        CheckpointError: it is not JSON, asks for something that no tokenizer of the family does, or
            the package cannot build it.
    """
    import tokenizers

    with refusing(f"{path} is not a readable vocabulary; download it again"):
        text = read_text(path)
        _check(_parse(text))
        return tokenizers.Tokenizer.from_str(text)


def read_text(path: Path) -> str:
    """Read a file of a vocabulary.

    Raises:
        MissingFileError: it does not exist or cannot be opened.
        CheckpointError: it is something else, such as a pointer of Git LFS, a web page or a pipe.
        UnicodeDecodeError: it is not text in UTF-8.
    """
    check_file(path, largest=_LARGEST_FILE)
    return path.read_text(encoding="utf-8")


def write_backend(backend: tokenizers.Tokenizer, path: Path, *, pretty: bool = False) -> None:
    """Write a vocabulary as a `tokenizer.json` that `read_backend` takes.

    Args:
        backend: the vocabulary.
        path: of the file.
        pretty: whether to indent it.

    Raises:
        CheckpointError: it has a part that is not read again, or is too large for that.
        StorageError: the file cannot be written.
    """
    with refusing("This vocabulary cannot be saved, because it could not be loaded again"):
        text = backend.to_str(pretty=pretty)
        if len(text.encode()) > _LARGEST_FILE:
            raise _RefusedError(f"it takes more than {_LARGEST_FILE:,} bytes")
        _check(_parse(text))
    write_text(path, text)


def read_merges(text: str, *, most: int = MOST_MERGES) -> list[tuple[str, str]]:
    """Read a merge a line, most frequent first; a first line that names the version is skipped.

    Args:
        text: the file.
        most: merges that are read; what comes after them is not looked at.

    Raises:
        ValueError: a line is not a pair.
    """
    merges: list[tuple[str, str]] = []
    for number, line in enumerate(io.StringIO(text, newline="\n")):
        if len(merges) == most:
            break
        if line.isspace() or (number == 0 and "#version" in line):
            continue
        left, right = line.split(maxsplit=2)
        merges.append((left, right))
    return merges


def special_token(token: str) -> tokenizers.AddedToken:
    """Return a special token as BART's vocabulary has it."""
    from tokenizers import AddedToken

    return AddedToken(token, lstrip=token == "<mask>", normalized=True, special=True)


def byte_level(model: tokenizers.models.BPE) -> tokenizers.Tokenizer:
    """Make a backend that splits texts and joins tokens as GPT-2's does."""
    import tokenizers
    from tokenizers import decoders, pre_tokenizers

    backend = tokenizers.Tokenizer(model)
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=True)
    backend.decoder = decoders.ByteLevel()
    return backend


def surround(backend: tokenizers.Tokenizer) -> tokenizers.Tokenizer:
    """Let a backend put `<s>` and `</s>` around a text, as BART does."""
    from tokenizers import processors

    start, _, end = special_ids(backend)
    backend.post_processor = processors.RobertaProcessing(
        (END, end), (START, start), trim_offsets=True, add_prefix_space=False
    )
    return backend


def special_ids(backend: tokenizers.Tokenizer) -> list[int]:
    """Return the ids of `<s>`, `<pad>` and `</s>`.

    Raises:
        CheckpointError: the vocabulary lacks one of them.
    """
    ids = {token: backend.token_to_id(token) for token in (START, PADDING, END)}
    missing = ", ".join(token for token, token_id in ids.items() if token_id is None)
    if missing:
        raise CheckpointError(
            f"The vocabulary has no {missing}; it is not one of a DALL-E Mini model."
        )
    return [token_id for token_id in ids.values() if token_id is not None]


def read_vocabulary(paths: Sequence[Path]) -> tokenizers.Tokenizer:
    """Read `tokenizer.json`, or `vocab.json` and `merges.txt`.

    Raises:
        CheckpointError: as `read_backend`.
    """
    if len(paths) == 1:
        return read_backend(paths[0])
    names = " and ".join(str(path) for path in paths)
    with refusing(f"{names} are not a readable vocabulary; download them again"):
        vocabulary, merges = map(read_text, paths)
        return _build_backend(_parse(vocabulary), read_merges(merges))


def _build_backend(
    vocabulary: dict[str, int], merges: list[tuple[str, str]]
) -> tokenizers.Tokenizer:
    from tokenizers import models

    backend = byte_level(models.BPE(vocabulary, merges))
    known = [token for token in SPECIAL_TOKENS if token in vocabulary]
    backend.add_special_tokens([special_token(token) for token in known])
    return surround(backend)


def try_backend(backend: tokenizers.Tokenizer) -> None:
    """Encode a few strings.

    Raises:
        CheckpointError: it cannot, or what comes out cannot be right.
    """
    for text in _TRIED:
        with refusing("The vocabulary cannot encode an ordinary text"):
            count = len(backend.encode(text, add_special_tokens=False).ids)
        if count > _MOST_IDS * (len(text) + 1) or (text and not count):
            raise CheckpointError(
                f"The vocabulary makes {count} tokens of a text of {len(text)} characters; it is "
                "not one of a DALL-E Mini or CLIP model."
            )


def _parse(text: str) -> Any:
    if text.count("[") + text.count("{") > _MOST_LISTS:
        raise _RefusedError(f"it has more than {_MOST_LISTS:,} lists")
    return json.loads(text)


def _check(values: Any) -> None:
    if not isinstance(values, dict) or not isinstance(values.get("model"), dict):
        raise _RefusedError("it has no model")
    for place in _ALLOWED:
        _check_piece(place, values.get(place), depth=0)
    model = values["model"]
    if model.get("type", "BPE") != "BPE":
        raise _foreign("model", model.get("type"))
    if model.get("dropout"):
        raise _RefusedError("it drops merges at random")
    for key in ("continuing_subword_prefix", "end_of_word_suffix"):
        _check_short(key, model.get(key))


def _check_piece(place: str, piece: Any, *, depth: int) -> None:
    if piece is None:
        return
    kind = piece.get("type") if isinstance(piece, dict) else None
    members = piece.get(_MEMBERS[place]) if kind == "Sequence" else None
    if isinstance(members, list) and depth < _DEPTH and len(members) <= _SHORT:
        for member in members:
            _check_piece(place, member, depth=depth + 1)
    elif (place, kind) in _REPLACING:
        _check_pattern(str(kind), piece)
    elif not isinstance(kind, str) or kind not in _ALLOWED[place]:
        raise _foreign(place, kind)
    elif kind == "BPEDecoder":
        _check_short("suffix", piece.get("suffix"))


def _check_pattern(kind: str, piece: Mapping[str, Any]) -> None:
    """Refuse patterns that may search without end, and replacements that make a text longer."""
    pattern = piece.get("pattern")
    found = next(iter(pattern.values()), None) if isinstance(pattern, dict) else None
    if not isinstance(found, str) or not 0 < len(found) <= 1000:
        raise _RefusedError(f"it has a {kind} without a usable pattern")
    content = piece.get("content", "")
    if not isinstance(content, str) or len(content) > 1:
        raise _RefusedError(f"it has a {kind} that makes texts longer")
    assert isinstance(pattern, dict)
    if "Regex" in pattern and _may_search_long(found):
        raise _RefusedError(f"it has a {kind} whose pattern may search without end")


def _may_search_long(pattern: str) -> bool:
    """Tell whether a regular expression has more ways to match a text than the known ones have."""
    plain = _ONE_CHARACTER.sub("x", pattern)
    return bool(_ENDLESS.search(plain)) or any(
        len(_UNBOUNDED.findall(part)) > _MOST_UNBOUNDED
        or len(_OPTIONAL.findall(part)) > _MOST_OPTIONAL
        or part.count("(") > _MOST_GROUPS
        for part in _alternatives(plain)
    )


def _alternatives(pattern: str) -> list[str]:
    """Split at the bars that are in no group."""
    depth, parts = 0, [""]
    for character in pattern:
        depth += (character == "(") - (character == ")")
        if character == "|" and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return parts


def _check_short(key: str, value: object) -> None:
    if value is not None and not (isinstance(value, str) and len(value) <= _SHORT):
        raise _RefusedError(f"it has a {key} that is not a short text")


def _foreign(place: str, kind: object) -> _RefusedError:
    return _RefusedError(
        f"its {place} is of type {str(kind)[:60]!r}, which no tokenizer of DALL-E Mini or CLIP uses"
    )
