"""FISTA against slow twins in plain numpy, and against what its theory promises."""

import copy

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from compress.optim import FISTA, shrink

Array = npt.NDArray[np.float64]


class Lasso:
    """min over m >= 0 of 1/2 |A m - b|^2 + l1 sum(m)."""

    def __init__(self, rows: int = 20, units: int = 8, l1: float = 0.4, seed: int = 0, spread: float = 1.0):
        draw = np.random.default_rng(seed)
        self.a = draw.standard_normal((rows, units)) * np.logspace(0, np.log10(spread), units)
        self.b = self.a @ np.maximum(draw.standard_normal(units), 0) + 0.1 * draw.standard_normal(rows)
        self.l1 = l1
        self.lipschitz = float(np.linalg.eigvalsh(self.a.T @ self.a).max())

    def gradient(self, m: Array) -> Array:
        return np.asarray(self.a.T @ (self.a @ m - self.b))

    def value(self, m: Array) -> float:
        return float(0.5 * ((self.a @ m - self.b) ** 2).sum() + self.l1 * m.sum())

    def optimum(self) -> Array:
        """By coordinate descent: each coordinate in turn, exactly, until nothing moves."""
        m = np.zeros(self.a.shape[1])
        squares = (self.a**2).sum(0)
        for _ in range(20000):
            before = m.copy()
            for i in range(len(m)):
                m[i] = max(m[i] - (self.gradient(m)[i] + self.l1) / squares[i], 0.0)
            if np.abs(m - before).max() < 1e-15:
                break
        return m

    def solve(self, solver: FISTA, steps: int) -> list[float]:
        """The objective at the solution after every step."""
        values = []
        for _ in range(steps):
            solver.step(torch.from_numpy(self.gradient(solver.values.numpy())), self.l1)
            held = solver.solution if solver.variant == "textbook" else solver.values
            values.append(self.value(held.numpy()))
        return values


def ones(units: int = 8) -> Tensor:
    return torch.ones(units, dtype=torch.float64)


# -- the proximal map --------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(z=st.floats(-5, 5), threshold=st.floats(0, 3))
def test_shrink_minimises_what_it_should(z: float, threshold: float) -> None:
    """prox(z) = argmin over m >= 0 of 1/2 (m - z)^2 + threshold * m, which soft-thresholding and projection is."""
    m = shrink(torch.tensor([z], dtype=torch.float64), threshold).item()
    soft = np.sign(z) * max(abs(z) - threshold, 0.0)
    assert m == pytest.approx(max(soft, 0.0), abs=1e-15)

    def objective(at: float) -> float:
        return 0.5 * (at - z) ** 2 + threshold * at

    grid = np.linspace(0, 6, 601)
    assert objective(m) <= min(objective(float(at)) for at in grid) + 1e-12


def test_shrink_takes_a_threshold_per_unit() -> None:
    assert shrink(torch.tensor([1.0, 1.0, -1.0]), torch.tensor([0.25, 2.0, 0.0])).tolist() == [0.75, 0.0, 0.0]


# -- textbook ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_textbook_equals_a_slow_twin(seed: int) -> None:
    problem = Lasso(seed=seed)
    eta, l1 = 0.9 / problem.lipschitz, problem.l1
    solver = FISTA(ones(), eta, restart="never")
    y, before, t = [1.0] * 8, [1.0] * 8, 1.0
    for _ in range(60):
        slope = problem.gradient(np.array(y))
        m = [max(y[i] - eta * slope[i] - eta * l1, 0.0) for i in range(8)]
        following = (1 + (1 + 4 * t * t) ** 0.5) / 2
        y = [m[i] + (t - 1) / following * (m[i] - before[i]) for i in range(8)]
        before, t = m, following
        problem.solve(solver, 1)
        np.testing.assert_allclose(solver.solution.numpy(), m, rtol=0, atol=1e-12)
        np.testing.assert_allclose(solver.values.numpy(), y, rtol=0, atol=1e-12)
    assert solver.restarts == 0


def test_the_momentum_sequence() -> None:
    solver = FISTA(ones(1), 1.0, restart="never")
    told = []
    for _ in range(6):
        told.append(solver.momentum)
        solver.step(torch.zeros(1, dtype=torch.float64), 0.0)
    np.testing.assert_allclose(told, [1, 1.6180, 2.1935, 2.7498, 3.2949, 3.8326], atol=1e-4)


