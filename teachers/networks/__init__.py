"""Network families as specs: each has a `build()`, and none has weights."""

from teachers.networks.network import Network
from teachers.networks.resnet import ResNet

__all__ = ["Network", "ResNet"]
