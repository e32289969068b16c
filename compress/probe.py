"""What all networks are asked about: a handful of inputs, in a geometry of their own, and the way there and back."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass, field
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor

from compress.session import Session
from students.adapt import LUMA
from teachers.signature import Signature
from teachers.task import Split

FEWEST = 3  # two inputs have one edge, which has no rank among others


@dataclass(frozen=True)
class Probe:
    """Unlabeled inputs, the same for all networks and in a fixed order.

    images  (n, ...), floating point; images as they are, in [0, 1], not normalised
    hash    sha256 of their bytes, in hex: graphs of different probes cannot be compared

    Raises ValueError for fewer than three inputs, for values that are not finite, for inputs that are constant (their
    maps say nothing) and for duplicates (all their edges are ties).
    """

    images: Tensor
    hash: str = field(init=False)

    def __post_init__(self) -> None:
        images = self.images
        if not images.is_floating_point() or images.dim() < 2:
            raise ValueError(
                f"a probe is a tensor of floats (n, ...), not {images.dtype} of shape {tuple(images.shape)}: divide "
                "bytes by 255"
            )
        if len(images) < FEWEST:
            raise ValueError(
                f"a probe of {len(images)} has {len(images) * (len(images) - 1) // 2} edges, whose order says nothing: "
                f"take {FEWEST} images at least, better 200"
            )
        flat = images.detach().flatten(1).cpu()
        if bad := int((~flat.isfinite()).any(1).sum()):
            raise ValueError(
                f"{bad} of the {len(flat)} images of the probe hold NaN or infinity: leave them out"
            )
        if still := (flat == flat[:, :1]).all(1).nonzero().flatten().tolist():
            raise ValueError(
                f"{len(still)} of the {len(flat)} images of the probe are constant, every pixel alike (the first is "
                f"number {still[0]}): leave them out"
            )
        prints = Counter(map(_print, flat))
        if doubles := len(flat) - len(prints):
            raise ValueError(
                f"{doubles} of the {len(flat)} images of the probe are there twice or more, to the bit: keep one of "
                "each, for every edge of a duplicate is a tie"
            )
        object.__setattr__(self, "hash", hashlib.sha256("".join(map(_print, flat)).encode()).hexdigest())

    def __len__(self) -> int:
        return len(self.images)


@dataclass(frozen=True)
class Preprocess:
    """How a probe becomes what one network takes in, and how a map of that becomes one of the probe.

    shape      what the network takes: (channels, height, width); anything but three numbers is taken as it is
    mean, std  per channel, of images in [0, 1]; None leaves values as they are
    resize     height and width before the middle of `shape` is cut out; None resizes to `shape` itself
    bgr        the network takes blue, green, red
    antialias  maps that get smaller on their way back are averaged; without, as the authors do it, pixels are left out
    """

    shape: tuple[int, ...]
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    resize: tuple[int, int] | None = None
    bgr: bool = False
    antialias: bool = True

    @classmethod
    def of(cls, signature: Signature) -> Self:
        """What a signature says. Raises ValueError for a network of several inputs."""
        if len(signature.inputs) != 1:
            raise ValueError(
                f"a probe is one tensor, and this network takes {len(signature.inputs)} inputs: {signature.inputs}"
            )
        return cls(signature.inputs[0], signature.mean, signature.std)

    def __call__(self, images: Tensor) -> Tensor:
        """(n, ...) of the probe to (n, *shape): channels, size, cut, normalisation, in this order."""
        if len(self.shape) != 3:
            if tuple(images.shape[1:]) != self.shape:
                raise ValueError(
                    f"the probe holds {tuple(images.shape[1:])} numbers each, the network takes {self.shape}: only "
                    "images are brought from one shape to another"
                )
            return images
        channels, height, width = self.shape
        images = _channels(images, channels)
        size = self.resize or (height, width)
        if tuple(images.shape[2:]) != size:
            images = F.interpolate(images, size, mode="bilinear", align_corners=False, antialias=True)
        if self.resize is not None:
            top, left = self._corner()
            images = images[:, :, top : top + height, left : left + width]
        if self.mean is not None and self.std is not None:
            mean, std = (images.new_tensor(row)[:, None, None] for row in (self.mean, self.std))
            images = (images - mean) / std
        return images.flip(1) if self.bgr else images

    def back(self, maps: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Maps (n, *self.shape) of the network's input as maps (n, *shape) of the probe.

        The way back, step by step: what was cut off is zero; sizes are brought to the probe's (bilinear); three
        channels that came from one are summed up, one that came from three is shared among them alike.
        """
        if len(self.shape) != 3:
            return maps
        maps = maps.flip(1) if self.bgr else maps
        if self.resize is not None:
            top, left = self._corner()
            _, height, width = self.shape
            below, right = self.resize[0] - height - top, self.resize[1] - width - left
            maps = F.pad(maps, (left, right, top, below))
        if maps.shape[2:] != shape[1:]:
            maps = F.interpolate(
                maps, shape[1:], mode="bilinear", align_corners=False, antialias=self.antialias
            )
        if maps.shape[1] == shape[0]:
            return maps
        whole = maps.sum(1, keepdim=True)
        return whole if shape[0] == 1 else whole.expand(-1, shape[0], -1, -1) / shape[0]

    def _corner(self) -> tuple[int, int]:
        assert self.resize is not None
        top, left = self.resize[0] - self.shape[1], self.resize[1] - self.shape[2]
        if top < 0 or left < 0:
            raise ValueError(
                f"{self.shape[1]}x{self.shape[2]} cannot be cut out of {self.resize}: resize to more"
            )
        return top // 2, left // 2


