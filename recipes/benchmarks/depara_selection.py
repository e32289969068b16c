"""Which teacher? Every score against what came of transferring: ten sources and more for each of eight targets.

    python -m recipes.benchmarks.depara_selection --data DATA --work FOLDER [--seeds 0 1 2]
    python -m recipes.benchmarks.depara_selection --data DATA --work FOLDER --truth tuned --targets cifar-10 \
        cifar-4-vehicles mnist-10

DATA holds cifar10/ (JPEG in class folders) and MNIST/, FOLDER keeps the networks that are taught on the first call. The
truth is the accuracy on 2,000 test images after transfer with a few labels a class: "frozen", logistic regression on
the source's features, or "tuned", the whole network trained on. Rows go to reports/results/depara-truth.jsonl and
depara-scores.jsonl, those that are there are passed over; depara-selection-rows.md is drawn anew from all.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from compress import transfer_scores
from compress.attribution_graph import Variant, attribution_graphs, edge_similarity, node_cosines
from compress.finetune import Finetune
from compress.probe import Preprocess
from compress.session import Sees, Session
from compress.stage import State
from compress.transplant import transplant
from recipes.benchmarks.agreement import agreement, mean_and_error, paired, ranks_of
from recipes.benchmarks.depara_zoo import AUTOENCODER, UNTAUGHT, Source, Target, Zoo, parser
from recipes.benchmarks.gal_cifar10 import RESULTS
from recipes.benchmarks.rows import Rows, machine, markdown
from students.files import write_text

TRUTH = Rows(
    RESULTS / "depara-truth.jsonl",
    ("truth", "labels", "epochs", "teaching", "seed", "target", "source", "draw"),
)
SCORES = Rows(
    RESULTS / "depara-scores.jsonl",
    ("labels", "embedding", "probe", "epochs", "teaching", "seed", "target", "source", "draw"),
)
FEATURES = ("n_leep", "log_me", "h_score", "trans_rate", "parc", "knn_accuracy", "logistic_accuracy")
HEADLESS = (AUTOENCODER, UNTAUGHT)  # no classes of their own that LEEP and NCE could start from
_SETTING = ("labels", "embedding", "probe", "epochs", "teaching")
METRICS = ("spearman", "kendall", "weighted", "p1", "p3", "in3", "regret")
Values = Mapping[str, float]


# -- truth ---------------------------------------------------------------------------------------------------


def frozen(source: Source, target: Target, labels: int, draw: int, _: int) -> float:
    """Accuracy of logistic regression on the source's encoder, its features pooled to 2x2."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    images, y = target.labelled(labels, draw)
    judged, truth = target.judged()
    rows = [source.features(part, "encoder", pool=2)[0].numpy() for part in (images, judged)]
    work = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=1000)).fit(rows[0], y.numpy())
    return float((work.predict(rows[1]) == truth.numpy()).mean())


def tuned(source: Source, target: Target, labels: int, draw: int, epochs: int) -> float:
    """Accuracy after all of the network was trained on, with a fresh last layer, augmented as the target is."""
    signature = target.task.signature()
    torch.manual_seed(draw)
    student, _ = transplant(source.teacher, "encoder", signature, source.end, anew=False)
    stage = Finetune(epochs=epochs, lr=0.02, soft_targets=0, labels=1, warmup=2.0)
    splits = target.zoo.open_few(target.few(labels, draw))
    session = Session(splits=splits, sees=Sees.LABELS, seed=draw, signature=signature)
    made = stage(State((source.teacher,), student), session).student
    assert made is not None
    judged, truth = target.judged()
    entered = Preprocess.of(signature)(judged)
    with torch.no_grad():
        right = sum(
            int((made(x).argmax(1) == y).sum())
            for x, y in zip(entered.split(250), truth.split(250), strict=True)
        )
    return right / len(truth)


TRUTHS: dict[str, Callable[[Source, Target, int, int, int], float]] = {"frozen": frozen, "tuned": tuned}


# -- scores --------------------------------------------------------------------------------------------------


def with_labels(source: Source, images: torch.Tensor, y: np.ndarray, embedding: str) -> dict[str, float]:
    """Every score that takes labels."""
    features, answers = source.features(images, source.point(embedding), source.pool(embedding))
    found = {name: float(getattr(transfer_scores, name)(features.numpy(), y)) for name in FEATURES}
    if source.name not in HEADLESS:
        probabilities = answers.double().softmax(1).numpy()
        found |= {name: float(getattr(transfer_scores, name)(probabilities, y)) for name in ("leep", "nce")}
    return found


