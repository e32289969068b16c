"""One trunk with several ends: networks cut into blocks, channel coding, and answers of several heads made into one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from students.trace import trace
from teachers.nearest import did_you_mean

# What changes numbers or sizes but has no weights: it belongs to the block before it.
_LIGHT = (
    nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.SiLU, nn.GELU, nn.Hardswish, nn.MaxPool2d, nn.AvgPool2d, nn.Identity,
    nn.Dropout, nn.Dropout2d,
)  # fmt: skip
_LIGHT_CALLS = ("relu", "relu_", "leaky_relu", "silu", "gelu", "hardswish", "max_pool2d", "avg_pool2d")


@dataclass(frozen=True)
class Blocks:
    """A network as a row of blocks, each a network that shares its modules with the whole.

    parts  block b takes (feature, image) and gives the next feature; the first one's feature is the image, the last
           one's are the outputs. The image is there for what asks its size.
    ends   the modules after which it was cut
    shapes of what each block gives, without the batch
    """

    parts: tuple[fx.GraphModule, ...]
    ends: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]

    def __len__(self) -> int:
        return len(self.parts)


def cut(network: nn.Module, ends: Sequence[str], inputs: tuple[Tensor, ...], who: str) -> Blocks:
    """Cut a network behind the named modules, and behind activations and pooling that follow them directly.

    Only what passes there may pass: but for the size of the input, nothing goes around a cut. Raises ValueError for
    names that are not there or in another order, and where something does go around; Untraceable where torch.fx cannot
    follow the network.
    """
    names = [name for name, _ in network.named_modules() if name]
    for end in ends:
        if end not in names:
            raise ValueError(
                f"{who} has no module {end!r} to be cut behind{did_you_mean(end, names)}; {_tops(network)}"
            )
    graph, constants = trace(network, training=False)
    if _code(graph) != _code(trace(network, training=True)[0]):
        raise ValueError(
            f"{who} does other things in training than in use (dropout called as a function?), so that it cannot be "
            "cut into blocks: make such calls modules"
        )
    nodes = list(graph.nodes)
    (image,) = [node for node in nodes if node.op == "placeholder"]
    (output,) = [node for node in nodes if node.op == "output"]
    points = [_point(network, nodes, end, who) for end in ends]
    order = [nodes.index(point) for point in points]
    if order != sorted(order) or len(set(order)) != len(order):
        raise ValueError(
            f"{who} is not cut in the order in which its modules are called: {', '.join(ends)}. Name each place once, "
            "the first one first"
        )
    last = output.args[0]
    assert isinstance(last, fx.Node)
    parts = []
    for start, stop, name in zip([image, *points], [*points, last], [*ends, "the output"], strict=True):
        parts.append(
            _part(network, constants, nodes, image, start, stop, f"{who} cannot be cut before {name}")
        )
    (feature,) = inputs
    shapes, grown = [], feature
    with torch.no_grad():
        modes = {module: module.training for module in network.modules()}
        network.eval()
        for part in parts:
            part.eval()
            grown = part(grown, feature)
            shapes.append(tuple(grown.shape[1:]))
        for module, mode in modes.items():
            module.training = mode
    return Blocks(tuple(parts), tuple(ends), tuple(shapes))


def _tops(network: nn.Module) -> str:
    return f"there are {', '.join(name for name, _ in network.named_children())}"


def _code(graph: fx.Graph) -> list[str]:
    return [f"{n.op} {n.target} {n.args} {n.kwargs}" for n in graph.nodes]


def _point(network: nn.Module, nodes: list[fx.Node], end: str, who: str) -> fx.Node:
    """The node that a module gives, or what follows it without weights."""
    inside = [
        node for node in nodes
        if (node.op == "call_module" and (node.target == end or str(node.target).startswith(f"{end}.")))
        or end in {str(path) for path, _ in (node.meta.get("nn_module_stack") or {}).values()}
        or end in (node.meta.get("nn_module_stack") or {})
    ]  # fmt: skip
    if not inside:
        raise ValueError(f"module {end!r} of {who} is not called when it answers: it cannot be cut there")
    node = inside[-1]
    while len(node.users) == 1:
        (user,) = node.users
        if not _light(network, user):
            break
        node = user
    return node


def _light(network: nn.Module, node: fx.Node) -> bool:
    if node.op == "call_module":
        return isinstance(network.get_submodule(str(node.target)), _LIGHT)
    target = node.target
    name = target if isinstance(target, str) else getattr(target, "__name__", "")
    if name in ("boolean_dispatch", "fn"):  # how PyTorch writes its own max_pool2d
        return target is F.max_pool2d
    return node.op in ("call_function", "call_method") and name in _LIGHT_CALLS


def _part(
    network: nn.Module,
    constants: Mapping[str, Tensor],
    nodes: list[fx.Node],
    image: fx.Node,
    start: fx.Node,
    end: fx.Node,
    problem: str,
) -> fx.GraphModule:
    """What leads from one node to another, as a network of (feature, image)."""
    after = {start}  # what depends on the start
    for node in nodes:
        if any(source in after for source in node.all_input_nodes):
            after.add(node)
    needed: set[fx.Node] = set()
    queue = [end]
    while queue:
        node = queue.pop()
        if node in needed or node is start:
            continue
        if node not in after and not (node.op == "get_attr" or node is image or _only_sizes(node, image)):
            raise ValueError(
                f"{problem}: {node.name} goes around it. Cut behind a module through which everything passes"
            )
        needed.add(node)
        queue += node.all_input_nodes
    if end is not start and end not in after:
        raise ValueError(f"{problem}: what comes before has no part in it")
    graph = fx.Graph()
    there = {start: graph.placeholder("feature")}
    whole = graph.placeholder("image", default_value=None)
    if start is not image:
        there[image] = whole
    root: dict[str, object] = {}
    for node in nodes:
        if node in needed and node not in there:
            there[node] = graph.node_copy(node, there.__getitem__)
            if node.op in ("call_module", "get_attr"):
                target = str(node.target)
                root[target] = constants[target] if target in constants else _found(network, target)
    graph.output(there[end])
    return fx.GraphModule(root, graph)


def _only_sizes(node: fx.Node, image: fx.Node) -> bool:
    """Whether a node says something of the image's size alone."""
    if node.op == "call_function" and node.target is getattr:
        return node.args[0] is image and node.args[1] in ("shape", "ndim", "dtype", "device")
    if node.op == "call_method" and node.target in ("size", "dim"):
        return node.args[0] is image
    sources = node.all_input_nodes
    return bool(sources) and all(_only_sizes(source, image) for source in sources)


