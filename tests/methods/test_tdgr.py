"""tdgr: dreams cover every time of an episode equally, and the generator is told the time."""

import torch
from tiny import Lab, config

from perdure.core.method import Step


def test_dreams_cover_the_times_of_an_episode_equally():
    lab = Lab(config("tdgr", "bc", tasks=2)).learn(0)
    length = lab.method.lengths[0]
    assert length == int(lab.access(0).current.sampler.timestep.max()) + 1
    lab.play(1, lab.phases(1)[0])
    times = (lab.method.dreams.get_buffer("value") * length).round().long()
    counts = torch.bincount(times, minlength=length)
    assert len(counts) == length and int(counts.max() - counts.min()) <= 1


def test_dreams_fewer_than_the_steps_of_an_episode_are_spread_over_it():
    lab = Lab(config("tdgr", "bc", tasks=2, dreams=5)).learn(0)
    lab.play(1, lab.phases(1)[0])
    times = (lab.method.dreams.get_buffer("value") * lab.method.lengths[0]).round().long()
    assert times.tolist() == [i * lab.method.lengths[0] // 5 for i in range(5)] and lab.method.lengths[0] > 10


def test_the_generator_is_told_the_time_of_new_data_and_of_dreams():
    lab = Lab(config("tdgr", "bc", tasks=2)).learn(0)
    for phase in lab.phases(1)[:2]:
        lab.play(1, phase)
    view = lab.access(1).current
    seen = []
    lab.method.states.loss = lambda batch, part, more: seen.append((batch.task, more)) or batch.obs.sum((1, 2)) * 0
    lab.method.descend = lambda name, loss, **rest: loss
    lab.method.states.follow = lambda: None
    lab.method.train_generator(view, Step(0, 1, "states", 0))
    (task, more), = seen
    batch = lab.method.mixed(view, Step(0, 1, "states", 0))
    new = batch.task == 1
    torch.testing.assert_close(more[new, 0], batch.timestep[new, 0] / lab.method.lengths[1])
    torch.testing.assert_close(more[~new, 0], batch.extra["time"][~new])
    assert set(task.tolist()) == {0, 1}
