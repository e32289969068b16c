"""The student as a version of a registered model in MLflow: what it is, how well it does, and where it comes from."""

from __future__ import annotations

from typing import TYPE_CHECKING

from students import compact

if TYPE_CHECKING:
    from recipes.run import Run


def register(run: Run, name: str) -> None:
    """Tell the tracker to make the student a version of the registered model `name`, with where it comes from."""
    folder, last = run.folder / "compact", run.records[-1]
    card = compact.card(folder)
    teachers = card["teachers"]
    for teacher in teachers:
        run.books.tracker.model("run", f"00-{teacher['name']}", "input")
    tags = {
        "decoct.recipe": run.recipe.name,
        "decoct.hash": card["hash"],
        "decoct.fingerprint": card["fingerprint"],
        "decoct.code": card["code"],
        "decoct.teachers": ", ".join(teacher["name"] for teacher in teachers),
        "decoct.teachers_sha256": ", ".join(teacher["sha256"] for teacher in teachers),
    }
    first = run.records[0]
    score = last.test or last.val
    cost = (
        f"{last.profile.macs:,} MACs ({100 * last.profile.macs / first.profile.macs:.1f} % of the teacher's)"
    )
    note = (
        f"{run.recipe.name}: a student of {tags['decoct.teachers']}, by "
        f"{', '.join(type(stage).__name__ for stage in run.recipe.stages)}. {cost}, {last.profile.params:,} parameters"
        f"{f', {last.metric} {score} on ' + ('test' if last.test else 'val') if score else ''}. "
        "It answers with logits, one for each label in its metadata; where there are a mean and a std beside them, "
        "an image x in [0, 1] goes in as (x - mean) / std."
    )
    run.books.tracker.register(
        "run", name, folder, step=last.position, values=last.metrics(), tags=tags, note=note
    )
