"""How many images does the probe need? Rankings of the zoo by probes of several sizes, and how far two of them agree.

    python -m recipes.benchmarks.depara_probe --data DATA --work FOLDER [--sizes 50 100 200 500]

For each target and size as many probes as there are draws; two of one size may share images, where the target has few.
Rows go to reports/results/depara-probe.jsonl, those that are there are passed over; depara-probe-rows.md is drawn anew.
"""

from __future__ import annotations

from collections import defaultdict
from itertools import combinations
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr

from compress import transfer_scores
from compress.attribution_graph import attribution_graphs, edge_similarity, node_cosines
from compress.probe import Preprocess
from recipes.benchmarks.agreement import mean_and_error
from recipes.benchmarks.depara_zoo import Zoo, parser
from recipes.benchmarks.gal_cifar10 import RESULTS
from recipes.benchmarks.rows import Rows, machine, markdown
from students.files import write_text

ROWS = Rows(RESULTS / "depara-probe.jsonl", ("size", "teaching", "seed", "target", "draw"))


def scores(zoo: Zoo, name: str, size: int, draw: int) -> dict[str, dict[str, float]]:
    """V, E and DDS of every source against the target's network."""
    asked = zoo.target(name).probe(size, draw)

    def look(source: Any) -> Any:
        layer, ready = source.point("pooled"), Preprocess.of(source.teacher.signature)
        made = attribution_graphs(source.teacher.module, asked, [layer], name=source.name, preprocess=ready)
        return made[layer], source.features(asked.images, layer)[0].numpy()

    graph, features = look(zoo.sources[name])
    found = {}
    for source in zoo.sources.values():
        if source.name == name:
            continue
        mine, others = look(source)
        found[source.name] = {
            "V": float(node_cosines(mine, graph).mean()), "E": edge_similarity(mine, graph),
            "dds": transfer_scores.dds(others, features), "zeros": mine.zeros,
        }  # fmt: skip
    return found


def table() -> str:
    """Spearman between rankings of two probes of one size, and with the mean score over the probes of the largest."""
    rows = ROWS.all()
    order: dict[Any, list[dict[str, list[float]]]] = defaultdict(list)
    for row in rows:
        names = sorted(row["scores"])
        of = {part: [row["scores"][name][part] for name in names] for part in ("V", "E", "dds")}
        of["V + E"] = [v + e for v, e in zip(of["V"], of["E"], strict=True)]
        order[row["size"], row["seed"], row["target"]].append(of)
    sizes = sorted({row["size"] for row in rows})
    body = []
    for size in sizes:
        for part in ("V", "E", "V + E", "dds"):
            agree, whole, first = [], [], []
            for (s, seed, target), draws in order.items():
                if s != size or len(draws) < 2:
                    continue
                pairs = list(combinations([of[part] for of in draws], 2))
                agree.append(float(np.mean([spearmanr(*pair).statistic for pair in pairs])))
                first.append(float(np.mean([np.argmax(a) == np.argmax(b) for a, b in pairs])))
                if most := order.get((sizes[-1], seed, target)):
                    mean = np.mean([of[part] for of in most], 0)
                    whole.append(float(np.mean([spearmanr(of[part], mean).statistic for of in draws])))
            shown = (
                f"{mean:.3f} ± {error:.3f}" for mean, error in map(mean_and_error, (agree, whole, first))
            )
            body.append((size, part, *shown, len(agree)))
    head = ("probe", "score", "two probes agree", "with the largest", "the same first", "targets")
    said = f"Spearman over the sources, mean ± standard error over targets. {machine()}."
    return f"{said}\n\n{markdown(head, body)}\n"


def main() -> None:
    """Measure what is asked for and not there yet."""
    options = parser(__doc__)
    options.add_argument("--sizes", type=int, nargs="+", default=[50, 100, 200, 500])
    options.add_argument("--targets", nargs="+", help="names of the page's networks (its first eight)")
    options.add_argument("--draws", type=int, default=5)
    arguments = options.parse_args()
    torch.set_num_threads(arguments.threads)
    for seed in arguments.seeds:
        zoo = Zoo(arguments.data, arguments.work, seed, arguments.teaching)
        for name in arguments.targets or zoo.targets():
            for size in arguments.sizes:
                for draw in range(arguments.draws):
                    key = {
                        "size": size,
                        "teaching": arguments.teaching,
                        "seed": seed,
                        "target": name,
                        "draw": draw,
                    }
                    if not ROWS.has(**key):
                        ROWS.add({**key, "scores": scores(zoo, name, size, draw)})
            write_text(RESULTS / "depara-probe-rows.md", table())
            print(f"seed {seed}, {name}: done", flush=True)


if __name__ == "__main__":
    main()
