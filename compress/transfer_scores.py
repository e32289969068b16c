"""How well a network's features suit a task, without training: pure functions of arrays, all of them higher is better.

Notation: features f (n, D) of n samples, labels y (n,) in 0..C-1, probabilities p (n, Z) of the source's own Z classes.
Scores of two networks take the features of both for the same samples. Everything is computed in float64.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]
_TINY = 1e-12
_RIDGES = (1e-3, 1e-2, 0.1, 0.3, 1.0, 3.0, 10.0)  # where squares of features sum up to 1 a sample, on average


# -- from a classifier's answers --------------------------------------------------------------------------


def nce(probabilities: ArrayLike, labels: ArrayLike) -> float:
    """Negative conditional entropy, -H(Y | Z) with z_i = argmax p_i: 0 where the source's class tells the label.

    -H(Y|Z) = sum_{y,z} P(y, z) log P(y | z).  Source: Tran et al. 2019.
    """
    p, y = _answers(probabilities, labels)
    return _negative_entropy(np.eye(p.shape[1])[p.argmax(1)], y)


def leep(probabilities: ArrayLike, labels: ArrayLike) -> float:
    """Log expected empirical prediction: mean_i log sum_z P(y_i | z) p_iz, with P(y, z) = mean_i [y_i = y] p_iz.

    At most 0.  Source: Nguyen et al. 2020.
    """
    p, y = _answers(probabilities, labels)
    joint = np.eye(int(y.max()) + 1)[y].T @ p / len(y)
    given = joint / np.maximum(joint.sum(0), _TINY)
    return float(np.log(np.maximum((given[y] * p).sum(1), _TINY)).mean())


def n_leep(features: ArrayLike, labels: ArrayLike, components: int | None = None, seed: int = 0) -> float:
    """LEEP over the components of a Gaussian mixture fitted to the features' principal components (80 % of variance).

    components  of the mixture; None takes 5 for every label, but no more than a third of the samples
    For networks without classes of their own.  Source: Li et al. 2021.
    """
    from sklearn.decomposition import PCA
    from sklearn.mixture import GaussianMixture

    f, y = _samples(features, labels)
    few = components or max(2, min(5 * (int(y.max()) + 1), len(f) // 3))
    reduced = PCA(n_components=0.8, svd_solver="full").fit_transform(f) if f.shape[1] > 1 else f
    # Full covariances need more samples than a few labels give: one variance a direction, and a floor under it.
    floor = 1e-3 * float(reduced.var(0).max()) + _TINY
    mixture = GaussianMixture(few, covariance_type="diag", reg_covar=floor, random_state=seed).fit(reduced)
    return leep(mixture.predict_proba(reduced), y)


def _negative_entropy(p: Array, y: NDArray[np.int64]) -> float:
    joint = np.eye(int(y.max()) + 1)[y].T @ p / len(y)
    given = joint / np.maximum(joint.sum(0), _TINY)
    return float((joint * np.log(np.maximum(given, _TINY))).sum())


# -- from features and labels -----------------------------------------------------------------------------


def log_me(features: ArrayLike, labels: ArrayLike) -> float:
    """Log maximum evidence of a Bayesian linear model of each label, a mean over labels and samples.

    t = f w + noise, w ~ N(0, 1/a), noise ~ N(0, 1/b); with the singular values s of f, its rank k and x = U^T t,

        1/2 [ k log a + n log b - sum_{j <= k} log(a + b s_j^2) - b r^2 - a m^2 - n log 2 pi ] / n

    at the a, b that maximise it (fixed point). The released code has D for k, which is wrong for n < D: by
    (D - k)/2 log a, more than all the rest where labels are few.  Source: You et al. 2021.
    """
    f, y = _samples(features, labels)
    n = len(f)
    u, s, _ = np.linalg.svd(f, full_matrices=False)
    keep = s > s.max(initial=0) * max(f.shape) * np.finfo(np.float64).eps
    u, squares = u[:, keep], s[keep] ** 2
    if not len(squares):
        raise ValueError("all features are zero: LogME needs some that are not")
    targets = np.eye(int(y.max()) + 1)[y]
    evidence = []
    for t in targets.T:
        x2 = (u.T @ t) ** 2
        rest = max(float(t @ t - x2.sum()), 0.0)
        a = b = 1.0
        for _ in range(11):
            ratio = a / b
            gamma = float((squares / (squares + ratio)).sum())
            m2 = float((squares * x2 / (squares + ratio) ** 2).sum())
            r2 = float((x2 / (1 + squares / ratio) ** 2).sum()) + rest
            a, b = gamma / (m2 + 1e-5), (n - gamma) / (r2 + 1e-5)
            if abs(a / b - ratio) <= 1e-3 * ratio:
                break
        ratio = a / b
        m2 = float((squares * x2 / (squares + ratio) ** 2).sum())
        r2 = float((x2 / (1 + squares / ratio) ** 2).sum()) + rest
        terms = len(squares) * np.log(a) + n * np.log(b) - np.log(a + b * squares).sum() - b * r2 - a * m2
        evidence.append((terms - n * np.log(2 * np.pi)) / (2 * n))
    return float(np.mean(evidence))


def h_score(features: ArrayLike, labels: ArrayLike, shrunk: bool = True) -> float:
    """tr( cov(f)^-1 cov(E[f | y]) ): how much of the features' variance lies between the labels, at most C - 1.

    shrunk  the covariance is Ledoit and Wolf's; the plain one (pseudo-inverse) saturates where n < D
    Source: Bao et al. 2019; shrunk: Ibrahim et al. 2021.
    """
    from sklearn.covariance import ledoit_wolf

    f, y = _samples(features, labels)
    f = f - f.mean(0)
    means = np.stack([f[y == label].mean(0) for label in np.unique(y)])
    between = means[np.unique(y, return_inverse=True)[1]]
    if not shrunk:
        return float(
            np.trace(np.linalg.pinv(f.T @ f / len(f), hermitian=True) @ (between.T @ between / len(f)))
        )
    covariance, shrinkage = ledoit_wolf(f, assume_centered=True)
    # Shrinking pulls cov(f) towards a multiple of the identity; what lies between labels is scaled down with it.
    scaled = (1 - shrinkage) * between.T @ between / len(f)
    return float(np.trace(np.linalg.solve(covariance + _TINY * np.eye(f.shape[1]), scaled)))


def trans_rate(features: ArrayLike, labels: ArrayLike, epsilon: float = 1e-4) -> float:
    """R(F) - 1/C sum_c R(F_c), R(F) = 1/2 log det(I + F^T F / (n epsilon)): coding rate of all less that within labels.

    Features are centred as a whole.  Source: Huang et al. 2022.
    """
    f, y = _samples(features, labels)
    f = f - f.mean(0)

    def rate(rows: Array) -> float:
        small = rows @ rows.T if len(rows) < rows.shape[1] else rows.T @ rows  # the same determinant
        return 0.5 * float(np.linalg.slogdet(np.eye(len(small)) + small / (len(rows) * epsilon))[1])

    return rate(f) - float(np.mean([rate(f[y == label]) for label in np.unique(y)]))


def parc(features: ArrayLike, labels: ArrayLike, dimensions: int | None = 32) -> float:
    """100 Spearman( 1 - Pearson(f_p, f_q), 1 - Pearson(onehot y_p, onehot y_q) ) over all pairs of samples.

    dimensions  principal components that are kept before; None keeps all features
    Source: Bolya et al. 2021.
    """
    f, y = _samples(features, labels)
    if dimensions is not None and min(f.shape) > dimensions:
        from sklearn.decomposition import (
            PCA,
        )  # with the signs of its components: Pearson across them depends on those

        f = PCA(dimensions, svd_solver="full").fit_transform(f)
    return 100 * _spearman(1 - _pearson(f), 1 - _pearson(np.eye(int(y.max()) + 1)[y]))


def knn_accuracy(features: ArrayLike, labels: ArrayLike) -> float:
    """Accuracy of the nearest neighbour by cosine, each sample left out in turn."""
    f, y = _samples(features, labels)
    f = f / np.maximum(np.linalg.norm(f, axis=1, keepdims=True), _TINY)
    near = f @ f.T
    np.fill_diagonal(near, -np.inf)
    return float((y[near.argmax(1)] == y).mean())


def logistic_accuracy(features: ArrayLike, labels: ArrayLike, folds: int = 5, seed: int = 0) -> float:
    """Accuracy of logistic regression on standardised features, cross-validated: stratified folds, never a test sample.

    Where a label has fewer samples than there are folds, there are as many folds as it has samples.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    f, y = _samples(features, labels)
    fewest = int(np.bincount(y)[np.unique(y)].min())
    if fewest < 2:
        raise ValueError("a label has one sample, and cross-validation needs two of each: draw more")
    split: Any = StratifiedKFold(min(folds, fewest), shuffle=True, random_state=seed)
    work = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=500))
    return float(cross_val_score(work, f, y, cv=split).mean())


