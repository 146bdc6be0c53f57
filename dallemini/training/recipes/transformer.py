"""Train or fine-tune the transformer, whole or by LoRA, on captioned pictures or their tokens."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from ..._version import __version__
from ...data import EncodedImages, TokenBatches
from ...data.sources import split_weights
from ...data.token_shards import find_shards, is_encoded
from ...errors import DalleMiniWarning
from ...files import as_path, make_folder, replacing_folder, write_text
from ...hub import model_card, usual_sections
from ...images import image_to_tensor
from ...models.adapter_files import ADAPTER_FILES, adapter_card
from ...models.image_tokenizer import ImageTokenizer
from ...models.lora import LoRAConfig, add_lora, lora_writer, merge_lora
from ...models.transformer import Transformer, TransformerConfig
from ...pipeline.cards import short_name
from ...pipeline.parts import EVALUATION_NAME
from ...pipeline.pipeline import Pipeline
from ...sheets import Sheet
from ...text.tokenizer import TextTokens, Tokenizer
from ..callbacks import Callback
from ..checkpoint import load_averages
from ..distributed import pick_device, rank, world_size
from ..loop import run
from ..transformer import TransformerBatch, TransformerTask
from .cards import license_of, measured, training_data
from .common import (
    HELD_OUT,
    MOST_CAPTIONS,
    all_captions,
    learnt_once,
    load_image_tokenizer,
    load_part,
    open_images,
    opened,
    own_weights,
    save_result,
    spread,
    whole_state,
)
from .config import TransformerTrainingConfig
from .gap import GapWatch
from .prior import draw_prior, read_listed
from .tokens import open_tokens, tell_long_captions

_ADAPTER = "adapter"  # the folder of the adapter in the output
_DRAWN = 4  # pictures of each prompt


def train_transformer(
    config: TransformerTrainingConfig,
    *,
    seconds: float | None = None,
    callbacks: Sequence[Callback] = (),
) -> Pipeline:
    """Train a transformer and save it as a pipeline; started again, go on.

    With LoRA the adapter is also saved alone, in the folder `adapter` of the output.

    Args:
        config: the whole run.
        seconds: stop after this time with a checkpoint, to go on later.
        callbacks: what follows the run besides its log.

    Returns:
        A pipeline with the trained network.

    Raises:
        DalleMiniError: the data, the model to start from or a folder cannot be used; and as `run`.

    Example:
        >>> config = TransformerTrainingConfig(
        ...     steps=10, train_data=("pictures",), init_from="dallemini/emoji", output="mine"
        ... )
        >>> config.run_folder.name
        'mine-run'
    """
    with opened(config, callbacks, can_split=True) as begun:
        pipe = _prepare(config).to(device=pick_device(config.device))
        prior = draw_prior(config, pipe) if config.prior_prompts else None
        lora = _lora(config)
        if lora is not None:
            add_lora(pipe.transformer, lora, seed=config.seed)
        task = _task(config, pipe, prior)
        watch = GapWatch(steps=config.steps, is_lora=lora is not None)
        folder, callbacks = config.run_folder, [*begun.callbacks, watch]
        run(task, config, folder=folder, seconds=seconds, callbacks=callbacks)
        adapter = _restore(config, pipe)
        save_result(config, lambda: _save(config, pipe, adapter))
    return pipe


def write_transformer(config: TransformerTrainingConfig, checkpoint: Path) -> None:
    """Save the pipeline that a checkpoint of a run makes."""
    pipe = _prepare(config)
    lora = _lora(config)
    if lora is not None:
        add_lora(pipe.transformer, lora, seed=config.seed)
    load_averages(checkpoint, pipe.transformer)
    adapter = _restore(replace(config, strategy="ddp"), pipe)
    _save(config, pipe, adapter)


def _prepare(config: TransformerTrainingConfig) -> Pipeline:
    pipe = _start(config)
    pipe.tokenizer.knowledge = None  # a trained model knows other words than it came with
    own_weights(pipe.transformer)
    _note_tokenizer(pipe)
    return pipe


def _lora(config: TransformerTrainingConfig) -> LoRAConfig | None:
    """Return the adapters to train, if any."""
    if not config.lora_rank:
        return None
    return LoRAConfig(
        rank=config.lora_rank,
        alpha=config.lora_alpha,
        dropout=config.lora_dropout,
        targets=config.lora_targets,
    )


def _save(
    config: TransformerTrainingConfig, pipe: Pipeline, adapter: Callable[[Path], None] | None
) -> None:
    """Write the pipeline, all at once with a card of its own, and the adapter if there is one.

    What an older card, evaluation or adapter says is of other weights.
    """
    pipe._check_savable()
    older = [f"{_ADAPTER}/{name}" for name in ADAPTER_FILES]
    with replacing_folder(config.output, obsolete=[*pipe._optional_files, *older]) as folder:
        pipe._save(folder)
        (folder / EVALUATION_NAME).unlink(missing_ok=True)
        write_text(folder / "README.md", _card(config, pipe))
        if adapter is not None:
            adapter(make_folder(folder / _ADAPTER))


def _card(config: TransformerTrainingConfig, pipe: Pipeline) -> str:
    """Return the card: what that of the model to start from says was measured on that."""
    source, start = config.init_from, "trained from scratch"
    if source is not None:
        start = f"fine-tuned from `{short_name(source)}`"
    sections = usual_sections(
        training_data=training_data(config),
        provenance=f"{start[0].upper()}{start[1:]} by dallemini {__version__}.",
    )
    sections["Measured"] = measured(config) or sections["Measured"]
    return model_card(
        as_path(config.output).name,
        summary=f"A text-to-image pipeline, {start}.",
        license=license_of(config, pipe),
        sections=sections,
    )


def _restore(config: TransformerTrainingConfig, pipe: Pipeline) -> Callable[[Path], None] | None:
    """Fold adapters in, and put split weights together in a network of its own.

    Returns:
        What writes the adapters alone, if there are any.
    """
    adapter = None
    if config.lora_rank:
        name, base = as_path(config.output).name, config.init_from or ""
        adapter = lora_writer(
            pipe.transformer,
            name=name,
            base_model=base,
            state_dict=whole_state(pipe.transformer),  # by every process, for split weights
            card=adapter_card(
                name,
                base,
                license=license_of(config, pipe),
                training_data=training_data(config),
                measured=measured(config),
            ),
        )
        merge_lora(pipe.transformer)
    if config.strategy == "fsdp":
        whole = Transformer(pipe.transformer.config)
        whole.load_state_dict(whole_state(pipe.transformer), assign=True)
        pipe.transformer = whole.eval()
        pipe.to(device="cpu")
    return adapter


def _start(config: TransformerTrainingConfig) -> Pipeline:
    source = config.init_from
    if source is None:
        return _from_scratch(config)
    if config.tokenizer is None:
        vqgan = None if config.vqgan is None else load_image_tokenizer(config.vqgan)
        return Pipeline.from_pretrained(source, vqgan=vqgan)
    return Pipeline(
        tokenizer=load_part(Tokenizer, config.tokenizer, "tokenizer"),
        transformer=load_part(Transformer, source, "transformer"),
        vqgan=load_image_tokenizer(config.vqgan or source),
    )


def _from_scratch(config: TransformerTrainingConfig) -> Pipeline:
    assert config.vqgan is not None
    vqgan, model = load_image_tokenizer(config.vqgan), config.model
    grid = _grid(config, vqgan)
    tokenizer = _tokenizer(config, model)
    model = replace(
        model,
        text_vocab_size=max(tokenizer.vocab_size, model.text_vocab_size),
        max_text_length=tokenizer.max_length,
        image_vocab_size=vqgan.codebook_size,
        image_length=math.prod(grid),
        image_grid=grid if grid[0] != grid[1] else None,
        decoder_start_token_id=vqgan.codebook_size,
    )
    transformer = Transformer.from_config(model, seed=config.seed)
    return Pipeline(tokenizer=tokenizer, transformer=transformer, vqgan=vqgan)


def _grid(config: TransformerTrainingConfig, vqgan: ImageTokenizer) -> tuple[int, int]:
    """Return the rows and columns of tokens that the data have, or those of the tokenizer."""
    grid: tuple[int, int] | None = None
    first = Path(split_weights(config.train_data)[0][0])
    if is_encoded(first):
        grid = find_shards(first)[0].grid
    elif config.data.image_size is not None:
        height, width = config.data.size
        grid = height // vqgan.downsample_factor, width // vqgan.downsample_factor
    return grid if grid is not None and min(grid) else vqgan.grid


def _note_tokenizer(pipe: Pipeline) -> None:
    """Let the transformer remember whose codes it is trained on, so that it can refuse others."""
    if isinstance(pipe.vqgan, ImageTokenizer):
        known = pipe.transformer.config
        pipe.transformer.config = replace(known, image_tokenizer=pipe.vqgan.fingerprint)


def _tokenizer(config: TransformerTrainingConfig, model: TransformerConfig) -> Tokenizer:
    if config.tokenizer is not None:
        return load_part(Tokenizer, config.tokenizer, "tokenizer")

    def learn(folder: Path) -> None:
        Tokenizer.train(
            _captions(config), vocab_size=model.text_vocab_size, max_length=model.max_text_length
        ).save_pretrained(folder)

    return Tokenizer.from_pretrained(learnt_once(config, learn))


def _captions(config: TransformerTrainingConfig) -> list[str]:
    captions: list[str] = []
    for name in split_weights(config.train_data)[0]:
        left = MOST_CAPTIONS - len(captions)
        if is_encoded(Path(name)):
            encoded = EncodedImages.open(name)
            for row in range(min(len(encoded), left)):
                captions += encoded.captions(row)
        else:
            images = open_images((name,), config.data)
            captions += all_captions(images, most=left, progress=config.progress)
    return captions


def _read(tokenizer: Tokenizer, captions: Sequence[str], image_tokens: Tensor) -> TransformerBatch:
    """Turn captions and codes into what the transformer takes; no caption is the blank one."""
    with warnings.catch_warnings():  # of captions too long, which were counted at the start
        warnings.simplefilter("ignore", DalleMiniWarning)
        tokens, blank = tokenizer(list(captions)), tokenizer.unconditional()
    dropped = torch.tensor([not caption for caption in captions], dtype=torch.bool, device="cpu")[
        :, None
    ]
    input_ids = torch.where(dropped, blank.input_ids, tokens.input_ids)
    mask = torch.where(dropped, blank.attention_mask, tokens.attention_mask)
    return TransformerBatch(TextTokens(input_ids, mask).trim(), image_tokens)


def _task(
    config: TransformerTrainingConfig, pipe: Pipeline, prior: Path | None = None
) -> TransformerTask:
    unseen, prompts = None, read_listed(config.prompts)
    if config.eval_data:  # first, because it is short and its name may be wrong
        unseen = open_tokens(config, pipe, config.eval_data, name="eval")
    mixed = None if prior is None else (prior, config.prior_share)
    encoded = open_tokens(config, pipe, config.train_data, name="train", prior=mixed)
    tell_long_captions(encoded, pipe.tokenizer)
    batches = TokenBatches(
        encoded,
        batch_size=config.process_batch_size(world_size()),
        seed=config.seed,
        rank=rank(),
        world_size=world_size(),
        caption_dropout=config.data.caption_dropout,
        caption_choice=config.data.caption_choice,
    )

    def batch(index: int) -> TransformerBatch:
        taken = batches(index)
        return _read(pipe.tokenizer, taken.captions, taken.image_tokens)

    own = len(encoded) if prior is None else sum(encoded.lengths[:-1])
    evaluation = {"train": _sample(encoded, pipe.tokenizer, own)}
    if unseen is not None:
        evaluation["held_out"] = _sample(unseen, pipe.tokenizer, len(unseen))
    task = TransformerTask(
        pipe.transformer,
        batches=batch,
        evaluation=evaluation,
        blank=pipe.tokenizer.unconditional(),
        codebook_size=pipe.vqgan.codebook_size,
        corruption=config.corruption,
        seed=config.seed,
        draw=(lambda: _draw(pipe, prompts)) if prompts else None,
    )
    task.epoch_images, task.image_tokens = len(encoded), encoded.image_length
    return task


def _sample(encoded: EncodedImages, tokenizer: Tokenizer, count: int) -> TransformerBatch:
    """Take pictures from all over the first so many of a set, each with its first caption."""
    taken = [encoded[index] for index in spread(count, HELD_OUT)]
    captions = [image.captions[0] if image.captions else "" for image in taken]
    return _read(tokenizer, captions, torch.stack([image.image_tokens for image in taken]))


def _draw(pipe: Pipeline, prompts: Sequence[str]) -> Sheet:
    """Draw a row a prompt, with the same seeds each time."""
    drawn = pipe(prompts, seed=0, num_images_per_prompt=_DRAWN, candidates=1, progress=False)
    images = torch.stack([image_to_tensor(image) for image in drawn.images])
    return Sheet(images=images, columns=_DRAWN, captions=prompts)
