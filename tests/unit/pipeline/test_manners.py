"""What wrappers need: progress, cancelling, threads, values that read well."""

from __future__ import annotations

import io
import pickle
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from dallemini import (
    Blend,
    GenerationOutput,
    GenerationProgress,
    Pipeline,
    Tokenizer,
    image_to_tensor,
)
from dallemini.errors import GenerationCancelled, InputError, InputTypeError
from dallemini.generation import predict_memory
from dallemini.testing import TINY_TRANSFORMER, tiny_clip_scorer, tiny_pipeline, tiny_tokenizer
from dallemini.text.tokenizer import TokenizerConfig


@pytest.fixture(scope="module")
def pipe() -> Pipeline:
    return tiny_pipeline()


def test_a_callback_hears_of_every_token_and_picture(pipe: Pipeline) -> None:
    told: list[GenerationProgress] = []
    pipe(["a cat", "a dog"], seed=0, batch_size=1, rank=True, callback=told.append)
    tokens = [GenerationProgress(stage="tokens", done=n, total=32) for n in range(1, 33)]
    pictures = [GenerationProgress(stage="pictures", done=n, total=2) for n in (1, 2)]
    assert told == tokens + pictures


def test_a_callback_ends_the_call_also_for_another_thread(pipe: Pipeline) -> None:
    stop, seen = threading.Event(), []

    def watch(progress: GenerationProgress) -> None:
        seen.append(progress.done)
        if progress.done == 3:
            thread = threading.Thread(target=stop.set)
            thread.start()
            thread.join()
        if stop.is_set():
            raise GenerationCancelled("the user left")

    with pytest.raises(GenerationCancelled, match="the user left"):
        pipe("a cat", seed=0, callback=watch)
    assert seen == [1, 2, 3]
    assert torch.is_grad_enabled()
    assert len(pipe("a cat", seed=0)) == 1


def test_a_stream_is_ended_by_a_callback_between_two_looks(pipe: Pipeline) -> None:
    told: list[GenerationProgress] = []

    def watch(progress: GenerationProgress) -> None:
        told.append(progress)
        if progress.done == 3:
            raise GenerationCancelled("enough")

    with pytest.raises(GenerationCancelled, match="enough"):
        next(pipe.stream("a cat", seed=0, every=8, callback=watch))
    assert [progress.done for progress in told] == [1, 2, 3]


def test_a_callback_that_cannot_be_called_is_refused(pipe: Pipeline) -> None:
    with pytest.raises(InputTypeError, match="callback must be a function of one argument, not 3"):
        pipe("a cat", callback=3)  # type: ignore[arg-type]
    with pytest.raises(InputTypeError, match="progress must be True, False or None, not 1"):
        pipe.stream("a cat", progress=1)  # type: ignore[arg-type]


def test_a_bar_is_shown_on_a_terminal_and_in_a_notebook(
    pipe: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stderr", shown := Terminal())
    pipe("a cat", seed=0)
    assert "/16 [" in shown.getvalue()
    assert "picture" in shown.getvalue()
    monkeypatch.setattr(sys, "stderr", hidden := io.StringIO())
    pipe("a cat", seed=0)
    assert hidden.getvalue() == ""

    class Kernel:
        config: ClassVar[dict[str, Any]] = {"IPKernelApp": {}}

    class IPython:
        get_ipython = staticmethod(Kernel)

    from dallemini.pipeline.progress import _is_watched

    monkeypatch.setitem(sys.modules, "IPython", IPython)
    assert _is_watched()
    monkeypatch.setattr(Kernel, "config", {})
    assert not _is_watched()


@pytest.mark.thorough
def test_sixteen_threads_draw_with_one_pipeline(tmp_path: Path) -> None:
    tiny_pipeline().save_pretrained(tmp_path)
    shared = Pipeline.from_pretrained(tmp_path)
    jobs: list[dict[str, Any]] = [
        {"seed": number, "rank": number % 3 == 0, "guidance_scale": (1, number + 2)}
        for number in range(16)
    ]
    prompts: list[str | Blend] = ["a red apple", Blend({"a blue bird": 1, "a rocket": 2})]
    asked = [(prompts[number % 2], job) for number, job in enumerate(jobs)]
    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(lambda one: shared(one[0], progress=False, **one[1]), asked))
    for (prompt, job), out in list(zip(asked, found, strict=True))[::3]:
        alone = shared(prompt, progress=False, **job)
        assert torch.equal(out.image_tokens, alone.image_tokens)
        assert [i.tobytes() for i in out] == [i.tobytes() for i in alone]
        assert out.scores == alone.scores
    assert torch.is_grad_enabled()