# -- from the features of two networks --------------------------------------------------------------------


def rsa(features: ArrayLike, others: ArrayLike) -> float:
    """Representational similarity analysis: Spearman of 1 - Pearson(f_p, f_q) in both networks, over all pairs.

    Source: Kriegeskorte et al. 2008; for choosing among networks, Dwivedi and Roig 2019.
    """
    f, g = _pair(features, others)
    return _spearman(1 - _pearson(f), 1 - _pearson(g))


def dds(features: ArrayLike, others: ArrayLike, kernel: str = "cosine") -> float:
    """Duality diagram similarity: Pearson of two centred kernel matrices of z-scored features, off the diagonal.

    kernel  "cosine", or "laplacian": exp(-|f_p - f_q|_1 / D)
    Every feature gets mean 0 and deviation 1 over the samples; the kernel's rows and columns mean 0.
    Source: Dwivedi et al. 2020.
    """
    if kernel not in ("cosine", "laplacian"):
        raise ValueError(f"DDS has the kernels cosine and laplacian, not {kernel!r}")
    flat = []
    for rows in _pair(features, others):
        z = _standardised(rows)
        if kernel == "cosine":
            z = z / np.maximum(np.linalg.norm(z, axis=1, keepdims=True), _TINY)
            between = z @ z.T
        else:
            from scipy.spatial.distance import pdist, squareform

            between = np.exp(-squareform(pdist(z, "cityblock")) / z.shape[1])
        centred = between - between.mean(0) - between.mean(1, keepdims=True) + between.mean()
        flat.append(centred[np.triu_indices(len(z), 1)])
    return _correlation(*flat)


