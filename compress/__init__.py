"""The methods, one file each: stages that a recipe puts in a row.

    from compress import GAL, Finetune, Session, State

    student = GAL(macs=0.5, epochs=2)(State((teacher,)), Session.bare(task)).student

Names are fetched when they are first used: importing this package imports neither PyTorch nor a tracker.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from compress.affinity import Kernel as Kernel
    from compress.amalgamate import Amalgamate as Amalgamate
    from compress.amalgamate_data_free import AmalgamateDataFree as AmalgamateDataFree
    from compress.branching import Branching as Branching
    from compress.columns import Category as Category
    from compress.columns import Number as Number
    from compress.common_feature import CommonFeature as CommonFeature
    from compress.depara import DEPARA as DEPARA
    from compress.dfad import DFAD as DFAD
    from compress.finetune import Finetune as Finetune
    from compress.gal import GAL as GAL
    from compress.generate import Generate as Generate
    from compress.hints import GCRD as GCRD
    from compress.hints import AttentionTransfer as AttentionTransfer
    from compress.hints import FitNet as FitNet
    from compress.hints import SoftTargets as SoftTargets
    from compress.inherit import Inherit as Inherit
    from compress.kse import KSE as KSE
    from compress.layer_wise import LayerWise as LayerWise
    from compress.lsp import LSP as LSP
    from compress.method import MergedTargets as MergedTargets
    from compress.prune import Prune as Prune
    from compress.rank import Rank as Rank
    from compress.recalibrate import Recalibrate as Recalibrate
    from compress.select_layer import SelectLayer as SelectLayer
    from compress.session import Sees as Sees
    from compress.session import Session as Session
    from compress.sobol import Sobol as Sobol
    from compress.stage import Ranking as Ranking
    from compress.stage import Stage as Stage
    from compress.stage import State as State

_HOMES = {
    "Amalgamate": "compress.amalgamate",
    "AmalgamateDataFree": "compress.amalgamate_data_free",
    "AttentionTransfer": "compress.hints",
    "Branching": "compress.branching",
    "Category": "compress.columns",
    "CommonFeature": "compress.common_feature",
    "DEPARA": "compress.depara",
    "DFAD": "compress.dfad",
    "Finetune": "compress.finetune",
    "FitNet": "compress.hints",
    "GAL": "compress.gal",
    "GCRD": "compress.hints",
    "Generate": "compress.generate",
    "Inherit": "compress.inherit",
    "KSE": "compress.kse",
    "Kernel": "compress.affinity",
    "LSP": "compress.lsp",
    "LayerWise": "compress.layer_wise",
    "MergedTargets": "compress.method",
    "Number": "compress.columns",
    "Prune": "compress.prune",
    "Rank": "compress.rank",
    "Ranking": "compress.stage",
    "Recalibrate": "compress.recalibrate",
    "Sees": "compress.session",
    "SelectLayer": "compress.select_layer",
    "Session": "compress.session",
    "Sobol": "compress.sobol",
    "SoftTargets": "compress.hints",
    "Stage": "compress.stage",
    "State": "compress.stage",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'compress' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
