"""sfbc: choice among candidates, planned returns, what a sweep keeps, and what is learned."""

import itertools
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from policy_samples import CHOICE, VECTOR, windows
from tiny import Lab, config

from perdure.core.errors import UsageError
from perdure.core.policy import Stats
from perdure.policies.planning import discounted_returns, soft_value
from perdure.policies.selection import choose
from perdure.policies.sfbc import SfBC, SfBCConfig

# -- choosing ---------------------------------------------------------------------------------------------------


def numbered(n, count):
    """Candidates that say which they are."""
    return torch.arange(count, dtype=torch.float32).view(1, count, 1).expand(n, -1, -1)


def test_without_sharpness_every_candidate_is_as_likely():
    n, count = 8000, 8
    values = torch.randn(n, count, generator=torch.Generator().manual_seed(0))
    drawn = choose(numbered(n, count), values, sharpness=0.0, average=1, g=torch.Generator().manual_seed(1))
    counts = np.bincount(drawn.flatten().long().numpy(), minlength=count)
    assert ((counts - n / count) ** 2 / (n / count)).sum() < 24.3  # chi-square, 7 degrees of freedom, 0.1 %


def test_with_much_of_it_the_best_is_chosen():
    values = torch.randn(50, 8, generator=torch.Generator().manual_seed(0)) * 10
    drawn = choose(numbered(50, 8), values, sharpness=1e6, average=1, g=torch.Generator().manual_seed(1))
    assert drawn.flatten().long().tolist() == values.argmax(1).tolist()


def test_the_mean_of_the_best_four_where_the_gaps_are_large():
    values = torch.arange(32.0).flip(0).expand(5, -1) * 0.6
    drawn = choose(numbered(5, 32), values, sharpness=100.0, average=4, g=torch.Generator().manual_seed(1))
    assert drawn.flatten().tolist() == [1.5] * 5


def test_no_candidate_is_drawn_twice_and_frequencies_are_those_of_drawing_one_after_the_other():
    values = torch.tensor([0.0, 1.0, 2.0]).expand(20_000, -1)
    actions = torch.eye(3).expand(20_000, -1, -1)
    drawn = choose(actions, values, sharpness=1.0, average=2, g=torch.Generator().manual_seed(1)) * 2
    assert set(drawn.unique().tolist()) == {0.0, 1.0}
    p = torch.tensor([0.0, 1.0, 2.0]).softmax(0).tolist()
    for pair in itertools.combinations(range(3), 2):
        i, j = pair
        expected = p[i] * p[j] / (1 - p[i]) + p[j] * p[i] / (1 - p[j])
        found = float((drawn[:, list(pair)].sum(1) == 2).double().mean())
        assert found == pytest.approx(expected, abs=0.012)


def test_candidates_that_are_far_worse_do_no_harm():
    values = torch.full((4, 32), -1e9)
    values[:, 7] = 0.0
    drawn = choose(numbered(4, 32), values, sharpness=100.0, average=1, g=torch.Generator().manual_seed(1))
    assert drawn.flatten().tolist() == [7.0] * 4
    assert torch.isfinite(choose(numbered(4, 32), values, sharpness=100.0, average=4)).all()


# -- planned returns ----------------------------------------------------------------------------------------------


def logged(rewards):
    """What planning reads of a sampler, for episodes with these rewards."""
    ends = np.cumsum([len(episode) for episode in rewards])
    end = np.repeat(ends, [len(episode) for episode in rewards])
    return SimpleNamespace(reward=torch.tensor(np.concatenate(rewards), dtype=torch.float32), end=torch.tensor(end))


def test_returns_are_discounted_sums_within_the_episode():
    sampler = logged([[1.0, 2.0, 3.0], [10.0], [0.0, -4.0]])
    found = discounted_returns(sampler, 0.5)
    assert found.tolist() == [1 + 0.5 * (2 + 0.5 * 3), 2 + 0.5 * 3, 3.0, 10.0, -2.0, -4.0]


def test_a_better_value_is_gone_on_from():
    sampler = logged([[1.0, 2.0, 3.0], [10.0]])
    floor = torch.tensor([0.0, 8.0, 0.0, 0.0])
    assert discounted_returns(sampler, 0.5, floor).tolist() == [1 + 0.5 * 8, 8.0, 3.0, 10.0]


def test_planning_never_lowers_a_return():
    g = torch.Generator().manual_seed(0)
    sampler = logged([torch.randn(n, generator=g).tolist() for n in (5, 1, 9)])
    plain = discounted_returns(sampler, 0.9)
    planned = discounted_returns(sampler, 0.9, torch.randn(15, generator=g))
    assert (planned >= plain).all() and (planned > plain).any()
    assert discounted_returns(sampler, 0.9, torch.full((15,), -1e9)).equal(plain)


def test_the_value_of_candidates_leans_to_the_best():
    values = torch.tensor([[0.0, 1.0], [2.0, 2.0]])
    weight = np.exp(20.0) / (1 + np.exp(20.0))
    assert soft_value(values, 20.0).tolist() == pytest.approx([weight, 2.0])
    assert soft_value(values, 0.0).tolist() == [0.5, 2.0]


