"""What is known of a table's columns without its rows: enough to make inputs up."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import torch
from torch import Tensor

from teachers.spec import Field, spec

Finite = Annotated[float, Field(allow_inf_nan=False)]


@spec
class Number:
    """A number between `low` and `high`, which enters the network as (x - mean) / std."""

    low: Finite
    """the least it may be"""
    high: Finite
    """the most it may be"""
    mean: Finite = 0.0
    """what the network was taught to take off it"""
    std: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    """what the network was taught to divide it by"""
    whole: bool = False
    """whole numbers only"""

    def __post_init__(self) -> None:
        if self.low >= self.high:
            raise ValueError(
                f"a Number from {self.low:g} to {self.high:g} has no room: low must be below high"
            )

    def of(self, share: Tensor) -> Tensor:
        """What enters the network, (n, 1), for places (n, 1) in [0, 1] between low and high; with a gradient."""
        value = self.low + (self.high - self.low) * share
        if self.whole:
            # Rounding has no slope: forward the whole number, backward as if it had not been rounded.
            value = value + (value.round().clamp(self.low, self.high) - value).detach()
        return (value - self.mean) / self.std


@spec
class Category:
    """One of `size` kinds, which enters the network as as many numbers, one of them 1 and the others 0."""

    size: Annotated[int, Field(ge=2)]
    """how many kinds there are"""


Column = Number | Category


def inputs_of(columns: Sequence[Column]) -> int:
    """How many numbers the columns are to a network."""
    return sum(column.size if isinstance(column, Category) else 1 for column in columns)


def evenly(columns: Sequence[Column], places: Tensor) -> Tensor:
    """Rows for points of the unit cube: places (n, columns) in [0, 1) -> (n, inputs)."""
    parts = []
    for column, place in zip(columns, places.unbind(1), strict=True):
        if isinstance(column, Number):
            parts.append(column.of(place[:, None]))
        else:
            kind = (place * column.size).long().clamp_max(column.size - 1)
            parts.append(torch.nn.functional.one_hot(kind, column.size).to(place))
    return torch.cat(parts, 1)


def fit(columns: Sequence[Column], inputs: tuple[tuple[int, ...], ...]) -> None:
    """Raises ValueError where a network with these inputs does not take rows of these columns."""
    count = inputs_of(columns)
    if inputs != ((count,),):
        raise ValueError(
            f"{len(columns)} columns are {count} numbers to a network, but the teacher takes "
            f"{', '.join(map(str, inputs))}"
        )
