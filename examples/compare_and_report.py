"""Compare methods over seeds, in numbers and as a page: run folders in, report.html out.

    python examples/compare_and_report.py [FOLDER]

`independent` is among the methods because forward transfer and intransigence are measured against it.
"""

import sys
import tempfile
from pathlib import Path
from statistics import mean

import perdure

folder = Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp(prefix="perdure-"))
small = {"method_options": {"steps": 100}, "evaluation": {"episodes": 20}}  # enough for an example
runs = []
for method in ("independent", "finetune"):
    results = [perdure.run(method, "toy", seed=seed, out=folder / method / f"seed{seed}", quiet=True, **small) for seed in (0, 1)]
    runs += [result.folder for result in results]
    print(f"{method:12} forgets {mean(result.value('forgetting') for result in results):.2f} on average over two seeds")

report = perdure.write_report(runs, folder / "report", title="Two methods on toy")
print(f"open {report.page}; table.md, table.tex, table.csv and figures lie beside it")
