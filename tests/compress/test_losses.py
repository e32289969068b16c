"""The losses against the formulas written out, their gradients, and where they vanish."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from compress.losses import discriminator_loss, generator_loss, output_matching, soft_targets


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
