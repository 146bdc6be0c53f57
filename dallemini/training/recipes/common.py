"""What the three training runs share: where data and results are, and how pictures come in."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor, nn
from tqdm import tqdm

from ... import hub
from ...data import Batches, CaptionedImages, DataConfig
from ...data.records import BadRecord, RawRecord
from ...errors import InputError
from ...files import as_path, make_folder
from ...models.image_tokenizer import ImageTokenizer
from ...models.transformer import Transformer
from ...models.vqgan import VQGAN
from ...pipeline.parts import Parts
from ...scorer import CLIPScorer, CLIPTokenizer
from ...text.tokenizer import Tokenizer
from ...text.vocabulary import TOKENIZER_FILE
from ..callbacks import Callback
from ..distributed import check_splitting, connected, full, pick_device, rank, wait, world_size
from ..lock import locked
from ..loop import check_gradients_possible
from ..optimizer import find_soap
from ..resuming import refuse_changes, stored_settings
from ..trackers import find_tracker
from ..uploads import PushToHub
from .checks import check_run
from .config import RunConfig

Part = TypeVar("Part", Transformer, VQGAN, Tokenizer, CLIPScorer, CLIPTokenizer)
HELD_OUT = 256  # pictures of the held-out data that an evaluation looks at
MOST_CAPTIONS = 1_000_000  # from which a vocabulary is learnt


@dataclass(frozen=True)
class Opened:
    """What a run begins with.

    Attributes:
        before: the settings of the run's checkpoint, to go on with; empty where there is none.
        callbacks: what follows it besides the loop's own.
    """

    before: Mapping[str, Any]
    callbacks: Sequence[Callback]


@contextlib.contextmanager
def opened(
    config: RunConfig, callbacks: Sequence[Callback], *, can_split: bool = False
) -> Iterator[Opened]:
    """Refuse what cannot work before data are read, and hold the processes and the run's folder.

    Args:
        config: the whole run.
        callbacks: what follows it besides.
        can_split: whether "fsdp" may split the network.

    Yields:
        What the run begins with.

    Raises:
        ConfigError: the settings lack something or do not fit each other, the processes, or those
            of the checkpoint.
        MissingFileError: `resume_from` is no checkpoint.
        UnsupportedOperationError: gradients or split weights are asked for where there are none.
        MissingDependencyError: an optimiser or a tracker is not installed.
        StorageError: a folder cannot be written, or another run uses it.
        CheckpointError: the checkpoint is corrupt.
        HubError: `push_to` cannot be written.
    """
    check_run(config)
    check_gradients_possible()
    if config.optimizer == "soap":
        find_soap()
    find_tracker(config.tracker)
    with connected(pick_device(config.device)):
        config.process_batch_size(world_size())
        if config.strategy == "fsdp":
            check_splitting(can_split)
        make_folder(config.output)
        with locked(config.run_folder):
            stored = stored_settings(config.run_folder, config.resume_from)
            if stored is not None:
                refuse_changes(stored[1], config, stored[0])
            pushes = config.push_to is not None and rank() == 0
            own = [PushToHub(config.push_to or "", config.run_folder)] if pushes else []
            yield Opened({} if stored is None else stored[1], [*own, *callbacks])


def load_part(kind: type[Part], source: str, part: str) -> Part:
    """Load a part from a folder or Hub id of its own, or from that of a pipeline.

    Args:
        kind: class of the part.
        source: folder or Hub id.
        part: where the part lies in a pipeline.

    Raises:
        DalleMiniError: as `from_pretrained`.
    """
    opened = hub.open(source)
    return kind.from_pretrained(Parts(opened).find(part) or opened)


def load_image_tokenizer(source: str) -> ImageTokenizer:
    """Load the image tokenizer, of whatever class, as `load_part` does.

    Raises:
        DalleMiniError: as `from_pretrained`.
    """
    opened = hub.open(source)
    return ImageTokenizer.from_pretrained(Parts(opened).find("vqgan") or opened)


def open_images(names: Sequence[str], data: DataConfig) -> CaptionedImages:
    """Open one or several sources of pictures."""
    return CaptionedImages.open(names[0] if len(names) == 1 else list(names), config=data)


def read_batches(config: RunConfig, images: CaptionedImages) -> Batches:
    """Return this process's part of the batches of a data set."""
    return Batches(
        images,
        batch_size=config.process_batch_size(world_size()),
        seed=config.seed,
        rank=rank(),
        world_size=world_size(),
        workers=config.workers,
    )


