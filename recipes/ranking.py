"""Ranking without compressing: the stages of a recipe that choose among its teachers, and no further."""

from __future__ import annotations

from dataclasses import replace
from itertools import takewhile

from recipes.display import Display
from recipes.recipe import Recipe, Workshop
from recipes.run import Result, run


def rank(recipe: Recipe, workshop: Workshop | None = None, *, display: Display | None = None) -> Result:
    """Rank the teachers of a recipe by the stages it begins with; their table and the report, and no student.

    Teachers near chance are ranked like the others, and told. What is done here a run of the same recipe takes up.
    Raises ValueError for a recipe that does not begin with a stage that chooses.
    """
    chosen = tuple(takewhile(lambda stage: stage.chooses, recipe.stages))
    if not chosen:
        raise ValueError(
            f"{recipe.name} begins with {type(recipe.stages[0]).__name__}, which ranks nobody: put compress.DEPARA, or "
            "compress.Rank, in front"
        )
    return run(replace(recipe, stages=chosen), workshop, display=display)
