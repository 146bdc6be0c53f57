"""The measures against closed forms, and what they refuse."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from dallemini.errors import InputError
from dallemini.evaluation import (
    codebook_use,
    frechet_distance,
    mean_interval,
    psnr,
    rank_of,
    retrieval,
    token_nats,
    wilson_interval,
)


def draw(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def exact_sample(mean: Tensor, covariance: Tensor, *, count: int = 50, seed: int = 0) -> Tensor:
    """Return f64[N,E] whose mean and covariance are exactly these."""
    noise = draw(count, len(mean), seed=seed)
    noise = noise - noise.mean(0)
    white = noise @ torch.linalg.inv(torch.linalg.cholesky(torch.cov(noise.T))).T
    sample: Tensor = mean + white @ torch.linalg.cholesky(covariance).T
    return sample


def root(matrix: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(matrix)
    rooted: Tensor = vectors @ torch.diag(values.clamp(min=0).sqrt()) @ vectors.T
    return rooted


def by_definition(first: Tensor, second: Tensor) -> float:
    """The distance by covariances and symmetric roots, as it is written down."""
    left, right = torch.cov(first.T), torch.cov(second.T)
    cross = root(root(left) @ right @ root(left)).trace()
    means = (first.mean(0) - second.mean(0)).square().sum()
    return float(means + left.trace() + right.trace() - 2 * cross)


def test_frechet_distance_of_axis_aligned_gaussians_is_the_closed_form() -> None:
    mean, other_mean = torch.tensor([0.0, 1.0, 2.0]), torch.tensor([1.0, 1.0, 0.0])
    variance, other_variance = torch.tensor([1.0, 4.0, 9.0]), torch.tensor([4.0, 0.25, 1.0])
    first = exact_sample(mean.double(), variance.double().diag())
    second = exact_sample(other_mean.double(), other_variance.double().diag(), seed=1)
    deviations = (variance.sqrt() - other_variance.sqrt()).square().sum()
    expected = float((mean - other_mean).square().sum() + deviations)
    assert frechet_distance(first, second) == pytest.approx(expected, rel=1e-12)


def test_frechet_distance_of_correlated_gaussians_is_the_closed_form() -> None:
    # tr (AB)^1/2 of 2x2 matrices is (tr AB + 2 (det AB)^1/2)^1/2
    left = torch.tensor([[2.0, 1.0], [1.0, 3.0]], dtype=torch.float64)
    right = torch.tensor([[1.0, -0.5], [-0.5, 2.0]], dtype=torch.float64)
    zero = torch.zeros(2, dtype=torch.float64)
    product = left @ right
    cross = (product.trace() + 2 * torch.linalg.det(product).sqrt()).sqrt()
    expected = float(left.trace() + right.trace() - 2 * cross)
    found = frechet_distance(exact_sample(zero, left), exact_sample(zero, right, seed=1))
    assert found == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("count", "other"), [(200, 300), (20, 200), (10, 15), (2, 2)])
def test_frechet_distance_agrees_with_its_definition(count: int, other: int) -> None:
    first, second = draw(count, 30), draw(other, 30, seed=1) @ draw(30, 30, seed=2) + 1
    # the definition takes roots of eigenvalues that are rounding noise when samples are few
    assert frechet_distance(first, second) == pytest.approx(by_definition(first, second), rel=1e-5)


@pytest.mark.parametrize("count", [5, 40])
def test_frechet_distance_of_a_set_to_itself_is_zero(count: int) -> None:
    features = draw(count, 20).float()
    assert frechet_distance(features, features) == pytest.approx(0.0, abs=1e-10)


def test_frechet_distance_is_symmetric_and_survives_rotation() -> None:
    first, second = draw(8, 12), 2 * draw(30, 12, seed=1)
    turn, _ = torch.linalg.qr(draw(12, 12, seed=2))
    found = frechet_distance(first, second)
    assert frechet_distance(second, first) == pytest.approx(found, rel=1e-12)
    assert frechet_distance(first @ turn, second @ turn) == pytest.approx(found, rel=1e-12)


def test_frechet_distance_keeps_its_digits_far_from_the_origin() -> None:
    first, second = draw(50, 4), draw(50, 4, seed=1)
    found = frechet_distance(first + 1e6, second + 1e6)
    assert found == pytest.approx(frechet_distance(first, second), rel=1e-6)


@pytest.mark.parametrize(
    ("real", "drawn", "message"),
    [
        (torch.zeros(3, 4), torch.zeros(3, 5), r"\[N, E\] and \[M, E\]"),
        (torch.zeros(3), torch.zeros(3, 5), r"\[N, E\] and \[M, E\]"),
        (torch.zeros(1, 4), torch.zeros(3, 4), "two pictures: 1 real, 3 drawn"),
        (torch.zeros(3, 4), torch.full((3, 4), math.nan), "not finite"),
    ],
)
def test_frechet_distance_refuses_what_has_no_covariance(
    real: Tensor, drawn: Tensor, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        frechet_distance(real, drawn)


def test_wilson_interval_is_that_of_the_formula() -> None:
    share = wilson_interval(153, count=200)
    bounds = [round(value, 3) for value in (share.value, share.low, share.high)]
    assert (bounds, share.count) == ([0.765, 0.702, 0.818], 200)


@pytest.mark.parametrize("hits", [0, 10])
def test_wilson_interval_stays_a_share_at_the_ends(hits: int) -> None:
    share = wilson_interval(hits, count=10)
    assert 0 <= share.low <= share.value <= share.high <= 1
    assert share.high - share.low > 0.2


@pytest.mark.parametrize(("hits", "count"), [(0, 0), (3, 2), (-1, 2)])
def test_wilson_interval_refuses_impossible_counts(hits: int, count: int) -> None:
    with pytest.raises(InputError, match="0 <= hits <= count"):
        wilson_interval(hits, count=count)


def test_mean_interval_is_as_wide_as_the_normal_one() -> None:
    values = draw(400)
    found = mean_interval(values)
    half = 1.96 * float(values.std()) / 20
    assert found.value == pytest.approx(float(values.mean()))
    assert found.low == pytest.approx(found.value - half, abs=0.1 * half)
    assert found.high == pytest.approx(found.value + half, abs=0.1 * half)
    assert found.count == 400


def test_mean_interval_depends_on_its_seed_only() -> None:
    values = draw(20)
    assert mean_interval(values) == mean_interval(values)
    assert mean_interval(values) != mean_interval(values, seed=1)


@pytest.mark.parametrize("values", [torch.empty(0), torch.tensor([math.inf]), torch.zeros(2, 2)])
def test_mean_interval_refuses_what_has_no_mean(values: Tensor) -> None:
    with pytest.raises(InputError, match=r"finite numbers f\[N\]"):
        mean_interval(values)


def test_rank_counts_the_nearer_ones() -> None:
    gallery = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])
    drawn = torch.tensor([0.9, 0.1])
    assert [rank_of(drawn, gallery, right=row) for row in range(4)] == [0, 1, 3, 2]


def test_rank_ignores_what_all_pictures_share() -> None:
    gallery, drawn = draw(9, 5), draw(5, seed=1)
    ranks = [rank_of(drawn, gallery, right=row) for row in range(9)]
    assert ranks == [rank_of(drawn + 100, gallery + 100, right=row) for row in range(9)]
    assert sorted(ranks) == list(range(9))


def test_retrieval_of_the_same_pictures_is_perfect() -> None:
    real = draw(12, 6)
    rows = [torch.tensor([own, *(i for i in range(12) if i != own)]) for own in range(12)]
    found = retrieval(real, real, rows)
    assert (found.first.value, found.among_five.value) == (1.0, 1.0)
    assert (found.gallery, found.largest, found.first.count) == (12, 12, 12)


def test_retrieval_of_noise_is_chance() -> None:
    real, drawn = draw(300, 16), draw(300, 16, seed=1)
    rows = [(torch.arange(20) + own) % 300 for own in range(300)]
    found = retrieval(drawn, real, rows)
    assert found.first.low < 0.05 < found.first.high
    assert found.among_five.low < 0.25 < found.among_five.high


def test_retrieval_leaves_out_captions_without_a_rival() -> None:
    real = draw(4, 3)
    rows = [torch.tensor([0]), torch.tensor([1, 0, 2]), torch.tensor([2, 3])]
    found = retrieval(real[:3], real, rows)
    assert (found.first.count, found.gallery, found.largest) == (2, 2, 3)


def test_retrieval_refuses_galleries_that_do_not_fit() -> None:
    real = draw(4, 3)
    with pytest.raises(InputError, match="as many galleries"):
        retrieval(real, real, [torch.tensor([0, 1])])
    with pytest.raises(InputError, match="a second picture"):
        retrieval(real[:1], real, [torch.tensor([0])])


def test_psnr_is_that_of_a_known_error() -> None:
    real = torch.full((2, 3, 4, 4), 0.5)
    drawn = real + torch.tensor([0.1, 0.0])[:, None, None, None]
    assert psnr(real, drawn).tolist() == pytest.approx([20.0, 80.0], abs=1e-3)


def test_psnr_refuses_other_shapes() -> None:
    with pytest.raises(InputError, match="compares two"):
        psnr(torch.zeros(1, 3, 4, 4), torch.zeros(1, 3, 8, 8))


def test_codebook_use_counts_codes_and_their_evenness() -> None:
    even = codebook_use(torch.tensor([[0, 1], [2, 3]]), codebook_size=8)
    assert (even.used, even.size, even.share, even.tokens) == (4, 8, 0.5, 4)
    assert even.perplexity == pytest.approx(4.0)
    uneven = codebook_use(torch.tensor([[0, 0, 0, 1]]), codebook_size=8)
    assert 1 < uneven.perplexity < 2


def test_codebook_use_refuses_nothing() -> None:
    with pytest.raises(InputError, match="no tokens"):
        codebook_use(torch.empty(0, 4, dtype=torch.int64), codebook_size=8)


def test_token_nats_of_equal_logits_is_the_log_of_the_vocabulary() -> None:
    nats = token_nats(torch.zeros(2, 5, 7), torch.zeros(2, 5, dtype=torch.int64))
    assert nats.tolist() == pytest.approx([math.log(7)] * 2)


def test_token_nats_are_of_each_picture_alone() -> None:
    logits = draw(3, 4, 6).float()
    tokens = torch.randint(6, (3, 4), generator=torch.Generator().manual_seed(0))
    alone = [float(token_nats(logits[i : i + 1], tokens[i : i + 1])) for i in range(3)]
    assert token_nats(logits, tokens).tolist() == pytest.approx(alone)
