"""Which layer? What came of transferring from each block of a ResNet-20, against V, E, S, DDS, LogME and plain depth.

    python -m recipes.benchmarks.depara_layers --data DATA --work FOLDER [--seeds 0 1 2]

The task is four vehicles of CIFAR-10; one source was taught the six animals (matched), one the digits of MNIST
(mismatched), and the target is a ResNet-20 that was taught the vehicles themselves. Up to the chosen block the source
is frozen, norms too, everything above is drawn anew for every block and trained with a few labels a class. Rows go to
reports/results/depara-layers.jsonl, those that are there are passed over; depara-layers-rows.md is drawn anew from all.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr

from compress import transfer_scores
from compress.attribution import EMBEDDING, embeddings
from compress.attribution_graph import attribution_graphs, edge_similarity, node_cosines
from compress.finetune import Finetune
from compress.probe import Preprocess
from compress.session import Sees, Session
from compress.stage import State
from compress.transplant import transplant
from recipes.benchmarks.depara_zoo import Source, Target, Zoo, parser
from recipes.benchmarks.gal_cifar10 import RESULTS
from recipes.benchmarks.rows import Rows, machine, markdown
from students.files import write_text
from teachers.networks import ResNet

ROWS = Rows(
    RESULTS / "depara-layers.jsonl",
    ("source", "layer", "labels", "draw", "epochs", "probe", "teaching", "seed"),
)
TARGET, SOURCES = "cifar-4-vehicles", ("cifar-6-animals", "mnist-10")
LAYERS = tuple(f"layer{stage}.{block}" for stage in (1, 2, 3) for block in range(3))


def taught(zoo: Zoo, name: str) -> Source:
    """A ResNet-20 that was taught one of the zoo's tasks."""
    checkpoint = zoo.checkpoints[name]
    network = ResNet(depth=20, classes=checkpoint.task.signature().classes)
    return zoo.source(replace(checkpoint, name=f"resnet20-{name}", network=network))


def came(source: Source, target: Target, layer: str, labels: int, draw: int, epochs: int, seed: int) -> float:
    """Accuracy on test images of a student that is the source up to a layer, and was taught the rest."""
    signature = target.task.signature()
    torch.manual_seed(1000 * seed + draw)
    student, still = transplant(source.teacher, layer, signature)
    splits = target.zoo.open_few(target.few(labels, draw))
    session = Session(splits=splits, sees=Sees.LABELS, seed=1000 * seed + draw, signature=signature)
    stage = Finetune(epochs=epochs, lr=0.05, soft_targets=0, labels=1, warmup=2.0)
    made = stage(State((source.teacher,), student, freeze=still), session).student
    assert made is not None
    judged, truth = target.judged()
    entered = Preprocess.of(signature)(judged)
    with torch.no_grad():
        answers = torch.cat([made(x).argmax(1) for x in entered.split(250)])
    return float((answers == truth).double().mean())


def scores(
    source: Source, own: Source, target: Target, probe: int, draw: int, labels: int
) -> dict[str, dict[str, float]]:
    """Every score of every layer."""
    asked = target.probe(probe, draw)
    ready = {each.name: Preprocess.of(each.teacher.signature) for each in (source, own)}
    graph = attribution_graphs(own.teacher.module, asked, name=own.name, preprocess=ready[own.name])[
        EMBEDDING
    ]
    theirs, logits = embeddings(own.teacher.module, asked.images, preprocess=ready[own.name])
    answers = logits.double().softmax(1).numpy()
    graphs = attribution_graphs(
        source.teacher.module, asked, LAYERS, name=source.name, preprocess=ready[source.name]
    )
    images, y = target.labelled(labels, draw)
    found = {}
    for place, layer in enumerate(LAYERS, 1):
        features, _ = embeddings(source.teacher.module, asked.images, layer, preprocess=ready[source.name])
        grid, _ = embeddings(
            source.teacher.module, asked.images, layer, preprocess=ready[source.name], pool=2
        )
        pooled, _ = embeddings(source.teacher.module, images, layer, preprocess=ready[source.name], pool=2)
        found[layer] = {
            "V": float(node_cosines(graphs[layer], graph).mean()), "E": edge_similarity(graphs[layer], graph),
            "dds": transfer_scores.dds(features.numpy(), theirs.numpy()),
            "predictability": transfer_scores.predictability(grid.numpy(), answers),
            "log_me": transfer_scores.log_me(pooled.numpy(), y.numpy()),
            "logistic_accuracy": transfer_scores.logistic_accuracy(pooled.numpy(), y.numpy()),
            "depth": transfer_scores.depth(place, len(LAYERS)),
        }  # fmt: skip
    return found


