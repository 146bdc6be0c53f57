"""What the command line says: in its own words, one line for each complaint."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator

from ..errors import DalleMiniError, InputError

_NAMES = (
    *("num_images_per_prompt", "guidance_scale", "top_k", "top_p", "batch_size"),
    *("negative_prompt", "cache_dir", "local_files_only", "max_images", "max_batch", "max_waiting"),
    *("max_prompt_length", "max_upload"),
)
_FLAGS = {"num_images_per_prompt": "--num-images", "local_files_only": "--offline"}
_KEYWORDS = ("revision", "subfolder", "dtype", "device", "seed", "rank")
_PYTHON = (
    # a prompt is told by its words: its number is that in a part of the prompts
    (r"\b(prompts|negative_prompt)(?:\[\d+\])? \((('|\").*?\3)\) has", r"\1 \2 has"),
    (r"\bprompts(?:\[\d+\])?(?= ['\"]| is not)", "prompt"),
    (r"GenerationConfig\.", ""),
    (r"give it as watermark=Watermark\(key\)", "give the key by --watermark-key-file FILE"),
    (r"\bmask_image= ?", "--mask "),
    (r"\bimage= ?", "--image "),
    (r"Expected 1 values", "Expected one"),
    (r"\bNone\b", "none"),
    (r"no type matching (\S+) could be instantiated from \['(.*?)'\]\.", r"'\2' is not \1."),
    (r"invalid literal for int\(\) with base 10: (.+?)(?=;|$)", r"\1 is not a whole number"),
    (r"could not convert string to float: (.+?)(?=;|$)", r"\1 is not a number"),
    (r"Error parsing (\S+):", r"\1:"),
    (r"\{none\}\|", "none or "),
)
_LEFT_OUT = re.compile(r"^(Got errors:|- <class .*|\(required\)|\(default: .*|Value error)$")
_TITLES = {
    "Parsing error",
    "Required options",
    "Unrecognized options",
    "Invalid choice",
    "Missing argument",
}


class UsageError(InputError):
    """A command line that asks for what cannot be, told before anything is loaded."""


@contextlib.contextmanager
def checking_usage() -> Iterator[None]:
    """Let what is refused inside count as wrong use of the command.

    Raises:
        UsageError: instead of any other error of this library.
    """
    try:
        yield
    except DalleMiniError as error:
        raise UsageError(str(error)) from error


def own_words(message: str) -> str:
    """Return a message with options in place of the names of Python, in one line.

    Example:
        >>> from dallemini.cli.words import own_words
        >>> own_words("top_k must be at least 1, not 0; use None for no limit.")
        '--top-k must be at least 1, not 0; use none for no limit.'
    """
    text = " ".join(message.split())
    for pattern, told in _PYTHON:
        text = re.sub(pattern, told, text)
    for name in _NAMES:
        flag = _FLAGS.get(name, "--" + name.replace("_", "-"))
        text = re.sub(rf"(?<![-\w]){name}=", f"{flag} ", text)
        text = re.sub(rf"(?<![-\w]){name}\b", flag, text)
    for name in _KEYWORDS:
        text = re.sub(rf"(?<![-\w]){name}=", f"--{name} ", text)
    return text


def sentence_of_box(box: str, prog: str) -> str:
    r"""Return what a box of the parser says as one sentence.

    Example:
        >>> from dallemini.cli.words import sentence_of_box
        >>> box = "╭─ Value error ─╮\n│ Error parsing --x: 1.5 is no INT │\n╰────╯"
        >>> sentence_of_box(box, "dallemini generate")
        '--x: 1.5 is no INT; see dallemini generate --help'
    """
    found: list[str] = []
    for line in box.splitlines():
        text = line.strip(" │|")
        if re.match(r"^[╭╰├]|^[-─]+$", text) or not text or _LEFT_OUT.match(text):
            continue
        if text.startswith(("Argument helptext:", "For full helptext")):
            break
        found.append(text)
    if len(found) > 1 and found[0] in _TITLES:
        del found[0]
    return own_words(" ".join(found)).rstrip(". ") + f"; see {prog} --help"
