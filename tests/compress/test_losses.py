"""The losses against the formulas written out, their gradients, and where they vanish."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from compress.losses import (
    ascent,
    discrepancy,
    discriminator_loss,
    features_gap,
    generator_loss,
    imbalance,
    one_hot,
    output_matching,
    relative_gap,
    soft_targets,
    statistics_gap,
)
from compress.moments import moments


def draw(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def log1pexp(z: float) -> float:
    return max(z, 0.0) + math.log1p(math.exp(-abs(z)))


def softmax(row: list[float]) -> list[float]:
    top = max(row)
    powers = [math.exp(z - top) for z in row]
    return [p / sum(powers) for p in powers]


# -- values, by loops over numbers -------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(n=st.integers(1, 5), k=st.integers(1, 6), seed=st.integers(0, 99))
def test_output_matching_is_half_the_squared_distance(n: int, k: int, seed: int) -> None:
    student, teacher = draw(n, k, seed=seed), draw(n, k, seed=seed + 100)
    squares = sum((student[i, j].item() - teacher[i, j].item()) ** 2 for i in range(n) for j in range(k))
    assert output_matching(student, teacher).item() == pytest.approx(squares / (2 * n), rel=1e-12)
    mean = output_matching(student, teacher, "mean").item()
    assert mean == pytest.approx(squares / (n * k), rel=1e-12)
    assert mean == pytest.approx(2 / k * output_matching(student, teacher).item(), rel=1e-12)


@settings(max_examples=30, deadline=None)
@given(n=st.integers(1, 6), a=st.floats(0, 3), seed=st.integers(0, 99), size=st.sampled_from([0.1, 1, 60]))
def test_the_game_is_cross_entropy(n: int, a: float, seed: int, size: float) -> None:
    real, fake = size * draw(n, 1, seed=seed), size * draw(n, 1, seed=seed + 100)
    on_real = sum(log1pexp(-z) for z in real.flatten().tolist()) / n  # -log D
    on_fake = sum(log1pexp(z) for z in fake.flatten().tolist()) / n  # -log(1 - D)
    fooled = sum(log1pexp(-z) for z in fake.flatten().tolist()) / n
    told = discriminator_loss(real, fake, a).item()
    assert told == pytest.approx(on_real + on_fake + a * fooled, rel=1e-9)
    assert generator_loss(fake).item() == pytest.approx(fooled, rel=1e-9)
    by_torch = torch.nn.functional.binary_cross_entropy_with_logits
    ones, zeros = torch.ones_like(fake), torch.zeros_like(fake)
    wanted = by_torch(real, ones) + by_torch(fake, zeros) + a * by_torch(fake, ones)
    assert told == pytest.approx(wanted.item(), rel=1e-9)


@settings(max_examples=30, deadline=None)
@given(n=st.integers(1, 4), k=st.integers(2, 5), heat=st.floats(0.5, 9), seed=st.integers(0, 99))
def test_soft_targets_are_a_divergence(n: int, k: int, heat: float, seed: int) -> None:
    student, teacher = 3 * draw(n, k, seed=seed), 3 * draw(n, k, seed=seed + 100)
    total = 0.0
    for mine, its in zip(student.tolist(), teacher.tolist(), strict=True):
        q, p = softmax([z / heat for z in mine]), softmax([z / heat for z in its])
        total += sum(b * math.log(b / a) for a, b in zip(q, p, strict=True))
    assert soft_targets(student, teacher, heat).item() == pytest.approx(heat**2 * total / n, rel=1e-9)


def test_the_gradient_of_the_game_is_that_of_the_formula() -> None:
    """d/dz of the D loss on a fake is (sigma(z) - a sigma(-z)) / n: zero at D = a / (1 + a)."""
    fake = draw(7, 1).requires_grad_()
    for a in (0.0, 0.5, 1.0):
        (gradient,) = torch.autograd.grad(discriminator_loss(draw(7, 1, seed=5), fake, a), fake)
        z = fake.detach().numpy()
        sigma = 1 / (1 + np.exp(-z))
        np.testing.assert_allclose(gradient.numpy(), (sigma - a * (1 - sigma)) / 7, rtol=1e-10)


# -- gradients ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "loss",
    [
        output_matching,
        lambda s, t: output_matching(s, t, "mean"),
        soft_targets,
        lambda s, t: soft_targets(s, t, 1.0),
        discriminator_loss,
        lambda s, t: discriminator_loss(s, t, 0.0),
        lambda s, t: generator_loss(s) + 0 * t.sum(),
    ],
    ids=["paper", "mean", "soft", "soft T=1", "AR", "plain game", "generator"],
)
def test_gradcheck(loss: object) -> None:
    first, second = draw(4, 3).requires_grad_(), draw(4, 3, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(loss, (first, second))


# -- where they vanish, which way they point ---------------------------------------------------------------


@pytest.mark.parametrize("loss", [output_matching, lambda s, t: output_matching(s, t, "mean"), soft_targets])
def test_matching_vanishes_where_student_equals_teacher(loss: object) -> None:
    teacher = draw(5, 4)
    student = teacher.clone().requires_grad_()
    value = loss(student, teacher)  # type: ignore[operator]
    assert value.item() == pytest.approx(0, abs=1e-12)
    (gradient,) = torch.autograd.grad(value, student)
    assert gradient.abs().max() < 1e-12
    assert loss(student + 0.1 * draw(5, 4, seed=3), teacher) > 0  # type: ignore[operator]


def test_soft_targets_do_not_mind_a_shift_of_all_logits() -> None:
    student, teacher = draw(5, 4), draw(5, 4, seed=1)
    torch.testing.assert_close(soft_targets(student + 7, teacher - 3), soft_targets(student, teacher))


def test_at_equal_distributions_the_game_rests_where_the_formula_says() -> None:
    """D* = (p_b + p_g) / (p_b + 2 p_g) = 2/3 under adversarial regularisation: 1.910; 1/2 without: 1.386."""
    for a, best, value in ((1.0, math.log(2), 1.910), (0.0, 0.0, 1.386)):
        at = torch.full((8, 1), best, dtype=torch.float64).requires_grad_()
        loss = discriminator_loss(at, at, a)
        assert loss.item() == pytest.approx(value, abs=5e-4)
        (gradient,) = torch.autograd.grad(loss, at)
        assert gradient.abs().max() < 1e-12
        for off in (-0.3, 0.3):
            assert discriminator_loss(at + off, at + off, a) > loss


def test_signs() -> None:
    """D is paid for calling the teacher real; the student for being called real."""
    low, high = torch.full((3, 1), -2.0), torch.full((3, 1), 2.0)
    assert discriminator_loss(high, low, 0.0) < discriminator_loss(low, high, 0.0)
    assert generator_loss(high) < generator_loss(low)
    fake = torch.zeros(3, 1, requires_grad=True)
    (gradient,) = torch.autograd.grad(generator_loss(fake), fake)
    assert (gradient < 0).all()  # descent raises D's opinion
    student = torch.zeros(1, 2, requires_grad=True)
    (gradient,) = torch.autograd.grad(output_matching(student, torch.tensor([[1.0, -1.0]])), student)
    assert gradient.tolist() == [[-1.0, 1.0]]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_low_precision_is_summed_in_fp32(dtype: torch.dtype) -> None:
    student, teacher = draw(64, 10, dtype=dtype), draw(64, 10, seed=1, dtype=dtype)
    for loss in (output_matching, soft_targets, discriminator_loss):
        value = loss(student, teacher)  # type: ignore[operator]
        assert value.dtype == torch.float32
        assert value.item() == pytest.approx(loss(student.double(), teacher.double()).item(), rel=1e-5)  # type: ignore[operator]
    assert output_matching(student.double(), teacher.double()).dtype == torch.float64


def test_extreme_logits_stay_finite() -> None:
    far = torch.tensor([[1e4], [-1e4]])
    assert torch.isfinite(discriminator_loss(far, far)).item()
    assert torch.isfinite(soft_targets(torch.tensor([[1e4, -1e4]]), torch.tensor([[-1e4, 1e4]]))).item()


# -- data-free distillation --------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(
    shape=st.sampled_from([(3, 4), (1, 1), (2, 5, 3, 2), (4, 2, 3)]),
    center=st.booleans(),
    seed=st.integers(0, 99),
)
def test_the_discrepancy_is_one_mean_over_everything(shape: tuple[int, ...], center: bool, seed: int) -> None:
    student, teacher = draw(*shape, seed=seed), draw(*shape, seed=seed + 100)
    s, t = student.numpy(), teacher.numpy()
    if center:
        s, t = s - s.mean(1, keepdims=True), t - t.mean(1, keepdims=True)
    total = sum(abs(a - b) for a, b in zip(s.flatten(), t.flatten(), strict=True))
    gap = discrepancy(student, teacher, center=center)
    assert gap.item() == pytest.approx(total / student.numel(), rel=1e-12)
    assert ascent(gap).item() == -gap.item()
    assert ascent(gap, "log").item() == pytest.approx(-math.log1p(gap.item()), rel=1e-12)


def test_the_gradients_of_both_players_are_signs() -> None:
    student, teacher = draw(4, 10).requires_grad_(), draw(4, 10, seed=1).requires_grad_()
    sign = torch.sign(student - teacher).detach() / 40
    gap = discrepancy(student, teacher)
    for form, size in (("plain", 1.0), ("log", 1 / (1 + gap.item()))):
        down = torch.autograd.grad(ascent(gap, form), (student, teacher), retain_graph=True)  # type: ignore[arg-type]
        torch.testing.assert_close(down, (-size * sign, size * sign))
    torch.testing.assert_close(torch.autograd.grad(gap, student)[0], sign)


@pytest.mark.parametrize("shape", [(4, 3), (2, 3, 4, 5)])
def test_the_divergence_of_zskt(shape: tuple[int, ...]) -> None:
    student, teacher = 2 * draw(*shape), 2 * draw(*shape, seed=1)
    total = 0.0
    rows = [x.movedim(1, -1).reshape(-1, 3).tolist() for x in (student, teacher)]
    for mine, its in zip(*rows, strict=True):
        q, p = softmax(mine), softmax(its)
        total += sum(b * math.log(b / a) for a, b in zip(q, p, strict=True))
    assert discrepancy(student, teacher, "kl").item() == pytest.approx(total / len(rows[0]), rel=1e-9)
    assert discrepancy(teacher, teacher, "kl").item() == pytest.approx(0, abs=1e-12)


def test_outputs_of_different_shape_are_not_broadcast() -> None:
    with pytest.raises(ValueError, match=r"different outputs, \(4, 3\) and \(4, 1\)"):
        discrepancy(draw(4, 3), draw(4, 1))


def test_the_relative_gap_has_no_unit() -> None:
    student, teacher = draw(6, 5), draw(6, 5, seed=1)
    told = relative_gap(student, teacher).item()
    spread = np.abs(teacher.numpy() - teacher.numpy().mean(1, keepdims=True)).mean()
    assert told == pytest.approx(np.abs((student - teacher).numpy()).mean() / spread, rel=1e-12)
    assert relative_gap(7 * student, 7 * teacher).item() == pytest.approx(told, rel=1e-12)
    assert relative_gap(torch.zeros(4, 1), torch.ones(4, 1)).item() == 1  # one output: its own size


def test_the_priors() -> None:
    logits = draw(8, 4)
    by_hand = -np.mean([math.log(max(softmax(row))) for row in logits.tolist()])
    assert one_hot(logits).item() == pytest.approx(by_hand, rel=1e-9)
    assert one_hot(1000 * logits).item() == pytest.approx(0, abs=1e-9)
    sure = 1e4 * torch.eye(4)
    assert imbalance(sure).item() == pytest.approx(-math.log(4), rel=1e-6)
    assert imbalance(sure[[0, 0, 0]]).item() == pytest.approx(0, abs=1e-9)
    dense = draw(2, 4, 3, 3)
    flat = dense.movedim(1, -1).reshape(-1, 4)
    assert one_hot(dense).item() == pytest.approx(one_hot(flat).item(), rel=1e-12)
    assert imbalance(dense).item() == pytest.approx(imbalance(flat).item(), rel=1e-12)


def test_statistics_are_those_of_a_batch_norm() -> None:
    x, norm = 3 * draw(16, 5, 4, 4, dtype=torch.float32) + 1, torch.nn.BatchNorm2d(5, momentum=1.0)
    norm(x)  # remembers the unbiased variance of this very batch
    remembered = (norm.running_mean, norm.running_var * (255 / 256))  # type: ignore[operator]
    assert statistics_gap([x], [remembered[0]], [remembered[1]]).item() == pytest.approx(0, abs=1e-4)  # type: ignore[list-item]
    off = statistics_gap([x, x], [remembered[0] + 1, remembered[0]], [remembered[1], remembered[1] + 2])  # type: ignore[list-item, operator]
    assert off.item() == pytest.approx(math.sqrt(5) + math.sqrt(20), rel=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(7, 3), (6, 5, 4), (4, 6, 5, 3), (2, 3, 2, 3, 4)])
def test_moments_are_mean_and_variance(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    x = (2 * draw(*shape) + 5).to(dtype)
    if len(shape) == 4:
        x = x.to(memory_format=torch.channels_last)
    x.requires_grad_()
    twin = x.detach().double().requires_grad_()
    flat = twin.transpose(0, 1).flatten(1)
    wanted = (flat.mean(1), flat.var(1, correction=0))
    given = moments(x)
    loose = {"rtol": 1e-12, "atol": 1e-12} if dtype == torch.float64 else {"rtol": 1e-4, "atol": 1e-5}
    for mine, its in zip(given, wanted, strict=True):
        assert mine.dtype == torch.promote_types(dtype, torch.float32)
        torch.testing.assert_close(mine.double(), its, **loose)
    weigh = torch.arange(1.0, 1 + shape[1])
    (gradient,) = torch.autograd.grad((given[0] * weigh).sum() + (given[1] * weigh).sum(), x)
    (its_gradient,) = torch.autograd.grad(((wanted[0] + wanted[1]) * weigh.double()).sum(), twin)
    coarse = {"rtol": 1e-2, "atol": 1e-3} if dtype == torch.bfloat16 else loose
    torch.testing.assert_close(gradient.double(), its_gradient, **coarse)


def test_a_channel_that_does_not_vary_has_variance_zero() -> None:
    mean, variance = moments(torch.full((4, 2, 3, 3), 3.0))
    assert mean.tolist() == [3, 3]
    assert variance.tolist() == pytest.approx([0, 0], abs=1e-20)


def test_features_count_in_units_of_the_teachers() -> None:
    a, b = draw(3, 4, 5), draw(2, 6, seed=1)
    assert features_gap([a, b], [a, b]).item() == 0
    assert features_gap([2 * a, b], [a, b]).item() == pytest.approx(0.5, rel=1e-12)
    assert features_gap([0 * a, 0 * b], [1e3 * a, b]).item() == pytest.approx(1, rel=1e-12)


@pytest.mark.parametrize(
    "loss",
    [
        lambda s, t: discrepancy(s, t, "kl"),
        lambda s, t: ascent(discrepancy(s, t, "kl"), "log"),
        lambda s, t: relative_gap(s, t),
        lambda s, t: one_hot(t) + 0 * s.sum(),
        lambda s, t: imbalance(t) + 0 * s.sum(),
        lambda s, t: features_gap([s, s[:2]], [t, t[:2]]),
        lambda s, t: statistics_gap([s, t], [draw(3, seed=5)] * 2, [draw(3, seed=6) ** 2] * 2),
    ],
    ids=["kl", "log kl", "relative", "one-hot", "imbalance", "features", "statistics"],
)  # fmt: skip
def test_gradcheck_of_the_data_free_losses(loss: object) -> None:
    first, second = draw(4, 3).requires_grad_(), draw(4, 3, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(loss, (first, second))
