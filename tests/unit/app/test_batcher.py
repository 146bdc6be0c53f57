"""Pictures of several clients drawn together: as if alone, in turns, none in another's way."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from app_service import Gate, wait_until
from dallemini import Pipeline
from dallemini.app.batcher import (
    Batcher,
    ClosedError,
    Event,
    Finished,
    Job,
    Preview,
    QueueFullError,
)
from dallemini.app.order import Order
from dallemini.errors import InputError
from dallemini.pipeline.outputs import GenerationOutput
from patience import patience

Make = Callable[..., Batcher]


@pytest.fixture
def make(pipe: Pipeline, gate: Gate) -> Iterator[Make]:
    """Make a batcher that is started, and closed at the end."""
    made: list[Batcher] = []

    def make_batcher(**options: Any) -> Batcher:
        batcher = Batcher(pipe.transformer, gate, num_codes=pipe.vqgan.codebook_size, **options)
        made.append(batcher)
        batcher.start()
        return batcher

    yield make_batcher
    gate.open()
    for batcher in made:
        batcher.close()


@dataclass
class Client:
    """Somebody who asks, and what he was told."""

    pipe: Pipeline
    batcher: Batcher
    name: str

    def __post_init__(self) -> None:
        self.told: list[Event] = []

    def ask(self, prompt: str = "a red apple", *, looks: int = 0, **settings: Any) -> Job:
        work = Order.of(self.pipe, prompt, **settings)
        return self.batcher.submit(work, client=self.name, tell=self.told.append, looks=looks)

    @property
    def seeds(self) -> list[int]:
        return [event.output.seeds[0] for event in self.told if isinstance(event, Finished)]

    @property
    def errors(self) -> list[Exception]:
        return [event for event in self.told if isinstance(event, Exception)]


def is_the_same(output: GenerationOutput, alone: GenerationOutput) -> bool:
    same = torch.equal(output.image_tokens, alone.image_tokens)
    return same and output.images[0].tobytes() == alone.images[0].tobytes()


def test_pictures_are_those_that_are_drawn_alone(pipe: Pipeline, make: Make, gate: Gate) -> None:
    batcher = make()
    gate.shut()
    early, late = Client(pipe, batcher, "early"), Client(pipe, batcher, "late")
    early.ask("a red apple on a white background", num_images_per_prompt=2, seed=5)
    wait_until(lambda: batcher.drawing == 2)
    gate.open(tokens=5)
    wait_until(lambda: gate.is_shut)
    late.ask("rocket", seed=7, guidance_scale=1.0)
    late.ask("a bird", seed=9, guidance_scale=3.0)
    gate.open()
    wait_until(lambda: len(early.told + late.told) == 4)
    prompts = {5: "a red apple on a white background", 6: "a red apple on a white background"}
    prompts |= {7: "rocket", 9: "a bird"}
    for event in early.told + late.told:
        assert isinstance(event, Finished)
        seed = event.output.seeds[0]
        scale = event.output.config.guidance_scale
        alone = pipe(prompts[seed], seed=seed, guidance_scale=scale, progress=False)
        assert is_the_same(event.output, alone)
        assert event.output.metadata(0) == alone.metadata(0)
    assert batcher.tokens_drawn == 4 * 16


def test_clients_are_drawn_in_turns(pipe: Pipeline, make: Make, gate: Gate) -> None:
    batcher = make(most_rows=2)  # one guided picture
    gate.shut()
    first, greedy, modest = (Client(pipe, batcher, name) for name in ("first", "greedy", "modest"))
    modest.told = greedy.told = first.told
    first.ask(seed=0)
    wait_until(lambda: batcher.drawing == 1)
    greedy.ask(num_images_per_prompt=3, seed=10)
    modest.ask(seed=20)
    assert batcher.waiting == 4
    gate.open()
    wait_until(lambda: len(first.seeds) == 5)
    assert first.seeds == [0, 10, 20, 11, 12]


def test_a_picture_that_is_larger_than_the_batch_is_drawn_alone(pipe: Pipeline, make: Make) -> None:
    client = Client(pipe, make(most_rows=1), "me")
    client.ask(num_images_per_prompt=2, seed=0)
    wait_until(lambda: client.seeds == [0, 1])


def test_what_is_cancelled_leaves_at_once(pipe: Pipeline, make: Make, gate: Gate) -> None:
    batcher = make(most_rows=4)
    gate.shut()
    gone, other = Client(pipe, batcher, "gone"), Client(pipe, batcher, "other")
    drawn = gone.ask(num_images_per_prompt=3, seed=0)  # two of them are drawn
    wait_until(lambda: (batcher.drawing, batcher.waiting) == (2, 1))
    other.ask(seed=7)
    batcher.cancel(drawn)
    assert batcher.waiting == 1
    gate.open()
    wait_until(lambda: other.seeds == [7])
    assert gone.told == []
    assert batcher.drawing == 0
    batcher.cancel(drawn)  # again does nothing


def test_previews_come_when_they_were_asked_for(pipe: Pipeline, make: Make) -> None:
    client = Client(pipe, make(), "me")
    client.ask(num_images_per_prompt=2, seed=3, looks=3)
    wait_until(lambda: len(client.seeds) == 2)
    looks = [event for event in client.told if isinstance(event, Preview)]
    assert sorted((look.number, look.index) for look in looks) == [
        (number, index) for number in range(2) for index in range(3)
    ]
    stream = pipe.stream("a red apple", every=4, seed=3, progress=False)
    steps = {step.position: step.images[0].tobytes() for step in stream}
    for look in looks:
        if look.number == 0:
            assert look.step.images[0].tobytes() == steps[4 + 4 * look.index]


def test_too_many_that_wait_are_refused(pipe: Pipeline, make: Make, gate: Gate) -> None:
    batcher = make(most_rows=2, most_waiting=4)
    gate.shut()
    first, second = Client(pipe, batcher, "first"), Client(pipe, batcher, "second")
    first.ask(seed=0)
    wait_until(lambda: batcher.drawing == 1)
    first.ask(num_images_per_prompt=2, seed=1)
    with pytest.raises(QueueFullError, match=r"Too many pictures wait \(2 of at most 4, 2 of them"):
        first.ask(seed=9)  # half of the places are for others
    second.ask(num_images_per_prompt=2, seed=5)
    with pytest.raises(QueueFullError, match="ask again later") as caught:
        Client(pipe, batcher, "third").ask(seed=9)
    assert caught.value.retry_after >= 1
    gate.open()
    wait_until(lambda: first.seeds == [0, 1, 2] and second.seeds == [5, 6])


def test_a_failed_step_ends_what_it_drew_and_nothing_else(
    pipe: Pipeline, make: Make, gate: Gate
) -> None:
    batcher = make(most_rows=2)
    gate.shut()
    lost, kept = Client(pipe, batcher, "lost"), Client(pipe, batcher, "kept")
    lost.ask(num_images_per_prompt=2, seed=0)
    wait_until(lambda: batcher.drawing == 1)
    kept.ask(seed=5)
    gate.error = RuntimeError("out of memory")
    gate.open()
    wait_until(lambda: kept.seeds == [5])
    assert [str(error) for error in lost.errors] == ["out of memory"]
    assert lost.seeds == []
    assert batcher.is_ready
    assert batcher.waiting == 0


@dataclass(frozen=True, kw_only=True, eq=False)
class Unfinishable(Order):
    """Pictures that cannot be made of their tokens."""

    def finish(self, number: int, tokens: Tensor) -> GenerationOutput:
        raise ValueError(f"no picture {number}")


def test_a_picture_that_cannot_be_made_ends_its_request_alone(pipe: Pipeline, make: Make) -> None:
    batcher = make()
    other = Client(pipe, batcher, "other")
    told: list[Event] = []
    request = Order.of(pipe, "a bird", num_images_per_prompt=3, seed=0).request
    batcher.submit(Unfinishable(pipe=pipe, request=request), client="me", tell=told.append)
    other.ask(seed=1)
    wait_until(lambda: other.seeds == [1] and batcher.drawing == 0)
    assert [str(error) for error in told] == ["no picture 0"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Held(Order):
    """Pictures that are not made before `made` is set."""

    made: threading.Event
    begun: list[int] = field(default_factory=list)

    def finish(self, number: int, tokens: Tensor) -> GenerationOutput:
        self.begun.append(number)
        assert self.made.wait(patience(30))
        return super().finish(number, tokens)

    def ask(self, batcher: Batcher) -> list[Event]:
        told: list[Event] = []
        batcher.submit(self, client="held", tell=told.append)
        return told


def test_tokens_are_drawn_while_a_picture_is_made_of_others(pipe: Pipeline, make: Make) -> None:
    batcher, made = make(), threading.Event()
    request = Order.of(pipe, "a bird", num_images_per_prompt=2, seed=0).request
    told = Held(pipe=pipe, request=request, made=made).ask(batcher)
    wait_until(lambda: batcher.tokens_drawn == 32)
    other = Client(pipe, batcher, "other")
    other.ask(seed=2)
    wait_until(lambda: batcher.tokens_drawn == 48)
    assert (told, other.told, batcher.drawing) == ([], [], 3)
    made.set()
    wait_until(lambda: (len(told), other.seeds, batcher.drawing) == (2, [2], 0))


def test_two_pictures_are_made_at_the_same_time(pipe: Pipeline, make: Make) -> None:
    meeting = threading.Barrier(2)

    class Meeting(Order):
        def finish(self, number: int, tokens: Tensor) -> GenerationOutput:
            meeting.wait(timeout=patience(30))
            return super().finish(number, tokens)

    batcher, told = make(), list[Event]()
    work = Meeting.of(pipe, "a red apple", num_images_per_prompt=4, seed=3)
    job = batcher.submit(work, client="x", tell=told.append)
    wait_until(lambda: job.is_over)
    found = {event.number: event.output for event in told if isinstance(event, Finished)}
    assert sorted(found) == [0, 1, 2, 3]
    alone = pipe("a red apple", num_images_per_prompt=4, seed=3, progress=False)
    for number, output in found.items():
        assert output.images[0].tobytes() == alone.images[number].tobytes()


@pytest.mark.parametrize("is_in_time", [True, False])
def test_pictures_that_wait_for_their_pixels_hold_up_the_next_and_the_end(
    pipe: Pipeline, make: Make, is_in_time: bool
) -> None:
    batcher, made = make(most_rows=2), threading.Event()
    request = Order.of(pipe, "a bird", num_images_per_prompt=4, seed=0).request
    held = Held(pipe=pipe, request=request, made=made)
    told = held.ask(batcher)
    wait_until(lambda: (batcher.drawing, batcher.waiting, len(held.begun)) == (2, 2, 2))
    threading.Timer(0.05, made.set).start()
    batcher.close(None if is_in_time else 0)
    seeds = sorted(event.output.seeds[0] for event in told if isinstance(event, Finished))
    errors = [event for event in told if isinstance(event, Exception)]
    if is_in_time:
        assert (seeds, errors) == ([0, 1, 2, 3], [])
    else:  # what is being made is never cut short
        assert (seeds, [type(error) for error in errors]) == ([0, 1], [ClosedError])


def test_a_drawing_that_no_slot_takes_ends_its_request_alone(pipe: Pipeline, make: Make) -> None:
    batcher = make()
    other = Client(pipe, batcher, "other")
    told: list[Event] = []
    request = Order.of(pipe, "a bird", seed=0).request
    tokens = torch.tensor([1000] + [-1] * 15)
    wrong = replace(request.drawings[0], fixed=tokens)
    work = Order(pipe=pipe, request=replace(request, drawings=(wrong,)))
    batcher.submit(work, client="me", tell=told.append)
    other.ask(seed=1)
    wait_until(lambda: other.seeds == [1])
    assert [type(error) for error in told] == [InputError]


def test_draining_finishes_what_has_begun_and_refuses_the_rest(
    pipe: Pipeline, make: Make, gate: Gate
) -> None:
    batcher = make(most_rows=2)
    gate.shut()
    begun, waiting = Client(pipe, batcher, "begun"), Client(pipe, batcher, "waiting")
    begun.ask(num_images_per_prompt=2, seed=0)
    wait_until(lambda: batcher.drawing == 1)
    waiting.ask(seed=9)
    batcher.drain()
    assert not batcher.is_ready
    with pytest.raises(ClosedError, match="The service is ending; ask again when it is back"):
        waiting.ask(seed=10)
    gate.open()
    batcher.close()
    assert begun.seeds == [0, 1]
    assert waiting.seeds == []
    assert [type(error) for error in waiting.errors] == [ClosedError]


def test_closing_gives_up_when_the_time_is_over(pipe: Pipeline, make: Make, gate: Gate) -> None:
    batcher = make()
    gate.shut()
    client = Client(pipe, batcher, "me")
    client.ask(seed=0)
    wait_until(lambda: batcher.drawing == 1)
    threading.Timer(0.05, gate.open).start()  # a step is never cut short
    batcher.close(0)
    assert client.seeds == []
    assert [str(error) for error in client.errors] == [
        "The service has ended before these pictures were drawn."
    ]


def test_a_batcher_that_was_never_started_closes_too(pipe: Pipeline, gate: Gate) -> None:
    batcher = Batcher(pipe.transformer, gate, num_codes=64)
    client = Client(pipe, batcher, "me")
    client.ask(seed=0)
    batcher.close()
    assert [type(error) for error in client.errors] == [ClosedError]


def test_no_room_at_all_is_refused(pipe: Pipeline, gate: Gate) -> None:
    with pytest.raises(InputError, match="needs room for a row and a picture that waits, from 1"):
        Batcher(pipe.transformer, gate, num_codes=64, most_rows=0)
