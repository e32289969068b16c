"""Networks cut into blocks, and students of one trunk and several ends: the same answers, and they outlive us."""

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from compress.calibration import FITTED, Evidence, fit
from compress.graft import joined
from compress.merging import Merger
from students import compact
from students.branches import Blocks, Branched, ChannelCoding, Join, cut
from students.structure import Untraceable
from teachers.labels import LabelSpace
from teachers.networks import VGG, DeepLab, DigitsCNN, LeNet5, ResNet
from teachers.signature import Signature

DENSE = DeepLab(classes=3, widths=(4, 4, 4, 4), blocks=1, head=4, rates=(1,))


@pytest.mark.parametrize(
    ("network", "ends", "shape", "shapes"),
    [
        (DigitsCNN(widths=(4, 6, 8)), ("bn1", "bn2"), (1, 8, 8), ((4, 8, 8), (6, 4, 4), (10,))),
        (ResNet(), ("layer1", "layer2"), (3, 16, 16), ((16, 16, 16), (32, 8, 8), (10,))),
        (LeNet5(), ("conv1", "fc1"), (1, 28, 28), ((6, 14, 14), (120,), (10,))),
        (DENSE, ("stem", "pyramid"), (3, 16, 24), ((4, 8, 12), (4, 2, 3), (3, 16, 24))),
        (VGG(), ("features.5",), (3, 16, 16), ((64, 8, 8), (10,))),
    ],
    ids=["digits", "resnet", "lenet", "deeplab", "vgg"],
)  # fmt: skip
def test_blocks_in_a_row_are_the_network(network: Any, ends: Any, shape: Any, shapes: Any) -> None:
    torch.manual_seed(0)
    whole, images = network.build(), torch.randn(3, *shape)
    training = [module.training for module in whole.modules()]
    blocks = cut(whole, ends, (images,), "it")
    assert [module.training for module in whole.modules()] == training
    assert blocks.shapes == shapes
    feature = images
    with torch.no_grad():
        for part in blocks.parts:
            feature = part.eval()(feature, images)
        assert torch.equal(feature, whole.eval()(images))
    shared = {id(p) for part in blocks.parts for p in part.parameters()}
    assert shared == {id(p) for p in whole.parameters()}, "blocks share the weights of the whole"


class Loose(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.unused = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(nn.functional.dropout(self.first(x), 0.5, self.training))  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("network", "ends", "shape", "said"),
    [
        (
            DigitsCNN(),
            ("bn4",),
            (1, 8, 8),
            "it has no module 'bn4' to be cut behind; did you mean .*there are conv1, bn1",
        ),
        (
            ResNet(),
            ("layer1.0.bn1",),
            (3, 16, 16),
            "goes around it. Cut behind a module through which everything",
        ),
        (
            DigitsCNN(),
            ("bn2", "bn1"),
            (1, 8, 8),
            "not cut in the order in which its modules are called: bn2, bn1",
        ),
        (Loose, ("first",), (4,), "dropout called as a function"),
    ],
    ids=str,
)
def test_cuts_that_cannot_be_made(network: Any, ends: Any, shape: Any, said: str) -> None:
    whole = network.build() if hasattr(network, "build") else network()
    with pytest.raises((ValueError, Untraceable), match=said):
        cut(whole, ends, (torch.randn(2, *shape),), "it")


@pytest.mark.parametrize("shape", [(2, 20), (2, 20, 3, 5)])
def test_channel_coding_begins_open_and_weighs_by_the_mean_over_places(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    coding, feature = ChannelCoding(20, len(shape) > 2), torch.randn(shape)
    assert torch.equal(coding(feature), feature)
    nn.init.normal_(coding.excite.weight)
    mean = feature if len(shape) == 2 else feature.mean((2, 3))
    gate = 2 / (1 + torch.exp(-(mean @ coding.squeeze.weight.T).clamp_min(0) @ coding.excite.weight.T))
    wanted = feature * (gate if len(shape) == 2 else gate[:, :, None, None])
    torch.testing.assert_close(coding(feature), wanted)


@settings(max_examples=12, deadline=None)
@given(
    st.integers(0, 2**31), st.sampled_from(FITTED), st.sampled_from(["apart", "over", "both"]), st.booleans()
)
def test_what_joins_heads_is_the_merger_as_a_layer(seed: int, how: Evidence, which: str, dense: bool) -> None:
    spaces = {
        "apart": [LabelSpace(("b", "a"), "x"), LabelSpace(("c", "d", "e"), "y")],
        "over": [LabelSpace(("a", "b", "c"), "x"), LabelSpace(("c", "b", "d"), "y")],
        "both": [LabelSpace(("a", "b"), "x"), LabelSpace(("b", "c"), "y"), LabelSpace(("e", "d"), "z")],
    }[which]
    union = spaces[0].union(*spaces[1:])
    asked = LabelSpace(tuple(reversed(union.names))[: len(union) - 1])
    generator = torch.Generator().manual_seed(seed)
    rows = [3 * torch.randn(24, len(s), generator=generator) for s in spaces]
    made, _ = fit(rows, [s.owner for s in spaces], [s.names for s in spaces], how)
    merger = Merger(spaces, asked, "auto", made)
    if dense:
        rows = [z.view(2, 3, 4, -1).movedim(-1, 1) for z in rows]
    layer = joined(merger, nn.Identity())
    mine, its = layer(rows), merger(rows)
    torch.testing.assert_close(mine.log_softmax(1), its.log_softmax(1), atol=1e-3, rtol=1e-3)


def test_joining_by_columns() -> None:
    join = Join([(0, 2), (2, 1)], [1, 2])
    one, other = torch.tensor([[1.0, 2.0]]), torch.tensor([[4.0, 8.0]])
    assert join([one, other]).tolist() == [[8.0, 3.0]]


def branched(blocks: Blocks, leaves: tuple[int, int]) -> Branched:
    tails = [[ChannelCoding(blocks.shapes[leaf - 1][0]), *blocks.parts[leaf:]] for leaf in leaves]
    return Branched(
        blocks.parts, list(zip(leaves, tails, strict=True)), [(), ()], Join([range(4), range(4, 8)], range(8))
    )


def test_a_branched_student_answers_trains_and_outlives_us(tmp_path: Path) -> None:
    torch.manual_seed(0)
    whole, images = DigitsCNN(classes=4, widths=(4, 6, 8)).build(), torch.randn(5, 1, 8, 8)
    student = branched(cut(whole, ("bn1", "bn2"), (images,), "it"), (1, 2)).eval()
    with torch.no_grad():
        assert torch.equal(student(images), whole.eval()(images).repeat(1, 2)), "open codings change nothing"
        for part in student.modules():
            if isinstance(part, ChannelCoding):
                nn.init.normal_(part.excite.weight)
    assert len(student.trunk) == 2
    signature = Signature(((1, 8, 8),), tuple("abcdefgh"))
    compact.put_away(student, tmp_path, signature=signature)
    again = compact.take_out(tmp_path)
    assert torch.equal(again(images), student(images))
    student.train()(images).square().sum().backward()
    assert all(p.grad is not None for p in student.parameters())
