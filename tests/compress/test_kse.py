"""KSE as a stage: what shares, what stays, budgets, and what it leaves to the stages after it."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from compress import GAL, KSE, Finetune, Prune, Recalibrate, State
from compress.indicator import indicator, kernels_of_level, levels
from compress.session import Sees, Session
from compress.sharing import kernels_of
from students import compact
from students.kernels import SharedConvolution
from students.structure import stored
from teachers.networks import VGG, DenseNet, ResNet
from teachers.signature import Signature
from teachers.tasks import Toy
from teachers.teacher import Teacher

IMAGES = Signature(((3, 32, 32),), tuple("0123456789"))


def teacher_of(network: nn.Module, signature: Signature = IMAGES, seed: int = 0) -> Teacher:
    """Random weights whose channels differ in size, as trained ones do; batch norms that do something."""
    torch.manual_seed(seed)
    for module in network.modules():
        if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d):
            with torch.no_grad():
                shape = (1, module.weight.shape[1], *[1] * (module.weight.dim() - 2))
                module.weight.mul_(torch.rand(shape) ** 2)
    return Teacher("toy", network.eval(), signature)


def shared_by(stage: KSE, teacher: Teacher) -> tuple[nn.Module, dict[str, float], list[str]]:
    told: dict[str, float] = {}
    session = Session(sees=stage.sees, report=lambda values, step: told.update(values))
    student = stage(State((teacher,)), session).student
    assert student is not None
    return student, told, session.notes


def layers(network: nn.Module) -> dict[str, SharedConvolution]:
    return {name: m for name, m in network.named_modules() if isinstance(m, SharedConvolution)}


def size(network: nn.Module) -> int:
    return sum(t.numel() * t.element_size() for t in stored(network).values())


@pytest.fixture(scope="module")
def resnet() -> Teacher:
    return teacher_of(ResNet(depth=20).build())


@pytest.mark.parametrize(("granularity", "shift"), [(2, 0), (4, 0), (5, 1), (6, 0)])
def test_every_channel_keeps_what_its_level_says(granularity: int, shift: int, resnet: Teacher) -> None:
    stage = KSE(granularity=granularity, shift=shift, cut_unread=False)
    student, _, _ = shared_by(stage, resnet)
    found = layers(student)
    modules = dict(resnet.module.named_modules())
    assert found
    for name, layer in found.items():
        kernels = kernels_of(modules[name])
        outputs = kernels.shape[2]
        level = levels(indicator(kernels), granularity)[0]
        whole, dense = kernels[0], kernels_of(layer.dense())[0]
        for channel, place in enumerate(level.tolist()):
            q = kernels_of_level(place, outputs, granularity, shift)
            distinct = len(dense[channel].unique(dim=0))
            if q == 0:
                assert dense[channel].abs().max() == 0
            elif q == outputs:
                assert torch.equal(dense[channel], whole[channel])
            else:
                assert distinct == q
                for centroid in dense[channel].unique(dim=0):
                    members = (dense[channel] == centroid).all(-1)
                    torch.testing.assert_close(
                        centroid, whole[channel][members].mean(0), rtol=1e-4, atol=1e-6
                    )


def test_the_first_convolution_and_the_classifier_stay_and_are_told(resnet: Teacher) -> None:
    student, told, notes = shared_by(KSE(), resnet)
    assert type(student.conv1) is nn.Conv2d
    assert type(student.linear) is nn.Linear
    assert "left alone, the first convolution: conv1" in notes
    assert "left alone, the classifier: linear" in notes
    assert told.keys() == {"kernel_macs", "gather_adds", "stored_bytes", "stored_share", "error"}
    assert told["stored_bytes"] == size(student)
    assert told["stored_share"] == pytest.approx(size(student) / size(resnet.module))
    lines = KSE(cut_unread=False).plan(State((resnet,)), IMAGES)
    assert lines == shared_by(KSE(cut_unread=False), resnet)[2]


def test_accounts_by_hand(resnet: Teacher) -> None:
    student, told, _ = shared_by(KSE(cut_unread=False), resnet)
    macs = adds = 0.0
    for name, module in student.named_modules():
        side = (
            32 if "layer" not in name or name.startswith("layer1") else 16 if name.startswith("layer2") else 8
        )
        if isinstance(module, SharedConvolution):
            for q, channels in module.shared:
                macs += q * channels * 9 * side**2
                adds += channels * module.outputs * side**2 * (0 < q < module.outputs)
        elif isinstance(module, nn.Conv2d):
            macs += module.weight.numel() * side**2
        elif isinstance(module, nn.Linear):
            macs += module.weight.numel()
    assert told["kernel_macs"] == pytest.approx(macs)
    assert told["gather_adds"] == pytest.approx(adds)


@pytest.mark.parametrize("round_to", [1, 2, 5, 8])
def test_filters_that_nobody_reads_go_in_round_widths_and_the_answers_stay(
    round_to: int, resnet: Teacher
) -> None:
    # With two levels nothing is clustered, so that the cut is all that differs.
    whole, _, _ = shared_by(KSE(granularity=2, cut_unread=False), resnet)
    cut, _, _ = shared_by(KSE(granularity=2, round_to=round_to), resnet)
    inner = {f"layer{stage}.{block}": 8 << stage for stage in (1, 2, 3) for block in range(3)}
    kept = {at: sum(n for q, n in whole.get_submodule(f"{at}.conv2").shared if q) for at in inner}
    step = {at: 1 if width % round_to else round_to for at, width in inner.items()}
    assert {at: cut.get_submodule(f"{at}.conv1").out_channels for at in inner} == {
        at: -(-kept[at] // step[at]) * step[at] for at in inner
    }
    assert any(kept[at] % 8 for at in inner)
    if round_to == 1:
        assert cut.layer1[0].bn1.num_features == cut.layer1[0].conv1.out_channels
        assert all(q > 0 for q, _ in cut.layer1[0].conv2.shared)
    assert size(cut) <= size(whole) * (1.0 if round_to > 1 else 0.99)
    x = torch.randn(4, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(cut(x), whole(x), rtol=1e-4, atol=1e-5)


def test_nothing_is_looked_at_nothing_is_left_to_chance_and_the_teacher_stays(resnet: Teacher) -> None:
    assert KSE().sees is Sees.NOTHING
    before = {name: tensor.clone() for name, tensor in resnet.module.state_dict().items()}
    one, other = shared_by(KSE(), resnet)[0], shared_by(KSE(), resnet)[0]
    for (name, a), b in zip(one.state_dict().items(), other.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    assert all(torch.equal(before[name], tensor) for name, tensor in resnet.module.state_dict().items())


def test_the_variants_of_the_released_code_choose_otherwise(resnet: Teacher) -> None:
    def chosen(**fields: Any) -> list[Any]:
        return [layer.shared for layer in layers(shared_by(KSE(**fields), resnet)[0]).values()]

    ways = [chosen(), chosen(layout="released"), chosen(renormalise=True), chosen(indicator="sparsity")]
    assert all(one != other for at, one in enumerate(ways) for other in ways[:at])


# -- budgets ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.7, 0.45])
def test_a_budget_of_bytes_is_met_by_the_file(share: float, resnet: Teacher) -> None:
    student, told, notes = shared_by(KSE(bytes=share, cut_unread=False), resnet)
    assert size(student) <= share * size(resnet.module)
    assert size(student) > 0.85 * share * size(resnet.module)
    assert told["stored_share"] <= share
    assert len({line.split("G=")[1].split(":")[0] for line in notes if "G=" in line}) > 1


def test_a_budget_of_kernel_macs_beats_one_granularity_for_all(resnet: Teacher) -> None:
    def errors(student: nn.Module) -> float:
        modules = dict(resnet.module.named_modules())
        total = 0.0
        for name, layer in layers(student).items():
            whole = kernels_of(modules[name])
            total += float((kernels_of(layer.dense()) - whole).square().sum() / whole.square().sum())
        return total

    uniform, told, _ = shared_by(KSE(granularity=5, cut_unread=False), resnet)
    whole = 40_551_040
    budget = told["kernel_macs"] / whole
    chosen, again, _ = shared_by(KSE(kernel_macs=budget, cut_unread=False), resnet)
    assert again["kernel_macs"] <= told["kernel_macs"] * (1 + 1e-9)
    assert errors(chosen) < errors(uniform)


def test_a_budget_below_the_floor_names_it(resnet: Teacher) -> None:
    with pytest.raises(
        ValueError, match=r"a budget of .* bytes \(1\.0%\) cannot be met: .* are left \(\d+\.\d%\)"
    ):
        shared_by(KSE(bytes=0.01), resnet)


# -- other networks -----------------------------------------------------------------------------------------


class Mixed(nn.Module):
    """One of everything: groups, a depthwise layer, dilation, a rectangular kernel, transposed, linear."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 16, 3, padding=1)
        self.grouped = nn.Conv2d(16, 32, 3, padding=1, groups=2)
        self.depthwise = nn.Conv2d(32, 32, 3, padding=1, groups=32)
        self.wide = nn.Conv2d(32, 24, (1, 5), padding=(0, 4), dilation=(1, 2), stride=2)
        self.pointwise = nn.Conv2d(24, 48, 1, bias=False)
        self.up = nn.ConvTranspose2d(48, 20, 3, stride=2, output_padding=1, groups=2)
        self.inner = nn.Linear(20, 30)
        self.last = nn.Linear(30, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.grouped(torch.relu(self.first(x))))
        x = torch.relu(self.pointwise(torch.relu(self.wide(self.depthwise(x)))))
        return self.last(torch.relu(self.inner(torch.relu(self.up(x)).mean((2, 3)))))


