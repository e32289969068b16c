"""Graph networks against torch-geometric's layers and plain loops, and read whole by torch.fx and torch.export."""

import warnings
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from reports.profile import layers, macs, profile
from students.structure import describe
from teachers.networks import DGCNN, GAT, GCN, GIN, GraphSAGE, Network, NodeMLP, passing
from teachers.networks.dgcnn import EdgeConv, nearest
from teachers.networks.passing import GATLayer, GCNLayer, GINLayer, SAGELayer
from teachers.signature import Signature

SPECS: dict[str, Network] = {
    "gcn": GCN(inputs=6, classes=3, widths=(8,)),
    "gat": GAT(inputs=6, classes=3, widths=(4, 3), heads=(2, 2), output_heads=2, residual=True),
    "sage": GraphSAGE(inputs=6, classes=3, widths=(8,)),
    "gin": GIN(inputs=6, classes=3, widths=(8, 8)),
    "mlp": NodeMLP(inputs=6, classes=3, widths=(8,), norm=True),
    "dgcnn": DGCNN(inputs=6, classes=3, widths=(8, 8), embedding=8, head=(8,), k=4, per_node=True),
}
each = pytest.mark.parametrize("name", SPECS)
SIGNATURE = Signature(((6,), (2,)), ("a", "b", "c"), nodes=50, edges=200)


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        yield


def graph(nodes: int = 30, edges: int = 90) -> tuple[Tensor, Tensor]:
    receive = torch.randint(nodes, (edges,))
    send = (receive + torch.randint(1, nodes, (edges,))) % nodes
    return torch.randn(nodes, 6), torch.stack([send, receive])


# -- against torch-geometric ---------------------------------------------------------------------------------


def test_layers_equal_those_of_torch_geometric() -> None:
    from torch_geometric.nn import GATConv, GCNConv, GINConv, SAGEConv

    x, edges = graph()
    mine: nn.Module
    mine, theirs = GCNLayer(6, 5), GCNConv(6, 5)
    nn.init.normal_(mine.bias)
    theirs.load_state_dict({"lin.weight": mine.linear.weight, "bias": mine.bias})
    torch.testing.assert_close(mine(x, edges), theirs(x, edges))

    for mean, residual in ((False, False), (False, True), (True, True)):
        mine = GATLayer(6, 4, 3, mean=mean, residual=residual)
        theirs = GATConv(6, 4, heads=3, concat=not mean, residual=residual)
        nn.init.normal_(mine.bias)
        state = {
            "lin.weight": mine.linear.weight, "bias": mine.bias,
            "att_src": mine.source.weight.view(1, 3, 4), "att_dst": mine.target.weight.view(1, 3, 4),
        }  # fmt: skip
        if residual:
            state["res.weight"] = mine.residual.weight
        theirs.load_state_dict(state)
        torch.testing.assert_close(mine(x, edges), theirs(x, edges))

    mine, theirs = SAGELayer(6, 5), SAGEConv(6, 5)
    nn.init.normal_(mine.root.bias)
    theirs.load_state_dict(
        {
            "lin_l.weight": mine.neighbours.weight,
            "lin_l.bias": mine.root.bias,
            "lin_r.weight": mine.root.weight,
        }
    )
    torch.testing.assert_close(mine(x, edges), theirs(x, edges))

    mine = GINLayer(6, 5).eval()
    theirs = GINConv(nn.Sequential(mine.first, mine.norm, mine.relu, mine.second))
    torch.testing.assert_close(mine(x, edges), theirs(x, edges))


