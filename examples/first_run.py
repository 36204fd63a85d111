"""Three methods learn the same three tasks; one table shows what each of them kept.

    python examples/first_run.py [FOLDER]

Below FOLDER (default: a temporary folder) there is one run folder per method. Run it again with the same FOLDER: what is
finished is not done again.
"""

import sys
import tempfile
from pathlib import Path

import perdure

folder = Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp(prefix="perdure-"))
results = {}
for method in ("finetune", "er", "packnet"):
    results[method] = perdure.run(method, "toy", out=folder / method, quiet=True, method_options={"steps": 200})

# Row k: the score of every task after k tasks were learned. Finetuning forgets in the column, the others do not.
for method, result in results.items():
    print(f"{method}\n{result.table()}\n")

print(f"{'method':10}{'average performance':>22}{'forgetting':>14}")
for method, result in results.items():
    print(f"{method:10}{result.value('average_performance'):22.2f}{result.value('forgetting'):14.2f}")
print(f"\nrun folders: {folder}")
