"""The zoo of the page cifar10-mnist-zoo at work: its ten networks and an untaught one, and eight tasks to transfer to.

What the benchmarks depara_selection and depara_probe share. Networks are taught on the first call and kept.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from compress.attribution import EMBEDDING, embeddings
from compress.probe import Preprocess, Probe
from recipes.benchmarks.taught import Opened, taught
from recipes.page import read
from reports.evaluate import ValScore, evaluate
from teachers.task import Split, Splits, Task
from teachers.tasks import Few
from teachers.teacher import Checkpoint, Teacher

PAGE = Path(__file__).parent.parent / "book" / "cifar10-mnist-zoo.yaml"
TARGETS = 8  # of the page's checkpoints, the first; the others are sources only
JUDGED = 2000  # test images that accuracies are measured on; probes are drawn from the others
AUTOENCODER = "cifar-autoencoder"
UNTAUGHT = "untaught"


def checkpoints(seed: int, epochs: int | None = None) -> dict[str, Checkpoint]:
    """The page's checkpoints by name, trained from another seed, and for so many epochs if asked."""
    found = {}
    for checkpoint in read(PAGE).teachers:
        assert checkpoint.train is not None
        train = replace(checkpoint.train, seed=seed)
        if epochs is not None:
            train = replace(train, epochs=epochs, warmup=min(train.warmup, epochs / 2))
        found[checkpoint.name] = replace(checkpoint, train=train)
    return found


def parser(said: str | None) -> argparse.ArgumentParser:
    """What every benchmark of the zoo is asked with."""
    made = argparse.ArgumentParser(description=said, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--data", type=Path, required=True, help="folder that holds cifar10/ and MNIST/")
    made.add_argument("--work", type=Path, required=True, help="folder for the networks")
    made.add_argument("--teaching", type=int, help="epochs that networks are taught (default: the page's)")
    made.add_argument("--seeds", type=int, nargs="+", default=[0])
    made.add_argument("--threads", type=int, default=1)
    return made


@dataclass(frozen=True)
class Source:
    """A network to transfer from, and how well it knows its own task (on val; chance for the untaught one)."""

    teacher: Teacher
    own: float

    @property
    def name(self) -> str:
        """As on the page."""
        return self.teacher.name

    @property
    def end(self) -> str | None:
        """Where a student of it ends, if not with its own classifier."""
        return "encoder" if self.name == AUTOENCODER else None

    def point(self, embedding: str) -> str:
        """The layer that gives its embedding: "pooled" is what the classifier takes in, the others have pixels."""
        return EMBEDDING if embedding == "pooled" and self.name != AUTOENCODER else "encoder"

    def pool(self, embedding: str) -> int | None:
        """How many pixels a side its embedding is averaged to: 2 on the "grid"."""
        return 2 if embedding == "grid" else None

    def features(self, images: Tensor, layer: str, pool: int | None = None) -> tuple[Tensor, Tensor]:
        """Embeddings of images in [0, 1], and answers."""
        ready = Preprocess.of(self.teacher.signature)
        return embeddings(self.teacher.module, images, layer, name=self.name, preprocess=ready, pool=pool)


class Zoo:
    """Data, networks and tasks of one seed.

    data    folder that holds cifar10/ and MNIST/
    work    folder for the networks
    epochs  of training, in place of the page's
    """

    def __init__(self, data: Path, work: Path, seed: int, epochs: int | None = None) -> None:
        self.data, self.work, self.seed = data, work, seed
        self.checkpoints = checkpoints(seed, epochs)
        self.open = Opened(data)
        self._few: tuple[Task, Splits] | None = None

    def open_few(self, task: Task) -> Splits:
        """The same for a task of few labels, of which there are many: the last is kept."""
        if self._few is None or self._few[0] != task:
            self._few = (task, task.open(self.data))
        return self._few[1]

    @cached_property
    def sources(self) -> dict[str, Source]:
        """All networks by name, the untaught one last."""
        found = {name: self.source(checkpoint) for name, checkpoint in self.checkpoints.items()}
        first = next(iter(self.checkpoints.values()))
        torch.manual_seed(1000 + self.seed)
        untaught = replace(first, name=UNTAUGHT).teacher(first.network.build())
        return {**found, UNTAUGHT: Source(untaught, first.task.chance)}

    def source(self, checkpoint: Checkpoint) -> Source:
        """The network of a checkpoint: kept, or taught now."""
        assert checkpoint.train is not None
        splits = self.open(checkpoint.task)
        path = self.work / f"{checkpoint.name}-e{checkpoint.train.epochs}-s{self.seed}.safetensors"
        teacher, task = taught(checkpoint, path, splits), checkpoint.task
        batches = splits.batches(Split.VAL, torch.device("cpu"))
        return Source(
            teacher, evaluate(teacher.module, batches, task.predict, task.score, kind=ValScore).value
        )

    def target(self, name: str) -> Target:
        """One of the tasks, by the name of its network."""
        return Target(self, name, self.checkpoints[name].task)

    def targets(self) -> Iterator[str]:
        """Names of the tasks to transfer to."""
        return iter(list(self.checkpoints)[:TARGETS])


@dataclass(frozen=True)
class Target:
    """A task to transfer to: a few labels to learn from, test images to be judged on, others to ask about."""

    zoo: Zoo
    name: str
    task: Task

    def few(self, labels: int, draw: int) -> Task:
        """The same task with so many train images a class; val, which is not used, has those that come on top."""
        return Few(of=self.task, per_class=labels + max(1, round(labels / 10)), seed=draw)

    def labelled(self, labels: int, draw: int) -> tuple[Tensor, Tensor]:
        """Images in [0, 1] and labels of `few`, not augmented."""
        return self._plain(self.zoo.open_few(self.few(labels, draw)), Split.TRAIN)

    @cached_property
    def test(self) -> tuple[Tensor, Tensor]:
        """Test images in [0, 1] and labels, in random order, the same always."""
        images, labels = self._plain(self.zoo.open(self.task), Split.TEST)
        order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
        return images[order], labels[order]

    def judged(self) -> tuple[Tensor, Tensor]:
        """Those that accuracies are measured on."""
        images, labels = self.test
        return images[:JUDGED], labels[:JUDGED]

    def probe(self, count: int, draw: int) -> Probe:
        """Unlabeled images of the target's domain, none of them judged on."""
        images = self.test[0][JUDGED:]
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(100 + draw))
        kept: dict[bytes, Tensor] = {}
        for image in images[order]:
            if bool((image != image.flatten()[0]).any()):
                kept.setdefault(image.numpy().tobytes(), image)
            if len(kept) == count:
                break
        return Probe(torch.stack(list(kept.values())))

    def _plain(self, splits: Splits, split: Split) -> tuple[Tensor, Tensor]:
        signature = self.task.signature()
        assert signature.mean is not None
        assert signature.std is not None
        mean, std = (torch.tensor(row)[:, None, None] for row in (signature.mean, signature.std))
        images, labels = [], []
        for batch in splits.batches(split, torch.device("cpu")):
            images.append(((batch.inputs[0] * std + mean) * 255).round().clamp(0, 255) / 255)
            assert batch.target is not None
            labels.append(batch.target)
        return torch.cat(images).contiguous(), torch.cat(labels)