def against(
    target: Source, sources: Sequence[Source], at: Target, probe: int, draw: int, embedding: str
) -> dict[str, Values]:
    """Every score that takes a network for the target, for each source: V and E with their variants, DDS, RSA, CKA.

    And how well the target's answers can be told from the source's features, by ridge regression and by LogME. V and E
    are of layers, whatever is pooled: on the grid they are left out.
    """
    asked = at.probe(probe, draw)
    pool = target.pool(embedding)

    def graphs(source: Source, variant: Variant, attribution: Any = "gradient_x_input") -> Any:
        layer = source.point(embedding)
        return attribution_graphs(
            source.teacher.module, asked, [layer], name=source.name, variant=variant, attribution=attribution,
            preprocess=Preprocess.of(source.teacher.signature),
        )[layer]  # fmt: skip

    plain, centred, summed, absolute = (
        Variant(), Variant(edges="centered"), Variant(scalar="sum"), Variant(reduction="abs_mean_channel"),
    )  # fmt: skip
    usual = "gradient_x_input"
    ways = {
        "V": (plain, usual), "E centered": (centred, usual), "V sum": (summed, usual), "V absolute": (absolute, usual),
        "V saliency": (plain, "saliency"),
    }  # fmt: skip
    theirs = {name: graphs(target, *way) for name, way in ways.items()} if pool is None else {}
    other, logits = target.features(asked.images, target.point(embedding), pool)
    answers = logits.double().softmax(1).numpy()
    found: dict[str, Values] = {}
    for source in sources:
        scores = {}
        if pool is None:
            mine = {name: graphs(source, *way) for name, way in ways.items()}
            scores = {
                name: float(node_cosines(mine[name], theirs[name]).mean()) for name in ways if name[0] == "V"
            }
            scores["E"] = edge_similarity(mine["V"], theirs["V"])
            scores["E centered"] = edge_similarity(mine["E centered"], theirs["E centered"])
        features = source.features(asked.images, source.point(embedding), pool)[0].numpy()
        for name in ("rsa", "dds", "cka", "standardised_cka"):
            scores[name] = float(getattr(transfer_scores, name)(features, other.numpy()))
        scores["dds laplacian"] = transfer_scores.dds(features, other.numpy(), "laplacian")
        scores["predictability"] = transfer_scores.predictability(features, answers)
        said = answers.argmax(1)
        # A network of few labels may give one answer to all of them, which tells sources apart by nothing.
        several = len(np.unique(said)) > 1
        scores["log_me of answers"] = transfer_scores.log_me(features, said) if several else 0.0
        found[source.name] = scores
    return found


def few_labels(at: Target, labels: int, draw: int, epochs: int) -> Source:
    """A network for the target that had no more than these labels either."""
    checkpoint = at.zoo.checkpoints[at.name]
    torch.manual_seed(7000 + draw)
    splits = at.zoo.open_few(at.few(labels, draw))
    bench = Session(splits=splits, sees=Sees.LABELS, seed=draw, signature=at.task.signature())
    stage = Finetune(epochs=epochs, lr=0.05, soft_targets=0, labels=1, warmup=2.0)
    empty = checkpoint.teacher(checkpoint.network.build())
    made = stage(State((empty,), empty.module), bench).student
    assert made is not None
    return Source(checkpoint.teacher(made), 0.0)


