"""A trained network at rest, and the same at work."""

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Self

import torch
from pydantic import model_validator
from torch import Tensor, nn

from teachers.calling import by_position
from teachers.networks.given import Given
from teachers.networks.network import Network
from teachers.place import place
from teachers.sealed import Sealed
from teachers.signature import Signature
from teachers.spec import Field, spec
from teachers.task import Task
from teachers.train import Train
from teachers.weights import digest, existing, load_into, read

__all__ = ["Checkpoint", "Teacher"]


@dataclass(frozen=True)
class Teacher:
    """A trained network that may be asked: frozen, in eval mode, and without data.

    name       what the checkpoint is called
    module     frozen in place; gradients still pass through to its inputs
    signature  what goes in and out
    """

    name: str
    module: nn.Module
    signature: Signature

    def __post_init__(self) -> None:
        self.module.eval().requires_grad_(False)

    def __call__(self, *inputs: Tensor) -> Tensor:
        """The network's outputs for a batch of inputs."""
        outputs: Tensor = self.module(*inputs)
        return outputs

    def to(self, device: torch.device | str) -> "Teacher":
        """A copy on `device`, with 4-D weights in channels_last order (faster convolutions)."""
        # Moved in place, the module would change under whoever else holds this teacher.
        return Teacher(self.name, place(copy.deepcopy(self.module), device), self.signature)


@spec
class Checkpoint:
    """A trained network at rest: architecture, weights and the task it was taught; cheap and comparable.

    With `weights` it is loaded; without, the runner makes it by `train`.
    """

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    """how it is called in records and reports"""
    network: Network
    """the architecture"""
    task: Task
    """what it was taught"""
    weights: str | None = None
    """a safetensors file or a state dict; a relative path is looked up here and in the folder asked. A model in
    MLflow (models:/name/1, runs:/id/path), a compact folder or a .pt2 file, too, which bring a `Given` network along"""
    sha256: Annotated[str, Field(pattern=r"^[0-9a-fA-F]{64}$")] | None = None
    """of the weights file; None trusts whatever is there"""
    train: Train | None = None
    """how it is made where there are no weights"""

    @model_validator(mode="after")
    def _can_be_had(self) -> Self:
        if self.weights is None and self.train is None:
            raise ValueError(
                f"checkpoint {self.name!r} has neither weights nor train: name a file, or say "
                "how it is trained"
            )
        if self.weights is None and self.sha256 is not None:
            raise ValueError(f"checkpoint {self.name!r} has a sha256 but no weights: name the file")
        return self

    def load(self, folder: Path | None = None) -> Teacher:
        """Build the network, check the file's sha256, load its weights and try them on one input.

        Raises ValueError where the file is missing, is another one than the sha256 says, is damaged, does not
        fit the network, or where the network does not fit the task; and where there is no file to load.
        """
        if self.weights is None:
            raise ValueError(
                f"checkpoint {self.name!r} has no weights to load: a run trains it first; "
                "in Python, train network.build() with `train` and hand it to `teacher`"
            )
        path = self._find(self.weights, folder)
        self.sound(path)
        if path.suffix == ".pt2":
            if not isinstance(self.network, Given):
                raise ValueError(
                    f"checkpoint {self.name!r}: {path} is a program of torch.export, which has its network inside: "
                    "write network: {teachers.networks.Given: }, or name weights of this network"
                )
            return self.teacher(Sealed.load(path))
        # First values that are overwritten at once cost no randomness.
        with torch.random.fork_rng(devices=[]):
            module = self.network.build()
        load_into(module, read(path), source=str(path))
        return self.teacher(module)

    def teacher(self, module: nn.Module) -> Teacher:
        """The trained `module`, frozen in place, as this checkpoint's teacher.

        A network that takes inputs by name is brought to take them by position (`teachers.calling`). Raises ValueError
        where it does not take the task's inputs or gives another number of outputs.
        """
        by_position(module, self.task.signature().names)
        teacher = Teacher(self.name, module, self.task.signature())
        self._check(teacher)
        return teacher

    def sound(self, path: Path) -> None:
        """Raise ValueError where a file is not the one that the sha256 says."""
        if self.sha256 is not None and (found := digest(path)) != self.sha256.lower():
            raise ValueError(
                f"{path} is not the file that checkpoint {self.name!r} means: its sha256 is {found}, "
                f"not {self.sha256.lower()}"
            )

    def _find(self, weights: str, folder: Path | None) -> Path:
        path = Path(weights).expanduser()
        return existing(path) if folder is None or path.is_absolute() else existing(path, folder / path)

    def _check(self, teacher: Teacher) -> None:
        signature = teacher.signature
        if len(signature.inputs) != 1 and not (signature.is_graph or signature.names or signature.types):
            return  # several inputs hang together: random ones prove nothing, unless it is said what they are
        shape = ", ".join(map(str, signature.inputs)) if len(signature.inputs) > 1 else signature.inputs[0]
        device = next((p.device for p in teacher.module.parameters()), torch.device("cpu"))
        inputs = signature.example(2)
        try:
            with torch.no_grad():
                outputs = teacher(*(tensor.to(device) for tensor in inputs))
        except Exception as problem:
            raise ValueError(
                f"checkpoint {self.name!r}: {self.network} does not take the inputs of {self.task}, "
                f"{shape} each: {problem}"
            ) from problem
        if not isinstance(outputs, Tensor):
            raise ValueError(
                f"checkpoint {self.name!r}: {self.network} gives a {type(outputs).__name__}; "
                "a teacher gives one tensor of logits"
            )
        if outputs.ndim < 2 or outputs.shape[1] != signature.classes:
            raise ValueError(
                f"checkpoint {self.name!r}: the task has {signature.classes} classes, but {self.network} "
                f"gives outputs of shape {tuple(outputs.shape)} for {len(inputs[0])} inputs: "
                f"classes={signature.classes}"
            )
