"""One of many processes that write to one store at once; started by `test_together.py`: folder, address, name."""

import sys
from pathlib import Path

from reports.track import MLflow

folder, uri, name = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
(folder / "student").mkdir(parents=True)
(folder / "student" / "weights.txt").write_text(name)
tracking = MLflow(folder, uri, every=0.05)
tracking.begin("run", name=name, params={f"field {n}": n for n in range(20)}, tags={"who": name})
for stage in range(2):
    child = f"{stage}-stage"
    tracking.begin(child, name=child, parent="run")
    for epoch in range(25):
        tracking.metrics(child, {"loss": epoch / 8, "agreement": 1 - epoch / 100}, epoch)
        if epoch % 8 == 0:
            tracking.reconcile(0.01)  # all of them at the store at the same time
    tracking.model(child, child, "output", step=stage, files=folder / "student")
    tracking.metrics("run", {"cost/macs": 100.0 / (stage + 1)}, stage)
    tracking.text(child, name, "said.txt")
    tracking.end(child)
tracking.tags("run", {"data": "none"})
tracking.end("run")
sys.exit(tracking.close(float(sys.argv[4])))
