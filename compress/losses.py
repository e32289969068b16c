"""Every loss, as pure functions of tensors; logits are (n, K), results are scalars, in fp32 at least."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Reduction = Literal["paper", "mean"]


def _fine(tensor: Tensor) -> Tensor:
    # Sums of bf16 would lose what they sum; float64 stays what it is.
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def output_matching(student: Tensor, teacher: Tensor, reduction: Reduction = "paper") -> Tensor:
    """How far the student's logits are from the teacher's.

    "paper":  1/(2n) * sum_i ||teacher_i - student_i||^2, the sum over the K logits
    "mean":   the mean over all n*K squared differences, which is 2/K times "paper"

    Source: Lin et al. 2019 (GAL), the data term.
    """
    squared = (_fine(student) - _fine(teacher)).square()
    return squared.mean() if reduction == "mean" else squared.sum() / (2 * len(squared))


def discriminator_loss(on_teacher: Tensor, on_student: Tensor, regularisation: float = 1.0) -> Tensor:
    """What the discriminator minimises; arguments are its raw outputs (logits), any shape.

        BCE(D(f_teacher), 1) + BCE(D(f_student), 0) + a * BCE(D(f_student), 1),   a = `regularisation`

    a = 1 is GAL's adversarial regularisation, which keeps D from becoming perfect: where the two distributions
    are equal its optimum is D = 2/3 and the loss 1.910; a = 0 is the plain game, 1.386 there.
    Source: Lin et al. 2019.
    """
    plain = F.softplus(-_fine(on_teacher)).mean() + F.softplus(_fine(on_student)).mean()
    return plain + regularisation * F.softplus(-_fine(on_student)).mean()


def generator_loss(on_student: Tensor) -> Tensor:
    """The student's side of the game, non-saturating: BCE(D(f_student), 1), from D's logits."""
    return F.softplus(-_fine(on_student)).mean()


def soft_targets(student: Tensor, teacher: Tensor, temperature: float = 4.0) -> Tensor:
    """Distillation by softened outputs:  T^2 * KL( softmax(teacher/T) || softmax(student/T) ), mean over n.

    Zero where student equals teacher; T^2 keeps the gradient's size independent of T.
    Source: Hinton et al. 2015.
    """
    log_student = torch.log_softmax(_fine(student) / temperature, dim=-1)
    log_teacher = torch.log_softmax(_fine(teacher) / temperature, dim=-1)
    divergence = F.kl_div(log_student, log_teacher, reduction="none", log_target=True).sum(-1)
    return temperature**2 * divergence.mean()
