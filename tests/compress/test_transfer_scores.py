"""Transfer scores against slow twins, closed forms and exact evidence; and what they must say of easy cases."""

import itertools
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some
from scipy.optimize import minimize
from scipy.stats import multivariate_normal, pearsonr, spearmanr
from sklearn.linear_model import Ridge

from compress import transfer_scores as scores

WITH_LABELS = (
    "nce",
    "leep",
    "n_leep",
    "log_me",
    "h_score",
    "trans_rate",
    "parc",
    "knn_accuracy",
    "logistic_accuracy",
)
OF_TWO = ("rsa", "dds", "cka", "standardised_cka")


def samples(seed: int = 0, n: int = 30, width: int = 6, classes: int = 3, apart: float = 1.0) -> Any:
    generator = np.random.default_rng(seed)
    labels = np.arange(n) % classes
    return generator.normal(size=(n, width)) + apart * generator.normal(size=(classes, width))[labels], labels


def answers(seed: int = 0, n: int = 30, sources: int = 5) -> Any:
    logits = np.random.default_rng(seed).normal(size=(n, sources)) * 2
    return np.exp(logits) / np.exp(logits).sum(1, keepdims=True)


@pytest.mark.parametrize("seed", range(3))
def test_leep_and_nce_in_loops(seed: int) -> None:
    p, (_, y) = answers(seed), samples(seed)
    n, Z, C = len(y), p.shape[1], 3
    joint = [[sum(p[i][z] for i in range(n) if y[i] == c) / n for z in range(Z)] for c in range(C)]
    column = [sum(joint[c][z] for c in range(C)) for z in range(Z)]
    want = sum(math.log(sum(joint[y[i]][z] / column[z] * p[i][z] for z in range(Z))) for i in range(n)) / n
    assert scores.leep(p, y) == pytest.approx(want, abs=1e-12)
    z = p.argmax(1)
    entropy = 0.0
    for c, k in itertools.product(range(C), range(Z)):
        both, alone = np.mean((y == c) & (z == k)), np.mean(z == k)
        if both:
            entropy -= both * math.log(both / alone)
    assert scores.nce(p, y) == pytest.approx(-entropy, abs=1e-12)
    hard = np.eye(Z)[z]
    assert scores.leep(hard, y) == pytest.approx(scores.nce(p, y), abs=1e-12), (
        "of certain answers LEEP is NCE"
    )


@pytest.mark.parametrize(("n", "width"), [(40, 5), (12, 30)])
def test_logme_is_the_maximum_of_the_exact_evidence(n: int, width: int) -> None:
    """Evidence log N(t; 0, f f^T / a + I / b), by SciPy, maximised by its own optimiser: also where n < D."""
    f, y = samples(1, n, width)

    def evidence(t: Any, a: float, b: float) -> float:
        return float(multivariate_normal(np.zeros(n), f @ f.T / a + np.eye(n) / b).logpdf(t))

    best = []
    for c in range(3):
        t = (y == c).astype(float)
        found = [
            -minimize(lambda q, t=t: -evidence(t, *np.exp(q)), start, method="Nelder-Mead").fun
            for start in ([0.0, 0.0], [3.0, 3.0])
        ]
        best.append(max(found) / n)
    assert scores.log_me(f, y) == pytest.approx(np.mean(best), abs=2e-3)


def test_logme_as_released_is_something_else_where_labels_are_few() -> None:
    """With D in place of the rank, features that are repeated (which say nothing new) would change the score."""
    f, y = samples(2, 12, 30)
    wide = np.concatenate([f, np.zeros((12, 50))], 1)
    assert scores.log_me(wide, y) == pytest.approx(scores.log_me(f, y), abs=1e-9)


def test_h_score_closed_forms() -> None:
    f, y = samples(3, 60, 4)
    centred = f - f.mean(0)
    between = np.stack([centred[y == c].mean(0) for c in y])
    want = np.trace(np.linalg.inv(centred.T @ centred / 60) @ (between.T @ between / 60))
    assert scores.h_score(f, y, shrunk=False) == pytest.approx(want)
    assert scores.h_score(np.eye(3)[y], y, shrunk=False) == pytest.approx(2), "labels themselves reach C - 1"
    few, labels = samples(4, 12, 30, apart=0.0)
    assert scores.h_score(few, labels, shrunk=False) == pytest.approx(2), "saturated: any features do"
    assert scores.h_score(few, labels) < 1.5
    apart, same = samples(5, 12, 30, apart=3.0)
    assert scores.h_score(apart, same) > scores.h_score(few, labels)


