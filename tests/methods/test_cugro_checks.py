"""cugro from end to end on the point mass: old tasks stay in its dreams, and what acts stays near what real old data keep.

The thresholds were set once, from the figures that stand with each, and are not moved since.
"""

from statistics import median

import pytest
import torch
from tiny import Lab

from perdure.api import execute
from perdure.evaluate.fidelity import SAMPLES, fidelity
from perdure.run_config import resolve

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

SMALL = {"batch": 128, "state_steps": 1000}


def settings(tasks, seed=0, **options):
    return resolve("cugro", "toy", seed=seed, method_options=SMALL | options, stream_options_={"tasks": tasks},
                   evaluation={"curve": 0})


def distance(lab, task):
    """Of the dreams of a task from its held-out data."""
    obs, action = lab.method.dreamed(task, SAMPLES, torch.Generator().manual_seed(0))
    return fidelity(obs, action, lab.access(task).current.sampler, 0).distance


def test_dreams_of_the_first_task_outlive_three_more():
    """Its distance grows to 2.5 times at most; one that is shown no dreams and no teacher ends twice as far away at least.

    Measured: from 0.202 to 0.194; to 0.523 without dreams. With distillation: from 0.154 to 0.155; to 0.501 with neither.
    """
    first, last = {}, {}
    for replay in (True, False):
        lab = Lab(settings(4, steps=400, on_collapse="go_on"))
        lab.learn(0)
        first[replay] = distance(lab, 0)
        for task in (1, 2, 3):
            for phase in lab.phases(task):
                if phase.when():
                    lab.play(task, phase)
                if phase.name == "dream" and not replay:
                    lab.method.dreams.clear()
                    lab.method.teachers.clear()
            lab.method.forget_optimizers()
        last[replay] = distance(lab, 0)
    print({"after it": first, "after three more": last})
    assert last[True] <= 2.5 * first[True]
    assert last[False] >= 2 * last[True]


def test_it_keeps_what_real_old_data_keep(tmp_path):
    """Of three seeds the median: at least 0.85 of the oracle's score, forgetting of at most 0.15; without replay 0.6 at most.

    Measured: 1.00, 0.95, 1.00 with dreams, 1.00, 0.97, 1.00 with real data, 0.67, 0.38, 0.33 without; forgotten 0 in all three.
    With distillation, on another machine: 1.00, 0.99, 1.00; 1.00, 0.99, 1.00; 0.69, 0.46, 0.33; forgotten 0.
    """
    scores, forgotten = {}, []
    for replay in ("diffusion", "oracle", "none"):
        for seed in range(3):
            result = execute(settings(3, seed, steps=3000, replay=replay), tmp_path / f"{replay}-{seed}", workers=0)
            end = [result.matrix.mean(3, task) for task in range(3)]
            scores.setdefault(replay, []).append(sum(end) / 3)
            if replay == "diffusion":
                forgotten.append(sum(result.matrix.mean(task + 1, task) - end[task] for task in range(2)) / 2)
    print(scores, forgotten)
    middle = {replay: median(values) for replay, values in scores.items()}
    assert middle["diffusion"] >= 0.85 * middle["oracle"]
    assert middle["none"] <= 0.6 * middle["oracle"]
    assert median(forgotten) <= 0.15
