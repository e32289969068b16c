"""Sobol: inputs spread evenly over what a table's columns allow. In few dimensions nothing learned beats it."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, ClassVar

from torch.quasirandom import SobolEngine

from compress.columns import Category, Number, evenly, fit
from compress.forecast import Feed, Forecast, drawn
from compress.session import Sees, Session
from compress.stage import Stage, State
from teachers.signature import Signature
from teachers.spec import Field, spec


@spec
class Sobol(Stage):
    """Leave rows drawn by a scrambled Sobol sequence, for stages with `generated: true` that follow.

    The baseline of `DFAD` for vectors, and often enough: up to some 20 columns it covers the box better than a
    generator that looks for differences.

    Takes the only teacher, leaves rows in the state. Sees nothing. Source: Sobol 1967; Owen 1998 (scrambling).
    """

    columns: Annotated[tuple[Number | Category, ...], Field(min_length=1)]
    """what the teacher's input is made of, in order"""
    rows: Annotated[int, Field(ge=1)] = 4096
    """how many; powers of two are spread best"""

    sees: ClassVar[Sees] = Sees.NOTHING

    def forecast(self, state: State, signature: Signature, feed: Feed) -> Forecast:
        """Rows, and no student."""
        fit(self.columns, state.teacher().signature.inputs)
        return Forecast(
            drawn(state, self.rows, state.teacher().signature), (f"draws {self.rows:,} rows",), seconds=0.1
        )

    def __call__(self, state: State, session: Session) -> State:
        """Draw. Raises ValueError where the columns are not what the teacher takes."""
        fit(self.columns, state.teacher().signature.inputs)
        seed = int(session.generator.initial_seed()) % 2**31
        places = SobolEngine(len(self.columns), scramble=True, seed=seed).draw(self.rows)
        session.note(f"{self.rows} rows were spread evenly over {len(self.columns)} columns")
        return replace(state, generated=evenly(self.columns, places))