def measure(zoo: Zoo, arguments: argparse.Namespace) -> None:
    """What is asked for and not there yet, of one seed."""
    sources = list(zoo.sources.values())
    for name in arguments.targets or zoo.targets():
        at = zoo.target(name)
        for draw in range(arguments.draws):
            key = {
                "seed": zoo.seed,
                "target": name,
                "draw": draw,
                "labels": arguments.labels,
                "teaching": arguments.teaching,
            }
            tuning = arguments.epochs if arguments.truth == "tuned" else 0
            for source in sources:
                row = {**key, "source": source.name, "truth": arguments.truth, "epochs": tuning}
                if not TRUTH.has(**row):
                    accuracy = TRUTHS[arguments.truth](source, at, arguments.labels, draw, arguments.epochs)
                    TRUTH.add({**row, "accuracy": accuracy})
            ask = {
                **key,
                "embedding": arguments.embedding,
                "probe": arguments.probe,
                "epochs": arguments.epochs,
            }
            if all(SCORES.has(**ask, source=source.name) for source in sources):
                continue
            images, y = at.labelled(arguments.labels, draw)
            full = against(zoo.sources[name], sources, at, arguments.probe, draw, arguments.embedding)
            few = against(
                few_labels(at, arguments.labels, draw, arguments.epochs), sources, at, arguments.probe, draw,
                arguments.embedding,
            )  # fmt: skip
            for source in sources:
                labelled = with_labels(source, images, y.numpy(), arguments.embedding)
                found = {"labelled": labelled, "full": full[source.name], "few": few[source.name]}
                SCORES.add({**ask, "source": source.name, "own": source.own, **found})
        write_text(RESULTS / "depara-selection-rows.md", table())
        print(f"seed {zoo.seed}, {name}: done", flush=True)


# -- the table -----------------------------------------------------------------------------------------------


def combined(scores: Mapping[str, Sequence[float]], prefix: str) -> dict[str, list[float]]:
    """Scores made of others: S at three lambdas, and label-free combinations."""
    made = {}
    if f"{prefix}predictability" in scores:
        told, alike = (scores[f"{prefix}{name}"] for name in ("predictability", "standardised_cka"))
        made = {
            f"{prefix}ranks of predictability, standardised CKA": [
                a + b for a, b in zip(ranks_of(told), ranks_of(alike), strict=True)
            ]
        }
    if f"{prefix}V" not in scores:
        return made
    v, e, centred, dds = (scores[f"{prefix}{name}"] for name in ("V", "E", "E centered", "dds"))

    def total(*parts: Sequence[float]) -> list[float]:
        return [sum(values) for values in zip(*parts, strict=True)]

    return {
        **made,
        **{f"{prefix}V + {lam:g} E": total(v, [lam * value for value in e]) for lam in (0.25, 1, 10)},
        f"{prefix}V + E centered": total(v, centred),
        f"{prefix}V + DDS": total(v, dds),
        f"{prefix}V + E + DDS": total(v, e, dds),
        f"{prefix}ranks of V, DDS": total(ranks_of(v), ranks_of(dds)),
        f"{prefix}ranks of E centered, DDS": total(ranks_of(centred), ranks_of(dds)),
        f"{prefix}ranks of V, E centered, DDS": total(ranks_of(v), ranks_of(centred), ranks_of(dds)),
    }


