"""Task inference: the task that fits the first observations acts, and nothing that names it is looked at."""

import pytest
import torch
from tiny import Lab, config

from perdure.continual import inference
from perdure.continual.inference import DrawingActor, InferringActor, Start, start_of
from perdure.core.method import Step


class Says:
    """Answers with its own number."""

    def __init__(self, number):
        self.number = number

    def start(self, n):
        return {"count": torch.zeros(n)}

    def act(self, obs, carry, g, reward=None):
        return torch.full((len(obs), 1), float(self.number)), {"count": carry["count"] + 1}


def inferring(means, stds, steps=3):
    """Tasks that look the same at each of their first steps."""
    pairs = [(torch.tensor([mean] * steps).double(), torch.tensor([std] * steps).double())
             for mean, std in zip(means, stds, strict=True)]
    starts = {task: Start(*pair) for task, pair in enumerate(pairs)}
    return InferringActor({i: Says(i) for i in starts}, starts, steps)


def test_every_row_acts_as_the_task_that_it_looks_like():
    actor = inferring([[0.0, 0.0], [5.0, 0.0], [0.0, 5.0]], [[1.0, 1.0]] * 3)
    obs = torch.tensor([[5.1, 0.2], [0.1, 4.0], [0.0, 0.1], [4.0, -1.0]])
    action, carry = actor.act(obs, actor.start(4), torch.Generator())
    assert action[:, 0].tolist() == [1.0, 2.0, 0.0, 1.0]
    assert [carry[f"{i}.count"].tolist() for i in range(3)] == [[1.0] * 4] * 3, "all read along"


def test_evidence_adds_up_and_then_the_choice_stands():
    actor = inferring([[0.0], [4.0]], [[2.0], [2.0]], steps=2)
    carry, chosen = actor.start(1), []
    for x in (1.9, 4.0, -50.0, -50.0):
        action, carry = actor.act(torch.tensor([[x]]), carry, torch.Generator())
        chosen.append(float(action))
    assert chosen == [0.0, 1.0, 1.0, 1.0]
    assert [carry["0.count"].tolist(), carry["1.count"].tolist()] == [[2.0], [4.0]], "the others rest once it stands"


def test_a_drawn_task_stays_and_does_not_depend_on_what_is_seen():
    starts = {task: Start(torch.full((3, 1), 5.0 * task).double(), torch.ones(3, 1).double()) for task in range(4)}
    actor = DrawingActor({task: Says(task) for task in starts}, starts, 3)
    g, carry, chosen = torch.Generator().manual_seed(0), actor.start(200), []
    for _ in range(4):
        action, carry = actor.act(torch.zeros(200, 1), carry, g)
        chosen.append(action[:, 0].tolist())
    assert chosen[0] == chosen[1] == chosen[2] == chosen[3]
    assert all(20 < chosen[0].count(task) < 90 for task in range(4))


def test_an_observation_is_compared_with_those_of_the_same_step():
    """Both tasks begin at 0; one goes up and one down, and each passes through where the other was."""
    starts = {0: Start(torch.tensor([[0.0], [1.0]]).double(), torch.ones(2, 1).double()),
              1: Start(torch.tensor([[0.1], [-1.0]]).double(), torch.ones(2, 1).double())}
    actor = InferringActor({0: Says(0), 1: Says(1)}, starts, 5)
    carry, chosen = actor.start(2), []
    for x in ([[0.0], [0.0]], [[0.9], [-0.9]], [[1.0], [-1.0]]):
        action, carry = actor.act(torch.tensor(x), carry, torch.Generator())
        chosen.append(action[:, 0].tolist())
    assert chosen == [[0.0, 0.0], [0.0, 1.0], [0.0, 1.0]]


