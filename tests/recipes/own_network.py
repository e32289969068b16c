"""A network as users bring them: its code takes a turn that depends on the data, so it cannot be traced."""

import torch
from torch import Tensor, nn


class Winding(nn.Module):
    """Two convolutions and a linear layer, with a branch on the values of the batch."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 16, 3, padding=1)
        self.norm = nn.BatchNorm2d(16)
        self.conv2 = nn.Conv2d(16, 16, 3, padding=1, stride=2)
        self.linear = nn.Linear(16, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Shapes: x (n, 1, 8, 8), result (n, classes)."""
        x = torch.relu(self.norm(self.conv1(x)))
        if x.sum() > 0:
            x = torch.relu(self.conv2(x))
        logits: Tensor = self.linear(x.mean((2, 3)))
        return logits


def make(classes: int) -> nn.Module:
    """A fresh one."""
    return Winding(classes)
