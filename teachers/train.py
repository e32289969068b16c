"""Making a teacher where none can be had: plain supervised training, and the schedule that others use too."""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from teachers.place import place
from teachers.signature import Kind
from teachers.spec import Field, spec
from teachers.task import Split, Splits
from teachers.thinning import Thinning

Epochs = Callable[..., Iterator[int]]
"""`epochs(total, **keep)` counts epochs and keeps what has a state_dict: `Session.epochs` has this shape."""
Log = Callable[[Mapping[str, float], int], None]
Autocast = Callable[[], AbstractContextManager[Any]]

_LOOK = 16  # steps between two looks at the loss: each look makes an accelerator wait


def cosine(optimizer: Optimizer, total_steps: int, warmup_steps: int = 0) -> LRScheduler:
    """Raise the learning rate in a line over the warm-up, then lower it along half a cosine.

    Step t of T, with W of warm-up, takes  lr * (t + 1) / W  for t < W,  and then
    lr * (1 + cos(pi * (t - W) / (T - W))) / 2,  which would reach 0 at step T. Step it after every batch.
    Raises ValueError where the warm-up leaves no step. Source: Loshchilov and Hutter 2017, one period.
    """
    _fits(total_steps, warmup_steps)

    def share(step: int) -> float:
        if step < warmup_steps:
            return (step + 1) / warmup_steps
        done = (step - warmup_steps) / (total_steps - warmup_steps)
        return (1 + math.cos(math.pi * min(done, 1.0))) / 2

    return LambdaLR(optimizer, share)


def constant(optimizer: Optimizer, total_steps: int, warmup_steps: int = 0) -> LRScheduler:
    """Raise the learning rate in a line over the warm-up, lr * (t + 1) / W, and keep it. Step it after every batch.

    Raises ValueError where the warm-up leaves no step.
    """
    _fits(total_steps, warmup_steps)
    return LambdaLR(optimizer, lambda step: min((step + 1) / max(warmup_steps, 1), 1.0))


def _fits(total_steps: int, warmup_steps: int) -> None:
    if not 0 <= warmup_steps < total_steps:
        raise ValueError(
            f"a warm-up of {warmup_steps} steps does not fit into {total_steps} steps: warm up for less"
        )


@torch.no_grad()
def accuracy(
    module: nn.Module,
    splits: Splits,
    split: Split,
    device: torch.device,
    autocast: Autocast,
    kind: Kind = "softmax",
) -> float:
    """The share of right answers over a split; `module` is put into eval mode. It touches no random state.

    Where every pixel has an answer, the share of pixels. Answers are judged as `agreeing` does.
    """
    module.eval()
    right, judged = torch.zeros((2,), dtype=torch.int64, device=device)
    for batch in splits.batches(split, device):
        assert batch.target is not None
        with autocast():
            outputs = module(*batch.inputs)
        agree, known = agreeing(outputs, batch.target, kind)
        right += agree
        judged += known
    return int(right) / max(int(judged), 1)


def agreeing(outputs: Tensor, target: Tensor, kind: Kind) -> tuple[Tensor, Tensor]:
    """How many outputs of this kind agree with the target, and how many are judged.

    softmax     the largest output is the target's; targets below 0 are not judged
    sigmoid     each is above 0 where the target is above 1/2; NaN is not judged
    regression  right within a quarter: max(y / y*, y* / y) < 1.25
    """
    if kind == "softmax":
        return (outputs.argmax(dim=1) == target).sum(), (target >= 0).sum()
    if kind == "sigmoid":
        known = ~target.isnan()
        return ((outputs > 0) == (target > 0.5))[known].sum(), known.sum()
    right = (outputs / target).log().abs() < math.log(1.25)
    return right.sum(), torch.as_tensor(right.numel(), device=right.device)


def supervised(outputs: Tensor, target: Tensor, kind: Kind = "softmax", smoothing: float = 0.0) -> Tensor:
    """How far outputs of this kind lie from the truth, the mean over what is judged, in fp32.

    softmax     cross-entropy; targets are the numbers of classes, those below 0 are passed over
    sigmoid     binary cross-entropy of every label by itself; targets (n, labels) from 0 to 1, NaN is passed over
    regression  the mean of |y - y*|
    smoothing   the share of the target that is spread over all classes, or over true and false

    Raises ValueError for mixed outputs, and for targets that are fractions where one label is true.
    """
    outputs = outputs.float()
    if kind == "sigmoid":
        known = ~target.isnan()
        wanted = target[known] * (1 - smoothing) + smoothing / 2
        return F.binary_cross_entropy_with_logits(outputs[known], wanted)
    if kind == "regression":
        return (outputs - target).abs().mean()
    if kind == "mixed":
        raise ValueError(
            "outputs of several kinds are not taught at once: give each kind a teacher of its own, and amalgamate"
        )
    if target.is_floating_point():
        raise ValueError(
            "the targets are fractions, and exactly one label is said to be true: say kind='sigmoid' in the task's "
            "signature where any of them may be"
        )
    return F.cross_entropy(outputs, target, label_smoothing=smoothing)