@pytest.mark.parametrize("restart", ["adaptive", "never", "always"])
@pytest.mark.parametrize("seed", range(3))
def test_the_optimum_is_reached(restart: str, seed: int) -> None:
    problem = Lasso(seed=seed)
    solver = FISTA(ones(), 1 / problem.lipschitz, restart=restart)  # type: ignore[arg-type]
    problem.solve(solver, 1500)
    best = problem.optimum()
    np.testing.assert_allclose(solver.solution.numpy(), best, atol=1e-7)
    assert (solver.solution == 0).numpy().tolist() == (best == 0).tolist()
    assert (solver.solution >= 0).all()


def test_always_restarting_is_ista() -> None:
    problem = Lasso()
    eta = 1 / problem.lipschitz
    solver = FISTA(ones(), eta, restart="always")
    m = np.ones(8)
    for _ in range(30):
        m = np.maximum(m - eta * problem.gradient(m) - eta * problem.l1, 0)
        problem.solve(solver, 1)
        np.testing.assert_allclose(solver.solution.numpy(), m, rtol=0, atol=1e-12)


def test_an_adaptive_restart_is_faster_where_it_is_steep_and_flat() -> None:
    problem = Lasso(rows=40, l1=0.01, spread=10)
    best = problem.value(problem.optimum())
    gaps = {}
    for restart in ("adaptive", "never", "always"):
        solver = FISTA(ones(), 1 / problem.lipschitz, restart=restart)  # type: ignore[arg-type]
        gaps[restart] = problem.solve(solver, 400)[-1] - best
        assert bool(solver.restarts) == (restart != "never")
    assert gaps["adaptive"] < 1e-3 * gaps["never"]
    assert gaps["never"] < gaps["always"]


def test_the_objective_at_the_solution_hardly_rises_with_adaptive_restart() -> None:
    problem = Lasso(spread=20)
    values = problem.solve(FISTA(ones(), 1 / problem.lipschitz), 300)
    assert max(np.diff(values)) < 1e-3 * (values[0] - values[-1])


@pytest.mark.parametrize("variant", ["textbook", "official"])
def test_a_step_size_per_unit_solves_the_same_problem(variant: str) -> None:
    """A diagonal metric, safe where lr^-1/2 A'A lr^-1/2 has no eigenvalue above 1: what GAL measures."""
    problem = Lasso(spread=30, l1=0.3)
    hessian = problem.a.T @ problem.a
    unit = 1 / np.sqrt(np.diag(hessian))
    lr = unit**2 / np.linalg.eigvalsh(unit[:, None] * hessian * unit).max()
    best = problem.optimum()
    solver = FISTA(ones(), torch.from_numpy(lr), variant=variant)  # type: ignore[arg-type]
    plain = FISTA(ones(), 1 / problem.lipschitz, variant=variant)  # type: ignore[arg-type]
    told, slow = problem.solve(solver, 800), problem.solve(plain, 800)
    np.testing.assert_allclose(solver.finish().numpy(), best, atol=1e-6 if variant == "textbook" else 1e-3)
    if variant == "textbook":
        assert told[60] < slow[60]


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 999), lr=st.floats(0.001, 0.5))
def test_a_number_and_a_vector_of_it_are_the_same(seed: int, lr: float) -> None:
    draw = np.random.default_rng(seed)
    one, many = FISTA(ones(), lr), FISTA(ones(), torch.full((8,), lr, dtype=torch.float64))
    for _ in range(6):
        gradient = torch.from_numpy(draw.standard_normal(8))
        one.step(gradient, 0.1)
        many.step(gradient, torch.full((8,), 0.1, dtype=torch.float64))
        torch.testing.assert_close(one.values, many.values, rtol=0, atol=1e-13)


def test_finish_puts_the_solution_where_the_network_runs() -> None:
    problem = Lasso()
    solver = FISTA(ones(), 0.5 / problem.lipschitz, restart="never")
    problem.solve(solver, 5)
    assert not torch.equal(solver.values, solver.solution)
    told = solver.finish()
    assert torch.equal(told, solver.solution)
    assert torch.equal(told, solver.values)


def test_it_writes_into_the_leaf_it_was_given() -> None:
    masks = torch.ones(4, requires_grad=True)
    FISTA(masks, 0.1).step(torch.ones(4), 0.5)
    torch.testing.assert_close(masks.detach(), torch.full((4,), 0.85))
    assert masks.requires_grad


# -- the released form -------------------------------------------------------------------------------------


