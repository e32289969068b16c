"""Signs that a generator collapses, seen without a label: pure functions of its images and of the teacher's answers."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def class_entropy(answers: Tensor) -> float:
    """Entropy of the teacher's mean prediction, as a share of log K: 1 if all classes come up alike, 0 if one does.

    answers (n, K, ...) are logits; 1 for a single output, which has no classes.
    """
    classes = answers.shape[1]
    if classes < 2:
        return 1.0
    mean = answers.float().softmax(1).transpose(0, 1).flatten(1).mean(1)
    return float(torch.special.entr(mean).sum()) / math.log(classes)


def largest_share(answers: Tensor) -> float:
    """The share of samples (and places) that the most frequent decision takes; answers (n, K, ...), logits."""
    decisions = answers.argmax(1).flatten()
    return decisions.bincount(minlength=answers.shape[1]).max().item() / len(decisions)


def variety(images: Tensor) -> float:
    """Mean distance of two images over the mean size of one (both root mean squares): 0 where all are the same.

    For images drawn independently around 0 it is sqrt(2). Shapes: images (n, ...), n >= 2.
    """
    flat = images.detach().float().flatten(1)
    # The mean squared distance of all pairs is twice the variance around the mean image.
    spread = 2 * flat.var(0, correction=1).mean()
    return (spread / flat.square().mean().clamp_min(1e-12)).sqrt().item()


def collapsed(images: Tensor, answers: Tensor) -> bool:
    """Whether a generator makes much the same all the time: images alike, or of few classes.

    Of few classes are images whose class entropy is below a half; where every pixel has a class, whose pixels are of
    one class by more than nine tenths: the classes of pixels are seldom even.
    """
    few = largest_share(answers) > 0.9 if answers.dim() > 2 else class_entropy(answers) < 0.5
    return few or variety(images) < 1e-2
