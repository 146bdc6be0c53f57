"""Decoding with static shapes: the tokens of the plain path, the rules of graphs, refusals."""

from __future__ import annotations

import copy
import dataclasses
import gc
import pickle
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dallemini import Pipeline, Transformer
from dallemini.errors import InputError, InputTypeError, UnsupportedOperationError
from dallemini.generation import TopSampler, generate_tokens, make_generators
from dallemini.models import DecoderCache, EncoderOutput, StaticCache
from dallemini.models.compiled import GRAPHS, CompiledStep
from dallemini.testing import TINY_TRANSFORMER, tiny_pipeline, tiny_tokenizer, tiny_transformer
from recorded_graph import Recording, RuleBroken, record

# torch's own, when it imports its code generator
INDUCTOR = pytest.mark.filterwarnings("ignore::DeprecationWarning")
SHORT, LONG = "a red apple", "an armchair in the shape of an avocado on a white background"
ONE_LAYER = dataclasses.replace(TINY_TRANSFORMER, encoder_layers=1, decoder_layers=1)


@pytest.fixture(autouse=True)
def _fresh_compiler() -> Iterator[None]:
    yield
    torch._dynamo.reset()


@pytest.fixture
def _uncompiled() -> Iterator[None]:
    """Run what would be compiled as it is: the same static step, in milliseconds."""
    torch.compiler.set_stance("force_eager")
    yield
    torch.compiler.set_stance("default")


