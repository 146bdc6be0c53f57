"""Options that several commands share, and what they mean."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import os
import re
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from .. import hub
from ..errors import InputError, MissingDependencyError
from ..files import as_path
from ..foreign import check_file
from ..generation import GenerationConfig
from .words import own_words

if typing.TYPE_CHECKING:
    from ..generation.watermark import Watermark
    from ..pipeline.pipeline import Pipeline
    from ..pipeline.signing import C2PASigner
    from ..safety import SafetyChecker

SafetyLevel = Literal["auto", "full", "words", "off"]
SafetyActionName = Literal["blank", "blur", "warn", "refuse"]
Quantization = Literal["int8"]
DtypeName = Literal["float32", "float16", "bfloat16"]
PrecisionName = Literal["float32", "float16", "bfloat16", "int8"]


def one_word(read: Callable[[str], Any], metavar: str) -> Any:
    """Make the constructor of an option of one word.

    Args:
        read: turns the word into a value; its ValueErrors are shown.
        metavar: how the word is called in the help.
    """
    return tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar=metavar,
        instance_from_str=lambda words: read(words[0]),
        is_instance=lambda value: True,
        str_from_instance=lambda value: ["none" if value is None else str(value)],
    )


def _or_none(read: Callable[[str], Any], *words: str) -> Callable[[str], Any]:
    """Return a reader that takes "none", and some words as they are."""

    def read_word(word: str) -> Any:
        if word.lower() == "none":
            return None
        return word if word in words else read(word)

    return read_word


def one_of(kind: Any) -> Any:
    """Make the constructor of an option that is one of the words of a Literal, or left out."""
    words = typing.get_args(kind)

    def read_word(word: str) -> str:
        if word not in words:
            raise ValueError(f"{word!r} is not one of {', '.join(words)}")
        return word

    return one_word(_or_none(read_word), f"{{{','.join(words)}}}")


def _read_scale(word: str) -> float | tuple[float, float]:
    """Read one number, or two with a colon between them."""
    start, colon, end = word.partition(":")
    return (float(start), float(end)) if colon else float(start)


def read_weights(word: str) -> tuple[float, ...]:
    """Read numbers with colons between them.

    Example:
        >>> from dallemini.cli.options import read_weights
        >>> read_weights("0.6:0.4")
        (0.6, 0.4)
    """
    return tuple(map(float, word.split(":")))


Pictures = Annotated[
    tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="PICTURE [PICTURE ...]")
]

_UNSAID = tyro.conf.arg(help_behavior_hint="")
OptionalInt = Annotated[int | None, one_word(_or_none(int), "INT"), _UNSAID]
OptionalFloat = Annotated[float | None, one_word(_or_none(float), "FLOAT"), _UNSAID]
Adapters = Annotated[
    tyro.conf.UseAppendAction[tuple[str, ...]], tyro.conf.arg(metavar="NAME[:WEIGHT]")
]
OptionalText = Annotated[str | None, one_word(_or_none(str), "TEXT"), _UNSAID]
Older = Annotated[Quantization | None, one_of(Quantization), _UNSAID]
OptionalWeights = Annotated[
    tuple[float, ...] | None, one_word(_or_none(read_weights), "WEIGHT:WEIGHT"), _UNSAID
]
OptionalPath = Annotated[Path | None, one_word(_or_none(Path), "PATH"), _UNSAID]


@contextlib.contextmanager
def needing(extra: str, what: str) -> Iterator[None]:
    """Name the extra that something needs where a package of it cannot be imported.

    Raises:
        MissingDependencyError: an import failed, of a module that is not our own.
    """
    try:
        yield
    except ImportError as error:
        if (error.name or "").startswith("dallemini"):
            raise
        raise MissingDependencyError(
            f'{what} needs its extra ({error}); run: pip install ".[{extra}]"'
        ) from error


@dataclasses.dataclass(frozen=True, kw_only=True)
class SourceOptions:
    """Where models come from.

    Attributes:
        revision: branch, tag or commit of the model on the Hub.
        cache_dir: the Hub's cache folder, instead of the user's.
        offline: never ask the network.
    """

    revision: OptionalText = None
    cache_dir: OptionalPath = None
    offline: tyro.conf.FlagCreatePairsOff[bool] = False

    def open(self, name: str, subfolder: str | None = None) -> hub.Source:
        """Find the files of a model, or of a folder in it.

        Raises:
            DalleMiniError: as `hub.open`.
        """
        where = hub.Where(self.revision, self.cache_dir, self.offline)
        return hub.open(name, where, subfolder=subfolder)

    def elsewhere(self) -> SourceOptions:
        """Return the same for another model, which has revisions of its own."""
        return dataclasses.replace(self, revision=None)


Where = Annotated[SourceOptions, tyro.conf.arg(name="")]
"""The same, with its options named as if they were the command's own."""


def open_adapters(words: Iterable[str], where: SourceOptions) -> list[tuple[hub.Source, float]]:
    """Find the adapters of an option, with their weights.

    Raises:
        DalleMiniError: as `hub.open`.
    """
    named, place = map(split_weight, words), where.elsewhere()
    return [(place.open(name), weight) for name, weight in named]


