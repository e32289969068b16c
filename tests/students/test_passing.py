"""Graph students: cut channel by channel and head by head, and kept as folders with free node and edge counts."""

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from compress import Prune, Session, State
from reports.profile import macs
from students import compact, passing
from students.surgery import Anatomy
from teachers.networks import DGCNN, GAT, GCN, GIN, GraphSAGE, Network, NodeMLP
from teachers.signature import Signature
from teachers.task import Batch
from teachers.teacher import Teacher

SIGNATURE = Signature(((6,), (2,)), ("a", "b", "c"), nodes=64, edges=256)
SPECS: dict[str, Network] = {
    "gcn": GCN(inputs=6, classes=3, widths=(8, 6)),
    "gat": GAT(inputs=6, classes=3, widths=(4, 6), heads=(4, 2), output_heads=2, residual=True),
    "sage": GraphSAGE(inputs=6, classes=3, widths=(8, 6)),
    "gin": GIN(inputs=6, classes=3, widths=(8, 6)),
    "mlp": NodeMLP(inputs=6, classes=3, widths=(8, 6)),
}
each = pytest.mark.parametrize("name", SPECS)


def built(spec: Network) -> nn.Module:
    torch.manual_seed(0)
    network = spec.build().eval()
    for p in network.parameters():
        nn.init.normal_(p, std=0.5)
    return network


# -- cutting -------------------------------------------------------------------------------------------------


@each
@pytest.mark.parametrize("heads", [False, True])
def test_a_cut_equals_silence(name: str, heads: bool) -> None:
    """Channels of which nothing is read any more may as well not be there."""
    if heads and name != "gat":
        with pytest.raises(ValueError, match=r"it has no heads|has no channel"):
            Anatomy(built(SPECS[name]), SIGNATURE.example(2), heads=True)
        return
    network = built(SPECS[name])
    anatomy = Anatomy(network, SIGNATURE.example(2), heads=heads)
    assert not [lock for lock in anatomy.locked if "output" not in lock.reason]
    alive = anatomy.full()
    for number, group in enumerate(anatomy.groups):
        alive[anatomy.span(number)][: group.width // 2] = False
    silent = built(SPECS[name])
    modules = dict(silent.named_modules())
    for number, group in enumerate(anatomy.groups):
        dead = torch.from_numpy(~alive[anatomy.span(number)])
        for member in group.readers():
            weight: Any = modules[member.module].weight
            gone = member.index[dead[member.unit]]
            with torch.no_grad():
                if weight.dim() == 3:  # (heads, width, 1): positions are those of all heads in a row
                    weight.view(-1)[gone] = 0.0
                else:
                    weight[:, gone] = 0.0
    cut = anatomy.cut(network, alive)
    x, edges = SIGNATURE.example(3, seed=5)
    torch.testing.assert_close(cut(x, edges), silent(x, edges), rtol=1e-4, atol=1e-5)
    assert sum(p.numel() for p in cut.parameters()) < sum(p.numel() for p in silent.parameters())


def test_what_a_unit_weighs() -> None:
    network = built(GAT(inputs=6, classes=3, widths=(4,), heads=(2,)))
    (group,), _ = passing.propose(network)
    layer, after = (network.get_submodule(f"layers.{n}") for n in (0, 1))
    w, u, v, b = (
        p.detach() for p in (layer.linear.weight, layer.source.weight, layer.target.weight, layer.bias)
    )  # type: ignore[union-attr]
    r: Tensor = after.linear.weight.detach()  # type: ignore[union-attr, operator]
    for c in range(4):
        both = [c, 4 + c]
        wanted = w[both].abs().sum() + b[both].abs().sum() + r[:, both].abs().sum()
        wanted += u[:, c].abs().sum() + v[:, c].abs().sum()
        assert float(passing.importance(network, group, 1.0)[c]) == pytest.approx(float(wanted), rel=1e-5)
    (group,), _ = passing.propose(network, heads=True)
    head = (
        w[:4].square().sum()
        + b[:4].square().sum()
        + r[:, :4].square().sum()
        + u[0].square().sum()
        + v[0].square().sum()
    )
    assert float(passing.importance(network, group, 2.0)[0]) == pytest.approx(float(head), rel=1e-5)


@pytest.mark.parametrize("importance", ["l1", "random", "taylor"])
def test_heads_then_channels_to_a_budget(importance: Any) -> None:
    teacher = Teacher("gat", built(SPECS["gat"]), SIGNATURE)
    x, edges = SIGNATURE.example(4)
    target = torch.arange(len(x)) % 3

    class Bench(Session):
        def batches(self, split: Any = None) -> Any:
            yield Batch((x, edges), target)

    state, left = State((teacher,)), macs(teacher.module, SIGNATURE.usual())
    for stage in (
        Prune(macs=0.8, units="heads", importance=importance),
        Prune(macs=0.8, round_to=2, importance=importance),
    ):
        state = stage(state, Bench())
        assert state.student is not None
        now = macs(state.student, SIGNATURE.usual())
        assert now <= 0.81 * left
        left = now
    assert state.student is not None
    assert state.student(x, edges).shape == (len(x), 3)


def test_no_importance_by_batch_norm() -> None:
    teacher = Teacher("gcn", built(SPECS["gcn"]), SIGNATURE)
    with pytest.raises(ValueError, match=r"'layers.0.linear' has no bn_scale importance: choose l1 or l2"):
        Prune(macs=0.8, importance="bn_scale", round_to=2)(State((teacher,)), Session.bare())


# -- keeping -------------------------------------------------------------------------------------------------


def loaded(folder: Path) -> Callable[..., Tensor]:
    spec = importlib.util.spec_from_file_location("load_of_a_folder", folder / "load.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    found: Callable[..., Tensor] = module.load()
    return found


def test_a_folder_for_any_number_of_nodes_and_edges(tmp_path: Path) -> None:
    """Proven in a Python that knows neither us nor torch-geometric, after heads were cut."""
    student = built(SPECS["gat"])
    anatomy = Anatomy(student, SIGNATURE.example(2), heads=True)
    alive = anatomy.full()
    alive[anatomy.span(0)][:3] = False
    student = anatomy.cut(student, alive)
    val = [Batch(SIGNATURE.usual(), torch.zeros(64, dtype=torch.long))]
    proof = compact.save(student, tmp_path / "compact", SIGNATURE, val=val)
    assert (proof.samples, proof.inputs, proof.needs) == (64, "val", ())
    assert max(form.relative_difference for form in proof.forms.values()) < 1e-5
    exported = torch.export.load(tmp_path / "compact" / "model.pt2").module()
    for nodes, edges in ((1, 1), (3, 0), (200, 1500)):
        inputs = (torch.randn(nodes, 6), torch.randint(nodes, (2, edges)))
        torch.testing.assert_close(exported(*inputs), student(*inputs))
        torch.testing.assert_close(loaded(tmp_path / "compact")(*inputs), student(*inputs))


def test_networks_that_build_their_graphs_are_kept_too(tmp_path: Path) -> None:
    student = built(DGCNN(inputs=6, classes=3, per_node=True, k=4, widths=(8,), embedding=8, head=(8,)))
    compact.put_away(student, tmp_path, signature=SIGNATURE)
    x, edges = SIGNATURE.example(1)
    twin = compact.take_out(tmp_path)
    assert torch.equal(twin(x, edges), student(x))
