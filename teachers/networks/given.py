"""A network that comes with its weights: nothing has to be said of it but where these are."""

from __future__ import annotations

from torch import nn

from teachers.networks.network import Network
from teachers.spec import spec


@spec
class Given(Network):
    """Whatever network the checkpoint's weights bring along.

    Those are a model in MLflow (`models:/name/1`), a compact student's folder, or a program that torch.export saved
    (`model.pt2`), which may be a teacher and can be neither pruned nor trained.
    """

    def build(self) -> nn.Module:
        """Raises ValueError: without its weights there is no such network."""
        raise ValueError(
            "teachers.networks.Given is the network that weights bring along: name a model in MLflow, a compact folder "
            "or a .pt2 file as the checkpoint's weights"
        )