_ADAPTER = re.compile(r"(.+):([+-]?\d*\.?\d+)")


def split_weight(word: str) -> tuple[str, float]:
    """Take the weight off the name of an adapter.

    Example:
        >>> from dallemini.cli.options import split_weight
        >>> split_weight("me/ink:0.8"), split_weight("blips/adapter")
        (('me/ink', 0.8), ('blips/adapter', 1.0))
    """
    found = None if os.path.exists(word) else _ADAPTER.fullmatch(word)
    return (found[1], float(found[2])) if found else (word, 1.0)


def load_pipeline(
    source: hub.Source, adapters: Sequence[tuple[hub.Source, float]], **keywords: Any
) -> Pipeline:
    """Load a pipeline with adapters, which are added before weights become integers.

    Args:
        source: of the pipeline.
        adapters: where they lie, and their weights.
        keywords: of `Pipeline.from_pretrained`.

    Raises:
        DalleMiniError: as `Pipeline.from_pretrained` and `load_adapter`.
    """
    from ..models.pretrained import check_device  # here, because torch takes seconds
    from ..pipeline.parts import choose_weights
    from ..pipeline.pipeline import Pipeline

    if not adapters:
        return Pipeline.from_pretrained(source, **keywords)
    asked = keywords.get("dtype"), keywords.get("quantization")
    weights = choose_weights(*asked, check_device(keywords.get("device", "cpu")))
    floats = {part: held.dtype for part, held in weights.items()}
    pipe = Pipeline.from_pretrained(source, **keywords | {"dtype": floats, "quantization": None})
    for place, weight in adapters:
        pipe.load_adapter(place, weight=weight)
    quantization = weights["transformer"].quantization
    return pipe if quantization is None else pipe.quantize(quantization)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DrawingOptions:
    """How a model that draws is loaded.

    Attributes:
        adapter: folder or Hub id of a LoRA adapter, with a weight as in me/ink:0.8 or as strong as
            it was trained; repeat it for several.
        device: where to compute: cpu, cuda, cuda:1, mps.
        dtype: floating-point type of the weights; int8 for smaller ones of the transformer, on the
            CPU.
        quantization: an older spelling of --dtype int8.
    """

    adapter: Adapters = ()
    device: str = "cpu"
    dtype: PrecisionName = "float32"
    quantization: Older = None

    def check(self) -> None:
        """Try the options before anything is loaded.

        Raises:
            InputError: the device cannot be used.
            UnsupportedOperationError: int8 weights are not for this device or type.
        """
        from ..models.transformer import Transformer  # here, because torch takes seconds

        Transformer.check_precision(self.device, self.dtype, self.quantization)

    def load(self, source: hub.Source, where: SourceOptions, **keywords: Any) -> Pipeline:
        """Load a pipeline with the adapters.

        Args:
            source: of the pipeline.
            where: models lie; adapters on the Hub have revisions of their own.
            keywords: more, or others, of `Pipeline.from_pretrained`.

        Raises:
            DalleMiniError: as `load_pipeline`.
        """
        own = {field: getattr(self, field) for field in ("device", "dtype", "quantization")}
        if self.quantization is not None and self.dtype == "float32":
            own |= {"dtype": self.quantization, "quantization": None}
        return load_pipeline(source, open_adapters(self.adapter, where), **own | keywords)


Drawing = Annotated[DrawingOptions, tyro.conf.arg(name="")]
"""The same, with its options named as if they were the command's own."""


# How a setting is written that no type of the parser's says well.
_FORMS: dict[str, Any] = {
    "guidance_scale": one_word(_read_scale, "SCALE|START:END"),
    "negative_prompt": one_word(str, "TEXT"),
    "batch_size": one_word(_or_none(int, "auto"), "INT|auto|none"),
}
# What their docstring says in words of Python.
_HELP = {
    "guidance_scale": "how far the prompt pushes; 1 turns guidance off and halves the work. "
    "START:END changes it evenly while a picture is drawn.",
    "rank": "sort the pictures of each prompt by how well they fit it; see --rank-by.",
    "negative_prompt": "what the pictures are led away from; it needs a guidance above 1.",
}
_TYPES: dict[str, Any] = {"rank": bool}  # what it is ranked by is an option of its own


def _form(name: str, hint: Any) -> Any:
    """Return how a setting is written, None where its type says it."""
    options = set(typing.get_args(hint))
    if name in _FORMS or options not in ({int, type(None)}, {float, type(None)}):
        return _FORMS.get(name)
    kind = int if int in options else float
    return one_word(_or_none(kind), f"{kind.__name__.upper()}|none")