@pytest.mark.parametrize(
    ("fields", "names"),
    [
        ({}, ["grouped", "wide", "pointwise"]),
        ({"transposed": True, "linear": True}, ["grouped", "wide", "pointwise", "up", "inner"]),
        ({"spare": ("w*",)}, ["grouped", "pointwise"]),
    ],
)
def test_every_kind_of_layer(fields: dict[str, Any], names: list[str]) -> None:
    teacher = teacher_of(Mixed())
    student, _, notes = shared_by(KSE(shift=1, granularity=5, **fields), teacher)
    assert list(layers(student)) == names
    assert "left alone, fewer than 7 outputs a channel: depthwise" in "\n".join(notes) or "depthwise" in str(
        notes
    )
    x = torch.randn(3, 3, 32, 32)
    with torch.no_grad():
        assert student(x).shape == (3, 10)
        for name, layer in layers(student).items():
            seen: list[Tensor] = []
            handle = student.get_submodule(name).register_forward_hook(lambda m, a, o: seen.extend([a[0], o]))  # noqa: B023
            student(x)
            handle.remove()
            torch.testing.assert_close(layer.dense()(seen[0]), seen[1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dims", [1, 3])
def test_other_dimensions(dims: int) -> None:
    kind = {1: nn.Conv1d, 3: nn.Conv3d}[dims]
    network = nn.Sequential(
        kind(2, 12, 3), nn.ReLU(), kind(12, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16 * 4**dims, 4)
    )
    signature = Signature(((2, *[8] * dims),), tuple("abcd"))
    student, _, _ = shared_by(KSE(), teacher_of(network, signature))
    assert list(layers(student)) == ["2"]
    assert student(torch.randn(2, 2, *[8] * dims)).shape == (2, 4)


@pytest.mark.parametrize("network", [VGG(), DenseNet()], ids=["VGG", "DenseNet"])
def test_deep_networks(network: Any) -> None:
    teacher = teacher_of(network.build())
    student, told, _ = shared_by(KSE(granularity=5), teacher)
    assert told["stored_share"] < 0.6
    assert student(torch.randn(2, 3, 32, 32)).isfinite().all()


# -- with other stages --------------------------------------------------------------------------------------


def test_tuning_trains_centroids_and_leaves_indices(teacher: Teacher, task: Toy) -> None:
    state = KSE(granularity=5)(State((teacher,)), Session.bare(task, sees=Sees.NOTHING))
    assert state.student is not None
    before = {name: tensor.clone() for name, tensor in state.student.state_dict().items()}
    tuned = Finetune(epochs=1)(state, Session.bare(task, sees=Sees.INPUTS)).student
    assert tuned is not None
    changed = {name for name, tensor in tuned.state_dict().items() if not torch.equal(tensor, before[name])}
    assert any(name.endswith(".kernels") for name in changed)
    assert not any(name.endswith((".packed", ".level")) for name in changed)
    fresh = Recalibrate(batches=2)
    assert fresh(state, Session.bare(task, sees=fresh.sees)).student is not None


def test_after_gal(teacher: Teacher, task: Toy, tmp_path: Any) -> None:
    gal = GAL(macs=0.6, epochs=1)
    state = gal(State((teacher,)), Session.bare(task, sees=gal.sees))
    state = KSE(granularity=5)(state, Session.bare(task, sees=Sees.NOTHING))
    assert state.student is not None
    proof = compact.save(state.student, tmp_path / "compact", task.signature())
    assert proof.forms["load.py"].changed_decisions == 0
    assert compact.bytes_on_disk(tmp_path / "compact") < size(teacher.module) / 2


def test_pruning_after_it_leaves_shared_layers_whole_and_says_so(resnet: Teacher) -> None:
    student, _, _ = shared_by(KSE(spare=("layer3.*",)), resnet)
    prune = Prune(macs=0.8)
    session = Session(sees=prune.sees)
    cut = prune(State((resnet,), student=student), session).student
    assert cut is not None
    assert {n: l.shared for n, l in layers(cut).items()} == {n: l.shared for n, l in layers(student).items()}
    assert cut.layer3[2].conv1.out_channels < 64


# -- bad input ----------------------------------------------------------------------------------------------


def test_twice_is_refused_with_what_is_left(resnet: Teacher) -> None:
    student, _, _ = shared_by(KSE(), resnet)
    stage = KSE()
    with pytest.raises(
        ValueError, match=r"KSE finds no layer to work on .*layer1\.0\.conv1: it shares kernels already"
    ):
        stage(State((resnet,), student=student), Session(sees=stage.sees))


def test_weights_that_are_not_finite_are_named(resnet: Teacher) -> None:
    broken = copy.deepcopy(resnet.module)
    broken.layer2[0].conv1.weight.data[0, 0, 0, 0] = torch.nan
    with pytest.raises(ValueError, match=r"1 of 4608 weights of 'layer2\.0\.conv1' are not finite"):
        shared_by(KSE(), Teacher("broken", broken, IMAGES))


def test_a_network_without_convolutions() -> None:
    network = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 4))
    teacher = Teacher("flat", network, Signature(((8,),), tuple("abcd")))
    with pytest.raises(ValueError, match=r"KSE finds no layer to work on .*linear, not asked for"):
        shared_by(KSE(), teacher)
    assert list(layers(shared_by(KSE(linear=True), teacher)[0])) == ["0", "2"]


