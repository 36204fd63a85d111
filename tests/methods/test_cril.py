"""cril: dreamed episodes begin at generated observations and go on as the predictor says."""

import torch
from tiny import Lab, config

from perdure.core.method import Step


def dreamed():
    lab = Lab(config("cril", "bc", tasks=2)).learn(0)
    lab.play(1, lab.phases(1)[0])
    return lab


def test_an_episode_goes_on_as_the_predictor_says():
    lab = dreamed()
    method, (obs, action) = lab.method, lab.method.dreams.of(0)
    n, length = method.rollouts(0), method.lengths[0]
    assert len(obs) == n * length
    for t in range(1, length):
        before, now = slice((t - 1) * n, t * n), slice(t * n, (t + 1) * n)
        torch.testing.assert_close(obs[now], method.predicted(0, obs[before], action[before]))
        torch.testing.assert_close(action[now], method.labelled(0, obs[now]))


def test_the_predictor_is_trained_on_new_steps_and_on_dreamed_ones():
    lab = dreamed()
    lab.play(1, lab.phases(1)[1])
    obs, action, after, task, tasks = lab.method._transitions(lab.access(1).current, Step(0, 1, "states", 0))
    assert tasks == (0, 1) and set(task.tolist()) == {0, 1}
    old = task == 0
    torch.testing.assert_close(after[old], lab.method.predicted(0, obs[old], action[old]))
    logged = lab.access(1).current.sampler
    rows = {tuple(row) for row in logged.obs.tolist()}
    assert all(tuple(row) in rows for row in after[~old].tolist())


def test_the_generator_sees_beginnings_alone():
    lab = dreamed()
    lab.play(1, lab.phases(1)[1])
    new, old = lab.method._beginnings(lab.access(1).current, Step(0, 1, "states", 0))
    assert not new.timestep.any() and set(new.task.tolist()) == {1}
    first = {tuple(row) for row in lab.method.dreams.of(0)[0][: lab.method.rollouts(0)].tolist()}
    assert all(tuple(row) in first for row in old.obs[:, 0].tolist())


def test_the_predictor_learns_the_dynamics():
    lab = Lab(config("cril", "bc", tasks=1, steps=2, state_steps=300, batch=64, state_width=32, episodes=40)).learn()
    transitions = lab.access(0).current.transitions(200, Step(9, 0, "x", 0))
    predicted = lab.method.predicted(0, transitions.obs, transitions.action)
    still = (transitions.obs - transitions.next_obs).square().mean()
    assert (predicted - transitions.next_obs).square().mean() < 0.2 * still
