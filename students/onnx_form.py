"""The compact student as ONNX: written from the program that torch.export made, and timed in onnxruntime.

Parity is proven where that of the other forms is, in `students.prove`. An operator that ONNX has no word for is no
failure of the student: the other forms stay good, and the card says which operator it was.
"""

from __future__ import annotations

import copy
import re
import tempfile
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from reports.profile import latency
from students import kernels
from students.exported import exported, needed, shapes
from students.fold import folded
from students.proof import Proof
from teachers.sealed import Sealed
from teachers.signature import Signature

OPSET = 18
"""of the operators: the one that PyTorch's exporter is written in, so that nothing is converted afterwards"""

FILE = "model.onnx"

_OPERATOR = re.compile(r"op='([\w.]+)'|target=torch\.ops\.([\w.]+?)(?:\.default)?\]")


class Refused(ValueError):
    """A network has no ONNX form; the message says why."""


def write(program: ExportedProgram, path: Path, signature: Signature) -> None:
    """Write the program as ONNX, weights inside, with free sizes where the program's are free.

    Inputs have their names of the signature, the output is called `outputs`, the number of samples `batch`. Raises
    Refused, naming the operator, where ONNX (or PyTorch's exporter) has none for it, and OSError.
    """
    names = signature.names_of_inputs
    # Nodes and edges keep the names that torch.export gives their numbers: several may hang together.
    free = None if signature.is_graph else shapes(signature, free="batch")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # notes on the exporter's own workings
            made: Any = torch.onnx.export(
                program,
                dynamo=True,
                verbose=False,
                opset_version=OPSET,
                input_names=names,
                output_names=["outputs"],
                dynamic_shapes=free,
            )
            made.save(path)
    except OSError:
        raise
    except Exception as problem:  # whatever a converter of thousands of operators raises
        raise Refused(_why(problem)) from problem


def attempt(program: ExportedProgram, path: Path, signature: Signature) -> str | None:
    """Write the ONNX form; why there is none, where there is none."""
    try:
        write(program, path, signature)
    except Refused as problem:
        path.unlink(missing_ok=True)
        return str(problem)
    return None


def told(
    path: Path,
    signature: Signature,
    proof: Proof,
    refused: str | None,
    teacher: tuple[nn.Module, Signature] | None,
    seconds: float,
) -> dict[str, Any]:
    """What the card says of the ONNX form: how it compares, what it costs, or why there is none.

    refused  what `attempt` gave; the other arguments are those of `timed`
    """
    refused = refused or proof.refused.get(FILE)
    if refused is not None:
        path.unlink(missing_ok=True)
        return {"refused": refused}
    agreement = proof.forms[FILE]
    return {
        "opset": OPSET,
        "onnxruntime": _version(),
        "bytes": path.stat().st_size,
        "inputs": proof.inputs,
        "samples": proof.samples,
        "largest_difference": agreement.largest_difference,
        "relative_difference": agreement.relative_difference,
        "changed_decisions": agreement.changed_decisions,
        "threads": torch.get_num_threads(),
        **timed(path, signature, teacher, seconds=seconds),
    }


def metrics(onnx: dict[str, Any], who: str = "student") -> dict[str, float]:
    """The card's numbers under the tracker's names: `cost/onnx_latency_ms_p50_b1`, ..., and those of parity."""
    found = {f"cost/onnx_{name}": ms for name, ms in onnx.get(who, {}).items() if name != "refused"}
    if who == "student" and "refused" not in onnx:
        found["cost/onnx_bytes"] = float(onnx["bytes"])
        found["onnx/largest_difference"] = onnx["largest_difference"]
        found["onnx/changed_decisions"] = float(onnx["changed_decisions"])
    return found