@pytest.fixture
def _graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Treat the CPU as a device with graphs, on which torch computes everything."""
    monkeypatch.setitem(GRAPHS, "cpu", record)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)  # no kernels of our own


def compiled(*, backend: str = "eager", layers: int = 2) -> Transformer:
    config = TINY_TRANSFORMER if layers == 2 else ONE_LAYER
    return tiny_transformer(config).compile_decoding(backend=backend)


def start(transformer: Transformer, **changes: Any) -> Iterator[Tensor]:
    settings: dict[str, Any] = {"prompts": [SHORT], "images": 1, "guidance_scale": 10.0, **changes}
    prompts, images = settings.pop("prompts"), settings.pop("images")
    return generate_tokens(
        transformer,
        tiny_tokenizer()(prompts),
        unconditional=tiny_tokenizer().unconditional(),
        prompt_of_image=torch.arange(images) % len(prompts),
        sampler=settings.pop("sampler", TopSampler()),
        generators=make_generators(range(images)),
        num_codes=64,
        **settings,
    )


def draw(transformer: Transformer, **changes: Any) -> Tensor:
    return torch.stack(list(start(transformer, **changes)), dim=1)


def encode(transformer: Transformer, prompt: str = SHORT) -> EncoderOutput:
    with torch.no_grad():
        return transformer.encode(tiny_tokenizer()(prompt).trim())


def static_cache(transformer: Transformer, prompt: str = SHORT) -> StaticCache:
    cache = transformer.init_cache(encode(transformer, prompt))
    assert isinstance(cache, StaticCache)
    return cache


def tensors(cache: DecoderCache) -> dict[str, Tensor]:
    """Every tensor that a step reads or writes."""
    found: dict[str, Tensor] = {}
    for field in dataclasses.fields(cache):
        value = getattr(cache, field.name)
        several = value if isinstance(value, list) else [value]
        named = {f"{field.name}.{index}": part for index, part in enumerate(several)}
        found |= {name: part for name, part in named.items() if isinstance(part, Tensor)}
    return found


class Recorder:
    """A greedy sampler that keeps the logits it was given, not copies."""

    def __init__(self) -> None:
        self.logits: list[Tensor] = []

    def __call__(self, logits: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        self.logits.append(logits)
        return logits.argmax(-1)


# the same as the plain path


@pytest.mark.slow_except("10.0-4", "1.0-1")
@pytest.mark.usefixtures("_uncompiled")
@pytest.mark.parametrize("images", [1, 4])
@pytest.mark.parametrize("guidance_scale", [1.0, 10.0])
def test_static_shapes_change_no_token(images: int, guidance_scale: float) -> None:
    settings: dict[str, Any] = {
        "images": images,
        "guidance_scale": guidance_scale,
        "prompts": [SHORT] if images == 1 else [SHORT, LONG],
    }
    assert torch.equal(draw(compiled(), **settings), draw(tiny_transformer(), **settings))


@pytest.mark.usefixtures("_uncompiled")
def test_static_logits_are_those_of_the_plain_path_at_every_position() -> None:
    plain, static = Recorder(), Recorder()
    draw(tiny_transformer(), sampler=plain, prompts=[LONG])
    draw(compiled(), sampler=static, prompts=[LONG])
    found, expected = torch.stack(static.logits), torch.stack(plain.logits)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.usefixtures("_uncompiled")
def test_half_precision_stays_near_the_plain_path() -> None:
    plain, static = Recorder(), Recorder()
    draw(tiny_transformer().bfloat16(), sampler=plain, guidance_scale=1.0)
    draw(compiled().bfloat16(), sampler=static, guidance_scale=1.0)
    error = (static.logits[0] - plain.logits[0]).norm() / plain.logits[0].norm()
    assert error < 0.02


@pytest.mark.thorough
@pytest.mark.slow_except("eager")
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compiled_tokens_equal_the_plain_ones(backend: str) -> None:
    transformer = compiled(backend=backend, layers=1)
    assert torch.equal(draw(transformer), draw(tiny_transformer(ONE_LAYER)))


@INDUCTOR
@pytest.mark.slow
@pytest.mark.parametrize("images", [1, 4])
@pytest.mark.parametrize("guidance_scale", [1.0, 10.0])
def test_inductor_draws_the_plain_tokens(images: int, guidance_scale: float) -> None:
    """A C++ compiler and about a minute for each."""
    settings: dict[str, Any] = {"images": images, "guidance_scale": guidance_scale}
    transformer = compiled(backend="inductor")
    assert torch.equal(draw(transformer, **settings), draw(tiny_transformer(), **settings))


# compiled once


@pytest.mark.thorough
def test_one_number_of_rows_is_compiled_once_for_all_positions_prompts_and_drawings() -> None:
    counters = torch._dynamo.utils.counters
    counters.clear()
    transformer, plain = compiled(layers=1), tiny_transformer(ONE_LAYER)
    steps = start(transformer)
    next(steps)
    with torch._dynamo.config.patch(error_on_recompile=True):
        list(steps)
        for prompt in (SHORT, LONG):
            drawn = draw(transformer, prompts=[prompt])
            assert torch.equal(drawn, draw(plain, prompts=[prompt]))
    assert counters["stats"]["unique_graphs"] == 1
    assert not counters["graph_break"]


@pytest.mark.slow
def test_more_numbers_of_rows_than_torch_keeps_versions_of_one_function() -> None:
    counters = torch._dynamo.utils.counters
    counters.clear()
    starts = CompiledStep(backend="eager")
    for rows in [*range(1, 13), *range(1, 13)]:
        cache = starts.start(small_cache(rows), text_length=5)
        logits = starts.run(double, torch.arange(rows), cache)
        assert logits.tolist() == [2 * row for row in range(rows)]
    assert counters["stats"]["unique_graphs"] == 12


def double(image_tokens: Tensor, cache: DecoderCache) -> Tensor:
    """What a step could be."""
    assert isinstance(cache, StaticCache)
    return image_tokens * 2 + cache.position


def small_cache(rows: int) -> DecoderCache:
    """A cache of one layer, one head, four positions and three text tokens."""
    return DecoderCache(
        self_keys=[torch.full((rows, 1, 4, 2), torch.nan)],
        self_values=[torch.full((rows, 1, 4, 2), torch.nan)],
        cross_keys=[torch.ones(rows, 3, 1, 2).transpose(1, 2)],
        cross_values=[torch.ones(rows, 3, 1, 2).transpose(1, 2)],
        cross_mask=torch.ones(rows, 1, 1, 3, dtype=torch.bool),
    )


def test_what_is_not_filled_yet_is_zero_and_hidden() -> None:
    cache = CompiledStep(backend="eager").start(small_cache(2), text_length=5)
    assert all(bool(tensor.isfinite().all()) for tensor in tensors(cache).values())
    assert cache.cross_mask.tolist() == [[[[True] * 3 + [False] * 2]]] * 2
    assert cache.cross_keys[0][0, 0, :, 0].tolist() == [1, 1, 1, 0, 0]
    assert cache.filled.tolist() == [[[[False] * 4]]]


# the rules of a graph: shapes, strides, addresses, no values looked at, one device


@pytest.mark.usefixtures("_uncompiled")
def test_no_tensor_of_a_cache_moves_while_it_is_filled() -> None:
    transformer = compiled()
    cache = static_cache(transformer)
    before = {name: tensor.data_ptr() for name, tensor in tensors(cache).items()}
    for _ in range(16):
        transformer.decode_step(transformer.start_tokens(1), cache)
    assert {name: tensor.data_ptr() for name, tensor in tensors(cache).items()} == before
    assert len(before) == 4 * TINY_TRANSFORMER.decoder_layers + 4


@pytest.mark.usefixtures("_uncompiled")
def test_shapes_and_strides_do_not_depend_on_the_prompt() -> None:
    transformer = compiled()
    longest = EncoderOutput(torch.randn(1, 64, 16), torch.ones(1, 64, dtype=torch.bool))
    caches = [static_cache(transformer), static_cache(transformer, LONG)]
    caches.append(transformer.init_cache(longest))  # type: ignore[arg-type]
    layouts = [
        {name: (tensor.shape, tensor.stride()) for name, tensor in tensors(cache).items()}
        for cache in caches
    ]
    assert layouts[0] == layouts[1] == layouts[2]


@pytest.mark.slow_except("10.0")
@pytest.mark.usefixtures("_uncompiled", "_graphs")
@pytest.mark.parametrize("guidance_scale", [1.0, 10.0])
def test_a_recorded_step_draws_the_plain_tokens(guidance_scale: float) -> None:
    settings: dict[str, Any] = {"images": 4, "guidance_scale": guidance_scale, "prompts": [LONG]}
    assert torch.equal(draw(compiled(), **settings), draw(tiny_transformer(), **settings))


@pytest.mark.usefixtures("_uncompiled", "_graphs")
def test_logits_of_a_recorded_step_are_not_written_again() -> None:
    plain, recorded = Recorder(), Recorder()
    draw(tiny_transformer(), sampler=plain, guidance_scale=1.0)
    draw(compiled(), sampler=recorded, guidance_scale=1.0)
    torch.testing.assert_close(
        torch.stack(recorded.logits), torch.stack(plain.logits), rtol=1e-4, atol=1e-4
    )


@pytest.mark.usefixtures("_uncompiled", "_graphs")
def test_two_drawings_at_once_do_not_disturb_each_other() -> None:
    transformer = compiled()
    both = zip(start(transformer), start(transformer, prompts=[LONG]), strict=True)
    first, second = (torch.stack(list(tokens), dim=1) for tokens in zip(*both, strict=True))
    assert torch.equal(first, draw(tiny_transformer()))
    assert torch.equal(second, draw(tiny_transformer(), prompts=[LONG]))


@pytest.mark.usefixtures("_uncompiled", "_graphs")
def test_a_recording_is_of_the_weights_that_are_there_now() -> None:
    transformer, other = compiled(), tiny_transformer(seed=1)
    draw(transformer)
    transformer.load_state_dict(other.state_dict())
    assert torch.equal(draw(transformer), draw(other))


@pytest.mark.usefixtures("_uncompiled")
def test_a_step_keeps_to_the_device_of_its_model() -> None:
    transformer = Transformer(TINY_TRANSFORMER).compile_decoding(backend="eager")
    states = torch.empty(2, 5, 16, device="meta")
    text = EncoderOutput(states, torch.ones(2, 5, dtype=torch.bool, device="meta"))
    cache = transformer.init_cache(text)
    for _ in range(2):
        with Recording("meta") as recording:
            logits = transformer.decode_step(transformer.start_tokens(2), cache)
        assert logits.is_meta
        assert recording.operations


@pytest.mark.usefixtures("_graphs")
def test_a_recording_tells_a_position_of_python() -> None:
    """The plain path, recorded, comes out wrong: the tests above could fail."""
    transformer, expected = tiny_transformer(), Recorder()
    draw(transformer, sampler=expected, guidance_scale=1.0)
    with torch.no_grad():
        cache, tokens = transformer.init_cache(encode(transformer)), transformer.start_tokens(1)
        replay = record(lambda: transformer._predict(tokens, cache), torch.device("cpu"))
        torch.testing.assert_close(replay()[:, :64], expected.logits[0], rtol=1e-4, atol=1e-4)
        cache.advance()
        tokens.copy_(expected.logits[0].argmax(-1))
        assert not torch.allclose(replay()[:, :64], expected.logits[1], rtol=1e-2, atol=1e-2)


def test_a_recording_refuses_what_a_graph_cannot_repeat() -> None:
    numbers = torch.arange(3)
    with pytest.raises(RuleBroken, match="wait for a value"), Recording():
        numbers[1].item()
    with pytest.raises(RuleBroken, match="wait for a value"), Recording():
        numbers.nonzero()
    with pytest.raises(RuleBroken, match="mixes meta with cpu"), Recording("meta"):
        torch.ones(3, device="meta") + torch.tensor(1)


@INDUCTOR
@pytest.mark.gpu
@pytest.mark.parametrize("backend", ["eager", "inductor"])
def test_a_cuda_graph_draws_the_plain_tokens(backend: str) -> None:
    plain, graphed = tiny_transformer().cuda(), compiled(backend=backend).cuda()
    for settings in ({"images": 1}, {"images": 4, "guidance_scale": 1.0}, {"images": 1}):
        assert torch.equal(draw(graphed, **settings), draw(plain, **settings))


# memory


@pytest.mark.thorough
@pytest.mark.usefixtures("_uncompiled")
@pytest.mark.parametrize("graphs", [False, True])
def test_dropping_the_iterator_frees_its_cache(
    graphs: bool, request: pytest.FixtureRequest
) -> None:
    if graphs:
        request.getfixturevalue("_graphs")

    def caches() -> int:
        return sum(type(thing) is StaticCache for thing in gc.get_objects())

    transformer = compiled()
    gc.collect()
    before = caches()
    steps = start(transformer)
    next(steps)
    assert caches() == before + 1
    del steps
    assert caches() == before


@pytest.mark.slow
def test_dropping_a_compiled_model_frees_its_weights() -> None:
    transformer = compiled(layers=1)
    draw(transformer)
    gone = weakref.ref(transformer.lm_head.weight)
    gc.collect()
    gc.disable()
    try:
        del transformer
        assert gone() is None
    finally:
        gc.enable()


# what happens to a compiled model afterwards


def is_compiled(transformer: Transformer) -> bool:
    return isinstance(transformer.init_cache(encode(transformer)), StaticCache)


def test_compiling_returns_what_it_was_called_on() -> None:
    pipe = tiny_pipeline()
    assert not is_compiled(pipe.transformer)
    assert pipe.compile(backend="eager") is pipe
    assert is_compiled(pipe.transformer)
    assert pipe.transformer.compile_decoding(backend="eager") is pipe.transformer


@pytest.mark.usefixtures("_uncompiled")
def test_a_compiled_pipeline_draws_the_same_pictures() -> None:
    plain, static = tiny_pipeline(), tiny_pipeline().compile(backend="eager")
    settings: dict[str, Any] = {"num_images_per_prompt": 3, "batch_size": 2, "progress": False}
    drawn = [pipe([SHORT, LONG], seed=0, **settings) for pipe in (plain, static)]
    assert torch.equal(drawn[0].image_tokens, drawn[1].image_tokens)
    assert [i.tobytes() for i in drawn[0].images] == [i.tobytes() for i in drawn[1].images]


@pytest.mark.slow
def test_copies_and_pickles_are_not_compiled() -> None:
    transformer = compiled(layers=1)
    expected = draw(transformer)
    for other in (copy.deepcopy(transformer), pickle.loads(pickle.dumps(transformer))):
        assert not is_compiled(other)
        assert torch.equal(draw(other), expected)
    assert is_compiled(transformer)


@pytest.mark.slow
def test_a_saved_model_is_the_plain_one(tmp_path: Path) -> None:
    transformer = compiled(layers=1)
    draw(transformer)
    transformer.save_pretrained(tmp_path / "compiled")
    tiny_transformer(ONE_LAYER).save_pretrained(tmp_path / "plain")
    for name in ("config.json", "model.safetensors"):
        files = [tmp_path / folder / name for folder in ("compiled", "plain")]
        assert files[0].read_bytes() == files[1].read_bytes()
    assert not is_compiled(Transformer.from_pretrained(tmp_path / "compiled"))


@pytest.mark.slow
def test_a_moved_model_is_compiled_anew() -> None:
    transformer = compiled(layers=1)
    draw(transformer)
    transformer.to(torch.float64)
    assert is_compiled(transformer)
    assert torch.equal(draw(transformer), draw(tiny_transformer(ONE_LAYER).double()))


@pytest.mark.usefixtures("_uncompiled")
def test_training_goes_on_as_before() -> None:
    transformer = compiled()
    text, image_tokens = tiny_tokenizer()([SHORT]), draw(transformer)
    transformer.train()(text, image_tokens).sum().backward()
    assert transformer.lm_head.weight.grad is not None
    cache = static_cache(transformer)
    assert not transformer.decode_step(transformer.start_tokens(1), cache).requires_grad


@pytest.mark.usefixtures("_uncompiled")
def test_a_complete_picture_is_refused_further_steps() -> None:
    transformer = compiled()
    cache = static_cache(transformer)
    for _ in range(16):
        transformer.decode_step(transformer.start_tokens(1), cache)
    with pytest.raises(InputError, match="complete after 16 tokens"):
        transformer.decode_step(transformer.start_tokens(1), cache)


# refusals


@pytest.mark.parametrize("backend", [None, 3, ["inductor"]])
def test_a_backend_that_is_no_name_is_refused(backend: Any) -> None:
    with pytest.raises(InputTypeError, match="backend must be a name such as 'inductor', not "):
        tiny_transformer().compile_decoding(backend=backend)


def test_a_backend_that_torch_does_not_have_is_refused() -> None:
    with pytest.raises(InputError, match=r"backend must be one of .*inductor.*, not 'no-such'"):
        tiny_pipeline().compile(backend="no-such")


def test_a_torch_that_cannot_compile_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("torch.compile is not supported on Python 9+")

    monkeypatch.setattr(torch, "compile", refuse)
    with pytest.raises(UnsupportedOperationError, match=r"not supported on Python 9\+\. Draw wit"):
        tiny_transformer().compile_decoding()


def test_a_step_that_cannot_be_compiled_is_told() -> None:
    def step(tokens: Tensor, cache: DecoderCache) -> Tensor:
        torch._dynamo.graph_break()
        return tokens

    compiled = CompiledStep(backend="eager")
    cache = compiled.start(small_cache(2), text_length=5)
    message = r"torch\.compile with the backend 'eager' failed: .* install them, or load the model"
    with pytest.raises(UnsupportedOperationError, match=message):
        compiled.run(step, torch.arange(2), cache)


@pytest.mark.slow
@INDUCTOR
def test_drawing_tells_that_there_is_no_compiler(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from torch._inductor import config

    monkeypatch.setattr(config.cpp, "cxx", ("no-such-compiler",))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))  # nothing compiled before
    compiled = CompiledStep(backend="inductor")
    cache = compiled.start(small_cache(2), text_length=5)
    message = r"with the backend 'inductor' failed: .*'inductor' needs a C\+\+ compiler"
    with pytest.raises(UnsupportedOperationError, match=message):
        compiled.run(double, torch.arange(2), cache)


def test_quantised_weights_are_not_compiled() -> None:
    pipe: Pipeline = tiny_pipeline().quantize("int8")
    with pytest.raises(UnsupportedOperationError, match="with int8 weights cannot be compiled"):
        pipe.compile()
    assert not is_compiled(pipe.transformer)


def test_a_compiled_model_is_not_quantised() -> None:
    pipe = tiny_pipeline().compile(backend="eager")
    with pytest.raises(UnsupportedOperationError, match="compiled, and int8 weights cannot be"):
        pipe.quantize()
    assert pipe.transformer.quantization is None