class Best:
    """The state of the epoch with the highest score so far; of equals the later, which was trained longer.

    epochs, epoch  how many were seen, and which was the best, counted from 0
    """

    def __init__(self) -> None:
        self.score, self.tie = -math.inf, -math.inf
        self.epochs, self.epoch = 0, -1
        self.state: dict[str, Tensor] = {}

    def see(self, score: float, module: nn.Module, tie: float = 0.0) -> bool:
        """Whether this epoch is the best so far; it is kept then. Equal scores are told apart by `tie`, higher is
        better.
        """
        self.epochs += 1
        if (score, tie) < (self.score, self.tie):
            return False
        self.score, self.tie, self.epoch = score, tie, self.epochs - 1
        self.state = {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}
        return True

    def state_dict(self) -> dict[str, Any]:
        """All of it."""
        return dict(vars(self))

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict()`."""
        vars(self).update(state)


@spec
class Train:
    """Cross-entropy by SGD with momentum, warm-up and cosine, for a fixed number of epochs; or by Adam.

    Of every label by itself where any may be true; the mean of |y - y*| where outputs are numbers.

    Val is scored after every epoch and only reported: the last epoch is what is handed back, unless `choose` says
    otherwise.
    """

    epochs: Annotated[int, Field(ge=1)]
    """passes over train"""
    lr: Annotated[float, Field(gt=0)] = 0.1
    """the highest learning rate, after the warm-up"""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """of SGD"""
    weight_decay: Annotated[float, Field(ge=0)] = 5e-4
    """L2, on all parameters"""
    warmup: Annotated[float, Field(ge=0)] = 0.0
    """epochs over which the learning rate rises; may be a fraction, and less than `epochs`"""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """the share of the target that is spread over all classes"""
    nesterov: bool = True
    """look ahead along the momentum"""
    optimizer: Literal["sgd", "adam"] = "sgd"
    """Adam knows neither momentum nor nesterov; its L2 is part of the gradient"""
    schedule: Literal["cosine", "constant"] = "cosine"
    """of the learning rate, after the warm-up"""
    choose: Literal["last", "best"] = "last"
    """hand back the last epoch, or the one that was best on val"""
    seed: Annotated[int, Field(ge=0)] = 0
    """of shuffling and augmentation"""

    def __post_init__(self) -> None:
        if self.warmup >= self.epochs:
            raise ValueError(f"Train warms up for {self.warmup:g} epochs of {self.epochs}: warm up for less")
        if self.nesterov and not self.momentum:
            raise ValueError(
                "Train with nesterov looks ahead along the momentum, which is 0: set nesterov to false"
            )

    def __call__(
        self,
        module: nn.Module,
        splits: Splits,
        *,
        device: torch.device,
        autocast: Autocast,
        epochs: Epochs,
        log: Log,
        kind: Kind = "softmax",
    ) -> nn.Module:
        """Train `module` in place, on `device`, and hand it back in eval mode; `kind` is what its outputs mean.

        `epochs` keeps student, optimizer and schedule. Each epoch shuffles and augments from a generator
        seeded by (seed, epoch), so that a resumed training goes on as an unbroken one would have. `log` is
        told `loss` (mean over train), `accuracy` (on val) and `lr` (the epoch's first). Raises
        ArithmeticError, before the epoch is kept, where the loss is no longer finite.
        """
        place(module, device)
        optimizer: Optimizer
        if self.optimizer == "adam":
            optimizer = torch.optim.Adam(module.parameters(), lr=self.lr, weight_decay=self.weight_decay)
        else:
            optimizer = torch.optim.SGD(
                module.parameters(),
                lr=self.lr,
                momentum=self.momentum,
                weight_decay=self.weight_decay,
                nesterov=self.nesterov,
            )
        steps = splits.steps(Split.TRAIN)
        shape = cosine if self.schedule == "cosine" else constant
        schedule = shape(
            optimizer, self.epochs * steps, min(round(self.warmup * steps), self.epochs * steps - 1)
        )
        generator = torch.Generator()
        thinning = Thinning(module)
        best = Best()
        more = {"best": best} if self.choose == "best" else {}
        for epoch in epochs(self.epochs, student=module, optimizer=optimizer, schedule=schedule, **more):
            generator.manual_seed(self.seed * 1_000_003 + epoch)
            lr = float(optimizer.param_groups[0]["lr"])
            module.train()
            total = torch.zeros((), device=device)
            taken = 0
            for batch in splits.batches(Split.TRAIN, device, generator):
                assert batch.target is not None
                with autocast():
                    outputs = module(*thinning.inputs(batch))
                loss = supervised(outputs, batch.target, kind, self.label_smoothing)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
                total += loss.detach()
                taken += 1
                if taken % _LOOK == 0:
                    _finite(total, epoch, lr)
            _finite(total, epoch, lr)
            right = accuracy(module, splits, Split.VAL, device, autocast, kind)
            if self.choose == "best":
                best.see(right, module)
            log({"loss": float(total) / taken, "accuracy": right, "lr": lr}, epoch)
        if self.choose == "best":
            module.load_state_dict(best.state)
        return module.eval()


def _finite(total: Tensor, epoch: int, lr: float) -> None:
    # A sum that has met one NaN or infinity never becomes finite again: one look covers all steps so far.
    if not math.isfinite(float(total)):
        raise ArithmeticError(
            f"the training loss is {float(total)} in epoch {epoch + 1}, which began at a learning rate of "
            f"{lr:g}: what the last finished epoch kept is still good; lower lr, or warm up for longer"
        )
