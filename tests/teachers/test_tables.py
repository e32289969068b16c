"""Tables: rows in the units of train, split once and for all, judged by right answers."""

from collections.abc import Iterable

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from teachers.task import Batch, Split
from teachers.tasks import BreastCancer

CPU = torch.device("cpu")


def whole(batches: Iterable[Batch]) -> tuple[Tensor, Tensor]:
    rows = list(batches)
    return torch.cat([b.inputs[0] for b in rows]), torch.cat([b.target for b in rows if b.target is not None])


def test_a_table_enters_in_the_units_of_train() -> None:
    splits = BreastCancer(batch=50).open(None)
    sizes = [splits.samples(split) for split in (Split.TRAIN, Split.VAL, Split.TEST)]
    assert sum(sizes) == 569
    assert sizes[2] == pytest.approx(0.2 * 569, abs=1)
    rows, labels = whole(splits.batches(Split.TRAIN, CPU))
    assert rows.shape == (sizes[0], 30)
    assert_close(rows.mean(0), torch.zeros(30), atol=1e-4, rtol=0)
    assert_close(rows.std(0), torch.ones(30), atol=1e-4, rtol=0)
    assert set(labels.tolist()) == {0, 1}
    assert (
        splits.steps(Split.TRAIN)
        == len(list(splits.batches(Split.TRAIN, CPU, torch.Generator())))
        == sizes[0] // 50
    )
    every = [row for split in Split for row in whole(splits.batches(split, CPU))[0].tolist()]
    assert len({tuple(row) for row in every}) == 569
    again = whole(splits.batches(Split.TRAIN, CPU, torch.Generator().manual_seed(1)))[0]
    assert_close(again, whole(splits.batches(Split.TRAIN, CPU, torch.Generator().manual_seed(1)))[0])
    assert not torch.equal(
        again, whole(splits.batches(Split.TRAIN, CPU, torch.Generator().manual_seed(2)))[0]
    )


def test_a_table_is_judged_by_right_answers() -> None:
    task = BreastCancer()
    assert task.signature().inputs == ((30,),)
    assert task.signature().labels == ("malignant", "benign")
    assert task.chance == 0.5
    outputs = torch.tensor([[0.1, 0.9], [2.0, -1.0]])
    assert task.score(task.predict(outputs), torch.tensor([1, 1])) == 0.5