def test_coordinates_that_are_constant_in_any_task_are_not_looked_at():
    """The second is constant in task 1: as good as a label."""
    actor = inferring([[0.0, 7.0], [5.0, 3.0]], [[1.0, 1.0], [1.0, 0.0]])
    assert actor.columns.tolist() == [0]
    action, _ = actor.act(torch.tensor([[0.1, 3.0]]), actor.start(1), torch.Generator())
    assert float(action) == 0.0


def test_rows_do_not_depend_on_each_other():
    actor = inferring([[0.0], [4.0]], [[1.0], [1.0]])
    together, _ = actor.act(torch.tensor([[0.0], [4.0]]), actor.start(2), torch.Generator())
    alone, _ = actor.act(torch.tensor([[0.0], [0.0]]), actor.start(2), torch.Generator())
    assert together[0] == alone[0]


@pytest.mark.parametrize("stream", ["toy", "toy-pixels"])
def test_after_a_change_of_mind_the_window_is_the_chosen_tasks_own(stream):
    """A Decision Transformer, which reads its history: as if its task had been chosen from the start and made to act so."""
    lab = Lab(config("tsn", "dt", stream)).learn(0, 1)
    actors = {task: lab.method.eval().actor(task) for task in (0, 1)}
    obs = lab.views.views[0].windows(4, 2, Step(0, 0, "probe", 0)).obs
    size = obs[0, 0].numel()
    starts = {task: Start(torch.full((4, size), 0.1 * task).double(), torch.ones(4, size).double()) for task in (0, 1)}
    actor = InferringActor(actors, starts, 4)
    evidence = iter(torch.tensor([[1.0, 0.0], [0.0, 3.0], [0.0, 0.0], [0.0, 0.0]]).double())
    actor.likelihood = lambda obs, seen: next(evidence).expand(2, 2)
    carry, alone, reward = actor.start(2), actors[1].start(2), torch.tensor([0.5, -1.0])
    for step in range(4):
        action, carry = actor.act(obs[:, step], carry, torch.Generator(), reward)
        own, alone = actors[1].act(obs[:, step], alone, torch.Generator(), reward)
        if step == 0:  # task 0 acts; what it did is what the window of task 1 must say
            assert not torch.equal(own, action)
            alone["action"] = carry["0.action"]
        else:
            assert torch.equal(own, action)
        assert all(torch.equal(carry[f"1.{name}"], value) for name, value in alone.items())


def test_statistics_of_the_first_steps_whatever_is_read_at_once(monkeypatch):
    lab = Lab(config(stream="toy-pixels"))
    sampler = lab.views.views[0].sampler
    begin = start_of(sampler, 3)
    chosen = sampler.starts["train"].step
    early = sampler.timestep[chosen] < 3
    varies = sampler.windows_at(chosen, 1).obs.flatten(1).double().std(0) > 0
    over_all = sampler.windows_at(chosen[early], 1).obs.flatten(1).double().std(0, unbiased=False)
    for k in range(3):
        rows = sampler.windows_at(chosen[sampler.timestep[chosen] == k], 1).obs.flatten(1).double()
        least = (inference.LEAST_OF_ALL_STEPS * over_all).clamp_min(1e-4)
        assert torch.allclose(begin.mean[k], rows.mean(0))
        assert torch.allclose(begin.std[k][varies], rows.std(0, unbiased=False).maximum(least)[varies], atol=1e-6)
    assert bool((begin.std[:, ~varies] == 0).all()) and bool(varies.any()) and not bool(varies.all())
    monkeypatch.setattr(inference, "AT_ONCE", 1)
    again = start_of(sampler, 3)
    assert torch.allclose(again.mean, begin.mean) and torch.allclose(again.std, begin.std)


def test_episodes_shorter_than_what_is_listened_to():
    sampler = Lab(config()).views.views[0].sampler
    longest = int(sampler.timestep[sampler.starts["train"].step].max()) + 1
    begin = start_of(sampler, longest + 2)
    assert begin.mean.shape[0] == longest + 2 and torch.equal(begin.mean[-1], begin.mean[longest - 1])