def released(
    m: Array, gradients: list[Array], lrs: list[float], l1: float, restarts: set[int]
) -> list[Array]:
    """Gradient at m, applied at the extrapolated point: the recursion of the released code, in plain numpy."""
    t, previous, path = 1.0, m, []
    for k, (g, lr) in enumerate(zip(gradients, lrs, strict=True)):
        if k == 0 or k in restarts:
            t, y = 1.0, m
        else:
            following = (1 + (1 + 4 * t**2) ** 0.5) / 2
            y = m + (t - 1) / following * (m - previous)
            t = following
        previous = m
        stepped = y - lr * g
        m = np.maximum(np.sign(stepped) * np.maximum(np.abs(stepped) - lr * l1, 0), 0)
        path.append(m)
    return path


@pytest.mark.parametrize("restarts", [set(), {7}, {3, 4, 11}])
@pytest.mark.parametrize("seed", range(3))
def test_official_equals_its_recursion(restarts: set[int], seed: int) -> None:
    draw = np.random.default_rng(seed)
    start, gradients = draw.standard_normal(24), [draw.standard_normal(24) for _ in range(20)]
    lrs = [0.3 * 0.5 ** (k // 6) for k in range(20)]
    solver = FISTA(torch.from_numpy(start.copy()), lrs[0], variant="official")
    for k, wanted in enumerate(released(start, gradients, lrs, 0.2, restarts)):
        if k in restarts:
            solver.restart()
        solver.lr = lrs[k]
        solver.step(torch.from_numpy(gradients[k]), 0.2)
        np.testing.assert_allclose(solver.values.numpy(), wanted, rtol=0, atol=1e-12)


def test_official_restarted_at_every_call_is_ista_too() -> None:
    draw = np.random.default_rng(1)
    start, gradients = draw.standard_normal(24), [draw.standard_normal(24) for _ in range(20)]
    solver = FISTA(torch.from_numpy(start.copy()), 0.1, variant="official", restart="always")
    for gradient, wanted in zip(
        gradients, released(start, gradients, [0.1] * 20, 0.2, set(range(20))), strict=True
    ):
        solver.step(torch.from_numpy(gradient), 0.2)
        np.testing.assert_allclose(solver.values.numpy(), wanted, rtol=0, atol=1e-12)


def test_official_reaches_the_optimum_more_slowly() -> None:
    problem = Lasso()
    best = problem.value(problem.optimum())
    gaps = {}
    for variant in ("textbook", "official"):
        solver = FISTA(ones(), 1 / problem.lipschitz, variant=variant, restart="never")  # type: ignore[arg-type]
        gaps[variant] = problem.solve(solver, 200)[-1] - best
    assert gaps["textbook"] < gaps["official"] < 1e-3


# -- being put away, units, errors -------------------------------------------------------------------------


@pytest.mark.parametrize("variant", ["textbook", "official"])
@pytest.mark.parametrize("per_unit", [False, True])
def test_a_state_goes_on_identically(variant: str, per_unit: bool) -> None:
    problem = Lasso(spread=20)
    lr = torch.full((8,), 1 / problem.lipschitz, dtype=torch.float64) if per_unit else 1 / problem.lipschitz
    solver = FISTA(ones(), lr, variant=variant)  # type: ignore[arg-type]
    problem.solve(solver, 40)
    other = FISTA(torch.zeros(8, dtype=torch.float64), 99.0, variant=variant)  # type: ignore[arg-type]
    other.load_state_dict(copy.deepcopy(solver.state_dict()))
    assert problem.solve(solver, 40) == problem.solve(other, 40)
    assert torch.equal(solver.values, other.values)
    assert torch.equal(solver.solution, other.solution)
    assert solver.restarts == other.restarts


def test_a_loaded_state_is_a_copy() -> None:
    solver, other = FISTA(ones(), 0.1), FISTA(ones(), 0.1)
    other.load_state_dict(solver.state_dict())
    other.step(torch.ones(8, dtype=torch.float64), 0.1)
    assert torch.equal(solver.values, ones())
    assert torch.equal(solver.solution, ones())


@pytest.mark.parametrize("lr", [0.0, -1.0, float("nan"), torch.tensor([0.1, 0.0])])
def test_a_step_size_must_be_positive(lr: object) -> None:
    with pytest.raises(ValueError, match="step size must be positive, not "):
        FISTA(torch.ones(2), lr)  # type: ignore[arg-type]