@dataclasses.dataclass(frozen=True, kw_only=True)
class SigningOptions:
    """What signs pictures.

    Attributes:
        c2pa_certificate: a PEM file with your certificate and those that vouch for it; every file
            is signed with it.
        c2pa_key: a PEM file with the key of the certificate.
        c2pa_algorithm: of that key.
    """

    c2pa_certificate: OptionalPath = None
    c2pa_key: OptionalPath = None
    c2pa_algorithm: str = "es256"

    def signer(self) -> C2PASigner | None:
        """Return what signs, if anything does.

        Raises:
            DalleMiniError: one of the two files is not given, not there, or cannot sign.
        """
        if self.c2pa_certificate is None and self.c2pa_key is None:
            return None
        if self.c2pa_certificate is None or self.c2pa_key is None:
            raise InputError("Signing needs both --c2pa-certificate and --c2pa-key.")
        from ..pipeline.signing import C2PASigner  # here, because torch takes seconds

        signer = C2PASigner(
            certificate=self.c2pa_certificate,
            private_key=self.c2pa_key,
            algorithm=self.c2pa_algorithm,
        )
        signer.check()
        return signer


Signing = Annotated[SigningOptions, tyro.conf.arg(name="")]
"""The same, with its options named as if they were the command's own."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class MarkOptions(SigningOptions):
    """How pictures are marked.

    Attributes:
        watermark_key_file: a file with a secret, whose mark the tokens get; `dallemini detect`
            finds it again. A key in the command itself could be read by other users.
    """

    watermark_key_file: OptionalPath = None

    def watermark(self) -> Watermark | None:
        """Read the key, if there is one.

        Raises:
            DalleMiniError: as `read_watermark`.
        """
        return read_watermark(self.watermark_key_file)


Marks = Annotated[MarkOptions, tyro.conf.arg(name="")]
"""The same, with its options named as if they were the command's own."""

_MOST_KEY = 4096


def read_watermark(path: Path | None) -> Watermark | None:
    """Return the watermark of the key in a file, without white space around it.

    Raises:
        MissingFileError: there is no such file.
        InputError: it is empty or too large for a key.
    """
    if path is None:
        return None
    from ..generation.watermark import Watermark  # here, because torch takes seconds

    file = as_path(path)
    check_file(file, error=InputError, largest=_MOST_KEY)
    return Watermark(file.read_bytes().strip())


@dataclasses.dataclass(frozen=True, kw_only=True)
class SafetyOptions:
    """What looks at prompts and pictures.

    Attributes:
        safety: words reads prompts by a short list; full also looks at the pictures, which needs
            the extra `safety`; auto is full where that is installed and words where not; off checks
            nothing.
        safety_action: what happens to what is flagged, instead of refusing prompts and blanking
            pictures.
        safety_words: a file of more words that are not asked for, one a line.
    """

    safety: SafetyLevel = "off"
    safety_action: Annotated[SafetyActionName | None, one_of(SafetyActionName), _UNSAID] = None
    safety_words: OptionalPath = None

    def checker(self) -> SafetyChecker | None:
        """Return what is asked, if anything is.

        Raises:
            MissingDependencyError: `full` without the extra.
            DalleMiniError: the file of words is none.
        """
        if self.safety == "off":
            if self.safety_action is not None or self.safety_words is not None:
                raise InputError("There is nothing to check: --safety is off; give --safety full.")
            return None
        from ..safety import WordSafetyChecker, usual_checker  # here, because torch takes seconds

        action = self.safety_action or "refuse"
        if self.safety_words is None:
            words = WordSafetyChecker(action=action)
        else:
            words = WordSafetyChecker.from_file(self.safety_words, action=action)
        if self.safety == "words":
            return words
        needed = self.safety == "full"
        return usual_checker(words=words, action=self.safety_action, needs_pictures=needed)


Safety = Annotated[SafetyOptions, tyro.conf.arg(name="")]
"""The same, with its options named as if they were the command's own."""


def attribute_help(cls: type) -> dict[str, str]:
    """Return what the docstring of a class says about each of its attributes.

    Example:
        >>> from dallemini.cli.options import SourceOptions, attribute_help
        >>> attribute_help(SourceOptions)["offline"]
        'never ask the network.'
    """
    section = (inspect.getdoc(cls) or "").partition("Attributes:\n")[2].partition("\n\n")[0]
    entries = re.findall(r"^ {4}(\w+): (.+(?:\n {8}.+)*)", section, flags=re.MULTILINE)
    return {name: " ".join(text.split()) for name, text in entries}


def drawing_type(
    name: str, settings: Iterable[str], *, aliases: Mapping[str, tuple[str, ...]] | None = None
) -> Any:
    """Make a type with some fields of `GenerationConfig`, their help, and other flags for them.

    Args:
        name: of the type.
        settings: names of the fields.
        aliases: more flags, by field.
    """
    help_of, hints = attribute_help(GenerationConfig), typing.get_type_hints(GenerationConfig)
    make: Any = typing.TypedDict
    fields = {}
    for setting in settings:
        form = _form(setting, hints[setting])
        about = tyro.conf.arg(
            help=own_words(_HELP.get(setting, help_of[setting])),
            help_behavior_hint="(default: the model's own)",
            aliases=(aliases or {}).get(setting, ()),
        )
        kind = _TYPES.get(setting, hints[setting] if form is None else Any)
        marks = (about,) if form is None else (form, about)
        fields[setting] = Annotated[(kind, *marks)]
    return make(name, fields, total=False)
