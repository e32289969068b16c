"""A network as torch.export sees it: for any number of samples, and of a graph for any number of nodes and edges."""

from __future__ import annotations

import inspect
import warnings
from dataclasses import replace
from typing import Any

import torch
from torch import fx, nn
from torch.export import ExportedProgram

from teachers.signature import Signature


def needed(network: nn.Module, signature: Signature) -> Signature:
    """The signature without the inputs that this network can do without: a graph that it never looks at."""
    given = inspect.signature(network.forward).parameters.values()
    wanted = sum(one.default is one.empty and one.kind is one.POSITIONAL_OR_KEYWORD for one in given)
    return replace(signature, inputs=signature.inputs[:wanted]) if signature.is_graph else signature


def shapes(signature: Signature, free: Any = None) -> tuple[dict[int, Any], ...]:
    """Which dimension of every input is free: the first, and the second of a graph's edges.

    free  what stands for the number of samples; nodes and edges are left to torch.export, for a network that looks
          for its k nearest wants k nodes at least
    """
    if signature.is_graph:
        return ({0: torch.export.Dim.AUTO}, {1: torch.export.Dim.AUTO})[: len(signature.inputs)]
    batch = torch.export.Dim("batch") if free is None else free
    return tuple({0: batch} for _ in signature.inputs)


def exported(network: nn.Module, signature: Signature) -> ExportedProgram:
    """The network as a program that names none of the files it was written in. Raises ValueError where it cannot be."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # notes on the exporter's own workings
            program = torch.export.export(network, signature.example(2), dynamic_shapes=shapes(signature))
    except Exception as problem:
        reason = str(problem).strip().splitlines()[0] if str(problem).strip() else type(problem).__name__
        raise ValueError(
            f"the student cannot be exported for any batch size: {reason}. A reshape with a fixed "
            "number of samples is the usual cause"
        ) from problem
    for inner in program.graph_module.modules():
        if isinstance(inner, fx.GraphModule):
            for node in inner.graph.nodes:
                node.meta.pop("stack_trace", None)  # paths of this machine
    return program
