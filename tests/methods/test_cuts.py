"""Generated replay, put down and taken up again at every place of a run, ends at every place with the same bits."""

import json

import pytest
from tiny import Lab, config, state_digest

from perdure.core.method import Step
from perdure.core.rng import seed_everything
from perdure.core.state import capture, restore

TINY = {"tasks": 3, "steps": 4}
COMPAT = {"compat": True, "state_steps": 2, "state_width": 8, "policy_options": {"evaluations": 4}}

RUNS = {
    "cugro": ("cugro", "sfbc", {}, {"dream", "behaviour", "states", "critic"}),
    "planning": ("cugro", "sfbc", {"policy_options": {"sweeps": 1}}, {"plan 1", "critic 2"}),
    "reference mode": ("cugro", "sfbc", COMPAT, {"dream again"}),
    "two optimizers": ("cugro", "sfbc", {"replay": "gan", "state_steps": 1}, {"states"}),
    "autoencoder": ("cugro", "sfbc", {"replay": "vae"}, {"states"}),
    "coreset": ("cugro", "sfbc", {"on_collapse": "coreset", "coreset": 5, "collapse": 1e-6}, {"dream"}),
    "recognised": ("cugro", "sfbc", {"recognise": 100.0}, {"behaviour", "states"}),
    "oracle": ("cugro", "sfbc", {"replay": "oracle"}, {"dream"}),
    "dgr": ("dgr", "bc", {"state_steps": 1}, {"dream", "train", "states"}),
    "tdgr": ("tdgr", "bc", {}, {"dream", "train", "states"}),
    "cril": ("cril", "bc", {"state_steps": 1, "dreams": 20}, {"dream", "train", "states"}),
    "er": ("er", "sfbc", {}, {"behaviour", "plan 1", "critic 2"}),
}  # fmt: skip
"""Name -> method, policy, options, and phases that must be among those that are cut."""


def taken_up(lab, settings):
    """The same method in a lab of its own that has seen nothing yet, from what a checkpoint holds."""
    meta, tensors = capture(lab.method)
    other = Lab(settings)
    copies = {group: {name: value.clone() for name, value in values.items()} for group, values in tensors.items()}
    restore(other.method, json.loads(json.dumps(meta)), copies, "cpu")
    return other


def states(settings, cut):
    """(task, phase, place) -> digest of the state; `cut`: the run is put down and taken up again at each of them."""
    lab, found = Lab(settings), {}

    def reached(*at):
        nonlocal lab
        found[at] = state_digest(lab.method)
        lab = taken_up(lab, settings) if cut else lab

    for task in range(len(lab.stream)):
        for place in range(len(lab.phases(task))):
            phase = lab.phases(task)[place]
            if not phase.when():
                continue
            seed_everything(0, task, phase.name, "begin")
            if phase.begin is not None:
                phase.begin()
            reached(task, phase.name, "begun")
            phase = lab.phases(task)[place]
            for index in range(phase.steps if isinstance(phase.steps, int) else phase.steps()):
                seed_everything(0, task, phase.name, index)
                lab.phases(task)[place].update(Step(0, task, phase.name, index))
                reached(task, phase.name, index)
            seed_everything(0, task, phase.name, "end")
            if (end := lab.phases(task)[place].end) is not None:
                end()
            reached(task, phase.name, "ended")
        lab.method.forget_optimizers()
    return found


@pytest.mark.parametrize("name", list(RUNS))
def test_a_cut_at_any_place_changes_nothing(name, monkeypatch):
    monkeypatch.setattr("perdure.methods.cugro.AT_ONCE", 12)
    monkeypatch.setattr("perdure.continual.dreaming.AT_ONCE", 25)
    method, policy, options, phases = RUNS[name]
    settings = config(method, policy, **TINY, **options)
    whole, cut = states(settings, False), states(settings, True)
    assert list(whole) == list(cut)
    assert phases <= {phase for _, phase, _ in whole}
    assert "dream" not in phases or (2, "dream", 1) in whole, "the dreams are made in several parts"
    assert [at for at in whole if whole[at] != cut[at]] == []
