"""How it turned out: what a network costs, how well it does, and where both are kept.

The names below are fetched when first asked for, so that a table does not wait for a tracker. `profile` and
`evaluate` are called by full name, `reports.profile.profile` and `reports.evaluate.evaluate`: their modules
own the short ones.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from reports.evaluate import TestScore, ValScore
    from reports.page import write
    from reports.plots import table
    from reports.profile import Profile, latency, layers, macs
    from reports.track import MLflow, Record, Silent, Tracker

__all__ = [
    "MLflow",
    "Profile",
    "Record",
    "Silent",
    "TestScore",
    "Tracker",
    "ValScore",
    "latency",
    "layers",
    "macs",
    "table",
    "write",
]

_ROOMS = {
    "reports.evaluate": ("TestScore", "ValScore"),
    "reports.page": ("write",),
    "reports.plots": ("table",),
    "reports.profile": ("Profile", "latency", "layers", "macs"),
    "reports.track": ("MLflow", "Record", "Silent", "Tracker"),
}


def __getattr__(name: str) -> object:
    for room, names in _ROOMS.items():
        if name in names:
            return getattr(import_module(room), name)
    raise AttributeError(f"module 'reports' has no attribute '{name}'")
