"""One toy recipe per method, seconds each on a CPU: the house tests run over all of them.

A new method joins by one line in `RECIPES`.
"""

from compress import (
    DEPARA,
    DFAD,
    GAL,
    KSE,
    LSP,
    Amalgamate,
    AmalgamateDataFree,
    Branching,
    Finetune,
    Generate,
    Prune,
    Rank,
    Recalibrate,
    SelectLayer,
)
from compress.stage import Stage
from recipes.recipe import Recipe
from teachers.networks import GAT, DigitsCNN
from teachers.tasks import DigitsGraph, Grouped, Subset, Toy
from teachers.teacher import Checkpoint
from teachers.train import Train

FEW = {"epochs": 2, "rounds": 2, "batch": 16, "latent": 8, "width": 4}
SMALL = DigitsCNN(classes=3, widths=(8, 8, 8))
TASK = Toy(samples=160, batch=32)
TEACHER = Checkpoint(
    name="toy", network=DigitsCNN(classes=3), task=TASK, train=Train(epochs=4, lr=0.05, warmup=1)
)
OTHERS = (
    Checkpoint(
        name="two-of-three", network=DigitsCNN(classes=2, widths=(8, 8, 8)), train=TEACHER.train,
        task=Grouped(of=TASK, groups={"one": ("pattern 1",), "two": ("pattern 2",)}),
    ),
    Checkpoint(
        name="other-patterns", network=DigitsCNN(classes=4, widths=(8, 8, 8)), train=TEACHER.train,
        task=Toy(classes=4, samples=160, batch=32, seed=1),
    ),
)  # fmt: skip

GRAPH = DigitsGraph(k=4)
GRAPH_TEACHER = Checkpoint(
    name="digits-gat",
    network=GAT(inputs=64, classes=10, widths=(4,), heads=(2,), input_dropout=0.0, dropout=0.0),
    task=GRAPH,
    train=Train(epochs=25, lr=0.02, optimizer="adam", choose="best"),
)


def _toy(name: str, *stages: Stage) -> Recipe:
    return Recipe(name=name, task=TASK, teachers=(TEACHER,), stages=stages)


def _graph(name: str, *stages: Stage) -> Recipe:
    return Recipe(name=name, task=GRAPH, teachers=(GRAPH_TEACHER,), stages=stages)


def _among(name: str, *stages: Stage) -> Recipe:
    return Recipe(name=name, task=TASK, teachers=(TEACHER, *OTHERS), stages=stages)


def _parts(name: str, *stages: Stage) -> Recipe:
    teachers = tuple(
        Checkpoint(
            name=who, network=DigitsCNN(classes=2, widths=(8, 8, 8)), task=Subset(of=TASK, keep=keep),
            train=Train(epochs=12, lr=0.1, warmup=1),
        )
        for who, keep in (("front", ("pattern 0", "pattern 1")), ("back", ("pattern 1", "pattern 2")))
    )  # fmt: skip
    return Recipe(name=name, task=TASK, teachers=teachers, stages=stages)


RECIPES = {
    recipe.name: recipe
    for recipe in (
        _toy("gal", GAL(macs=0.5, epochs=2), Finetune(epochs=2)),
        _toy("prune", Prune(macs=0.5), Recalibrate(batches=4)),
        _toy("prune-taylor", Prune(macs=0.5, importance="taylor", batches=2)),
        _toy("finetune", Finetune(epochs=2, lr=0.01)),
        _toy("finetune-labels", Finetune(epochs=2, lr=0.01, soft_targets=0, labels=1, swa=0.5)),
        _toy("recalibrate", Recalibrate(batches=4)),
        _toy("kse", KSE(granularity=5), Finetune(epochs=2, lr=0.01)),
        _toy("dfad", DFAD(student=SMALL, batch_norm=1.0, warmup=1, **FEW)),
        _toy("no-data", Prune(macs=0.5), DFAD(lr=0.01, average=0.9, **FEW)),
        _toy(
            "generated",
            Generate(images=64, **FEW),
            Prune(macs=0.5),
            Recalibrate(batches=4, generated=True),
            Finetune(epochs=1.5, lr=0.01, generated=True),
            DFAD(lr=0.01, generated=True, **FEW),
        ),
        _toy("gal-generated", Generate(images=64, **FEW), GAL(macs=0.5, epochs=2, generated=True)),
        _graph("lsp", Prune(macs=0.7, units="heads"), LSP(epochs=4, embedding=20, patience=2)),
        _among(
            "depara", DEPARA(target="toy", resamples=4), SelectLayer(resamples=4), Finetune(epochs=2, lr=0.01)
        ),
        _among(
            "rank-labels",
            Rank(by="log_me", target="toy", resamples=2),
            SelectLayer(resamples=0),
            Finetune(epochs=2, lr=0.01, soft_targets=0, labels=1),
        ),
        _parts(
            "amalgamate", Amalgamate(student=SMALL, epochs=1, method=Branching(cuts=("bn1",), block_epochs=1))
        ),
        _parts(
            "amalgamate-data-free",
            AmalgamateDataFree(
                student=SMALL,
                cuts=("bn1",),
                generator_epochs=2,
                rounds=2,
                batch=16,
                latent=8,
                width=4,
                block_epochs=1,
                epochs=1,
                samples=32,
                bank=32,
            ),
        ),
        _toy("gal-kse", GAL(macs=0.5, epochs=1), Finetune(epochs=1), KSE(half=True), Finetune(epochs=1)),
    )
}