# -- the policy -----------------------------------------------------------------------------------------------------


def made(tasks=2, **options):
    torch.manual_seed(0)
    policy = SfBC(SfBCConfig(**{"width": 16, "critic_width": 16, "evaluations": 4, "candidates": 6, **options}))
    for task in range(tasks):
        policy.add_task(task, VECTOR, Stats(torch.zeros(3) + task, torch.ones(3), 1.0, 1.0))
    return policy.eval()


def test_all_that_acts_is_protected():
    policy = made()
    own = [name for task in (0, 1) for name in policy.private(task)]
    assert len(own) == len(set(own)) == 6
    assert not set(own) & set(policy.shared())
    assert set(own) | set(policy.shared()) == {name for name, _ in policy.named_parameters()}
    assert not policy.teachers()


def test_values_of_candidates_are_those_of_the_critic():
    policy, obs = made(), torch.randn(5, 3, generator=torch.Generator().manual_seed(1))
    actions, values = policy.candidates(obs, 1, 6, torch.Generator().manual_seed(2))
    assert actions.shape == (5, 6, 2) and values.shape == (5, 6)
    assert float(actions.abs().max()) <= 1
    batch = windows(policy, VECTOR, 1, 5)
    for i in range(6):
        told = policy.value(SimpleNamespace(obs=obs.unsqueeze(1), task=batch.task, tasks=(1,)), actions[:, i])
        torch.testing.assert_close(told, values[:, i], rtol=1e-5, atol=1e-6)


def test_candidates_follow_the_task_they_are_drawn_for():
    policy, obs = made(), torch.randn(5, 3)
    one, other = (policy.candidates(obs, task, 6, torch.Generator().manual_seed(2))[0] for task in (0, 1))
    assert not one.equal(other)


def test_acting_stays_within_the_bounds_and_is_keyed():
    policy, obs = made(), torch.randn(7, 3)
    actor = policy.actor(0)

    def act(seed):
        return actor.act(obs, actor.start(7), torch.Generator().manual_seed(seed))[0]

    assert act(0).equal(act(0)) and not act(0).equal(act(1))
    low, high = torch.tensor(VECTOR.action.low), torch.tensor(VECTOR.action.high)
    assert (act(0) >= low).all() and (act(0) <= high).all()


def test_the_fisher_information_is_the_mean_of_squared_gradients():
    policy = made(1)
    batch, parameters = windows(policy, VECTOR, 0, 3), policy.shared()
    found = policy.fisher(batch, parameters, torch.Generator().manual_seed(4))
    g = torch.Generator().manual_seed(4)
    noise, t = torch.randn(3, 2, generator=g), torch.rand(3, generator=g)
    expected = {name: torch.zeros_like(p) for name, p in parameters.items()}
    for i in range(3):
        policy.zero_grad()
        one = SimpleNamespace(obs=batch.obs[i : i + 1], task=batch.task[i : i + 1], tasks=(0,))
        alpha, sigma = policy.schedule.coefficients(t[i : i + 1])
        noisy = alpha * batch.action[i] + sigma * noise[i : i + 1]
        (policy.noise(one, noisy, t[i : i + 1]) - noise[i : i + 1]).square().sum().backward()
        policy.value(one, batch.action[i]).sum().backward()
        for name, p in parameters.items():
            expected[name] += (0 if p.grad is None else p.grad.square()) / 3
    for name, value in found.items():
        torch.testing.assert_close(value, expected[name], rtol=1e-3, atol=1e-7)


def test_a_sweep_raises_targets_and_leaves_nothing_behind():
    lab = Lab(config("finetune", "sfbc", "toy", tasks=1, steps=8))
    seen = {}
    policy = lab.method.policy

    def watch(name, policy=policy):
        def before(view, part, weights=None, swept=policy.sweep):
            seen.setdefault("before", view.sampler.derived["value"].clone())
            seen["planned"] = (view, swept(view, part, weights))

        return before

    policy.sweep = watch("sweep")
    lab.learn()
    view = seen["planned"][0]
    mean, deviation = policy.get_buffer("value_scale_0")
    after = view.sampler.derived["value"] * deviation + mean
    plain = discounted_returns(view.sampler, policy.config.discount)
    assert (after >= plain - 1e-4).all() and (after > plain + 1e-4).any()
    assert not seen["before"].equal(view.sampler.derived["value"])
    assert policy.kept == {} and not [name for name in policy.state_dict() if name.startswith(("planned", "swept"))]


