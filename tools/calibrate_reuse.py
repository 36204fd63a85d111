"""Print what compoformer's rule of reuse decides from, on tasks of which no result is published.

    python tools/calibrate_reuse.py runs/calibrate-reuse     # half an hour on one core; a killed run resumes

Eight Meta-World tasks that cwpairs-v3 does not have, and each of them again with freshly collected data on other goals. Per task:
the errors of the nearest earlier module, of the task's own after the probe and of a constant action, and the share of the own
one's gain that the nearest gives up. The default of `tolerance` lies between the shares of tasks that come again and the others.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

from perdure.api import load_agent
from perdure.benchmarks.continual_world import AGAIN, Recording, assembled, datasets
from perdure.experiment import Experiment
from perdure.progress import Terminal
from perdure.run_config import resolve

TASKS = ("reach", "button-press-topdown", "coffee-button", "push-back", "shelf-place", "stick-pull", "hammer", "peg-unplug-side")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    data = datasets(TASKS + tuple(task + AGAIN for task in TASKS), Recording("mixed", 100, 200), print)
    stream = assembled("calibrate-reuse", TASKS + TASKS, data, 200)
    config = resolve("compoformer", "cw10-v3", policy="dt", method_options={"meaning": "data", "attention": "uniform"},
                     evaluation={"episodes": 1, "shared": 1, "curve": 0})
    with Terminal("calibrate reuse", [task.name for task in stream.tasks], config.method_config["steps"]) as progress:
        Experiment(config, folder, progress, workers=0, stream=stream).execute()
    print("| task | nearest | own | constant | given up | reused |\n|---|--:|--:|--:|--:|---|")
    for task, decision in load_agent(folder).method.decisions.items():
        nearest, own, constant = (decision[f"{name}_error"] for name in ("alone", "own", "constant"))
        given_up = math.log(nearest / own) / math.log(constant / own) if constant > own else math.inf
        errors = " | ".join(f"{error:.3f}" for error in (nearest, own, constant))
        print(f"| {stream.tasks[task].name} | {errors} | {given_up:.2f} | {'yes' if decision['reused'] else 'no'} |")


if __name__ == "__main__":
    main()