def _found(network: nn.Module, target: str) -> object:
    found: object = network
    for step in target.split("."):
        found = getattr(found, step)
    return found


class ChannelCoding(nn.Module):
    """Weighs channels by what all of them hold:  f(F) = F * 2 sigmoid( W_2 relu( W_1 mean over places of F ) ).

    The second matrix begins at 0, so that the gate is open, 1, and F passes as it is. Shapes: (n, C, h, w) to the same,
    or (n, C) where there is no grid.
    Source: Ye et al. 2019, the channel coding of task branching (whose gate begins half closed).
    """

    def __init__(self, channels: int, grid: bool = True) -> None:
        super().__init__()
        self.grid = grid
        hidden = max(16, channels // 4)
        self.squeeze = nn.Linear(channels, hidden, bias=False)
        self.excite = nn.Linear(hidden, channels, bias=False)
        nn.init.zeros_(self.excite.weight)

    def forward(self, feature: Tensor) -> Tensor:
        """Shapes: (n, C, ...) to the same."""
        flat = feature.mean((2, 3)) if self.grid else feature
        gate = 2 * torch.sigmoid(self.excite(F.relu(self.squeeze(flat))))
        return feature * (gate[:, :, None, None] if self.grid else gate)


class Join(nn.Module):
    """Several heads' outputs as one: by columns, or weighed against each other by what was measured of each head.

    Plain: a label's output is the mean of those of the heads that have it. Calibrated: within a part whose heads share
    labels, least squares  z_m(l) = u(l) + c_m;  between parts  log softmax(u) + max_m lead_m  (`compress.calibration`).

    columns  per head, where its outputs stand among all labels
    asked    which of all labels are given, in this order
    """

    share: Tensor

    def __init__(self, columns: Sequence[Sequence[int]], asked: Sequence[int]) -> None:
        super().__init__()
        self.asked = [int(place) for place in asked]
        total = 1 + max(place for index in columns for place in index)
        share = torch.zeros(total, sum(map(len, columns)))
        for row, place in enumerate(place for index in columns for place in index):
            share[place, row] = 1
        self.register_buffer("share", (share / share.sum(1, keepdim=True).clamp_min(1))[self.asked])

    def forward(self, answers: list[Tensor]) -> Tensor:
        """Shapes: (n, K_m, ...) each to (n, |asked|, ...)."""
        return F.linear(torch.cat([a.movedim(1, -1) for a in answers], -1), self.share).movedim(-1, 1)


class Weighed(nn.Module):
    """As `Join`, calibrated.

    parts    per part: its heads, and the matrix that takes their levelled outputs to its labels
    scale    per head: what its centred outputs are multiplied by within its part
    centred  whether evidence is taken of centred outputs
    mean, unit, kappa, bias  per head, evidence = kappa max_l (c_l - mean_l) / unit_l + bias
    order    where each of the asked labels stands in the parts laid end to end
    """

    def __init__(
        self,
        parts: Sequence[tuple[Sequence[int], Tensor]],
        scale: Sequence[float],
        centred: bool,
        mean: Sequence[Tensor],
        unit: Sequence[Tensor],
        kappa: float,
        bias: Sequence[float],
        order: Sequence[int],
    ) -> None:
        super().__init__()
        self.heads = [tuple(heads) for heads, _ in parts]
        self.scale, self.centred, self.kappa, self.bias = list(scale), centred, kappa, list(bias)
        for number, (_, matrix) in enumerate(parts):
            self.register_buffer(f"matrix{number}", matrix.float())
        for number, (m, u) in enumerate(zip(mean, unit, strict=True)):
            self.register_buffer(f"mean{number}", m.float())
            self.register_buffer(f"unit{number}", u.float())
        self.order = list(order)

    def forward(self, answers: list[Tensor]) -> Tensor:
        """Shapes: (n, K_m, ...) each to (n, |asked|, ...)."""
        rows = [answer.movedim(1, -1) for answer in answers]
        found = []
        for number, heads in enumerate(self.heads):
            centred = [rows[h] - rows[h].mean(-1, keepdim=True) for h in heads]
            level = [c * self.scale[h] for c, h in zip(centred, heads, strict=True)]
            u = F.linear(torch.cat(level, -1), getattr(self, f"matrix{number}"))
            if len(self.heads) > 1:
                leads = [
                    self.kappa * ((
                        (c if self.centred else rows[h]) - getattr(self, f"mean{h}")
                    ) / getattr(self, f"unit{h}")).amax(-1, keepdim=True) + self.bias[h]
                    for c, h in zip(centred, heads, strict=True)
                ]  # fmt: skip
                u = F.log_softmax(u, -1) + torch.cat(leads, -1).amax(-1, keepdim=True)
            found.append(u)
        return torch.cat(found, -1)[..., self.order].movedim(-1, 1)


class Branched(nn.Module):
    """A trunk that branches leave at several blocks; their answers joined.

    trunk     blocks, as `cut` gives them, up to the last that a branch leaves at
    branches  per head: the block it leaves behind (1 is the first), and what follows: a row of (feature, image)
              networks, the first of which may be a `ChannelCoding`; none where the trunk's own outputs are meant
    select    per head, which of the trunk's own outputs are meant where nothing follows
    """

    def __init__(
        self,
        trunk: Sequence[nn.Module],
        branches: Sequence[tuple[int, Sequence[nn.Module]]],
        select: Sequence[Sequence[int]],
        join: nn.Module,
    ) -> None:
        super().__init__()
        deepest = max(block for block, _ in branches)
        self.trunk = nn.ModuleList(trunk[:deepest])
        self.leaves = [block for block, _ in branches]
        self.ends = nn.ModuleList(nn.ModuleList(row) for _, row in branches)
        self.select = [list(index) for index in select]
        self.join = join

    def heads(self, image: Tensor) -> list[Tensor]:
        """What every branch answers, before it is joined."""
        features, feature = [], image
        for block in self.trunk:
            feature = block(feature, image)
            features.append(feature)
        answers: list[Tensor] = []
        for leaf, row, index in zip(self.leaves, self.ends, self.select, strict=True):
            answer = features[leaf - 1]
            for part in row:  # type: ignore[attr-defined]
                answer = part(answer) if isinstance(part, ChannelCoding) else part(answer, image)
            answers.append(answer if len(row) else answer[:, index])  # type: ignore[arg-type]
        return answers

    def forward(self, image: Tensor) -> Tensor:
        """Shapes: (n, channels, h, w) to (n, labels, ...)."""
        joined: Tensor = self.join(self.heads(image))
        return joined
