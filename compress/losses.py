"""Every loss, as pure functions of tensors: logits are (n, K) or (n, K, ...), results scalars, in fp32 at least."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from compress.affinity import PRESETS, Kernel, Preset
from compress.moments import moments
from compress.neighbours import Neighbours, SelfLoops
from teachers.signature import Kind

Reduction = Literal["paper", "mean"]
Distance = Literal["l1", "kl"]
Ascent = Literal["plain", "log"]
Direction = Literal["teacher_student", "student_teacher"]
Over = Literal["mean", "mean_nonempty", "mean_edges", "sum"]
Imitation = Literal["kl", "mse"]


def fine(tensor: Tensor) -> Tensor:
    """In fp32 at least: sums of bf16 would lose what they sum; float64 stays what it is."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def output_matching(student: Tensor, teacher: Tensor, reduction: Reduction = "paper") -> Tensor:
    """How far the student's logits are from the teacher's.

    "paper":  1/(2n) * sum_i ||teacher_i - student_i||^2, the sum over the K logits
    "mean":   the mean over all n*K squared differences, which is 2/K times "paper"

    Source: Lin et al. 2019 (GAL), the data term.
    """
    squared = (fine(student) - fine(teacher)).square()
    return squared.mean() if reduction == "mean" else squared.sum() / (2 * len(squared))


def discriminator_loss(on_teacher: Tensor, on_student: Tensor, regularisation: float = 1.0) -> Tensor:
    """What the discriminator minimises; arguments are its raw outputs (logits), any shape.

        BCE(D(f_teacher), 1) + BCE(D(f_student), 0) + a * BCE(D(f_student), 1),   a = `regularisation`

    a = 1 is GAL's adversarial regularisation, which keeps D from becoming perfect: where the two distributions
    are equal its optimum is D = 2/3 and the loss 1.910; a = 0 is the plain game, 1.386 there.
    Source: Lin et al. 2019.
    """
    plain = F.softplus(-fine(on_teacher)).mean() + F.softplus(fine(on_student)).mean()
    return plain + regularisation * F.softplus(-fine(on_student)).mean()


def generator_loss(on_student: Tensor) -> Tensor:
    """The student's side of the game, non-saturating: BCE(D(f_student), 1), from D's logits."""
    return F.softplus(-fine(on_student)).mean()


def soft_targets(student: Tensor, teacher: Tensor, temperature: float = 4.0) -> Tensor:
    """Distillation by softened outputs:  T^2 * KL( softmax(teacher/T) || softmax(student/T) ), mean over n.

    Outputs (n, K, ...), the mean over places, too. Zero where student equals teacher; T^2 keeps the gradient's size
    independent of T. Source: Hinton et al. 2015.
    """
    log_student = torch.log_softmax(fine(student) / temperature, dim=1)
    log_teacher = torch.log_softmax(fine(teacher) / temperature, dim=1)
    divergence = F.kl_div(log_student, log_teacher, reduction="none", log_target=True).sum(1)
    return temperature**2 * divergence.mean()


