"""Learning the codebook: k-means start, moving averages, revival."""

from __future__ import annotations

import torch
from torch import Tensor

from dallemini.models.vqgan import Codebook
from dallemini.testing import tiny_vqgan
from dallemini.training.codebook import CodebookLearner


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def codebook() -> Codebook:
    found = tiny_vqgan().quantize
    assert isinstance(found, Codebook)
    return found


def clusters() -> tuple[Tensor, Tensor]:
    """The centres of 64 clusters f[64,4], and features around them f[3200,4]."""
    centres = 10 * torch.randn(64, 4, generator=generator(1))
    noise = 0.01 * torch.randn(50, 64, 4, generator=generator(2))
    return centres, (centres + noise).flatten(0, 1)


def error(learned: Codebook, features: Tensor) -> float:
    """Mean squared distance to the nearest code."""
    with torch.no_grad():
        return float((learned.embedding(learned.nearest(features)) - features).square().mean())


def test_codes_get_no_gradient() -> None:
    learned = codebook()
    CodebookLearner(learned)
    assert not learned.embedding.weight.requires_grad


def test_start_lays_the_codes_over_the_features() -> None:
    learned, (_, features) = codebook(), clusters()
    before = error(learned, features)
    CodebookLearner(learned).start(features, generator())
    assert error(learned, features) < 0.1 * before
    assert learned.nearest(features).unique().numel() == 64


def test_start_depends_on_its_generator_alone() -> None:
    _, features = clusters()
    weights = []
    for _ in range(2):
        learned = codebook()
        CodebookLearner(learned).start(features, generator(3))
        weights.append(learned.embedding.weight.detach().clone())
        torch.rand(1)
    assert torch.equal(weights[0], weights[1])


def test_update_moves_codes_towards_the_features_that_chose_them() -> None:
    learned, features = codebook(), torch.randn(3200, 4, generator=generator(1))
    learner = CodebookLearner(learned)
    learner.start(features, generator())
    moved = features + 3.0
    before = error(learned, moved)
    for step in range(200):
        learner.update(moved, learned.nearest(moved), generator(step))
    assert error(learned, moved) < 0.3 * before


def test_an_unused_code_is_revived_from_the_features() -> None:
    learned, (_, features) = codebook(), clusters()
    learner = CodebookLearner(learned)
    learner.start(features, generator())
    with torch.no_grad():
        learner.use[7], learner.total[7] = 0.01, torch.full((4,), 1e3)
        learned.embedding.weight[7] = 1e5
    learner.update(features, learned.nearest(features), generator())
    distances = (features - learned.embedding.weight[7]).abs().sum(1)
    assert float(distances.min()) < 1e-4
    assert float(learner.use[7]) == 1.0


def test_statistics_are_part_of_the_state() -> None:
    assert {"use", "total", "codebook.embedding.weight"} == set(
        CodebookLearner(codebook()).state_dict()
    )
