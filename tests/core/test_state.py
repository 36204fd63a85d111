"""capture and restore: in the middle of any phase, through files, to a method that continues bit for bit."""

import json

import pytest
import torch
from tiny import Lab, config, state_digest

from perdure.core.checkpoint import read_folder, write_folder
from perdure.core.errors import UsageError
from perdure.core.method import Step
from perdure.core.rng import seed_everything
from perdure.core.state import capture, restore
from perdure.methods import METHODS
from perdure.run_config import find

UPDATES = 3


def half_way(method, policy):
    """A method three updates into the first phase of its last task that trains the policy."""
    lab = Lab(config(method, policy, tasks=2))
    if lab.method.schedule == "sequential":
        lab.learn(0)
    for phase in lab.phases(1):
        if phase.trains:
            break
        lab.play(1, phase)
    seed_everything(0, 1, phase.name, "begin")
    phase.begin()
    step(lab, phase, range(UPDATES))
    return lab


def step(lab, phase, indices):
    for index in indices:
        seed_everything(0, 1, phase.name, index)
        phase.update(Step(0, 1, phase.name, index))


PAIRS = [(method, policy) for method in METHODS for policy in find(method, METHODS, "method").works_with or ("bc", "dt")]


@pytest.mark.parametrize(("method", "policy"), PAIRS)
def test_round_trip_through_files_continues_exactly(method, policy, tmp_path):
    lab, other = half_way(method, policy), Lab(config(method, policy, tasks=2))
    meta, tensors = capture(lab.method)
    write_folder(tmp_path / "state", json.loads(json.dumps(meta)), tensors)
    restore(other.method, *read_folder(tmp_path / "state"), torch.device("cpu"))
    assert state_digest(other.method) == state_digest(lab.method)
    for each in (lab, other):
        step(each, next(phase for phase in each.phases(1) if phase.trains), range(UPDATES, 2 * UPDATES))
    assert state_digest(other.method) == state_digest(lab.method)


def test_what_only_the_task_needs_is_not_in_the_agent():
    lab = Lab(config("contract.own_method:Own"))
    phase = lab.phases(0)[0]
    phase.begin()
    step(lab, phase, range(1))
    _, tensors = capture(lab.method)
    assert "resume.noise" in tensors["resume"]
    assert any(name.startswith("optimizer/policy/") for name in tensors["resume"])
    assert any(name.startswith("optimizer/note/") or "note" in name for name in tensors["agent"])
    assert not any(name.startswith(("resume.", "optimizer/")) for name in tensors["agent"])


def test_parameters_that_were_never_updated_stay_without_state():
    """An encoder of another space has no moments; after a restore it still has none."""
    lab = Lab(config("finetune", stream="toy-spaces")).learn(0)
    phase = lab.phases(1)[0]
    phase.begin()
    step(lab, phase, range(2))
    meta, tensors = capture(lab.method)
    other = Lab(config("finetune", stream="toy-spaces"))
    restore(other.method, meta, tensors, torch.device("cpu"))
    idle = other.method.policy.encoders["float32-2"].weight
    used = other.method.policy.encoders["float32-3"].weight
    state = other.method.optimizers["policy"].state
    assert not state[idle]
    assert set(state[used]) == {"step", "exp_avg", "exp_avg_sq"}
    assert float(state[used]["step"]) == 2


@pytest.mark.parametrize("damage", [lambda meta, tensors: meta["architecture"].pop("policy"),
                                    lambda meta, tensors: tensors["agent"].popitem()])  # fmt: skip
def test_a_state_of_another_version_is_one_sentence(damage):
    meta, tensors = capture(half_way("finetune", "bc").method)
    damage(meta, tensors)
    with pytest.raises(UsageError, match=r"the saved state of Finetune does not fit this version of it \(.+\); go on with the"):
        restore(Lab(config("finetune", "bc", tasks=2)).method, meta, tensors, torch.device("cpu"))
