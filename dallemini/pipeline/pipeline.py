"""The pipeline: prompts in, pictures out, from parts that can each be swapped."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self, Unpack

import torch

from .. import hub
from ..config import plain_number
from ..errors import InputError, InputTypeError
from ..files import write_text
from ..generation import GenerationConfig, GenerationOverrides, Sampler
from ..generation.blend import Prompt
from ..generation.request import Request, make_request
from ..generation.watermark import SCHEME, MarkedSampler, Watermark
from ..images import Picture
from ..models.precision import Precision, Quantization, check_dtype
from ..models.pretrained import Loadable, SourceName, check_device, open_model
from ..models.transformer import Transformer
from ..safety.checker import SafetyChecker
from ..scorer import Scorer
from ..text.tokenizer import Tokenizer
from . import enlarging
from .adapting import Adapting
from .call import Call
from .cards import pipeline_card
from .detecting import Detecting, mark_request
from .editing import Editing
from .edits import Edit, begin
from .enlarging import ImageUpscaler
from .guarding import Guarded, SafetyCheck
from .judging import find_judge, warn_of_pruning
from .late import LateParts
from .metadata import tell_of
from .moving import move_together, precisions
from .outputs import GenerationOutput, GenerationStep
from .parts import (
    GENERATION_CONFIG_NAME,
    OLDER_FILES,
    Parts,
    PartsLoader,
    check_kinds,
    check_parts,
    check_savable,
    choose_weights,
    write_index,
)
from .pixels import ImageTokenizerLike
from .progress import Callback, Meter
from .sketch import Sketch, Sketcher


class Pipeline(Adapting, Detecting, Editing, Guarded, LateParts, Loadable):
    """Text to image with a DALL-E Mini model.

    Args:
        tokenizer: prompts to ids.
        transformer: ids to image tokens.
        vqgan: image tokens to pixels; any `ImageTokenizer`, or a class with its members.
        scorer: ranks pictures and chooses among candidates. `rank=True` needs one; without it
            candidates are chosen by how much likelier their prompt makes their tokens.
        upscaler: makes the finished pictures larger where `upscale=` asks for it; any
            `ImageUpscaler`. Without it that is realesr-animevideov3, of the extra `upscale`.
        safety_checker: asked about every prompt and picture; any `SafetyChecker`. None, as it is
            unless you give one, lets everything pass. It may be set later, and is not saved.
        config: settings of a call that gives none of its own.
        name: recorded in the pictures.

    Raises:
        InputTypeError: a part is not what its keyword says.
        InputError: the parts do not fit each other, or have no weights.

    Example:
        >>> from dallemini import Pipeline
        >>> pipe = Pipeline.from_pretrained()
        >>> out = pipe("a red apple", seed=0, progress=False)
        >>> out.images[0].mode
        'RGB'
    """

    _optional_files = OLDER_FILES
    tokenizer: Tokenizer
    transformer: Transformer
    vqgan: ImageTokenizerLike
    config: GenerationConfig

    def __init__(
        self,
        *,
        tokenizer: Tokenizer,
        transformer: Transformer,
        vqgan: ImageTokenizerLike,
        scorer: Scorer | None = None,
        upscaler: ImageUpscaler | None = None,
        safety_checker: SafetyChecker | None = None,
        config: GenerationConfig | None = None,
        name: str = "custom",
    ) -> None:
        check_kinds(tokenizer, transformer, vqgan, scorer, config)
        check_parts(tokenizer, transformer, vqgan)
        if upscaler is not None:
            enlarging.check_upscaler(upscaler)
        self.tokenizer, self.transformer, self.vqgan = tokenizer, transformer, vqgan
        self.config = config or GenerationConfig()
        self.name = name
        self.safety_checker = safety_checker
        self._scorer, self._upscaler, self._packaged = scorer, upscaler, {}
        self._moved, self._origin = {}, None

    @classmethod
    def from_pretrained(
        cls,
        source: SourceName | hub.Source = hub.BUNDLED_MODEL,
        *,
        subfolder: str | None = None,
        revision: str | None = None,
        cache_dir: SourceName | None = None,
        local_files_only: bool = False,
        token: str | None = None,
        device: str | torch.device = "cpu",
        dtype: Precision | Mapping[str, Precision] | None = None,
        quantization: Quantization | None = None,
        vqgan: ImageTokenizerLike | None = None,
        scorer: Scorer | None = None,
        upscaler: ImageUpscaler | None = None,
        safety_checker: SafetyChecker | None = None,
    ) -> Self:
        """Load every part from one source.

        Released checkpoints hold no image tokenizer: it is completed with
        `dalle-mini/vqgan_imagenet_f16_16384`, and with CLIP ViT-B/32 when ranking is first asked
        for, from the Hub. The source is opened once: all of its parts are of one commit.

        Args:
            source: a Hub id, a local folder, a source that `hub.open` gave, or nothing for the
                bundled model.
            subfolder: folder inside the source that holds the pipeline.
            revision: branch, tag or commit on the Hub.
            cache_dir: the Hub's cache folder, instead of the user's.
            local_files_only: never ask the network.
            token: Hub access token, instead of the stored one.
            device: where the models compute.
            dtype: of the weights: a type of torch or its name; float32 when None. "int8" quantises
                the transformer's while they are loaded. A mapping gives each part its own, such
                as `{"transformer": "int8", "vqgan": torch.bfloat16}`.
            quantization: an older spelling of `dtype="int8"`.
            vqgan: used instead of the source's or the default.
            scorer: used instead of the source's or the default.
            upscaler: used instead of the source's or the default.
            safety_checker: asked about prompts and pictures; nothing is when None.

        Raises:
            MissingFileError: the source or one of its files does not exist.
            HubError: the Hub could not be reached or refused.
            CheckpointError: the files are corrupt, unsafe or disagree with their configuration.
            InputError: the parts do not fit each other, the device cannot be used, or there is no
                such dtype or part.
            InputTypeError: `dtype`, or a part that was passed, is of the wrong kind.
            UnsupportedOperationError: int8 weights for a GPU, for another dtype than float32, or
                for a part that has none.
        """
        place = check_device(device)
        weights = choose_weights(dtype, quantization, place)
        where = hub.Where(revision, cache_dir, local_files_only, token)
        parts = Parts(open_model(source, where, subfolder))
        loader = PartsLoader(parts=parts, device=place, weights=weights)
        pipe = cls(
            tokenizer=loader.tokenizer(),
            transformer=loader.transformer(),
            vqgan=loader.vqgan() if vqgan is None else vqgan,
            scorer=scorer,
            upscaler=upscaler,
            safety_checker=safety_checker,
            config=parts.generation_config(),
            name=parts.source.label,
        )
        pipe._origin = loader
        return pipe

    def __call__(
        self,
        prompts: Prompt | Sequence[Prompt] = (),
        *,
        start_image: Picture | None = None,
        rows: int | None = None,
        paste: bool = True,
        sampler: Sampler | None = None,
        watermark: Watermark | None = None,
        progress: bool | None = None,
        callback: Callback | None = None,
        **overrides: Unpack[GenerationOverrides],
    ) -> GenerationOutput:
        """Draw pictures.

        Several threads may draw with one pipeline at the same time, as long as nothing changes it.

        Args:
            prompts: one prompt or several; a `Blend` may stand for each.
            start_image: a picture to go on from: its upper part is kept, and the rest is drawn. It
                is fitted as `inpaint` does.
            rows: rows of tokens that are kept of it; None keeps its upper half.
            paste: keep the pixels of these rows, too, as `inpaint` does.
            sampler: chooses the tokens; temperature, top_k and top_p are its own affair then.
            watermark: a key whose mark the tokens get; `detect` finds it again.
            progress: show a bar; None shows it on a terminal and in a notebook.
            callback: called after every step with how far the call is. What it raises ends the
                call; `errors.GenerationCancelled` is made for that.
            **overrides: fields of `GenerationConfig` for this call.

        Raises:
            ConfigError: an unknown keyword or a setting out of range.
            InputError: no prompts, or not one seed for each picture; a size that cannot be drawn;
                a picture or a number of rows that cannot be used; or a factor of `upscale` that the
                upscaler does not have.
            InputTypeError: prompts that are neither strings nor blends, or a sampler that cannot
                be called.
            MissingDependencyError: `upscale` without an upscaler, and the extra is not installed.
            SafetyError: the safety checker refuses a prompt or a picture.
        """
        request = self._request(prompts, sampler, overrides, watermark)
        sketch = self._sketcher(request.config).begin(start_image, rows, paste=paste)
        return self._call(request, sketch, sampler, Meter(progress, callback)).output()

    def stream(
        self,
        prompts: Prompt | Sequence[Prompt] = (),
        *,
        every: int = 32,
        edit: Edit | None = None,
        start_image: Picture | None = None,
        rows: int | None = None,
        paste: bool = True,
        sampler: Sampler | None = None,
        watermark: Watermark | None = None,
        progress: bool | None = None,
        callback: Callback | None = None,
        **overrides: Unpack[GenerationOverrides],
    ) -> Iterator[GenerationStep]:
        """Draw pictures and show them on the way; drop the iterator to cancel.

        Arguments are checked at the call, before the first step is asked for. The `output` of the
        last step is what a call with the same arguments returns, ranked and chosen; for an `edit`
        that is a call of `inpaint`, `vary` or `outpaint`.

        Args:
            prompts: one prompt or several; a `Blend` may stand for each.
            every: tokens between two looks; the finished pictures are always shown.
            edit: what is kept of a picture, as by `inpaint`, `vary` and `outpaint`, whose arguments
                an `Inpaint`, `Vary` or `Outpaint` takes.
            start_image: as in a call.
            rows: as in a call.
            paste: as in a call.
            sampler: chooses the tokens, instead of the settings.
            watermark: as in a call.
            progress: show a bar; None shows it on a terminal and in a notebook.
            callback: as in a call; it comes between the looks, too.
            **overrides: fields of `GenerationConfig` for this call. All candidates are shown until
                they are pruned. `upscale` makes the finished pictures larger, not the previews.

        Raises:
            ConfigError: an unknown keyword or a setting out of range.
            InputError: no prompts, `every` below 1, ranking asked for without a scorer, or a factor
                of `upscale` that the upscaler does not have; or what the edit refuses.
            InputTypeError: prompts that are neither strings nor blends, a sampler that cannot be
                called, or an `edit` that is none.
            SafetyError: the safety checker refuses a prompt, or later a picture.
            UnsupportedOperationError: a picture is given, and the VQGAN has no encoder.
        """
        request = self._request(prompts, sampler, overrides, watermark)
        every = plain_number(every)
        if isinstance(every, bool) or not isinstance(every, int) or every < 1:
            raise InputError(f"every must be a whole number from 1, not {every!r}.")
        sketcher = self._sketcher(request.config)
        sketch = begin(sketcher, edit, start_image, rows, paste=paste)
        return self._call(request, sketch, sampler, Meter(progress, callback)).steps(every)

    @property
    def components(self) -> dict[str, Any]:
        """The parts by name; a scorer or upscaler that is not loaded yet is None."""
        parts = {"tokenizer": self.tokenizer, "transformer": self.transformer, "vqgan": self.vqgan}
        late = {"scorer": self._scorer, "upscaler": self._upscaler}
        return {**parts, **late, "safety_checker": self.safety_checker}

    @property
    def device(self) -> torch.device:
        """Where the transformer computes."""
        return self.transformer.device

    @property
    def dtype(self) -> torch.dtype:
        """Floating-point type of the transformer's weights; float32 where they are int8."""
        return self.transformer.dtype

    def __repr__(self) -> str:
        kinds = precisions(transformer=self.transformer, vqgan=self.vqgan)
        same = set(kinds.values())
        told = same.pop() if len(same) == 1 else ", ".join(f"{k} {v}" for k, v in kinds.items())
        return f"<{type(self).__name__} {self.name!r}: {told} on {self.device}>"

    def quantize(self, quantization: Quantization = "int8") -> Self:
        """Make the transformer's weights smaller, in place; see `Transformer.quantize`."""
        self.transformer.quantize(quantization)
        return self

    def compile(self, *, backend: str = "inductor") -> Self:
        """Compile the drawing of tokens, in place; see `Transformer.compile_decoding`."""
        self.transformer.compile_decoding(backend=backend)
        return self

    def to(
        self, device: str | torch.device | None = None, *, dtype: Precision | None = None
    ) -> Self:
        """Move the models, in place, and return the pipeline.

        All are moved or none; a scorer or upscaler that is loaded later goes to the same place.

        Raises:
            InputTypeError: your own part cannot be moved, or `dtype` is not a dtype.
            InputError: the device cannot be used.
        """
        device = None if device is None else check_device(device)
        dtype = None if dtype is None else check_dtype(dtype)
        others = (self._scorer, self._upscaler, *self._packaged.values())
        parts: list[Any] = [self.transformer, self.vqgan, *filter(None, others)]
        for part in parts:
            if not hasattr(part, "to"):
                raise InputTypeError(f"{type(part).__name__} has no method `to`; move it alone.")
        move_together(parts, device=device, dtype=dtype)
        self._moved |= {k: v for k, v in (("device", device), ("dtype", dtype)) if v is not None}
        return self

    def _request(
        self,
        prompts: Prompt | Sequence[Prompt],
        sampler: Sampler | None,
        overrides: GenerationOverrides,
        watermark: Watermark | None = None,
    ) -> Request:
        request = make_request(
            prompts,
            tokenizer=self.tokenizer,
            transformer=self.transformer,
            vqgan=self.vqgan,
            config=self.config.override(**overrides),
            sampler=sampler,
        )
        columns = self.transformer.config.grid[1]
        return mark_request(request, watermark, self.vqgan, columns=columns)

    def _sketcher(self, config: GenerationConfig) -> Sketcher:
        return Sketcher(config, self.vqgan, self.transformer.config.grid)

    def _call(
        self,
        request: Request,
        sketch: Sketch | None,
        sampler: Sampler | None,
        meter: Meter,
        *,
        upscaler: str | None = None,
    ) -> Call:
        safety = SafetyCheck.of(self.safety_checker, request.prompts)
        enlarger = self._enlarger(request.config, upscaler)
        if sketch is not None and request.prunes:
            warn_of_pruning()
        edit = None if sketch is None else sketch.record
        mark = SCHEME if isinstance(request.sampler, MarkedSampler) else None
        return Call(
            request=request,
            sketch=sketch,
            transformer=self.transformer,
            vqgan=self.vqgan,
            judge=find_judge(
                request.config, self._find_scorer, self.transformer, self.vqgan.codebook_size
            ),
            upscaler=enlarger,
            safety=safety,
            meter=meter,
            about={
                **tell_of(self.name, self.transformer, self.vqgan, sampler, enlarger),
                "edit": edit,
                "watermark": mark,
            },
        )

    @classmethod
    def _load(cls, source: hub.Source) -> Self:
        return cls.from_pretrained(source)

    def _parts(self) -> dict[str, Any]:
        """Return what is saved, by name; a scorer that completed a foreign source is not."""
        completed = self._origin is not None and self._origin.parts.index is None
        return {
            "tokenizer": self.tokenizer,
            "transformer": self.transformer,
            "vqgan": self.vqgan,
            "scorer": self._scorer if completed else self._find_scorer(),
            "upscaler": self._upscaler if completed else self._find_upscaler(),
        }

    def _check_savable(self) -> None:
        check_savable(self._parts())

    def _save(self, directory: Path) -> None:
        parts = {name: part for name, part in self._parts().items() if part is not None}
        # first, so that the parts see that they are a pipeline's, which has a card of its own
        write_index(directory, {name: type(part).__name__ for name, part in parts.items()})
        for name, part in parts.items():
            part.save_pretrained(directory / name)
        self.config.save(directory / GENERATION_CONFIG_NAME)
        origin = None if self._origin is None else self._origin.parts
        notes = {} if origin is None else origin.notes()
        if "README.md" not in notes:
            notes["README.md"] = pipeline_card(self.name, parts, origin)
        for file, text in notes.items():
            write_text(directory / file, text)