def _channels(images: Tensor, channels: int) -> Tensor:
    given = images.shape[1]
    if images.dim() != 4 or (given != channels and {given, channels} - {1, 3}):
        raise ValueError(
            f"the probe holds {tuple(images.shape[1:])} each, the network takes images of {channels} channels: grey "
            "becomes colour and colour grey, other channels stay what they are"
        )
    if given == channels:
        return images
    if channels == 3:
        return images.expand(-1, 3, -1, -1)
    return (images * images.new_tensor(LUMA)[:, None, None]).sum(1, keepdim=True)


# -- from a session ---------------------------------------------------------------------------------------


def drawn(
    session: Session, count: int, split: Split = Split.VAL, per_class: int | None = None
) -> tuple[Probe, Tensor | None]:
    """At most `count` inputs of a split, drawn by the session's seed, and their labels where the session shows any.

    The whole split is passed over once, and of every input a random number decides, so that neither the order of the
    files nor the size of a batch matters. Constant images and duplicates are passed over and told in a note.
    With `per_class` at most so many of every class are drawn, `count` of them in all at most.
    """
    assert split in (Split.TRAIN, Split.VAL)
    generator = torch.Generator().manual_seed(session.generator.initial_seed())
    kept: list[tuple[float, Tensor, int]] = []
    seen: set[str] = set()
    passed = 0
    for batch in session.batches(split):
        if len(batch.inputs) != 1:
            raise ValueError(
                f"{session.name} asks about images or rows, and this task has {len(batch.inputs)} inputs"
            )
        images = _plain(batch.inputs[0].detach().float().cpu(), session.signature)
        keys = torch.rand(len(images), generator=generator).tolist()
        if batch.target is not None and batch.target.dim() != 1:
            raise ValueError(
                f"{session.name} takes one label a sample, and this task has {tuple(batch.target.shape[1:])}"
            )
        labels = batch.target.cpu().tolist() if batch.target is not None else [0] * len(images)
        for key, image, label in zip(keys, images, labels, strict=True):
            print = _print(image)
            if print in seen or bool((image == image.flatten()[0]).all()):
                passed += 1
                continue
            seen.add(print)
            kept.append((key, image, label))
        kept = _fewest(kept, count, per_class)
    if passed:
        session.note(
            f"{passed} inputs of {split.value} are constant or were met before, and were passed over"
        )
    if not kept:
        raise ValueError(f"{session.name} finds no input in {split.value} to ask about")
    probe = Probe(torch.stack([image for _, image, _ in kept]).contiguous())
    return probe, torch.tensor([label for *_, label in kept]) if session.shows_labels else None


def _fewest(
    kept: list[tuple[float, Tensor, int]], count: int, per_class: int | None
) -> list[tuple[float, Tensor, int]]:
    kept = sorted(kept, key=lambda one: one[0])
    if per_class is not None:
        taken: Counter[int] = Counter()
        few = []
        for one in kept:
            taken[one[2]] += 1
            if taken[one[2]] <= per_class:
                few.append(one)
        kept = few
    return kept[:count]


def _plain(inputs: Tensor, signature: Signature | None) -> Tensor:
    """Images in [0, 1] again, whole steps of 1/255 where they were such; other inputs as they are."""
    if signature is None or signature.mean is None or signature.std is None or inputs.dim() != 4:
        return inputs
    mean, std = (inputs.new_tensor(row)[:, None, None] for row in (signature.mean, signature.std))
    images = inputs * std + mean
    whole = (images * 255).round() / 255
    return whole if bool((images - whole).abs().max() < 1e-4) else images


def _print(image: Tensor) -> str:
    return hashlib.sha256(image.contiguous().view(torch.uint8).numpy().data).hexdigest()