def line(onnx: dict[str, Any]) -> str:
    """The ONNX form in a line: parity and time, or why there is none."""
    if "refused" in onnx:
        return f"no ONNX form: {onnx['refused']}"
    kind = "node" if "latency_ms_p50_node" in onnx["student"] else "b1"
    times = [
        f"{who} {onnx[who][f'latency_ms_p50_{kind}']:.3g} ms"
        for who in ("teacher", "student")
        if f"latency_ms_p50_{kind}" in onnx.get(who, {})
    ]
    what = "random inputs, for there is no val set" if onnx["inputs"] == "random" else "val samples"
    lacking = onnx.get("teacher", {}).get("refused")
    return (
        f"ONNX (opset {onnx['opset']}), in onnxruntime on {onnx['samples']} {what}: largest difference "
        f"{onnx['largest_difference']:.1e}, {onnx['changed_decisions']} changed decisions; a "
        f"{'node' if kind == 'node' else 'call at batch 1'} takes {', '.join(times)}"
        f"{f'; the teacher has no ONNX form: {lacking}' if lacking else ''}"
    )


def timed(
    path: Path,
    signature: Signature,
    teacher: tuple[nn.Module, Signature] | None = None,
    *,
    seconds: float = 0.3,
) -> dict[str, Any]:
    """Milliseconds of a call in onnxruntime, at batch 1 and 32, of the student in `path` and of its teacher in turns.

    teacher  its network and signature: it is exported, too, into a temporary folder
    seconds  of timing for each batch size

    Of a graph network, milliseconds a node, as `reports.profile.latency` has them. The result is {"student": {...}},
    with {"teacher": {...}}, or {"teacher": {"refused": why}} where it has no ONNX form.
    """
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="decoct-onnx-") as folder:
        forms = {"student": Served(path)}
        inputs = (teacher[1] if teacher else signature).usual(1)
        if teacher is not None:
            try:
                served = Served(_of(*teacher, Path(folder) / FILE))
                served(*inputs)
                forms["teacher"] = served
            except Exception as problem:  # onnxruntime's own derive from nothing in common
                found["teacher"] = {"refused": " ".join(str(problem).split())[:400]}
        taken = latency(forms, inputs, seconds=seconds, graph=signature.is_graph)
    return {name: dict(times.ms) for name, times in taken.items()} | found


class Served(nn.Module):
    """An ONNX file in onnxruntime, on the CPU with as many threads as PyTorch has, called like the network it was."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.inter_op_num_threads = 1
        # Threads that wait by spinning would take the cores away from whoever's turn it is.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        self.session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self.names = [given.name for given in self.session.get_inputs()]

    def forward(self, *inputs: Tensor) -> Tensor:
        """As the network's; inputs behind those that it takes are left out: edges, where it looks at none."""
        given = {name: x.contiguous().numpy() for name, x in zip(self.names, inputs, strict=False)}
        return torch.from_numpy(self.session.run(None, given)[0])


def _version() -> str:
    import onnxruntime

    found: str = onnxruntime.__version__
    return found


def plain(network: nn.Module) -> nn.Module:
    """A copy for use, on the CPU: batch norms folded, shared kernels written out."""
    return folded(kernels.densified(network))


def _of(network: nn.Module, signature: Signature, path: Path) -> Path:
    if isinstance(network, Sealed):  # a program already
        write(network.source, path, signature)
        return path
    reference = copy.deepcopy(network).cpu().eval()
    signature = needed(reference, signature)
    write(exported(plain(reference), signature), path, signature)
    return path


def _why(problem: BaseException) -> str:
    """The operator that could not be written, and what was said of it, in a line."""
    chain = [problem]
    while (inner := chain[-1].__cause__) is not None:
        chain.append(inner)
    said = " ".join(str(chain[-1]).split())[:300]
    for one in reversed(chain):
        if found := _OPERATOR.search(str(one)):
            name = found[1] or found[2]
            return f"the operator {name} cannot be exported to ONNX (opset {OPSET}): {said}"
    return f"it cannot be exported to ONNX (opset {OPSET}): {type(chain[-1]).__name__}: {said}"