def cka(features: ArrayLike, others: ArrayLike) -> float:
    """Linear centred kernel alignment: |F^T G|_F^2 / (|F^T F|_F |G^T G|_F), features centred; in [0, 1].

    Source: Kornblith et al. 2019.
    """
    f, g = (rows - rows.mean(0) for rows in _pair(features, others))
    return _alignment(f, g)


def standardised_cka(features: ArrayLike, others: ArrayLike) -> float:
    """CKA where every feature got mean 0 and deviation 1 over the samples first: all count alike, however large."""
    f, g = (_standardised(rows) for rows in _pair(features, others))
    return _alignment(f, g)


def predictability(features: ArrayLike, answers: ArrayLike) -> float:
    """How well another network's answers (n, Z) can be told from the features: R^2, each sample left out in turn.

        1 - sum_p |g_p - g'_p|^2 / sum_p |g_p - mean of the others|^2,     g'_p by ridge regression on all but p

    with an intercept, on features of mean 0 and deviation 1 divided by the root of D. The ridge is the best of 1e-3 to
    10. At most 1; 0 and less where the mean does as well. What a new last layer on these features could make of the
    task, as far as the other network knows it: with its probabilities for answers no label is needed. Raises ValueError
    where the other network gives all samples the same answer.
    """
    f, g = _pair(features, answers)
    n = len(f)
    z = _standardised(f) / np.sqrt(f.shape[1])
    g = g - g.mean(0)
    total = float((g**2).sum()) * (n / (n - 1)) ** 2
    if total <= _TINY:
        raise ValueError(f"the other network gives all {n} samples the same answer: nothing can be predicted")
    values, vectors = np.linalg.eigh(z @ z.T)
    seen = vectors.T @ g
    best = -np.inf
    for ridge in _RIDGES:
        kept = np.maximum(values, 0) / (np.maximum(values, 0) + ridge)
        # How much each sample says of itself, with its share of the intercept.
        own = 1 / n + (vectors**2) @ kept
        rest = (g - vectors @ (kept[:, None] * seen)) / (1 - own)[:, None]
        best = max(best, 1 - float((rest**2).sum()) / total)
    return best