@pytest.mark.parametrize("name", ["gcn", "gat", "sage", "gin"])
def test_the_quick_way_is_the_plain_way(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Edge by edge without a row an edge, outputs and gradients alike; and what is counted stays the plain way."""
    (x, edges), spec = graph(), SPECS[name]
    network = spec.build().double().eval()
    found = []
    for least in (2**30, 1):
        monkeypatch.setattr(passing, "QUICK", least)
        features = x.double().requires_grad_()
        network.zero_grad()
        outputs = network(features, edges)
        outputs.square().sum().backward()
        gradients = [p.grad for p in network.parameters() if p.grad is not None]
        found.append(
            [
                outputs.detach(),
                features.grad,
                *gradients,
                torch.tensor(macs(network, (features.detach(), edges))),
            ]
        )
    for one, other in zip(*found, strict=True):
        assert one is not None
        torch.testing.assert_close(one, other)
    assert profile(network, (x.double(), edges)).uncounted == ()


def test_gradients_of_the_quick_way() -> None:
    from teachers.networks.quick import weighted_sum

    _, edges = graph(6, 15)
    h = torch.randn(6, 6, dtype=torch.float64, requires_grad=True)
    shares = torch.rand(15, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda a, b: weighted_sum(a, b, edges), (h, shares))
    assert torch.autograd.gradcheck(lambda a: weighted_sum(a, None, edges), h)


# -- DGCNN ---------------------------------------------------------------------------------------------------


def test_edge_convolution_edge_by_edge() -> None:
    layer, x = EdgeConv(3, 4, 5).eval(), torch.randn(2, 12, 3)
    nn.init.normal_(layer.norm.running_mean)
    for cloud, result in zip(x, layer(x), strict=True):
        for i, point in enumerate(cloud):
            far = [float((point - other).square().sum()) for other in cloud]
            near = sorted(range(12), key=lambda j: far[j])[:5]
            assert i in near
            pairs = [
                layer.neighbours.weight @ (cloud[j] - point)
                + (layer.centre.weight + layer.neighbours.weight) @ point
                for j in near
            ]
            each_pair = layer.activation(layer.norm(torch.stack(pairs)))
            torch.testing.assert_close(result[i], each_pair.amax(0), rtol=1e-4, atol=1e-5)


def test_nearest_of_a_cloud_far_from_the_origin() -> None:
    x = torch.randn(1, 9, 3, dtype=torch.float64)
    assert torch.equal(nearest(x, 9)[0].sort(1).values, torch.arange(9).expand(9, 9))
    assert torch.equal(nearest(x, 3), nearest(x + 5, 3))


def test_a_cloud_is_a_set_of_points() -> None:
    network = DGCNN(classes=3, widths=(8, 8), embedding=16, head=(8,), k=4).build().eval()
    x = torch.randn(2, 20, 3)
    torch.testing.assert_close(network(x[:, torch.randperm(20)]), network(x))
    assert sum(p.numel() for p in DGCNN(classes=40).build().parameters()) == 1_809_320  # as published: 1.81 M


# -- all of them ---------------------------------------------------------------------------------------------


@each
def test_nodes_and_edges_in_any_order(name: str) -> None:
    network, (x, edges) = SPECS[name].build().eval(), graph()
    answers = network(x, edges)
    order = torch.randperm(30)
    torch.testing.assert_close(
        network(x[order], order.argsort()[edges]), answers[order], rtol=1e-4, atol=1e-5
    )
    torch.testing.assert_close(network(x, edges[:, torch.randperm(90)]), answers, rtol=1e-4, atol=1e-5)


@each
def test_read_whole_with_free_sizes(name: str) -> None:
    """Written down by torch.fx, exported once, and right for one node, no edge, and many of both."""
    network, inputs = SPECS[name].build(), SIGNATURE.example(2)
    assert describe(network, inputs)["form"] == "graph"
    network.eval()
    dims = ({0: torch.export.Dim.AUTO}, {1: torch.export.Dim.AUTO})
    exported = torch.export.export(network, inputs, dynamic_shapes=dims).module()
    for nodes, edges in ((1, 1), (5, 0), (7, 30), (300, 2000)):
        if name == "dgcnn" and nodes < 4:
            continue  # it looks for the four nearest
        x, e = torch.randn(nodes, 6), torch.randint(nodes, (2, edges))
        torch.testing.assert_close(exported(x, e), network(x, e))


@each
def test_gradients_reach_every_parameter(name: str) -> None:
    network, (x, edges) = SPECS[name].build(), graph()
    network(x, edges).square().sum().backward()
    missing = [key for key, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    # A batch norm takes away what a bias before it adds, and a softmax what all scores share.
    assert not [key for key in missing if "target" not in key and "second.bias" not in key]


def test_some_need_no_edges() -> None:
    x, edges = graph()
    for name in ("mlp", "dgcnn"):
        network = SPECS[name].build().eval()
        assert torch.equal(network(x), network(x, edges))


def test_nodes_without_neighbours_keep_what_is_theirs() -> None:
    x, _ = graph()
    nothing = torch.zeros(2, 0, dtype=torch.long)
    layer = GATLayer(6, 4, 2)
    torch.testing.assert_close(layer(x, nothing), layer.linear(x))  # all attention goes to the node itself
    torch.testing.assert_close((other := GCNLayer(6, 4))(x, nothing), other.linear(x))
    torch.testing.assert_close((last := SAGELayer(6, 4))(x, nothing), last.root(x))


def test_heads_and_widths_hang_together() -> None:
    with pytest.raises(ValueError, match="2 hidden layers by its widths and 1 by its heads"):
        GAT(inputs=6, classes=3, widths=(4, 4), heads=(2,))


# -- what they cost -----------------------------------------------------------------------------------------


def test_macs_of_a_graph_are_those_of_a_node() -> None:
    """Products of matrices, and a MAC for every number that passes along an edge; an input is a node."""
    x, edges = graph(30, 90)
    gcn = GCN(inputs=6, classes=3, widths=(8,)).build()
    degrees = 90 * 2  # counted once a layer, one number an edge
    assert macs(gcn, (x, edges)) == (30 * (6 * 8 + 8 * 3) + 90 * (8 + 3) + degrees) // 30
    gat = GAT(inputs=6, classes=3, widths=(4,), heads=(2,)).build()
    dense = 30 * (6 * 8 + 8 * 3) + 30 * 2 * (8 + 3)  # and both halves of every score
    assert macs(gat, (x, edges)) == (dense + 120 * (8 + 3) + 120 * (2 + 1)) // 30
    assert profile(gat, (x, edges)).uncounted == ()
    assert sum(layer.macs for layer in layers(gcn, (x, edges))) == 6 * 8 + 8 * 3


@each
def test_everything_they_do_is_counted(name: str) -> None:
    assert profile(SPECS[name].build(), SIGNATURE.usual()).uncounted == ()


def test_the_usual_graph() -> None:
    x, edges = SIGNATURE.usual()
    assert (x.shape, edges.shape) == ((50, 6), (2, 200))
    assert not (edges[0] == edges[1]).any()
    small, few = SIGNATURE.example(2)
    assert few.shape[1] / len(small) == 4
    assert int(few.max()) < len(small)
    lonely = Signature(((6,),), ("a",), nodes=70, edges=0)
    assert [t.shape for t in lonely.usual()] == [(70, 6)]
