"""Run in a fresh Python that knows nothing of us: do the forms in a compact folder answer like the student?

Started by `students.compact`, as `python -I prove.py`. It reads lines of JSON and answers each with one.
The first names the folder; every other one a safetensors file with inputs ("0", "1", ...) and the student's
outputs ("outputs"). The answer gives, for each form, how far its outputs lie from those; a form of `OPTIONAL` that
fails is answered with under "refused", and not tried again.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

OURS = ("compress", "teachers", "students", "recipes", "reports")
OPTIONAL = ("model.onnx",)
"""forms that a student can do without"""


def main() -> None:
    """Answer line by line; one that fails is answered with {"error": ...}, and is the last."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # whatever a library prints is no answer
    forms: dict[str, Callable[..., Any]] = {}
    for line in sys.stdin:
        order = json.loads(line)
        form = "the folder"
        try:
            refused: dict[str, str] = {}
            if not forms:
                forms = opened(order, refused)
                print(json.dumps({"forms": list(forms), "refused": refused}), file=answers)
                continue
            found: dict[str, Any] = {}
            for form, call in list(forms.items()):
                try:
                    found[form] = compare(call, order["batch"])
                except Exception as problem:
                    if form not in OPTIONAL:
                        raise
                    refused[form] = f"{type(problem).__name__}: {problem}"
                    del forms[form]
            print(json.dumps({**found, "refused": refused}), file=answers)
        except Exception as problem:
            print(json.dumps({"error": f"{form}: {type(problem).__name__}: {problem}"}), file=answers)
            return


def opened(order: dict[str, Any], refused: dict[str, str]) -> dict[str, Callable[..., Any]]:
    """The forms, each by the lines its reader would write; an optional one that does not open is noted in `refused`."""
    import torch

    if not order["trust"]:
        for name in OURS:  # None makes an import of it fail
            sys.modules[name] = None  # type: ignore[assignment]
    sys.path.extend(order["path"])
    torch.set_num_threads(order["threads"])
    folder = Path(order["folder"])
    exported: Callable[..., Any] = torch.export.load(folder / "model.pt2").module()
    spec = importlib.util.spec_from_file_location("load", folder / "load.py")
    assert spec is not None
    assert spec.loader is not None
    load = importlib.util.module_from_spec(spec)
    # None of it in the folder that is given away; torch's own is written by now, and spares the next one its time.
    sys.dont_write_bytecode = True
    spec.loader.exec_module(load)
    rebuilt: Callable[..., Any] = load.load(trust=order["trust"])
    if not order["trust"]:
        known = [name for name in OURS if sys.modules.get(name) is not None]
        assert not known, f"{known} were imported"
    forms = {"model.pt2": exported, "load.py": rebuilt}
    if (folder / "model.onnx").exists():
        try:
            forms["model.onnx"] = served(folder / "model.onnx", order["threads"])
        except (
            Exception
        ) as problem:  # onnxruntime's own, which derive from RuntimeError and from nothing in common
            refused["model.onnx"] = f"{type(problem).__name__}: {problem}"
    return forms


def served(path: Path, threads: int) -> Callable[..., Any]:
    """The ONNX form in onnxruntime, on the CPU."""
    import onnxruntime
    import torch

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [given.name for given in session.get_inputs()]

    def call(*inputs: Any) -> Any:
        given = {name: tensor.numpy() for name, tensor in zip(names, inputs, strict=True)}
        return torch.from_numpy(session.run(None, given)[0])

    return call


def compare(call: Callable[..., Any], batch: str) -> dict[str, float]:
    """Largest difference, how many decisions changed and how many values are NaN, and seconds taken."""
    import torch
    from safetensors.torch import load_file

    tensors = load_file(batch)
    outputs = tensors.pop("outputs")
    inputs = [tensors[str(index)] for index in range(len(tensors))]
    with torch.no_grad():
        start = time.perf_counter()
        answer = call(*inputs)
        seconds = time.perf_counter() - start
    if answer.shape != outputs.shape:
        raise ValueError(f"gives {tuple(answer.shape)} where the student gives {tuple(outputs.shape)}")
    difference = (answer - outputs).abs().nan_to_num(nan=0.0)
    changed = (
        (answer.flatten(2).argmax(1) != outputs.flatten(2).argmax(1))
        if outputs.dim() > 2
        else (answer.argmax(-1) != outputs.argmax(-1))
    )
    return {
        "difference": float(difference.max()),
        "changed": int(changed.sum()),
        "nan": int(answer.isnan().sum()),
        "seconds": seconds,
    }


if __name__ == "__main__":
    main()