def depth(place: int, places: int) -> float:
    """The plain rule that everything has to beat: deeper is better. Layer `place` of `places`, counted from 1."""
    if not 1 <= place <= places:
        raise ValueError(f"there is no layer {place} of {places}")
    return place / places


# -- pieces ------------------------------------------------------------------------------------------------


def _finite(rows: Array, what: str) -> Array:
    if bad := int((~np.isfinite(rows)).sum()):
        raise ValueError(
            f"{bad} of the {rows.size} {what} are NaN or infinite: look at the network that gave them"
        )
    return rows


def _samples(features: ArrayLike, labels: ArrayLike | None) -> tuple[Array, NDArray[np.int64]]:
    if labels is None:
        raise ValueError("this score needs labels, and there are none: those of two networks do without")
    f, y = np.asarray(features, dtype=np.float64), np.asarray(labels)
    if f.ndim != 2 or y.shape != (len(f),) or not np.issubdtype(y.dtype, np.integer):
        raise ValueError(
            f"features are (n, D) and labels n whole numbers, not {f.shape} and {y.shape} of {y.dtype}"
        )
    if len(np.unique(y)) < 2:
        raise ValueError(f"the {len(y)} samples are all of one label: a score needs two labels at least")
    return _finite(f, "features"), y.astype(np.int64)


def _answers(probabilities: ArrayLike, labels: ArrayLike) -> tuple[Array, NDArray[np.int64]]:
    p, y = _samples(probabilities, labels)
    if p.min() < 0 or not np.allclose(p.sum(1), 1, atol=1e-4):
        raise ValueError(
            "probabilities are at least 0 and sum up to 1 in every row: take the softmax of the logits"
        )
    return p, y


def _pair(features: ArrayLike, others: ArrayLike) -> tuple[Array, Array]:
    f, g = np.asarray(features, dtype=np.float64), np.asarray(others, dtype=np.float64)
    if f.ndim != 2 or g.ndim != 2 or len(f) != len(g) or len(f) < 3:
        raise ValueError(
            f"two networks are compared on the same samples, three at least: (n, D) and (n, E), not {f.shape} and "
            f"{g.shape}"
        )
    return _finite(f, "features"), _finite(g, "features")


def _standardised(rows: Array) -> Array:
    """Every feature with mean 0 and deviation 1; 0 where it is constant."""
    deviation = rows.std(0)
    z: Array = (rows - rows.mean(0)) / np.maximum(deviation, _TINY)
    z[:, deviation <= _TINY] = 0
    return z


def _alignment(f: Array, g: Array) -> float:
    k, l = f @ f.T, g @ g.T  # |F^T G|^2 = <F F^T, G G^T>: n x n, however wide the features are
    size = float(np.linalg.norm(k) * np.linalg.norm(l))
    return float((k * l).sum()) / size if size else 0.0


def _pearson(rows: Array) -> Array:
    """Pearson's correlation of every two rows; 0 with a row that is constant."""
    centred = rows - rows.mean(1, keepdims=True)
    unit = centred / np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), _TINY)
    found: Array = unit @ unit.T
    return found


def _spearman(one: Array, other: Array) -> float:
    from compress.attribution_graph import ranks

    above = np.triu_indices(len(one), 1)
    return float(ranks(one[above]) @ ranks(other[above]))


def _correlation(one: Array, other: Array) -> float:
    a, b = one - one.mean(), other - other.mean()
    size = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / size if size else 0.0
