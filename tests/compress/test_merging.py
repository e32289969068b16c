"""Merging: what teachers say of one sample becomes one answer, by definition, and never a start value in disguise."""

import itertools
from collections.abc import Sequence
from typing import get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from compress.calibration import FITTED, Calibration, Evidence, fit
from compress.losses import imitation, mmd, paired, soft_answers, soft_targets
from compress.merging import Merge, Merger
from teachers.labels import LabelSpace

OVER = (LabelSpace(("a", "b", "c", "d"), "one"), LabelSpace(("c", "d", "e"), "two"))
APART = (LabelSpace(("a", "b", "c"), "one"), LabelSpace(("d", "e"), "two"))
ALL = LabelSpace(tuple("abcde"))
JOINT = [how for how in get_args(Merge) if how != "per_task"]
SOLVED = ("auto", "ce", "logit_ls", "logit_scaled", "prob")
seeds = st.integers(0, 2**31)


def logits(spaces: Sequence[LabelSpace], seed: int = 0, n: int = 40, scale: float = 3.0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [scale * torch.randn(n, len(space), generator=generator, dtype=torch.float64) for space in spaces]


def calibration(rows: list[Tensor], spaces: Sequence[LabelSpace], how: Evidence = "class") -> Calibration:
    return fit(rows, [s.owner for s in spaces], [s.names for s in spaces], how)[0]


def merge(
    rows: list[Tensor],
    spaces: Sequence[LabelSpace],
    how: Merge,
    evidence: Evidence | None = "class",
    asked: LabelSpace = ALL,
) -> Tensor:
    made = calibration(rows, spaces, evidence) if evidence is not None else None
    return Merger(spaces, asked, how, made, ["softmax"] * len(spaces))(rows)


# -- by definition -----------------------------------------------------------------------------------------


@settings(max_examples=15, deadline=None)
@given(seeds)
def test_logits_that_fit_are_found_again(seed: int) -> None:
    """z_m = u on Y_m + c_m gives u back, up to a constant; a scale of each teacher's own where that is asked for."""
    u = logits([ALL], seed)[0]
    offsets = logits([ALL], seed + 1)[0][:, :2] * 5
    rows = [u[:, list(s.index_map(ALL))] + offsets[:, [m]] for m, s in enumerate(OVER)]
    found = Merger(OVER, ALL, "logit_ls")(rows).double()
    torch.testing.assert_close(
        found - found.mean(1, keepdim=True), u - u.mean(1, keepdim=True), atol=1e-4, rtol=0
    )


def test_a_scale_of_ones_own_is_found_from_three_shared_labels() -> None:
    spaces = (LabelSpace(tuple("abcd"), "one"), LabelSpace(tuple("bcde"), "two"))
    u = logits([ALL])[0]
    u = u - u.mean(1, keepdim=True)
    rows = [u[:, :4], 1.5 * u[:, 1:] + 2]
    fixed = Merger(spaces, ALL, "logit_ls")(rows).double()
    free = Merger(spaces, ALL, "logit_scaled")(rows).double()

    def off(found: Tensor) -> float:
        # Up to scale and constant: what is left is how far the direction is off.
        return 1 - torch.cosine_similarity(found - found.mean(1, keepdim=True), u, dim=1).min().item()

    assert off(free) < 0.5 * off(fixed)


@settings(max_examples=15, deadline=None)
@given(seeds, st.sampled_from([1.0, 8.0]))
def test_the_cross_entropy_merge_has_no_slope_left(seed: int, scale: float) -> None:
    rows = logits(OVER, seed, scale=scale)
    u = Merger(OVER, ALL, "ce")(rows).double()
    slope = torch.zeros_like(u)
    for space, z in zip(OVER, rows, strict=True):
        index = list(space.index_map(ALL))
        slope[:, index] += u[:, index].softmax(1) - z.softmax(1)
    assert slope.abs().max() < 2e-4


@pytest.mark.parametrize(("how", "near"), [("ce", 1e-5), ("logit_ls", 1e-5), ("prob", 2e-3)])
def test_one_distribution_told_in_parts_is_found(how: Merge, near: float) -> None:
    q = torch.softmax(logits([ALL], 3)[0] / (6 if how == "prob" else 2), 1)
    rows = [q[:, list(s.index_map(ALL))].log() for s in OVER]
    torch.testing.assert_close(Merger(OVER, ALL, how)(rows).softmax(1).double(), q, atol=near, rtol=0)


def test_concatenation_and_average_by_hand() -> None:
    rows = logits(APART, 1)
    torch.testing.assert_close(merge(rows, APART, "concat", "raw"), torch.cat(rows, 1).float())
    made = calibration(rows, APART)
    wanted = torch.cat([z.log_softmax(1) + made.lead(m, z)[:, None] for m, z in enumerate(rows)], 1)
    for how in ("concat", "auto", "logit_ls"):
        torch.testing.assert_close(merge(rows, APART, how), wanted.float())
    over = logits(OVER, 2)
    found = merge(over, OVER, "average", "raw")
    torch.testing.assert_close(found[:, 2], ((over[0][:, 2] + over[1][:, 0]) / 2).float())
    torch.testing.assert_close(found[:, 4], over[1][:, 2].float())


def test_selection_takes_the_surest_for_its_number_of_labels() -> None:
    sure, unsure = torch.tensor([[9.0, 0, 0]]), torch.tensor([[0.0, 0.1]])
    (q,) = Merger(APART, ALL, "select")([sure, unsure]).softmax(1)
    torch.testing.assert_close(q, torch.cat([sure.softmax(1)[0], torch.zeros(2)]))
    # Entropy over log K: half sure of two labels is more than half sure of three.
    (q,) = Merger(APART, ALL, "select")([torch.tensor([[2.0, 2, 0]]), torch.tensor([[1.0, 0]])]).softmax(1)
    assert q[:3].sum() == pytest.approx(1)


# -- invariants --------------------------------------------------------------------------------------------


@settings(max_examples=10, deadline=None)
@given(seeds, st.sampled_from(JOINT), st.sampled_from([OVER, APART, "three"]))
def test_the_order_of_the_teachers_does_not_matter(seed: int, how: Merge, which: object) -> None:
    spaces = which if which != "three" else (*OVER, LabelSpace(("f", "g"), "zwei"))
    names = ALL if which != "three" else LabelSpace(tuple("abcdefg"))
    if how == "logit_scaled" or (how == "concat" and spaces != APART):
        return
    rows = logits(spaces, seed)  # type: ignore[arg-type]
    found = merge(rows, spaces, how, asked=names)  # type: ignore[arg-type]
    order = list(range(len(rows)))[::-1]
    turned = merge([rows[m] for m in order], [spaces[m] for m in order], how, asked=names)  # type: ignore[index]
    torch.testing.assert_close(found, turned, atol=1e-4, rtol=1e-4)


@settings(max_examples=10, deadline=None)
@given(seeds, st.sampled_from(FITTED), st.floats(0.2, 5), st.floats(-9, 9))
def test_evidence_does_not_see_scale_nor_offset(seed: int, how: Evidence, a: float, b: float) -> None:
    z, other = logits(APART, seed)
    moved = a * z + (b if how == "zscore" else b * torch.randn(len(z), 1, dtype=torch.float64))
    before, after = (calibration([row, other], APART, how) for row in (z, moved))
    torch.testing.assert_close(before.lead(0, z), after.lead(0, moved), atol=1e-5, rtol=1e-5)
    shifted = [z + b, other]
    torch.testing.assert_close(
        merge([z, other], APART, "auto", how), merge(shifted, APART, "auto", how), atol=1e-4, rtol=1e-4
    )
    target = merge([moved, other], APART, "auto", how)
    assert torch.equal(target[:, :3].argmax(1), z.argmax(1)), "task-aware the answer is the teacher's own"


@settings(max_examples=10, deadline=None)
@given(seeds, st.sampled_from(JOINT), st.sampled_from(get_args(Evidence)), st.integers(1, 3))
def test_one_teacher_or_copies_of_it_are_plain_distillation(
    seed: int, how: Merge, evidence: Evidence, copies: int
) -> None:
    if how == "concat" and copies > 1:
        return
    (z,) = logits([ALL], seed)
    spaces = [LabelSpace(ALL.names, f"copy {m}") for m in range(copies)]
    found = merge([z] * copies, spaces, how, evidence)
    torch.testing.assert_close(found.softmax(1), z.softmax(1).float(), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("how", ["auto", "concat"])
def test_customising_is_restriction(how: Merge) -> None:
    rows, asked = logits(APART, 5), LabelSpace(("e", "a", "b"))
    whole, some = merge(rows, APART, how), merge(rows, APART, how, asked=asked)
    q = whole.softmax(1)[:, [4, 0, 1]]
    torch.testing.assert_close(some.softmax(1), q / q.sum(1, keepdim=True))


def test_dense_answers_are_merged_place_by_place() -> None:
    rows = logits(OVER, 0, n=24)
    dense = [z.view(2, 3, 4, -1).movedim(-1, 1) for z in rows]
    for how in ("auto", "ce", "average"):
        made = Merger(OVER, ALL, how)
        torch.testing.assert_close(made(dense).movedim(1, -1).reshape(24, -1), made(rows))


def test_parts_that_share_labels_and_parts_that_do_not() -> None:
    spaces = (*OVER, LabelSpace(("f", "g"), "zwei"))
    names = LabelSpace(tuple("abcdefg"))
    rows = logits(spaces, 4)
    made = calibration(rows, spaces)
    level = made.level(rows)
    part = Merger(OVER, ALL, "logit_ls")(level[:2]).log_softmax(1)
    leads = [made.lead(m, z) for m, z in enumerate(rows)]
    wanted = torch.cat(
        [part + torch.maximum(leads[0], leads[1])[:, None], rows[2].log_softmax(1) + leads[2][:, None]], 1
    )
    torch.testing.assert_close(merge(rows, spaces, "auto", asked=names), wanted.float(), atol=1e-4, rtol=1e-4)


# -- what cannot be known is refused -----------------------------------------------------------------------


@pytest.mark.parametrize(("how", "evidence"), list(itertools.product(SOLVED, [None, "raw", "softmax"])))
def test_parts_without_a_calibration_are_refused(how: Merge, evidence: Evidence | None) -> None:
    with pytest.raises(ValueError, match=r"share none.*: one \| two\..*start value is no answer"):
        merge(logits(APART), APART, how, evidence)


@pytest.mark.parametrize(
    ("spaces", "how", "said"),
    [
        (OVER, "concat", "'c', 'd' are shared: take average"),
        (OVER, "logit_scaled", "'one' shares 2: take logit_ls"),
    ],
)
def test_merges_that_do_not_fit_the_labels(spaces: Sequence[LabelSpace], how: Merge, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        merge(logits(spaces), spaces, how)


def test_labels_that_do_not_exclude_each_other_are_not_weighed() -> None:
    with pytest.raises(
        ValueError, match=r"merge: ce weighs labels .* answers of two are no such: take per_task"
    ):
        Merger(APART, ALL, "ce", None, ["softmax", "sigmoid"])
    assert not Merger(APART, ALL, "auto", None, ["sigmoid", "sigmoid"]).joint


# -- calibration -------------------------------------------------------------------------------------------


def test_a_prior_is_met_and_a_wrong_one_told() -> None:
    rows = logits(APART, 1, n=400)
    made, lines = fit(rows, ("one", "two"), [s.names for s in APART], prior={"two": 0.9, "one": 0.1})
    mass = torch.stack([made.lead(m, z) for m, z in enumerate(rows)], 1).softmax(1).mean(0)
    torch.testing.assert_close(mass, torch.tensor([0.1, 0.9], dtype=torch.float64), atol=1e-6, rtol=0)
    assert not any("the prior is far from" in line for line in lines) or made.mass[0] > 0.4
    _, lines = fit(rows, ("one", "two"), [s.names for s in APART], prior={"two": 0.999, "one": 0.001})
    said = f"the prior is far from what the samples say without it: one {100 * made.mass[0]:.1f} % for 0.1 %"
    assert any(line.startswith(said) for line in lines)
    assert Calibration.from_dict(made.to_dict()) == made


@pytest.mark.parametrize(
    ("prior", "said"),
    [
        ({"one": 1.0}, "missing two"), ({"one": 0.5, "three": 0.5}, "missing two; unknown three"),
        ({"one": 1.5, "two": -0.5}, "above 0 that sum to 1"), ({"one": 0.5, "two": 0.6}, "not to 1.1"),
    ],
)  # fmt: skip
def test_priors_that_are_none(prior: dict[str, float], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        fit(logits(APART), ("one", "two"), [s.names for s in APART], prior=prior)


def test_outputs_that_say_nothing_are_named() -> None:
    one, two = logits(APART)
    names, labels = ("one", "two"), [s.names for s in APART]
    broken = two.clone()
    broken[3, 1] = torch.nan
    with pytest.raises(ValueError, match="'two' gives 1 outputs that are not finite, for 'e' first"):
        fit([one, broken], names, labels)
    dead = one - one.mean(1, keepdim=True)
    dead[:, 0], dead[:, 1] = 0, -dead[:, 2]
    with pytest.raises(ValueError, match="'one' answers 'a' with the same number for all 40 samples"):
        fit([dead, two], names, labels)


def test_scales_far_apart_and_teachers_that_never_lead_are_told() -> None:
    one, two = logits(APART, 1, n=300)
    _, lines = fit([one, 9 * two + 100], ("one", "two"), [s.names for s in APART], how="raw")
    assert any("differ in scale by" in line and "do not compare" in line for line in lines)
    assert any("one leads on" in line for line in lines)


# -- losses ------------------------------------------------------------------------------------------------


def test_imitation_and_per_task_losses() -> None:
    s, t = torch.randn(6, 4, dtype=torch.float64), torch.randn(6, 4, dtype=torch.float64)
    assert torch.equal(imitation(s, t), soft_targets(s, t, 1.0))
    assert imitation(t - t.mean(1, keepdim=True), t + 3, "mse") == pytest.approx(0, abs=1e-12)
    for kind in ("softmax", "sigmoid", "regression"):
        assert soft_answers(t, t, kind) == pytest.approx(0, abs=1e-12)
        assert soft_answers(s, t, kind) > 0.01
        assert torch.autograd.gradcheck(
            lambda x, kind=kind: soft_answers(x, t, kind), (s.clone().requires_grad_(),)
        )


def test_mmd_is_its_double_sum_and_alive() -> None:
    torch.manual_seed(0)
    a, b = torch.randn(7, 40, dtype=torch.float64), torch.randn(5, 40, dtype=torch.float64) + 0.5
    rows = torch.nn.functional.normalize(torch.cat([a, b]), dim=1)
    squares = [[float((x - y).square().sum()) for y in rows] for x in rows]
    middle = sorted(squares[i][j] for i in range(12) for j in range(12) if i != j)
    median = middle[(len(middle) - 1) // 2]

    def k(i: int, j: int) -> float:
        return (
            sum(torch.tensor(-squares[i][j] / (2 * median * s)).exp().item() for s in (0.25, 0.5, 1, 2, 4))
            / 5
        )

    twin = (
        sum(k(i, j) for i in range(7) for j in range(7) if i != j) / 42
        + sum(k(i, j) for i in range(7, 12) for j in range(7, 12) if i != j) / 20
        - 2 * sum(k(i, j) for i in range(7) for j in range(7, 12)) / 35
    )
    assert mmd(a, b).item() == pytest.approx(twin, abs=1e-5)
    x = torch.randn(64, 256).relu().requires_grad_()
    mmd(x, torch.randn(64, 256).relu() + 0.3).backward()
    assert x.grad is not None
    assert x.grad.norm() > 1e-4, "fixed narrow bandwidths are dead here"
    same = [mmd(*torch.randn(2, 16, 30)).item() for _ in range(30)]
    assert abs(sum(same) / 30) < 0.02, "unbiased: 0 on average for the same law, at any batch size"
    with pytest.raises(ValueError, match=r"at least 2 features of one width, not \(1, 3\)"):
        mmd(torch.randn(1, 3), torch.randn(4, 3))


def test_paired_features_know_whose_they_are() -> None:
    a = torch.randn(8, 5)
    assert paired(a, 3 * a) == pytest.approx(0, abs=1e-6)
    assert paired(a, a.flip(0)) > 0.1
    assert mmd(a, a.flip(0)).abs() < 0.3