def table() -> str:
    """Accuracy by layer, and each score's Spearman with it and the accuracy it would have chosen."""
    rows = ROWS.all()
    parts = [
        "Test accuracy in % after transfer from each block, mean over seeds and draws; Spearman over the nine blocks "
        "of each score (a mean, too) with that, and the accuracy of the block that the score puts first. "
        f"{machine()}."
    ]
    by: dict[Any, dict[str, list[dict[str, Any]]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        by[row["source"], row["labels"], row["epochs"], row["probe"], row["teaching"]][row["layer"]].append(
            row
        )
    body, curves = [], []
    for (source, labels, *rest), layers in sorted(by.items(), key=str):
        if len(layers) < len(LAYERS):
            continue
        accuracy = [100 * float(np.mean([row["accuracy"] for row in layers[layer]])) for layer in LAYERS]
        curves.append((source, labels, *(f"{value:.1f}" for value in accuracy)))
        mean = {
            name: [float(np.mean([row["scores"][name] for row in layers[layer]])) for layer in LAYERS]
            for name in layers[LAYERS[0]][0]["scores"]
        }
        for lam in (1, 10):
            mean[f"V + {lam} E"] = [v + lam * e for v, e in zip(mean["V"], mean["E"], strict=True)]
        for name, values in mean.items():
            agrees = float(spearmanr(values, accuracy).statistic)
            first = accuracy[int(np.argmax(values))]
            settings = f"{rest[0]} epochs, {rest[1]} probes"
            runs = len(layers[LAYERS[0]])
            body.append(
                (
                    source,
                    labels,
                    name,
                    f"{agrees:.2f}",
                    f"{first:.1f}",
                    f"{max(accuracy):.1f}",
                    settings,
                    runs,
                )
            )
    parts.append(markdown(("source", "labels a class", *LAYERS), curves))
    head = ("source", "labels a class", "score", "Spearman", "its choice", "best block", "trained", "runs")
    parts.append(markdown(head, body))
    return "\n\n".join(parts) + "\n"


def main() -> None:
    """Measure what is asked for and not there yet."""
    options = parser(__doc__)
    options.add_argument("--labels", type=int, nargs="+", default=[10, 20, 50], help="a class")
    options.add_argument("--draws", type=int, default=3, help="of labels and probes")
    options.add_argument("--probe", type=int, default=200)
    options.add_argument("--epochs", type=int, default=40, help="of training what is above")
    options.set_defaults(teaching=10)
    arguments = options.parse_args()
    torch.set_num_threads(arguments.threads)
    for seed in arguments.seeds:
        zoo = Zoo(arguments.data, arguments.work, seed, arguments.teaching)
        target, own = zoo.target(TARGET), taught(zoo, TARGET)
        for name in SOURCES:
            source = taught(zoo, name)
            for labels in arguments.labels:
                for draw in range(arguments.draws):
                    key = {
                        "source": name, "labels": labels, "draw": draw, "epochs": arguments.epochs, "seed": seed,
                        "probe": arguments.probe, "teaching": arguments.teaching,
                    }  # fmt: skip
                    left = [layer for layer in LAYERS if not ROWS.has(**key, layer=layer)]
                    found = scores(source, own, target, arguments.probe, draw, labels) if left else {}
                    for layer in left:
                        accuracy = came(source, target, layer, labels, draw, arguments.epochs, seed)
                        ROWS.add({**key, "layer": layer, "accuracy": accuracy, "scores": found[layer]})
                    write_text(RESULTS / "depara-layers-rows.md", table())
                    print(key, flush=True)


if __name__ == "__main__":
    main()