def cases(rows: list[dict[str, Any]], truths: list[dict[str, Any]]) -> Iterator[tuple[Any, str, Values]]:
    """(case, score, its agreement with the truth) for every seed, target and draw; the truth is a mean over draws."""
    came: dict[Any, list[float]] = defaultdict(list)
    for row in truths:
        came[row["labels"], row["seed"], row["target"], row["source"]].append(row["accuracy"])
    by_case: dict[Any, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        by_case[row["labels"], row["seed"], row["target"], row["draw"]].append(row)
    for case, here in by_case.items():
        labels, seed, target, _ = case
        here = [row for row in here if row["source"] != target and came[labels, seed, target, row["source"]]]
        if len(here) < 4:
            continue
        accuracy = [float(np.mean(came[labels, seed, target, row["source"]])) for row in here]
        scores: dict[str, list[float]] = {"own accuracy": [row["own"] for row in here]}
        for kind, prefix in (("labelled", ""), ("full", ""), ("few", "few labels: ")):
            for name in here[0][kind] if kind != "labelled" else FEATURES:
                scores[f"{prefix}{name}"] = [row[kind][name] for row in here]
        for prefix in ("", "few labels: "):
            scores |= combined(scores, prefix)
        free = scores["few labels: dds"]
        scores["ranks of LogME, few labels: dds"] = [
            a + b for a, b in zip(ranks_of(scores["log_me"]), ranks_of(free), strict=True)
        ]
        for name, values in scores.items():
            yield case, name, agreement(values, accuracy)
        classed = [place for place, row in enumerate(here) if "leep" in row["labelled"]]
        for name in ("leep", "nce", "log_me"):
            values = [here[place]["labelled"][name] for place in classed]
            yield (
                case,
                f"{name}, sources with classes",
                agreement(values, [accuracy[place] for place in classed]),
            )


def table() -> str:
    """Means over seeds, targets and draws with their standard errors over seeds and targets; pairs of scores below."""
    rows, truths = SCORES.all(), TRUTH.all()
    parts = [
        "Means over seeds and targets (draws of labels and probes averaged first) ± standard error over these; in3: "
        f"the score's first is among the truly best three; regret in points of accuracy. {machine()}."
    ]
    settings = sorted({tuple(r[name] for name in _SETTING) for r in rows}, key=str)
    for truth in sorted({row["truth"] for row in truths}):
        for setting in settings:
            mine = [r for r in rows if tuple(r[name] for name in _SETTING) == setting]
            found: dict[str, dict[Any, list[Values]]] = defaultdict(lambda: defaultdict(list))
            came = [row for row in truths if row["truth"] == truth and row["teaching"] == setting[-1]]
            for case, name, values in cases(mine, came):
                found[name][case[:3]].append(values)
            if not found:
                continue
            labels, embedding, probe, epochs, teaching = setting
            flat = {
                name: {m: [float(np.mean([v[m] for v in values])) for values in by.values()] for m in METRICS}
                for name, by in found.items()
            }
            count = len(flat["dds"]["spearman"])
            parts.append(
                f"**Truth: {truth}, {labels} labels a class**; embeddings {embedding}, {probe} probes, networks of few "
                f"labels trained {epochs} epochs; {count} pairs of seed and target, zoo taught "
                f"{teaching or 'as on the page'}. Random: Spearman 0, P@1 0.1, "
                "P@3 and in3 0.3."
            )
            order = sorted(flat, key=lambda name: -float(np.mean(flat[name]["spearman"])))
            body = [(name, *(_shown(flat[name][metric], metric) for metric in METRICS)) for name in order]
            parts.append(markdown(("score", *METRICS), body))
            parts.append(markdown(("difference of Spearman, paired", "mean", "95 %"), list(_pairs(flat))))
    return "\n\n".join(parts) + "\n"


def _shown(values: Sequence[float], metric: str) -> str:
    scale = 100 if metric == "regret" else 1
    mean, error = mean_and_error([scale * value for value in values])
    return f"{mean:.2f} ± {error:.2f}"


def _pairs(flat: Mapping[str, Mapping[str, Sequence[float]]]) -> Iterator[tuple[str, str, str]]:
    whole = "V + 1 E" if "V + 1 E" in flat else "dds"
    free = [
        name
        for name in flat
        if "few labels" not in name
        and ("V" in name or "E" in name or "dds" in name.lower() or "predict" in name or "answers" in name)
    ]
    best = max(free, key=lambda name: float(np.mean(flat[name]["spearman"])))
    pairs = (
        (whole, "V"), (whole, "E"), (whole, "dds"), (best, whole), (best, "dds"), ("log_me", f"few labels: {whole}"),
        ("log_me", "logistic_accuracy"), ("predictability", "dds"), (best, "log_me"),
    )  # fmt: skip
    for one, other in dict.fromkeys(pairs):
        if one != other and one in flat and other in flat:
            mean, low, high = paired(flat[one]["spearman"], flat[other]["spearman"])
            yield f"{one} less {other}", f"{mean:+.2f}", f"{low:+.2f} to {high:+.2f}"


def main() -> None:
    """Measure what is asked for and not there yet."""
    options = parser(__doc__)
    options.add_argument("--truth", choices=tuple(TRUTHS), default="frozen")
    options.add_argument("--targets", nargs="+", help="names of the page's networks (its first eight)")
    options.add_argument("--labels", type=int, default=20, help="a class")
    options.add_argument("--draws", type=int, default=3, help="of labels and probes")
    options.add_argument("--probe", type=int, default=200)
    options.add_argument(
        "--embedding",
        choices=("pooled", "encoder", "grid"),
        default="pooled",
        help="what the last layer takes in, what has pixels before it, or this averaged to 2x2",
    )
    options.add_argument("--epochs", type=int, default=60, help="of training on a few labels")
    options.set_defaults(seeds=[0, 1, 2])
    arguments = options.parse_args()
    torch.set_num_threads(arguments.threads)
    for seed in arguments.seeds:
        measure(Zoo(arguments.data, arguments.work, seed, arguments.teaching), arguments)


if __name__ == "__main__":
    main()