@pytest.mark.parametrize(("n", "width"), [(30, 4), (12, 20)])
def test_trans_rate_written_out(n: int, width: int) -> None:
    f, y = samples(6, n, width)
    f = f + 5

    def rate(rows: Any) -> float:
        inner = np.eye(width) + rows.T @ rows / (len(rows) * 1e-2)
        return 0.5 * math.log(np.prod(np.linalg.eigvalsh(inner)))

    g = f - f.mean(0)
    want = rate(g) - sum(rate(g[y == c]) for c in range(3)) / 3
    assert scores.trans_rate(f, y, epsilon=1e-2) == pytest.approx(want)


def pairs(rows: Any) -> list[float]:
    return [1 - pearsonr(a, b).statistic for a, b in itertools.combinations(rows, 2)]


@pytest.mark.parametrize("seed", range(3))
def test_parc_and_rsa_in_loops(seed: int) -> None:
    f, y = samples(seed, 15, 6)
    g, _ = samples(seed + 9, 15, 9)
    want = 100 * spearmanr(np.round(pairs(f), 12), np.round(pairs(np.eye(3)[y]), 12)).statistic
    assert scores.parc(f, y) == pytest.approx(want, abs=1e-9)
    assert scores.rsa(f, g) == pytest.approx(spearmanr(pairs(f), pairs(g)).statistic, abs=1e-9)


def test_parc_keeps_principal_components() -> None:
    from sklearn.decomposition import PCA

    f, y = samples(7, 40, 50)
    small = PCA(32).fit_transform(f)
    assert scores.parc(f, y) == pytest.approx(scores.parc(small, y, dimensions=None), abs=1e-6)


@pytest.mark.parametrize("kernel", ["cosine", "laplacian"])
def test_dds_written_out(kernel: Any) -> None:
    both = samples(8, 12, 5)[0], samples(9, 12, 7)[0]
    flat = []
    for f in both:
        z = (f - f.mean(0)) / f.std(0)
        n = len(z)
        K = np.empty((n, n))
        for p, q in itertools.product(range(n), repeat=2):
            if kernel == "cosine":
                K[p, q] = z[p] @ z[q] / math.sqrt((z[p] @ z[p]) * (z[q] @ z[q]))
            else:
                K[p, q] = math.exp(-np.abs(z[p] - z[q]).sum() / f.shape[1])
        J = np.eye(n) - 1 / n
        flat.append([(J @ K @ J)[p, q] for p, q in itertools.combinations(range(n), 2)])
    assert scores.dds(*both, kernel) == pytest.approx(pearsonr(*flat).statistic)


@given(some.integers(0, 9999))
@settings(deadline=None, max_examples=15)
def test_cka_and_its_kin(seed: int) -> None:
    """1 with itself, also turned and scaled; symmetric; CKA by features as by samples."""
    f, g = samples(seed, 20, 4)[0], samples(seed + 1, 20, 6)[0]
    turn = np.linalg.qr(np.random.default_rng(seed).normal(size=(4, 4)))[0]
    assert scores.cka(f, 3 * f @ turn + 1) == pytest.approx(1)
    a, b = f - f.mean(0), g - g.mean(0)
    want = np.linalg.norm(a.T @ b) ** 2 / (np.linalg.norm(a.T @ a) * np.linalg.norm(b.T @ b))
    assert scores.cka(f, g) == pytest.approx(want)
    for name in OF_TWO:
        score = getattr(scores, name)
        assert score(f, f) == pytest.approx(1)
        assert score(f, g) == pytest.approx(score(g, f))
        order = np.random.default_rng(seed).permutation(20)
        assert score(f[order], g[order]) == pytest.approx(score(f, g))


def test_standardised_cka_knows_no_size() -> None:
    f, g = samples(2, 30, 6)[0], samples(3, 30, 5)[0]
    scale = np.array([1, 10, 100, 0.1, 3, 7])
    assert scores.standardised_cka(f * scale - 4, g) == pytest.approx(scores.standardised_cka(f, g))
    assert scores.standardised_cka(f, g) == pytest.approx(scores.cka(f / f.std(0), g / g.std(0)))
    assert scores.cka(f * scale, g) != pytest.approx(scores.cka(f, g), abs=0.01)
    constant = np.concatenate([f, np.full((30, 1), 5.0)], 1)
    assert scores.standardised_cka(constant, g) == pytest.approx(scores.standardised_cka(f, g))