def soft_labels(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """`soft_targets` where each output is a question of its own:  T^2 * KL of Bernoulli(sigmoid(teacher/T)), the mean.

    Outputs (n, K, ...); the mean over all. Zero where student equals teacher.
    """
    student, teacher = fine(student) / temperature, fine(teacher) / temperature
    share = teacher.sigmoid()
    cross = F.binary_cross_entropy_with_logits(student, share, reduction="none")
    own = F.binary_cross_entropy_with_logits(teacher, share, reduction="none")
    return temperature**2 * (cross - own).mean()


def soft_answers(student: Tensor, teacher: Tensor, kind: Kind, temperature: float = 1.0) -> Tensor:
    """How far the student's outputs are from the teacher's of this kind, both (n, K, ...); 0 where they are equal.

    softmax     `soft_targets`
    sigmoid     `soft_labels`
    regression  the mean of |student - teacher|; it knows no temperature

    Raises ValueError for mixed outputs. Source of the last: Ye et al. 2019.
    """
    if kind == "softmax":
        return soft_targets(student, teacher, temperature)
    if kind == "sigmoid":
        return soft_labels(student, teacher, temperature)
    if kind == "mixed":
        raise ValueError("outputs of several kinds have no distance: compare the columns of each kind apart")
    return (fine(student) - fine(teacher)).abs().mean()


# -- data-free distillation -------------------------------------------------------------------------------


def discrepancy(
    student: Tensor, teacher: Tensor, distance: Distance = "l1", *, center: bool = False
) -> Tensor:
    """How far two networks' outputs lie apart; outputs (n, K, ...), classes in dimension 1.

    "l1":  the mean over all elements of |student - teacher|; its gradient does not fade as the two come near
    "kl":  KL( softmax(teacher) || softmax(student) ), the mean over samples and places
    center  subtract each sample's mean over the classes from both first: softmax does not see it, l1 does

    Raises ValueError where the shapes differ: broadcast, the number would mean something else.
    Source: Fang et al. 2019 (DFAD, l1); Micaelli and Storkey 2019 (ZSKT, kl).
    """
    if student.shape != teacher.shape:
        raise ValueError(
            f"student and teacher give different outputs, {tuple(student.shape)} and {tuple(teacher.shape)}: "
            "a distance needs the same classes (and the same size) of both"
        )
    student, teacher = fine(student), fine(teacher)
    if center and student.dim() > 1:
        student, teacher = student - student.mean(1, keepdim=True), teacher - teacher.mean(1, keepdim=True)
    if distance == "l1":
        return (student - teacher).abs().mean()
    log_student, log_teacher = student.log_softmax(1), teacher.log_softmax(1)
    return F.kl_div(log_student, log_teacher, reduction="none", log_target=True).sum(1).mean()


def ascent(gap: Tensor, form: Ascent = "plain") -> Tensor:
    """What a generator minimises so that the discrepancy `gap` >= 0 grows: -gap, or -log(1 + gap).

    The log form has the gradient of the plain one divided by 1 + gap: it holds back where the student is lost.
    Source: Fang et al. 2019, plain for classes, log for dense outputs.
    """
    return -gap if form == "plain" else -torch.log(gap + 1)


def relative_gap(student: Tensor, teacher: Tensor) -> Tensor:
    """The l1 discrepancy in units of the teacher's own spread: mean |s - t| / mean |t - mean over classes of t|."""
    teacher = fine(teacher)
    spread = (
        (teacher - teacher.mean(1, keepdim=True)).abs().mean()
        if teacher.shape[1] > 1
        else teacher.abs().mean()
    )
    return discrepancy(student, teacher) / spread.clamp_min(1e-12)


def one_hot(teacher: Tensor) -> Tensor:
    """Cross-entropy of the teacher's outputs (n, K, ...) with its own decision: small where it is sure.

    Source: Chen et al. 2019 (DAFL).
    """
    return F.cross_entropy(fine(teacher), teacher.argmax(1))


def imbalance(teacher: Tensor) -> Tensor:
    """sum_k p_k log p_k of the mean prediction over samples and places: from -log K, all classes alike, to 0.

    Outputs (n, K, ...). Source: Chen et al. 2019 (DAFL), the information entropy term.
    """
    mean = fine(teacher).softmax(1).transpose(0, 1).flatten(1).mean(1).clamp_min(1e-12)
    return (mean * mean.log()).sum()


def statistics_gap(inputs: Sequence[Tensor], means: Sequence[Tensor], variances: Sequence[Tensor]) -> Tensor:
    """How far batches lie from what batch norms remember: sum over layers of |mu - mu^| + |var - var^|, 2-norms.

    inputs (n, C, ...) are what goes into each norm; variances are the biased ones. Source: Yin et al. 2020
    (DeepInversion).
    """
    total = inputs[0].new_zeros((), dtype=torch.float32)
    for x, mean, variance in zip(inputs, means, variances, strict=True):
        mu, var = moments(x)
        total = total + (mu - mean).norm() + (var - variance).norm()
    return total


def features_gap(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
    """The mean over layers of |f_s - f_t|^2 / |f_t|^2, features of any shape, the same of both."""
    gaps = [
        (fine(s) - fine(t)).square().sum() / fine(t).square().sum().clamp_min(1e-12)
        for s, t in zip(student, teacher, strict=True)
    ]
    return torch.stack(gaps).mean()


# -- graphs -----------------------------------------------------------------------------------------------


def log_structure(scores: Tensor, near: Neighbours) -> Tensor:
    """Log softmax of the scores (E,) of edges that arrive at one node, for every node: (E,).

    log LS_ij = K_ij - log sum_k exp K_ik, over the neighbours k of i: in logarithms, for scores of hundreds would make
    shares of exactly 0.
    """
    scores = fine(scores)
    # Any number near the largest does: what is subtracted cancels, so no gradient goes through it.
    most = scores.new_full((near.nodes,), -torch.inf)
    most = most.scatter_reduce(0, near.centre, scores.detach(), "amax", include_self=True)
    lowered = scores - most.index_select(0, near.centre)
    total = scores.new_zeros(near.nodes).index_add(0, near.centre, _shares(lowered))
    return lowered - total.log().index_select(0, near.centre)


def local_structure(
    student: Tensor,
    teacher: Tensor,
    edges: Tensor | Neighbours,
    *,
    kernel: Kernel | Preset = "cosine",
    direction: Direction = "teacher_student",
    reduction: Over = "mean",
    self_loops: SelfLoops = "drop",
    centres: Tensor | None = None,
) -> Tensor:
    """How far the student's sense of who is near lies from the teacher's, around every node.

        LS_ij = exp K(z_i, z_j) / sum_k exp K(z_i, z_k),   over the neighbours of i;   mean over i of KL( LS^t || LS^s )

    student     features (N, D)
    teacher     features (N, D'), of any width, or the scores (E,) that `kernel` gave for `edges`, a Neighbours; no
                gradient goes to it
    edges       (2, E), neighbours in row 0 and centres in row 1 (sorted and made unique here, self loops as
                `self_loops` says), or Neighbours; any candidates will do, they need not be the graph's own
    kernel      an `affinity.Kernel`, or the name of a published one
    direction   "teacher_student" is KL(teacher || student), as released; "student_teacher" the paper's equation
    reduction   over all nodes (those without neighbours count as 0), nodes with neighbours, edges, or the sum
    centres     (N,) bool: whose structure counts, and what is averaged over; None takes all

    Memory is that of a few numbers an edge. Raises ValueError for features that are not finite or of another node
    count, and as `Neighbours.of` does. Source: Yang et al. 2020 (LSP), arXiv 2003.10477.
    """
    nodes = len(student)
    near = edges if isinstance(edges, Neighbours) else Neighbours.of(edges, nodes, self_loops)
    kernel = PRESETS[kernel] if isinstance(kernel, str) else kernel
    given = log_structure(kernel.scores(_sound(student, "student"), near), near)
    with torch.no_grad():
        if teacher.dim() == 2:
            if len(teacher) != nodes:
                raise ValueError(
                    f"the student has features of {nodes} nodes, the teacher of {len(teacher)}: "
                    "both must see the same graph"
                )
            teacher = kernel.scores(_sound(teacher, "teacher"), near)
        if teacher.shape != (len(near),):
            raise ValueError(
                f"there are {len(near)} edges, but {len(teacher)} scores of the teacher: they belong to another "
                "graph, or to edges in another order"
            )
        wanted = log_structure(teacher, near)
    q, p = (given, wanted) if direction == "student_teacher" else (wanted, given)
    divergence = _shares(q) * (q - p)
    if centres is not None:
        divergence = divergence * centres[near.centre]
    total = divergence.sum()
    if reduction == "sum":
        return total
    if reduction == "mean":
        count = nodes if centres is None else int(centres.sum())
    elif reduction == "mean_edges":
        count = len(near) if centres is None else int(centres[near.centre].sum())
    else:
        full = near.degree > 0
        count = int((full if centres is None else full & centres).sum())
    return total / max(count, 1)


def _shares(log: Tensor) -> Tensor:
    # Shares below 1e-32 (in fp32) count as 0: too small for full precision, they would make every product with them
    # take a hundred times as long.
    least = math.log(torch.finfo(log.dtype).tiny * 2**20)
    return log.clamp_min(least).exp().masked_fill(log.detach() < least, 0.0)


def _sound(features: Tensor, whose: str) -> Tensor:
    # One sum tells of any NaN or infinity; where it overflows by itself, the look costs a second pass.
    if not bool(features.detach().sum().isfinite()) and not bool(features.isfinite().all()):
        bad = int((~features.isfinite()).any(1).sum())
        raise ValueError(
            f"the {whose}'s features hold NaN or infinities for {bad} of {len(features)} nodes: look at the network's "
            "inputs and weights"
        )
    return fine(features)


# -- amalgamation -----------------------------------------------------------------------------------------


def imitation(student: Tensor, wanted: Tensor, form: Imitation = "kl", temperature: float = 1.0) -> Tensor:
    """How far the student's logits are from joint logits of several teachers, both (n, Y, ...).

    "kl":   `soft_targets` at `temperature`
    "mse":  the mean square of  student - (wanted - its mean over the labels),  which softmax does not see
    Source: Hinton et al. 2015; Shen et al. 2019 (AAAI) for the squares.
    """
    if form == "kl":
        return soft_targets(student, wanted, temperature)
    wanted = fine(wanted)
    return (fine(student) - (wanted - wanted.mean(1, keepdim=True))).square().mean()


def mmd(one: Tensor, other: Tensor) -> Tensor:
    """Squared maximum mean discrepancy of two sets of features (n, ...) and (m, ...), unbiased; 0 on average if alike.

        mean_{i != j} k(a_i, a_j) + mean_{i != j} k(b_i, b_j) - 2 mean_{i, j} k(a_i, b_j)
        k(a, b) = mean over s of exp( -||a - b||^2 / (2 s) ),  s = median ||a - b||^2 times {1/4, 1/2, 1, 2, 4}

    Rows are brought to length 1 first. The bandwidths follow the batch, without gradient: fixed ones are dead for unit
    vectors of many dimensions, whose distances hardly vary. Raises ValueError for fewer than two rows, or rows of
    different widths. Source: Gretton et al. 2012; Luo et al. 2019 for its use between student and teacher.
    """
    one, other = fine(one).flatten(1), fine(other).flatten(1)
    if min(len(one), len(other)) < 2 or one.shape[1] != other.shape[1]:
        raise ValueError(
            f"MMD compares two sets of at least 2 features of one width, not {tuple(one.shape)} and "
            f"{tuple(other.shape)}: take a larger batch"
        )
    n = len(one)
    rows = F.normalize(torch.cat([one, other]), dim=1)
    squares = (2 - 2 * rows @ rows.T).clamp_min(0)
    apart = ~torch.eye(len(rows), dtype=torch.bool, device=rows.device)
    middle = squares.detach()[apart].median().clamp_min(1e-12)
    kernel = torch.stack([(-squares / (2 * middle * s)).exp() for s in (0.25, 0.5, 1, 2, 4)]).mean(0)
    kernel = kernel * apart
    m = len(rows) - n
    return (
        kernel[:n, :n].sum() / (n * (n - 1))
        + kernel[n:, n:].sum() / (m * (m - 1))
        - 2 * kernel[:n, n:].mean()
    )


def paired(one: Tensor, other: Tensor) -> Tensor:
    """The mean over rows of 1 - cos(a_i, b_i); features (n, ...) of the same n samples."""
    return (1 - F.cosine_similarity(fine(one).flatten(1), fine(other).flatten(1), dim=1)).mean()