def small(outputs: int = 8, channels: int = 4) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, channels, 3), nn.ReLU(), nn.Conv2d(channels, outputs, 3), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(outputs, 10),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("network", "reason"),
    [
        (small(outputs=6), "fewer than 7 outputs a channel"),
        (small(channels=1), "one input channel, with which nothing can be compared"),
    ],
)
def test_layers_too_small_to_compare(network: nn.Module, reason: str) -> None:
    with pytest.raises(ValueError, match=f"KSE finds no layer to work on .*2: {reason}"):
        shared_by(KSE(), Teacher("small", network, IMAGES))


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_kernels_that_are_all_alike_change_nothing(value: float) -> None:
    network = small()
    network[2].weight.data.fill_(value)
    with pytest.raises(ValueError, match="KSE would change nothing: with granularity 4 and shift 0 none of"):
        shared_by(KSE(), Teacher("alike", network, IMAGES))


def test_identical_kernels_within_channels_cost_nothing() -> None:
    network = small(outputs=16)
    network[2].weight.data = (
        (torch.rand(1, 4, 1, 1) + torch.arange(4)[None, :, None, None]).expand(16, 4, 3, 3).clone()
    )
    teacher = Teacher("alike", network, IMAGES)
    student, told, _ = shared_by(KSE(granularity=5), teacher)
    assert told["error"] < 1e-10
    assert student(torch.randn(2, 3, 8, 8)).isfinite().all()


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"granularity": 1}, "granularity"),
        ({"shift": -1}, "shift"),
        ({"bytes": 1.0}, "bytes"),
        ({"bytes": 0.5, "kernel_macs": 0.5}, "one budget"),
        ({"spare": ("nowhere.*",)}, "nowhere"),
    ],
)
def test_fields_are_checked(fields: dict[str, Any], said: str, resnet: Teacher) -> None:
    with pytest.raises(ValueError, match=said):
        shared_by(KSE(**fields), resnet)