def test_a_sweep_in_parts_values_every_state(monkeypatch):
    """Whatever the parts; candidates are worth here what their observation says."""
    monkeypatch.setattr(SfBC, "candidates", lambda self, obs, task, n, g: (None, obs[:, :1].expand(-1, n)))
    planned = []
    for states in (1024, 7):
        monkeypatch.setattr("perdure.policies.sfbc.STATES", states)
        lab = Lab(config("finetune", "sfbc", "toy", tasks=1, steps=8, policy_options={"sweeps": 0})).learn()
        policy, view = lab.method.policy, lab.access(0).current
        policy.annotate(view)
        for part in range(policy.sweep_parts(view)):
            policy.sweep(view, part)
        planned.append(policy.get_buffer("planned_0"))
    assert policy.sweep_parts(view) > 2 and planned[0].std() > 0
    torch.testing.assert_close(*planned)


def test_a_single_transition_is_learned():
    lab = Lab(config("finetune", "sfbc", "toy", tasks=1, steps=8))
    policy, view = lab.method.policy, lab.access(0).current
    lab.learn()
    every = view.sampler.starts["train"]
    view.sampler.starts["train"] = replace(every, step=every.step[:1])
    view.sampler.derived.clear()
    policy.annotate(view)
    assert view.sampler.derived["value"].isfinite().all()


def test_every_sample_is_told_its_own_task():
    policy = made()
    one, other = windows(policy, VECTOR, 0, 3, seed=1), windows(policy, VECTOR, 1, 3, seed=2)
    from perdure.core.batch import concatenate

    both = concatenate([one, other])
    t, noisy = torch.full((6,), 0.4), both.action[:, 0]
    apart = torch.cat([policy.noise(one, noisy[:3], t[:3]), policy.noise(other, noisy[3:], t[3:])])
    torch.testing.assert_close(policy.noise(both, noisy, t), apart, rtol=1e-5, atol=1e-6)


def test_a_behaviour_model_that_is_not_told_the_task_says_the_same_of_all():
    told, untold = (made(told=value, normaliser="first") for value in (True, False))
    assert len(told.told) == 2 and len(untold.told) == 0 and not [n for n in untold.private(0) if n.startswith("told")]
    obs = torch.randn(5, VECTOR.obs.size)
    for policy, same in ((told, False), (untold, True)):
        drawn = [policy.candidates(obs, task, 2, torch.Generator().manual_seed(0))[0] for task in (0, 1)]
        assert torch.equal(*drawn) == same


def test_the_average_acts_unless_other_weights_stand_in():
    policy = made(averaging=0.5)
    policy.follow()
    obs = torch.randn(5, VECTOR.obs.size)

    def drawn(weights=None):
        return policy.acting(weights).candidates(obs, 0, 2, torch.Generator().manual_seed(0))[0]

    before = drawn()
    with torch.no_grad():
        for p in policy.denoisers.parameters():
            p.mul_(0.5)
    assert torch.equal(drawn(), before)
    own = {name: p for name, p in policy.named_parameters() if name.startswith(("denoisers.", "told."))}
    assert not torch.equal(drawn(own), before), "weights that stand in act themselves"
    policy.follow()
    assert not torch.equal(drawn(), before)
    plain = made()
    plain.follow()
    assert plain.averages.view() == {}


def test_a_sampler_with_noise_of_its_own_is_keyed():
    policy, obs = made(sampler="ddpm"), torch.randn(5, VECTOR.obs.size)
    drawn = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        drawn.append(policy.candidates(obs, 0, 2, torch.Generator().manual_seed(0))[0])
    assert torch.equal(*drawn)


def test_only_the_behaviour_model_is_averaged():
    assert [stage.follows for stage in made().stages() if not stage.sweep] == [True, False, False]


def test_a_critic_reads_raw_observations_where_asked_to():
    policy = made(critic_inputs="raw")
    seen = []
    policy.critic.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    batch = windows(policy, VECTOR, 0, 3, 1)
    policy.value(batch, batch.action[:, 0])
    torch.testing.assert_close(seen[0], torch.cat([batch.obs[:, 0], batch.action[:, 0]], 1))


@pytest.mark.parametrize(("options", "words"), [
    ({"averaging": 2.0}, "policy.averaging is 2.0"), ({"critic_inputs": "none"}, "policy.critic_inputs is 'none'"),
    ({"sampler": "euler"}, "sampler is 'euler'"),
    ({"width": 30}, "a width that 4 divides"), ({"sweeps": -1}, "sweeps -1"), ({"candidates": 3, "average": 4}, "average is 4"),
    ({"evaluations": 0}, "policy.evaluations is 0"), ({"normaliser": "none"}, "policy.normaliser is 'none'"),
    ({"sampling": "fast"}, "policy.sampling is 'fast'"), ({"sharpness": -1.0}, "policy.sharpness is -1.0"),
    ({"planning_sharpness": -1.0}, "policy.planning_sharpness is -1.0"),
    ({"frequency_scale": 0.0}, "policy.frequency_scale is 0.0"),
])  # fmt: skip
def test_values_that_cannot_be_meant_are_named(options, words):
    with pytest.raises(UsageError, match=words):
        SfBCConfig(**options)


def test_other_spaces_are_refused():
    with pytest.raises(UsageError, match="reads vectors"):
        made(0).add_task(0, CHOICE, Stats(torch.zeros(3), torch.ones(3), 1.0, 1.0))
