"""Graph tasks: read as published, divided among splits, tidied, sampled, judged; and what they refuse."""

import json
import pickle
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import f1_score, roc_auc_score
from torch import Tensor

from reports.evaluate import ValScore, evaluate
from teachers.networks import GCN
from teachers.task import Batch, Split
from teachers.tasks import PPI, DigitsCloud, DigitsGraph, Geometric, ModelNet, Planetoid
from teachers.tasks import planetoid as planetoid_module
from teachers.tasks.clouds import off
from teachers.tasks.graph_splits import Graph, GraphsSplits, NodeSplits
from teachers.tasks.judge import accuracy, micro_f1, roc_auc
from teachers.thinning import Thinning
from teachers.train import Train, supervised

CPU = torch.device("cpu")


def small(nodes: int = 40, edges: int = 160, seed: int = 0, **more: Any) -> Graph:
    dice = torch.Generator().manual_seed(seed)
    receive = torch.randint(nodes, (edges,), generator=dice)
    send = (receive + torch.randint(1, nodes, (edges,), generator=dice)) % nodes
    order = torch.randperm(nodes, generator=dice)
    rows = dict(
        zip(Split, order.split([nodes // 2, nodes // 4, nodes - nodes // 2 - nodes // 4]), strict=True)
    )
    graph = Graph(
        torch.randn(nodes, 5, generator=dice), torch.stack([send, receive]),
        torch.randint(3, (nodes,), generator=dice), rows,
    )  # fmt: skip
    return Graph(**{**vars(graph), **more})


# -- one graph -----------------------------------------------------------------------------------------------


def test_every_split_shows_the_graph_and_judges_its_own_nodes() -> None:
    graph = small().tidy("it")
    splits = NodeSplits(graph)
    seen = []
    for split in Split:
        (batch,) = splits.batches(split, CPU)
        assert batch.target is not None
        judged = (batch.target >= 0).nonzero().flatten()
        assert torch.equal(judged, graph.rows[split].sort().values)
        assert torch.equal(batch.target[judged], graph.target[judged])
        assert batch.inputs[0] is next(splits.batches(split, CPU)).inputs[0], "the same tensors in every pass"
        assert (splits.samples(split), splits.steps(split)) == (len(judged), 1)
        seen.append(judged)
    assert torch.equal(torch.cat(seen).sort().values, torch.arange(40))


def test_what_is_tidied_is_told() -> None:
    edges = torch.tensor([[0, 0, 1, 3, 2], [1, 1, 0, 3, 1]])
    graph = Graph(**{**vars(small(6)), "edges": edges})
    tidy = graph.tidy("it")
    assert tidy.edges.tolist() == [[1, 0, 2], [0, 1, 1]]
    assert [note.split(": ")[1] for note in tidy.notes] == [
        "1 self loops were left out (layers that want some add their own)",
        "1 of 4 edges were there twice, and are taken once",
        "3 of 6 nodes have no neighbour",
    ]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"features": torch.full((40, 5), torch.nan)}, "features of 40 of 40 nodes hold NaN"),
        (
            {"edges": torch.tensor([[0, 40], [1, 2]])},
            r"1 of 2 edges lead beyond the 40 nodes there are \(0 to 39\)",
        ),
        ({"edges": torch.tensor([[3, 4], [3, 4]])}, "all 2 edges are self loops, so no node has a neighbour"),
        ({"edges": torch.zeros(2, 0, dtype=torch.long)}, "it has no edges, so no node has a neighbour"),
        ({"edges": torch.zeros(3, 4, dtype=torch.long)}, r"edges have shape \(3, 4\)"),
        ({"target": torch.zeros(39, dtype=torch.long)}, "40 nodes have features, but 39 a label"),
        ({"rows": {Split.TRAIN: torch.arange(40)}}, "no node belongs to val"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_graphs_that_are_wrong(change: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Graph(**{**vars(small()), **change}).tidy("it")


# -- parts of it ---------------------------------------------------------------------------------------------


@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 99),
    batch=st.integers(1, 9),
    around=st.sampled_from([(-1,), (2,), (3, 2), (-1, 1, 2)]),
)
def test_parts_around_seeds(seed: int, batch: int, around: tuple[int, ...]) -> None:
    graph = small(seed=seed).tidy("it")
    splits = NodeSplits(graph, batch, 7, around)
    receive = graph.edges[1]
    wanted = {i: int((receive == i).sum()) for i in range(40)}
    seen: list[int] = []
    dice = torch.Generator().manual_seed(seed)
    for some in splits.batches(Split.TRAIN, CPU, dice):
        part = some.part
        assert part is not None
        assert part.nodes is not None
        assert part.edges is not None
        assert some.target is not None
        x, edges = some.inputs
        seen += part.nodes[: part.seeds].tolist()
        assert torch.equal(x, graph.features[part.nodes])
        assert len(part.nodes.unique()) == len(part.nodes)
        assert torch.equal(part.nodes[edges], graph.edges[:, part.edges])
        assert len(part.edges.unique()) == len(part.edges)
        assert torch.equal((some.target >= 0).nonzero().flatten(), torch.arange(part.seeds))
        assert torch.equal(some.target[: part.seeds], graph.target[part.nodes[: part.seeds]])
        for place in range(part.seeds):
            count = wanted[int(part.nodes[place])]
            assert int((edges[1] == place).sum()) == (count if around[0] < 0 else min(count, around[0]))
    assert len(set(seen)) == len(seen) == splits.steps(Split.TRAIN) * min(batch, 20)
    assert set(seen) <= set(graph.rows[Split.TRAIN].tolist())
    judged = sum(
        int((some.target >= 0).sum()) for some in splits.batches(Split.VAL, CPU) if some.target is not None
    )
    assert judged == splits.samples(Split.VAL)


def test_drawn_alike_from_a_generator_and_evenly() -> None:
    edges = torch.stack([torch.arange(1, 11), torch.zeros(10, dtype=torch.long)])
    rows = {split: torch.tensor([place]) for place, split in enumerate(Split)}
    graph = Graph(torch.randn(11, 2), edges, torch.zeros(11, dtype=torch.long), rows).tidy("it")
    splits = NodeSplits(graph, 1, None, (3,))
    counts = torch.zeros(11)
    dice = torch.Generator().manual_seed(0)
    for _ in range(1000):
        (batch,) = splits.batches(Split.TRAIN, CPU, dice)
        assert batch.part is not None
        assert batch.part.nodes is not None
        counts[batch.part.nodes] += 1
    assert counts[0] == 1000
    assert ((counts[1:] - 300).abs() < 70).all()  # five deviations of a fair draw
    runs = []
    for _ in range(2):
        dice = torch.Generator().manual_seed(7)
        runs.append([next(splits.batches(Split.TRAIN, CPU, dice)).inputs[0] for _ in range(5)])
    assert all(torch.equal(*pair) for pair in zip(*runs, strict=True))


def test_whole_surroundings_give_what_the_whole_graph_gives() -> None:
    """As many hops as layers, and one more where a layer weighs by its senders' degrees."""
    graph = small().tidy("it")
    network = GCN(inputs=5, classes=3, widths=(4,)).build().eval()
    with torch.no_grad():
        whole = network(graph.features, graph.edges)
        for batch in NodeSplits(graph, 6, None, (-1,) * 3).batches(Split.TRAIN, CPU, torch.Generator()):
            assert batch.part is not None
            assert batch.part.nodes is not None
            rows = batch.part.nodes[: batch.part.seeds]
            torch.testing.assert_close(network(*batch.inputs)[: batch.part.seeds], whole[rows])


# -- several graphs ------------------------------------------------------------------------------------------


def ppi(folder: Path) -> Path:
    """Three small graphs a split, in PPI's files; 50 features and 121 labels."""
    (raw := folder / "ppi" / "raw").mkdir(parents=True)
    dice = np.random.default_rng(0)
    for name in ("train", "valid", "test"):
        sizes = dice.integers(5, 9, 3)
        first, links = 0, []
        for size in sizes:
            pairs = dice.integers(0, size, (12, 2)) + first
            links += [{"source": int(a), "target": int(b)} for a, b in pairs]
            first += size
        page = {"directed": False, "nodes": [{"id": i} for i in range(int(sizes.sum()))], "links": links}
        (raw / f"{name}_graph.json").write_text(json.dumps(page))
        np.save(raw / f"{name}_feats.npy", dice.normal(size=(sizes.sum(), 50)))
        np.save(raw / f"{name}_labels.npy", dice.integers(0, 2, (sizes.sum(), 121)))
        np.save(raw / f"{name}_graph_id.npy", np.repeat([4, 5, 6], sizes))
    return folder


def test_graphs_of_their_own_for_every_split(tmp_path: Path) -> None:
    from torch_geometric.datasets import PPI as Theirs  # noqa: N811

    task = PPI(batch=2)
    splits = task.open(ppi(tmp_path))
    for split, batches in ((Split.TRAIN, 2), (Split.VAL, 2), (Split.TEST, 2)):
        theirs = list(Theirs(str(tmp_path / "ppi"), split.value))
        seen = list(splits.batches(split, CPU))
        assert len(seen) == batches == -(-len(theirs) // 2)
        nodes = 0
        for number, data in enumerate(theirs):
            x, edges = seen[number // 2].inputs
            nodes = 0 if number % 2 == 0 else nodes
            mine = ((edges >= nodes) & (edges < nodes + len(data.x))).all(0)
            assert torch.equal(x[nodes : nodes + len(data.x)], data.x)
            pairs = set(map(tuple, (edges[:, mine] - nodes).t().tolist()))
            # torch-geometric counts a graph's nodes from the lowest that has an edge.
            low = int(edges[:, mine].min()) - nodes
            assert pairs == {(a + low, b + low) for a, b in map(tuple, data.edge_index.t().tolist())}
            nodes += len(data.x)
    batch = next(splits.batches(Split.TRAIN, CPU, torch.Generator().manual_seed(1)))
    assert batch.target is not None
    assert batch.target.shape[1] == 121
    assert task.signature().kind == "sigmoid"
    loss = supervised(torch.zeros_like(batch.target), batch.target, "sigmoid")
    assert float(loss) == pytest.approx(np.log(2), rel=1e-5)
    (tmp_path / "ppi" / "raw" / "valid_feats.npy").unlink()
    with pytest.raises(ValueError, match=r"raw lacks valid_feats.npy: put the 12 files"):
        task.open(tmp_path)


def test_edges_know_their_numbers() -> None:
    graph = small(30, seed=3)
    ends = torch.tensor([0, 10, 20, 30])
    edges = graph.edges[:, graph.edges[0] // 10 == graph.edges[1] // 10]
    rows = {split: torch.arange(10 * place, 10 * place + 10) for place, split in enumerate(Split)}
    graph = Graph(graph.features, edges, graph.target, rows, ends).tidy("it")
    splits = GraphsSplits(graph, 1)
    for split in Split:
        (batch,) = splits.batches(split, CPU)
        assert batch.part is not None
        assert batch.part.nodes is not None
        assert torch.equal(batch.part.nodes[batch.inputs[1]], graph.edges[:, batch.part.edges])


# -- published files -------------------------------------------------------------------------------------------


@pytest.fixture
def cora(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A network of 700 papers in Cora's files; test papers in no order, and three without words (as in CiteSeer)."""
    monkeypatch.setitem(planetoid_module._KNOWN, "CiteSeer", (703, 1400, 12, 4))
    (raw := tmp_path / "planetoid" / "CiteSeer" / "raw").mkdir(parents=True)
    dice = np.random.default_rng(0)
    index = dice.permutation([n for n in range(600, 703) if n not in (610, 650, 651)])
    words = sp.csr_matrix((dice.random((700, 12)) < 0.2).astype(np.float32))
    topics = np.eye(4, dtype=np.int32)[dice.integers(0, 4, 700)]
    graph: dict[int, list[int]] = defaultdict(list)
    for a, b in dice.integers(0, 703, (900, 2)):
        graph[int(a)].append(int(b))
        graph[int(b)].append(int(a))
    parts = {
        "x": words[:60], "allx": words[:600], "tx": words[600:], "y": topics[:60], "ally": topics[:600],
        "ty": topics[600:], "graph": graph,
    }  # fmt: skip
    for name, part in parts.items():
        (raw / f"ind.citeseer.{name}").write_bytes(pickle.dumps(part, protocol=2))
    (raw / "ind.citeseer.test.index").write_text("".join(f"{number}\n" for number in index))
    return tmp_path


def test_citation_networks_are_read_as_torch_geometric_does(cora: Path) -> None:
    from torch_geometric.io.planetoid import read_planetoid_data
    from torch_geometric.transforms import NormalizeFeatures

    theirs = NormalizeFeatures()(
        read_planetoid_data(str(cora / "planetoid" / "CiteSeer" / "raw"), "citeseer")
    )
    graph = Planetoid(name="CiteSeer").read(cora).tidy("it")
    assert torch.equal(graph.features, theirs.x)
    assert torch.equal(graph.target, theirs.y)
    assert set(map(tuple, graph.edges.t().tolist())) == {
        (a, b) for a, b in map(tuple, theirs.edge_index.t().tolist()) if a != b
    }
    for split, mask in (
        (Split.TRAIN, theirs.train_mask),
        (Split.VAL, theirs.val_mask),
        (Split.TEST, theirs.test_mask),
    ):
        assert torch.equal(graph.rows[split], mask.nonzero().flatten())


class Harm:
    def __reduce__(self) -> Any:
        return (Path.touch, (Path("owned"),))


def test_citation_networks_that_cannot_be_read(cora: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(cora)
    raw = cora / "planetoid" / "CiteSeer" / "raw"
    task = Planetoid(name="CiteSeer")
    with pytest.raises(ValueError, match="lies below the data folder, and none is set"):
        task.open(None)
    with pytest.raises(ValueError, match=r"Cora/raw lacks ind.cora.x, ind.cora.tx"):
        Planetoid(name="Cora").open(cora)
    (raw / "ind.citeseer.y").write_bytes(pickle.dumps(Harm()))
    with pytest.raises(
        ValueError, match=r"ind.citeseer.y cannot be read, and was not run: it names .*neither an array"
    ):
        task.open(cora)
    assert not Path("owned").exists()


def test_any_data_set_of_torch_geometric(tmp_path: Path) -> None:
    karate = Geometric(dataset="KarateClub", inputs=34, classes=4, nodes=34, edges=156)
    splits = karate.open(tmp_path)
    assert [splits.samples(split) for split in Split] == [4, 8, 7]
    assert "KarateClub names no test nodes: 7 were drawn" in splits.notes
    (batch,) = splits.batches(Split.TRAIN, CPU)
    assert (batch.inputs[0].shape, batch.inputs[1].shape) == ((34, 34), (2, 156))
    several = Geometric(
        dataset="FakeDataset", arguments={"num_graphs": 1, "task": "node"}, inputs=64, classes=10
    )
    assert several.open(tmp_path).samples(Split.VAL) > 0
    for task, said in (
        (
            Geometric(dataset="KarateClub", inputs=33, classes=4),
            "34 numbers a node, not 33: say so on the page",
        ),
        (Geometric(dataset="KarateClub", inputs=34, classes=3), "labels up to 3, but classes is 3"),
        (
            Geometric(dataset="KarateKlub", inputs=34, classes=4),
            "has no 'KarateKlub'; did you mean 'KarateClub'",
        ),
        (Geometric(dataset="WikiCS", inputs=300, classes=10), "lacks some of: data.json. Nothing is fetched"),
        (Geometric(dataset="PPI", inputs=50, classes=121), "Nothing is fetched"),
        (
            Geometric(dataset="FakeDataset", arguments={"num_graphs": 3}, inputs=64, classes=10),
            "holds 3 graphs, but says not which is of which split",
        ),
    ):
        with pytest.raises(ValueError, match=said):
            task.open(tmp_path)


def test_several_labels_and_areas_under_the_curve(tmp_path: Path) -> None:
    karate = Geometric(dataset="KarateClub", inputs=34, classes=4, metric_name="roc_auc")
    (batch,) = karate.open(tmp_path).batches(Split.TEST, CPU)
    assert batch.target is not None
    found = evaluate(
        torch.nn.Linear(34, 4),
        [Batch(batch.inputs[:1], batch.target)],
        karate.predict,
        karate.score,
        kind=ValScore,
    )
    assert found.samples == 7
    assert karate.chance == 0.5


# -- embedded ----------------------------------------------------------------------------------------------------


def test_digits_by_who_is_most_like_them() -> None:
    splits = DigitsGraph(k=3, labelled=2).open(None)
    (batch,) = splits.batches(Split.TRAIN, CPU)
    x, edges = batch.inputs
    assert [splits.samples(split) for split in Split] == [20, 300, 1477]
    assert (x.shape, edges.shape) == ((1797, 64), (2, 1797 * 3))
    for node in (0, 700, 1796):
        far = (x - x[node]).square().sum(1)
        far[node] = torch.inf
        near = edges[0, edges[1] == node]
        assert far[near].max() <= far.topk(3, largest=False).values.max()
    with pytest.raises(ValueError, match=r"leave none to test"):
        DigitsGraph(labelled=150).open(None)


def test_digits_as_clouds() -> None:
    splits = DigitsCloud(points=16, batch=50, augment=True).open(None)
    batch = next(splits.batches(Split.TRAIN, CPU, torch.Generator().manual_seed(0)))
    plain = next(splits.batches(Split.VAL, CPU))
    assert batch.inputs[0].shape == (50, 16, 3)
    assert plain.inputs[0][:, :, :2].abs().max() <= 1
    assert (plain.inputs[0][:, 0, 2] >= plain.inputs[0][:, -1, 2]).all()  # the most ink first


def test_meshes_become_clouds(tmp_path: Path) -> None:
    square = "OFF\n# a square of two sides\n4 1 0\n0 0 0\n2 0 0\n2 2 0\n0 2 0\n4 0 1 2 3\n"
    points, faces = off(square)
    assert faces.tolist() == [[0, 1, 2], [0, 2, 3]]
    assert off(square.replace("OFF\n# a square of two sides\n", "OFF"))[0].tolist() == points.tolist()
    for label in ("chair", "desk"):
        for split, count in (("train", 4), ("test", 2)):
            (folder := tmp_path / "modelnet40" / label / split).mkdir(parents=True)
            for number in range(count):
                (folder / f"{label}_{number}.off").write_text(square)
    task = ModelNet(classes=("chair", "desk"), points=500, batch=4, val=0.25)
    splits = task.open(tmp_path)
    assert [splits.samples(split) for split in Split] == [6, 2, 4]
    (batch,) = splits.batches(Split.TEST, CPU)
    clouds = batch.inputs[0]
    assert clouds.shape == (4, 500, 3)
    assert clouds.norm(dim=2).amax(1).tolist() == pytest.approx([1.0] * 4, abs=1e-5)
    assert clouds[0].abs().mean(0)[:2].tolist() == pytest.approx(
        [0.353, 0.353], abs=0.05
    )  # evenly over the square
    assert list((tmp_path / "modelnet40" / ".decoct-cache").glob("test-500-points-*.safetensors"))
    again = next(task.open(tmp_path).batches(Split.TEST, CPU)).inputs[0]
    assert torch.equal(again, clouds)
    with pytest.raises(ValueError, match=r"too few: sofa \(0\)"):
        ModelNet(classes=("chair", "sofa")).open(tmp_path)
    (tmp_path / "modelnet40" / "desk" / "test" / "desk_0.off").write_text("no mesh")
    with pytest.raises(ValueError, match=r"desk_0.off is no mesh in OFF format: it does not begin with OFF"):
        task.open(tmp_path)


# -- judging ---------------------------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 999), ties=st.booleans())
def test_scores_equal_those_of_scikit_learn(seed: int, ties: bool) -> None:
    dice = torch.Generator().manual_seed(seed)
    outputs, target = torch.randn(30, 4, generator=dice), (torch.rand(30, 4, generator=dice) < 0.4).float()
    outputs = outputs.round() if ties else outputs
    target[0], target[1] = 0.0, 1.0  # both kinds of each label
    assert micro_f1(outputs > 0, target) == pytest.approx(f1_score(target, outputs > 0, average="micro"))
    assert roc_auc(outputs, target) == pytest.approx(roc_auc_score(target, outputs))
    unknown = target.clone()
    unknown[20:] = torch.nan
    assert micro_f1(outputs > 0, unknown) == pytest.approx(micro_f1(outputs[:20] > 0, target[:20]))
    assert roc_auc(outputs, unknown) == pytest.approx(roc_auc(outputs[:20], target[:20]))


def test_a_label_is_given_from_a_probability_of_one_half_on() -> None:
    assert PPI().predict(torch.tensor([[-0.1, 0.1, 0.4]])).tolist() == [[False, True, True]]
    assert accuracy(torch.tensor([0, 1, 2]), torch.tensor([0, 2, -100])) == 0.5


def test_what_is_not_judged_does_not_count() -> None:
    splits = NodeSplits(small().tidy("it"))
    network = GCN(inputs=5, classes=3).build()
    task = DigitsGraph()
    found = evaluate(network, splits.batches(Split.VAL, CPU), task.predict, task.score, kind=ValScore)
    assert found.samples == 10


# -- training -----------------------------------------------------------------------------------------------------


class Bench:
    """What training wants of a session."""

    def __init__(self) -> None:
        self.told: list[dict[str, float]] = []

    def epochs(self, total: int, **_: Any) -> Any:
        return range(total)

    def log(self, values: Any, step: int) -> None:
        self.told.append(dict(values))


def test_a_graph_network_learns_and_the_best_epoch_is_kept() -> None:
    from contextlib import nullcontext

    torch.manual_seed(0)
    task = DigitsGraph(k=5)
    splits, bench = task.open(None), Bench()
    network = GCN(inputs=64, classes=10, input_dropout=0.0).build()
    train = Train(epochs=30, lr=0.02, optimizer="adam", schedule="constant", choose="best")
    train(network, splits, device=CPU, autocast=nullcontext, epochs=bench.epochs, log=bench.log)
    score = evaluate(network, splits.batches(Split.VAL, CPU), task.predict, task.score, kind=ValScore).value
    assert score == pytest.approx(max(told["accuracy"] for told in bench.told))
    assert score > 0.8


def sparse(share: float) -> Tensor:
    return torch.randn(200, 300) * (torch.rand(200, 300) < share)


def test_thinned_features_are_dropped_out_as_by_the_module() -> None:
    torch.manual_seed(0)
    graph = Graph(**{**vars(small(200, 400)), "features": sparse(0.05)})
    (batch,) = NodeSplits(graph).batches(Split.TRAIN, CPU)
    network = GCN(inputs=300, classes=3, input_dropout=0.4).build()
    thinning = Thinning(network)
    mean = torch.zeros(200, 300)
    for _ in range(300):
        (x, edges) = thinning.inputs(batch)
        assert edges is batch.inputs[1]
        ratio = x[x != 0] / batch.inputs[0][x != 0]
        torch.testing.assert_close(ratio, torch.full_like(ratio, 1 / 0.6))
        mean += x / 300
    assert not network.input_dropout.training, "what is thinned already is not thinned again"
    torch.testing.assert_close(mean, batch.inputs[0], rtol=0.35, atol=1e-6)
    dense = Graph(**{**vars(graph), "features": torch.randn(200, 300)})
    (other,) = NodeSplits(dense).batches(Split.TRAIN, CPU)
    assert thinning.inputs(other)[0] is other.inputs[0]
    assert network.input_dropout.training
