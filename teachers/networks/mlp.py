"""A plain network for rows of numbers."""

from typing import Annotated

from torch import nn

from teachers.networks.network import Network
from teachers.spec import Field, spec

Width = Annotated[int, Field(ge=1)]


@spec
class MLP(Network):
    """Linear layers with batch norm and ReLU between them, for rows (n, inputs): modules `linear1 norm1 relu1 ...`."""

    inputs: Width
    """numbers a row"""
    classes: Width
    """outputs"""
    widths: Annotated[tuple[Width, ...], Field(min_length=1)] = (64, 64)
    """neurons of the hidden layers"""
    norm: bool = True
    """batch norm after every hidden layer"""

    def build(self) -> nn.Module:
        """A fresh network."""
        layers: dict[str, nn.Module] = {}
        ins = self.inputs
        for number, outs in enumerate(self.widths, start=1):
            layers[f"linear{number}"] = nn.Linear(ins, outs, bias=not self.norm)
            if self.norm:
                layers[f"norm{number}"] = nn.BatchNorm1d(outs)
            layers[f"relu{number}"] = nn.ReLU()
            ins = outs
        network = nn.Sequential()
        for name, layer in layers.items():
            network.add_module(name, layer)
        network.add_module("classifier", nn.Linear(ins, self.classes))
        return network
