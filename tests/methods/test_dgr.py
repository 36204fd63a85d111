"""dgr, and what tdgr and cril share with it: labels of the old policy, the mixture, refusals, and less forgetting on toy."""

from dataclasses import replace

import pytest
import torch
from tiny import Lab, config, execute, stream_of

from perdure.continual.dreams import rows_of
from perdure.core.errors import UsageError
from perdure.core.method import Step
from perdure.core.state import capture
from perdure.core.task import Protocol

DREAMERS = ["dgr", "tdgr", "cril"]
every = pytest.mark.parametrize("method", DREAMERS)


def dreaming(method, task=2, **options):
    """A lab that has learned the tasks before, with the dreams of the next one made."""
    lab = Lab(config(method, "bc", tasks=3, **options)).learn(*range(task))
    lab.play(task, lab.phases(task)[0])
    return lab


@every
def test_dreams_are_labelled_by_the_policy_as_it_was(method):
    lab = dreaming(method)
    dreams = lab.method.dreams
    assert dreams.tasks() == [0, 1]
    batch = dreams.draw(40, torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(lab.method.policy.predict(batch).output(), batch.action)


@every
def test_the_policy_learns_new_data_and_dreams_in_equal_shares(method):
    lab = dreaming(method, balance="equal", batch=9)
    train = lab.phases(2)[1]
    train.begin()
    seen = []
    lab.method.policy.loss = lambda batch, seen=seen: seen.append(batch) or batch.action.sum((1, 2)) * 0
    lab.method.descend = lambda name, loss, **rest: loss
    train.update(Step(0, 2, "train", 0))
    assert torch.bincount(seen[0].task).tolist() == [3, 3, 3]


@every
def test_no_row_of_any_data_is_kept(method):
    lab = Lab(config(method, "bc", tasks=3)).learn()
    _, tensors = capture(lab.method)
    kept = {tuple(row) for value in tensors["agent"].values() if value.dim() == 2 for row in value.tolist()}
    for task in range(3):
        assert not kept & {tuple(row) for row in rows_of(lab.access(task).current)[0].tolist()}
    assert not lab.method.dreams.tasks() and lab.method.unused_parameters() > 0


@every
def test_unequal_spaces_pixels_and_other_policies_are_refused(method):
    with pytest.raises(UsageError, match="one generator for all tasks"):
        Lab(config(method, "bc", "toy-spaces"))
    with pytest.raises(UsageError, match="dreams of vectors and continuous actions"):
        Lab(config(method, "bc", "toy-discrete"))
    with pytest.raises(UsageError, match=f"policy is 'dt', and {method} works with bc"):
        config(method, "dt")
    with pytest.raises(UsageError, match=r"method.balance is 'more'"):
        config(method, "bc", balance="more")


@every
def test_what_it_would_replay_is_of_the_task(method):
    lab = Lab(config(method, "bc", tasks=2)).learn()
    obs, action = lab.method.dreamed(0, 30, torch.Generator().manual_seed(0))
    spec = lab.stream.tasks[0].spec
    assert obs.shape == (30, spec.obs.size) and action.shape == (30, spec.action.size) and bool((action.abs() <= 1).all())


@every
def test_one_head_and_one_normaliser_need_no_task_id(method, tmp_path):
    settings = config(method, "bc", tasks=2, policy_options={"heads": "single", "normaliser": "first"})
    hidden = replace(stream_of(settings), protocol=Protocol(task_id_at_test=False))
    assert execute(settings, tmp_path, stream=hidden).protocol["task_id_at_test"] is False


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("method", ["dgr", "tdgr"])
def test_generated_replay_keeps_what_finetuning_forgets(method):
    """Held-out error of the first of three toy tasks after the last, over that right after it was learned."""
    def error(name, **options):
        lab = Lab(config(name, "bc", tasks=3, episodes=100, steps=400, batch=64, learning_rate=1e-3,
                         policy_options={"width": 64}, **options))
        lab.learn(0)
        first = lab.loss(0)
        lab.learn(1, 2)
        return lab.loss(0) - first

    options = {"state_steps": 1500, "state_width": 64, "dreams": 2000, "evaluations": 10, "generator": "diffusion"}
    assert error(method, **options) < 0.4 * error("finetune")
