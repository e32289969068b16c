"""What every network spec of this house promises."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import nn


class Network(ABC):
    """An architecture, written down. Subclasses are specs (`teachers.spec`): cheap, comparable, no weights.

    Every module built here takes float images (batch, channels, height, width) and gives logits (batch, classes), or
    the features (nodes, width) and edges (2, E) of a graph and gives logits (nodes, classes);
    `torch.fx.symbolic_trace` and `torch.export` with free sizes of batch, nodes and edges read it whole.
    """

    @abstractmethod
    def build(self) -> nn.Module:
        """A fresh network in train mode, initialised as PyTorch does, from the global random state."""