def some_images(images: CaptionedImages, count: int) -> tuple[list[Tensor], list[str]]:
    """Return pictures f[3,S,S] from all over a set, and a caption of each; of a stream, the first.

    Raises:
        InputError: none can be used.
    """
    pixels: list[Tensor] = []
    captions: list[str] = []
    for record in map(images.try_to_prepare, _spread(images, count)):
        if isinstance(record, BadRecord):
            images.report(record)
            continue
        pixels.append(record.image)
        captions.append(record.captions[0] if record.captions else "")
        if len(pixels) == count:
            break
    if not pixels:
        raise InputError("eval_data holds no picture that can be used; look at the log.")
    return pixels, captions


def spread(total: int, count: int) -> list[int]:
    """Return numbers from all over 0 to `total` - 1: `count` of them, or all if there are fewer."""
    return [place * total // count for place in range(count)] if total > count else [*range(total)]


def _spread(images: CaptionedImages, count: int) -> Iterator[RawRecord | BadRecord]:
    """Yield all records before decoding, those that are to be taken first."""
    if images.is_stream:
        yield from _raw(images)
        return
    chosen = spread(len(images), count)
    others = set(range(len(images))).difference(chosen)
    yield from map(images.raw, (*chosen, *sorted(others)))


def _raw(images: CaptionedImages) -> Iterator[RawRecord | BadRecord]:
    for shard in images.shards():
        yield from images.raw_records(shard)


def all_captions(images: CaptionedImages, *, most: int, progress: bool) -> list[str]:
    """Read captions for a vocabulary, `most` at most; no picture is decoded."""
    captions: list[str] = []
    with tqdm(desc="reading captions", unit="picture", disable=None if progress else True) as bar:
        for record in _raw(images):
            captions += () if isinstance(record, BadRecord) else record.captions
            bar.update()
            if len(captions) >= most:
                break
    return captions


def learnt_once(config: RunConfig, learn: Callable[[Path], object]) -> Path:
    """Let the first process save a tokenizer into the run's folder, if that holds none yet.

    A run that goes on from another one takes the tokenizer of that one.
    """
    folder = config.run_folder / "tokenizer"
    if rank() == 0 and not (folder / TOKENIZER_FILE).exists():
        other = None if config.resume_from is None else as_path(config.resume_from).parent
        if other is not None and (other / "tokenizer" / TOKENIZER_FILE).exists():
            shutil.copytree(other / "tokenizer", folder, dirs_exist_ok=True)
        else:
            learn(folder)
    wait()
    return folder


def own_weights(module: nn.Module) -> None:
    """Copy weights that are mapped from a file, so that training can change them."""
    for parameter in module.parameters():
        parameter.data = parameter.data.clone()


def whole_state(module: nn.Module) -> dict[str, Tensor]:
    """Return a network's weights on the CPU, gathered from all processes if they are split."""
    return {name: full(value).detach().cpu() for name, value in module.state_dict().items()}


def first_process_saves(save: Callable[[], object]) -> None:
    """Let the first process write while the others wait."""
    if rank() == 0:
        save()
    wait()


def save_result(config: RunConfig, save: Callable[[], object]) -> None:
    """Let the first process write the output, and upload it if that is asked for.

    Raises:
        HubError: the Hub cannot be reached or refuses; the output is on the disk.
    """

    def act() -> None:
        save()
        if config.push_to is not None:
            hub.upload_folder(config.output, config.push_to, private=True)

    first_process_saves(act)
