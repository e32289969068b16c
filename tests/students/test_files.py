"""Files: what is put away comes back, and what fails leaves the old file as it was."""

import math
import os
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from students import files
from students.files import load_states, save_states, write, write_json, write_text

DTYPES = [
    torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.int64, torch.uint8, torch.bool, torch.int32,
]  # fmt: skip


def tensor(shape: tuple[int, ...], dtype: torch.dtype, turn: bool) -> torch.Tensor:
    made = torch.arange(math.prod(shape)).reshape(shape).to(dtype)
    return made.T if turn and made.dim() == 2 else made


shapes = st.lists(st.integers(0, 3), max_size=3).map(tuple)
tensors = st.builds(tensor, shapes, st.sampled_from(DTYPES), st.booleans())
leaves = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | tensors
trees = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.text(max_size=4) | st.integers(), inner, max_size=3)
    ),
    max_leaves=12,
)


def same(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and a == b


@settings(max_examples=150, deadline=None)
@given(states=st.dictionaries(st.text(max_size=5), trees, max_size=4))
def test_what_is_put_away_comes_back(
    states: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "states.safetensors"
    save_states(path, states)
    assert same(load_states(path), states)


def test_views_nan_and_ordered_dicts(tmp_path: Path) -> None:
    base = torch.randn(4, 4)
    states = {"a": base, "b": base[1], "c": OrderedDict(x=math.nan, y=math.inf), "d": torch.Size([2, 3])}
    save_states(tmp_path / "s", states)
    back = load_states(tmp_path / "s")
    assert torch.equal(back["a"], base)
    assert torch.equal(back["b"], base[1])
    assert math.isnan(back["c"]["x"])
    assert back["c"]["y"] == math.inf
    assert back["d"] == (2, 3)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (object(), "a object cannot be put away without a pickle"),
        ({1, 2}, "a set cannot be put away without a pickle"),
        ({(1, 2): 3}, r"a dict with the key \(1, 2\) cannot be put away: keys are str or int"),
    ],
)
def test_what_would_need_a_pickle_is_refused_before_anything_is_written(
    value: object, said: str, tmp_path: Path
) -> None:
    with pytest.raises(TypeError, match=said):
        save_states(tmp_path / "s", {"thing": value})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("keep", [0, 3, 8, 60, -1])
def test_a_file_cut_short_is_named_with_what_to_do(keep: int, tmp_path: Path) -> None:
    path = tmp_path / "loop-1.safetensors"
    save_states(path, {"a": torch.randn(50), "b": {"c": 1}})
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(
        ValueError, match=r"loop-1.safetensors is damaged \(.*\): delete it to start this stage"
    ):
        load_states(path)


@settings(max_examples=80, deadline=None)
@given(place=st.integers(0, 400), value=st.integers(0, 255))
def test_a_flipped_byte_is_read_or_refused(
    place: int, value: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "flipped.safetensors"
    save_states(path, {"a": torch.arange(5), "b": {"c": [1, (2, None)]}})
    content = bytearray(path.read_bytes())
    content[place % len(content)] = value
    path.write_bytes(content)
    found, said = None, ""
    try:  # anything but these two would be a traceback before a user's eyes
        found = load_states(path)
    except ValueError as refusal:
        said = str(refusal)
    assert isinstance(found, dict) or "flipped.safetensors" in said


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        load_states(tmp_path / "none")


# -- a disk that is full -----------------------------------------------------------------------------------


def full(*_: object, **__: object) -> None:
    raise OSError(28, "No space left on device")


def rust_full(*_: object, **__: object) -> None:
    # safetensors speaks of a full disk with an error of its own.
    from safetensors import SafetensorError

    raise SafetensorError("I/O error: No space left on device (os error 28)")


@pytest.mark.parametrize("failure", [full, rust_full])
def test_a_full_disk_leaves_the_old_file(
    failure: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "s.safetensors"
    save_states(path, {"a": 1})
    before = path.read_bytes()
    monkeypatch.setattr(files, "save_file", failure)
    with pytest.raises(
        OSError, match=r"s.safetensors was not written .*No space left.*is intact. Free some space"
    ):
        save_states(path, {"a": 2})
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["s.safetensors"]


def test_a_full_disk_at_the_very_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_text(tmp_path / "t", "old")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="t was not written"):
        write_text(tmp_path / "t", "new")
    assert (tmp_path / "t").read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 1


def test_an_interrupt_while_writing_leaves_the_old_file(tmp_path: Path) -> None:
    write_text(tmp_path / "t", "old")

    def interrupted(half: Path) -> None:
        half.write_text("ne")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "t", interrupted)
    assert (tmp_path / "t").read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 1


def test_json_without_nan(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "j.json", {"a": math.nan})
    assert list(tmp_path.iterdir()) == []