def test_outputs_are_sequences_of_pictures(pipe: Pipeline) -> None:
    out = pipe(["a cat", "a dog"], num_images_per_prompt=3, seed=7, rank=True)
    assert len(out) == 6
    assert out[-1] is out.images[-1]
    assert out[1:3] == out.images[1:3]
    assert [*out] == out.images
    assert repr(out) == (
        "<GenerationOutput: 6 pictures of 16x16 of 2 prompts, "
        f"seeds {', '.join(map(str, out.seeds[:4]))}, ..., ranked>"
    )
    step = next(pipe.stream("a cat", seed=3, every=8))
    assert repr(step) == "<GenerationStep: 1 picture of 16x16 of 1 prompt, seeds 3, 8/16 tokens>"
    assert out.prompt_of(np.int64(5)) == "a dog"  # type: ignore[arg-type]


def test_parts_say_briefly_what_they_are(pipe: Pipeline) -> None:
    quantized = tiny_pipeline().quantize()
    assert repr(pipe) == "<Pipeline 'tiny': float32 on cpu>"
    assert repr(quantized) == "<Pipeline 'tiny': transformer int8, vqgan float32 on cpu>"
    assert repr(pipe.tokenizer) == "<Tokenizer: 330 ids, up to 64 a prompt>"
    count = sum(parameter.numel() for parameter in pipe.transformer.parameters())
    assert repr(pipe.transformer) == f"<Transformer: {count:,} parameters, float32 on cpu>"
    assert repr(quantized.transformer) == "<Transformer: int8 on cpu>"
    assert repr(pipe.vqgan).startswith("<VQGAN: ")
    assert repr(pipe.scorer).startswith("<CLIPScorer: <CLIP: ")
    assert pipe.components == {
        "tokenizer": pipe.tokenizer,
        "transformer": pipe.transformer,
        "vqgan": pipe.vqgan,
        "scorer": pipe.scorer,
        "upscaler": None,
        "safety_checker": None,
    }
    assert (pipe.device, pipe.dtype) == (torch.device("cpu"), torch.float32)


def test_dtypes_are_given_by_name_everywhere() -> None:
    pipe = tiny_pipeline().to(dtype="bfloat16")
    assert pipe.dtype == pipe.vqgan.dtype == torch.bfloat16  # type: ignore[attr-defined]
    assert tiny_clip_scorer().to(dtype="float16").clip.dtype == torch.float16
    by_name = predict_memory(TINY_TRANSFORMER, dtype="float16")
    assert by_name == predict_memory(TINY_TRANSFORMER, dtype=torch.float16)
    assert predict_memory(TINY_TRANSFORMER, dtype="int8") == (
        predict_memory(TINY_TRANSFORMER, quantization="int8")
    )
    with pytest.raises(InputError, match="no dtype 'float15'"):
        tiny_pipeline().to(dtype="float15")  # type: ignore[arg-type]


def test_a_tokenizer_shows_what_it_reads() -> None:
    tokenizer = tiny_tokenizer()
    assert len(tokenizer) == tokenizer.vocab_size == 330
    assert tokenizer.tokenize("A red apple!") == [" a", " red", " apple"]
    assert tokenizer.tokenize("") == [" "]
    for ids in (tokenizer("a red apple").input_ids, tokenizer("a red apple").input_ids[0].tolist()):
        assert tokenizer.decode(ids) == "a red apple"
    assert tokenizer.decode([]) == ""


@pytest.mark.parametrize(
    ("ids", "error", "message"),
    [
        ([[0], [1]], InputError, "one row of ids, not 2; decode each"),
        ([330], InputError, "no id 330; they go from 0 to 329"),
        ([-1], InputError, "no id -1"),
        ([0.5], InputTypeError, "Ids are whole numbers"),
        ("apple", InputTypeError, "a tensor or a list of whole numbers, not 'apple'"),
        (3, InputTypeError, "a tensor or a list of whole numbers, not 3"),
    ],
)
def test_what_are_no_ids_is_refused(ids: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        tiny_tokenizer().decode(ids)


def test_what_is_no_text_is_not_tokenized() -> None:
    with pytest.raises(InputTypeError, match="must be a str, not int"):
        tiny_tokenizer().tokenize(3)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="is not valid Unicode"):
        Tokenizer(tiny_tokenizer().backend, config=TokenizerConfig(normalize_text=False)).tokenize(
            "\ud800"
        )


def test_pipelines_and_pictures_can_be_pickled(pipe: Pipeline) -> None:
    out = pipe("a cat", seed=0, progress=False)
    again: GenerationOutput = pickle.loads(pickle.dumps(pipe))("a cat", seed=0, progress=False)
    assert torch.equal(again.image_tokens, out.image_tokens)
    assert pickle.loads(pickle.dumps(out)).metadata(0) == out.metadata(0)
    assert image_to_tensor(out[0]).shape == (3, 16, 16)
