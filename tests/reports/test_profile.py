"""MACs by formula, a module left as it was, and times under the right names."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from reports.profile import Latency, Profile, latency, layers, macs, profile


def small() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3, groups=2),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5),
    )  # fmt: skip


def same(a: nn.Module, b: nn.Module) -> bool:
    return all(
        torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    )


@given(
    cin=st.integers(1, 4), cout=st.integers(1, 4), groups=st.integers(1, 3), kernel=st.integers(1, 3),
    stride=st.integers(1, 2), size=st.integers(3, 8), batch=st.integers(1, 3),
)  # fmt: skip
@settings(max_examples=30, deadline=None)
def test_convolution(
    cin: int, cout: int, groups: int, kernel: int, stride: int, size: int, batch: int
) -> None:
    layer = nn.Conv2d(cin * groups, cout * groups, kernel, stride, groups=groups)
    out = (size - kernel) // stride + 1
    expected = out * out * (cout * groups) * cin * kernel * kernel
    assert macs(layer, (torch.zeros(batch, cin * groups, size, size),)) == expected


@pytest.mark.parametrize("batch", [1, 7])
def test_linear_and_sum(batch: int) -> None:
    assert macs(nn.Linear(13, 5), (torch.zeros(batch, 13),)) == 13 * 5
    found = profile(small(), (torch.zeros(batch, 3, 6, 6),), bytes=99)
    assert found.macs == 36 * 8 * 3 * 9 + 16 * 4 * 4 * 9 + 4 * 5
    assert found.flops == 2 * found.macs
    assert found.params == 3 * 8 * 9 + 16 + 4 * 4 * 9 + 4 + 25
    assert found.bytes == 99
    assert found.uncounted == ()


def test_layers_add_up() -> None:
    module, inputs = small(), (torch.zeros(2, 3, 6, 6),)
    table = layers(module, inputs)
    assert [(row.name, row.type, row.inputs, row.outputs) for row in table] == [
        ("0", "Conv2d", 3, 8), ("3", "Conv2d", 8, 4), ("6", "Linear", 4, 5),
    ]  # fmt: skip
    assert sum(row.macs for row in table) == macs(module, inputs)
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in module.modules())


def test_attention_is_counted_whole() -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
    found = profile(layer, (torch.zeros(3, 5, 8),))
    projections, scores, feed = 5 * 8 * 8 * 4, 2 * 5 * 5 * 8, 2 * 5 * 8 * 16
    assert found.macs == projections + scores + feed
    assert found.uncounted == ()


class Odd(nn.Module):
    """Arithmetic without a formula: a matrix times a vector, and a spectrum."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4))
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, features: Tensor) -> Tensor:
        self.calls += 1
        mixed = torch.nn.functional.dropout(torch.cumsum(features, 1), 0.5, training=True)
        return torch.fft.rfft(mixed).abs()


def test_uncounted_is_named_and_nothing_changes() -> None:
    module = Odd().train()
    before, state = copy.deepcopy(module), torch.get_rng_state()
    found = profile(module, (torch.zeros(2, 4),))
    assert found.uncounted == ("aten._fft_r2c", "aten.cumsum")
    assert module.training
    assert same(module, before)
    assert torch.equal(state, torch.get_rng_state())


def test_an_error_leaves_no_trace() -> None:
    module = small().train()
    module[1].eval()  # a batch norm its owner froze
    before = copy.deepcopy(module)
    for measure in (macs, layers):
        with pytest.raises(RuntimeError):
            measure(module, (torch.zeros(1, 2, 6, 6),))
    assert [part.training for part in module.modules()] == [part.training for part in before.modules()]
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in module.modules())
    assert torch.is_grad_enabled()
    assert same(module, before)


def test_empty_batch_is_refused() -> None:
    with pytest.raises(ValueError, match="batch of at least one"):
        macs(small(), (torch.zeros(0, 3, 6, 6),))


def test_latency_takes_turns() -> None:
    order: list[str] = []

    class Tick(nn.Module):
        def __init__(self, name: str) -> None:
            super().__init__()
            self.name = name

        def forward(self, features: Tensor) -> Tensor:
            order.append(self.name)
            return features

    found = latency({"a": Tick("a"), "b": Tick("b")}, (torch.zeros(3, 2),), (1,), seconds=0, least=4)
    assert order == list("ab" * 3 + "abba" * 2)
    assert found["a"].calls == 4
    with pytest.raises(ValueError, match="no module"):
        latency({}, (torch.zeros(1),))


def test_latency_joins_a_profile() -> None:
    module = small().train().to(memory_format=torch.channels_last)
    found = latency({"student": module}, (torch.zeros(2, 3, 6, 6),), seconds=0.01)["student"]
    assert set(found.ms) == {f"latency_ms_{p}_b{b}" for p in ("p50", "p95") for b in (1, 32)}
    assert all(0 < found.ms[f"latency_ms_p50_b{b}"] <= found.ms[f"latency_ms_p95_b{b}"] for b in (1, 32))
    assert found.threads == torch.get_num_threads()
    assert module.training
    timed = profile(module, (torch.zeros(1, 3, 6, 6),)).timed(found)
    assert set(timed.metrics()) == {
        "cost/macs", "cost/flops", "cost/params", "cost/latency_ms_p50_b1", "cost/latency_ms_p95_b1",
        "cost/latency_ms_p50_b32", "cost/latency_ms_p95_b32",
    }  # fmt: skip
    assert Profile.from_dict(timed.to_dict()) == timed


def test_other_batch_sizes_stay_out_of_a_profile() -> None:
    assert Profile(1, 2).timed(Latency({"latency_ms_p50_b8": 1.0}, 1, 2, "cpu")) == Profile(1, 2, threads=2)