@pytest.mark.parametrize(("n", "width"), [(40, 5), (15, 30)])
def test_predictability_leaves_every_sample_out(n: int, width: int) -> None:
    """One regression a sample and ridge, by scikit-learn, against all of them at once."""
    f, y = samples(4, n, width)
    g = answers(5, n, 3) + np.eye(3)[y]
    z = (f - f.mean(0)) / f.std(0) / np.sqrt(width)
    found = []
    for ridge in (1e-3, 1e-2, 0.1, 0.3, 1.0, 3.0, 10.0):
        wrong = plain = 0.0
        for place in range(n):
            others = np.arange(n) != place
            told = Ridge(ridge, solver="svd").fit(z[others], g[others]).predict(z[place : place + 1])
            wrong += float(((g[place] - told) ** 2).sum())
            plain += float(((g[place] - g[others].mean(0)) ** 2).sum())
        found.append(1 - wrong / plain)
    assert scores.predictability(f, g) == pytest.approx(max(found))


def test_predictability_of_what_is_known_and_what_is_not() -> None:
    f, _ = samples(6, 200, 8)
    noise = np.random.default_rng(7).normal(size=(200, 2))
    assert scores.predictability(f, f[:, :2] - f[:, 3:5]) > 0.99
    assert abs(scores.predictability(f, noise)) < 0.1
    half = scores.predictability(f, f[:, :2] + f[:, :2].std(0) * noise)
    assert half == pytest.approx(0.5, abs=0.1)
    order = np.random.default_rng(8).permutation(200)
    assert scores.predictability(f[order], noise[order]) == pytest.approx(scores.predictability(f, noise))
    with pytest.raises(ValueError, match="gives all 200 samples the same answer: nothing can be predicted"):
        scores.predictability(f, np.ones((200, 3)))


@pytest.mark.parametrize("name", [name for name in WITH_LABELS if name not in ("nce", "leep")])
def test_features_that_tell_the_labels_score_higher(name: str) -> None:
    score = getattr(scores, name)
    found = [score(*samples(11, 90, 12, apart=apart)) for apart in (0.0, 1.0, 4.0)]
    assert found[0] < found[1] < found[2]


def test_answers_that_tell_the_labels_score_higher() -> None:
    _, y = samples(0)
    certain = 0.9 * np.eye(3)[y] + 0.1 / 3
    for score in (scores.nce, scores.leep):
        assert score(answers(1, sources=3), y) < score(certain, y) <= 0


def test_nearest_neighbour_and_folds() -> None:
    f = np.array([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [0.1, 1.0], [1.0, 0.05]])
    assert scores.knn_accuracy(f, np.array([0, 0, 1, 1, 1])) == pytest.approx(2 / 5)
    few, y = samples(12, 9, 4, apart=5.0)
    assert scores.logistic_accuracy(few, y) > 0.8, "three of a kind make three folds"
    with pytest.raises(ValueError, match="a label has one sample, and cross-validation needs two"):
        scores.logistic_accuracy(few[:4], np.array([0, 0, 1, 2]))


def test_depth() -> None:
    assert [scores.depth(place, 4) for place in (1, 2, 4)] == [0.25, 0.5, 1.0]
    with pytest.raises(ValueError, match="no layer 5 of 4"):
        scores.depth(5, 4)


@pytest.mark.parametrize("name", WITH_LABELS)
def test_bad_samples(name: str) -> None:
    score = getattr(scores, name)
    f, y = (answers(), samples()[1]) if name in ("nce", "leep") else samples()
    bad = f.copy()
    bad[3, 2] = np.nan
    with pytest.raises(ValueError, match=f"1 of the {f.size} features are NaN or infinite"):
        score(bad, y)
    with pytest.raises(
        ValueError, match="needs labels, and there are none: those of two networks do without"
    ):
        score(f, None)
    with pytest.raises(ValueError, match="all of one label"):
        score(f, np.zeros(len(f), dtype=int))
    with pytest.raises(ValueError, match=r"labels n whole numbers, not \(30, \d\) and \(29,\)"):
        score(f, y[:-1])


def test_bad_pairs() -> None:
    f, _ = samples()
    bad = f.copy()
    bad[0, 0] = np.inf
    for name in OF_TWO:
        with pytest.raises(ValueError, match="1 of the 180 features are NaN"):
            getattr(scores, name)(f, bad)
        with pytest.raises(ValueError, match=r"on the same samples, three at least.*\(30, 6\) and \(29, 6\)"):
            getattr(scores, name)(f, f[:-1])
    with pytest.raises(ValueError, match="cosine and laplacian, not 'rbf'"):
        scores.dds(f, f, "rbf")
    with pytest.raises(ValueError, match="sum up to 1 in every row: take the softmax"):
        scores.leep(f, samples()[1])
    with pytest.raises(ValueError, match="all features are zero"):
        scores.log_me(np.zeros((6, 3)), np.array([0, 1] * 3))
