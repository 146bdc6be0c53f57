"""Digests of weights are those that older pictures tell, whatever the weights' dtype and place."""

from __future__ import annotations

import hashlib

import torch
from torch import nn

from dallemini.pipeline.digests import fingerprint


class Mixed(nn.Module):
    """Weights of several dtypes, shapes and sizes, one of them without any number."""

    def __init__(self) -> None:
        super().__init__()
        numbers = torch.arange(23, dtype=torch.float32) / 7
        self.wide = nn.Parameter(numbers[:21].reshape(3, 7))
        self.low = nn.Parameter(numbers.half())
        self.bare = nn.Parameter(numbers[:0])
        self.turned = nn.Parameter(numbers[:20].double().reshape(4, 5).T)
        self.alone = nn.Parameter(numbers[9])


def test_digest_is_of_every_fourth_part_of_each_weight_in_the_order_of_names() -> None:
    weights = Mixed()
    told = hashlib.sha256()
    for name, shape, step in (
        *(("alone", (), 1), ("bare", (0,), 1), ("low", (23,), 5)),
        *(("turned", (5, 4), 5), ("wide", (3, 7), 5)),
    ):
        flat = getattr(weights, name).detach().flatten()
        told.update(f"{name} {shape}".encode())
        told.update(flat[::step].float().numpy().tobytes())
    assert fingerprint(weights) == told.hexdigest()[:16]


def test_weights_that_change_in_place_have_another_digest_at_once() -> None:
    weights = Mixed()
    found = [fingerprint(weights)]
    weights.low.data[5] += 1  # which the version of the tensor does not tell
    found.append(fingerprint(weights))
    with torch.inference_mode():
        weights.alone.zero_()
    found.append(fingerprint(weights))
    assert len(set(found)) == 3


def test_digest_of_weights_without_values_is_of_their_names_and_shapes() -> None:
    assert fingerprint(Mixed().to("meta")) != fingerprint(nn.Linear(2, 3).to("meta"))
