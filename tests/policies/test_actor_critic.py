"""td3bc and iql: losses against their formulas, who teaches whom, and a problem that cloning cannot solve."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from policy_samples import CHOICE, IMAGE, VECTOR, windows

import perdure
from perdure.core.batch import concatenate
from perdure.core.errors import UsageError
from perdure.core.policy import Stats
from perdure.core.spec import Box, Spec
from perdure.core.task import ScoreScale, Stream, Task
from perdure.data.store import Dataset
from perdure.data.trajectory import Trajectory
from perdure.policies.iql import IQL, IQLConfig
from perdure.policies.td3bc import TD3BC, TD3BCConfig

KINDS = {"td3bc": (TD3BC, TD3BCConfig), "iql": (IQL, IQLConfig)}
both = pytest.mark.parametrize("made", [lambda kind=kind, **options: policy_of(*kind, **options) for kind in KINDS.values()],
                               ids=list(KINDS))  # fmt: skip


def policy_of(kind, config, *specs, **options):
    torch.manual_seed(5)
    policy = kind(config(**{"width": 12, "layers": 2, "noise": 0.0, **options} if kind is TD3BC else {"width": 12, **options}))
    for task, spec in enumerate(specs or (VECTOR, VECTOR)):
        size = spec.obs.size
        g = torch.Generator().manual_seed(task)
        stats = Stats(torch.randn(size, generator=g), torch.rand(size, generator=g) + 0.5, 2.0, 3.0, 0.5 + task)
        policy.add_task(task, spec, stats)
    return policy


def batch_of(policy, task=0, n=6):
    batch = windows(policy, VECTOR, task, n)
    ends = torch.zeros(n, 1, dtype=torch.bool)
    ends[1] = True
    return replace(batch, terminated=ends, last_obs=torch.randn(n, 3, generator=torch.Generator().manual_seed(3)))


def after_some_updates(policy, batch, updates=4):
    optimizer = torch.optim.Adam([p for p in policy.parameters() if p.requires_grad], lr=0.01)
    for _ in range(updates):
        optimizer.zero_grad()
        policy.loss(batch).mean().backward()
        optimizer.step()
        policy.follow()
    return policy


def moved_targets(policy):
    """Away from the networks, so that using the wrong one shows."""
    policy.follow()
    with torch.no_grad():
        for value in policy.targets.view().values():
            value.add_(0.1)
    return policy


def test_the_loss_of_td3bc_is_the_formula():
    policy = moved_targets(policy_of(TD3BC, TD3BCConfig, delay=1))
    batch, targets = batch_of(policy, task=1), policy.targets.view()
    obs, after = (policy.normalizer(x, batch.task, (1,)) for x in (batch.obs[:, 0], batch.last_obs))
    action = batch.action[:, 0]

    def q(name, obs, action, weights=None):
        net = policy.critics[name]
        arguments = (torch.cat([obs, action], 1), f"{VECTOR.obs_key} {VECTOR.action_key}", batch.task, (1,))
        own = {n.removeprefix(f"critics.{name}."): v for n, v in (weights or {}).items() if n.startswith(f"critics.{name}.")}
        return torch.func.functional_call(net, own, arguments)

    later = replace(batch, obs=batch.last_obs.unsqueeze(1))
    next_action = policy.predict(later, {n: v for n, v in targets.items() if not n.startswith("critics.")}).mean[:, 0]
    lowest = torch.minimum(*(q(name, after, next_action, targets) for name in ("q1", "q2")))
    wanted = 1.5 * batch.reward[:, 0] + 0.99 * lowest * ~batch.terminated[:, 0]
    chosen = policy(batch).mean[:, 0]
    value = q("q1", obs, chosen)
    expected = sum((q(name, obs, action) - wanted).square() for name in ("q1", "q2"))
    expected = expected - 2.5 / value.abs().mean() * value + (chosen - action).square().mean(1)
    torch.testing.assert_close(policy.loss(batch), expected)


def test_the_loss_of_iql_is_the_formula():
    policy = moved_targets(policy_of(IQL, IQLConfig))
    batch, targets = batch_of(policy, task=1), policy.targets.view()
    action = batch.action[:, 0]
    low = torch.minimum(*(policy.value(name, batch, action, weights=targets) for name in ("q1", "q2")))
    value, after = policy.value("v", batch), policy.value("v", batch, after=True)
    gap = low - value
    expected = torch.where(gap < 0, 0.3, 0.7) * gap.square()
    wanted = 1.5 * batch.reward[:, 0] + 0.99 * after * ~batch.terminated[:, 0]
    expected = expected + sum((policy.value(name, batch, action) - wanted).square() for name in ("q1", "q2"))
    likelihood = -policy(batch).negative_log_likelihood(batch.action)[:, 0]
    expected = expected - (3.0 * gap).exp().clamp(max=100) * likelihood
    torch.testing.assert_close(policy.loss(batch), expected)


def gradients(policy, loss):
    policy.zero_grad()
    loss.backward()
    return {name for name, p in policy.named_parameters() if p.grad is not None and bool(p.grad.abs().sum() > 0)}


def test_critics_learn_from_their_own_error_alone():
    """Whether the actor is updated too changes nothing for them."""
    policy = policy_of(TD3BC, TD3BCConfig, delay=2)
    batch = batch_of(policy)
    moving = gradients(policy, policy.loss(batch).mean())
    with_actor = {name: p.grad.clone() for name, p in policy.teachers().items() if p.grad is not None}
    policy.follow()
    assert policy.updates == 1
    resting = gradients(policy, policy.loss(batch).mean())
    assert {name for name in moving if not name.startswith("critics.")}
    assert all(name.startswith("critics.") for name in resting)
    for name, p in policy.teachers().items():
        if name in resting:
            torch.testing.assert_close(p.grad, with_actor[name], rtol=1e-4, atol=1e-6)


def test_the_actor_of_td3bc_and_its_targets_rest_in_every_other_update():
    policy = policy_of(TD3BC, TD3BCConfig, delay=2)
    batch = batch_of(policy)
    after_some_updates(policy, batch, 1)
    before = {name: p.detach().clone() for name, p in policy.named_parameters()}
    targets = {name: value.clone() for name, value in policy.targets.view().items()}
    after_some_updates(policy, batch, 1)
    still = {name for name, p in policy.named_parameters() if p.equal(before[name])}
    assert {name for name in before if name.startswith(("encoders", "trunk"))} <= still
    assert not {name for name in policy.teachers() if ".trunk." in name} & still
    assert all(value.equal(targets[name]) for name, value in policy.targets.view().items())


@both
def test_targets_follow_the_weights_that_were_trained(made):
    policy = made(target_rate=0.25)
    policy.follow()
    name = "critics.q1.trunk.1.weight"
    other = torch.ones_like(policy.get_parameter(name))
    before = policy.targets.view()[name].clone()
    policy.updates = 0
    policy.follow({name: other})
    torch.testing.assert_close(policy.targets.view()[name], 0.75 * before + 0.25 * other)


@both
def test_a_time_limit_is_no_end(made):
    policy = made()
    batch = batch_of(policy)
    limit = replace(batch, terminated=torch.zeros_like(batch.terminated), truncated=torch.ones_like(batch.truncated))
    end = replace(batch, terminated=torch.ones_like(batch.terminated))
    after = torch.full((len(batch),), 7.0)
    reward = 0.5 * batch.reward[:, 0]
    torch.testing.assert_close(policy.target(limit, after), reward + 0.99 * 7)
    torch.testing.assert_close(policy.target(end, after), reward)


@both
def test_every_sample_goes_through_its_own_task(made):
    policy = moved_targets(made())
    one, other = batch_of(policy, 0), batch_of(policy, 1)
    together = policy.loss(concatenate([one, other]))
    torch.testing.assert_close(together, torch.cat([policy.loss(one), policy.loss(other)]))


@both
def test_who_teaches_is_not_protected(made):
    policy = made()
    teachers, shared = set(policy.teachers()), set(policy.shared())
    own = {name for task in policy.tasks() for name in policy.private(task)}
    assert teachers and shared and own
    assert not teachers & (shared | own) and not shared & own
    assert teachers | shared | own == {name for name, _ in policy.named_parameters()}


@both
def test_rewards_stay_as_they_are_on_demand(made):
    policy = made(rewards="raw")
    batch = batch_of(policy, 1)
    torch.testing.assert_close(policy.target(batch, torch.zeros(len(batch))), batch.reward[:, 0])


@pytest.mark.parametrize("spec", [CHOICE, IMAGE])
@pytest.mark.parametrize("kind", KINDS.values(), ids=list(KINDS))
def test_other_spaces_are_refused(spec, kind):
    with pytest.raises(UsageError, match=r"needs vectors|reads vectors"):
        policy_of(*kind, spec)


@pytest.mark.parametrize(("config", "options", "words"), [
    (TD3BCConfig, {"alpha": -1.0}, "policy.alpha is -1.0"), (TD3BCConfig, {"delay": 0}, "delay 0"),
    (TD3BCConfig, {"std": "learned"}, "the actor of td3bc is deterministic"), (IQLConfig, {"expectile": 1.0}, "expectile is 1.0"),
    (IQLConfig, {"discount": 0.0}, "policy.discount is 0.0"), (IQLConfig, {"rewards": "unit"}, "policy.rewards is 'unit'"),
])  # fmt: skip
def test_values_that_cannot_be_meant_are_named(config, options, words):
    with pytest.raises(UsageError, match=words):
        config(**options)


def test_methods_that_do_not_attend_to_critics_say_so():
    with pytest.raises(UsageError, match=r"policy is 'iql', which learns with critics.*use one of finetune, joint"):
        perdure.run("lora", "toy", policy="iql", quiet=True)


# -- a problem that cloning cannot solve ----------------------------------------------------------------------

SPEC = Spec(Box((2,)), Box((1,), low=(-1.0,), high=(1.0,)))


def wanted(obs):
    return np.tanh(obs[..., :1] - obs[..., 1:])


def random_actions(episodes=400, steps=10):
    """Actions drawn uniformly, so that their mean says nothing; rewards say which were good."""
    rng = np.random.default_rng(0)
    made = []
    for number in range(episodes):
        obs, action = rng.normal(size=(steps + 1, 2)), rng.uniform(-1, 1, (steps, 1))
        ends = np.arange(steps) == steps - 1
        made.append(Trajectory(
            observations=obs.astype(np.float32), actions=action.astype(np.float32), terminated=ends & False, truncated=ends,
            rewards=-np.abs(action - wanted(obs[:-1]))[:, 0].astype(np.float32), success=None, goal=(), seed=number))  # fmt: skip
    return Dataset.in_memory(made, name="random-actions", spec=SPEC, quality="random", behaviour={"policy": "random"},
                             licence="MIT", source="made here", versions={})  # fmt: skip


@pytest.mark.parametrize("policy", ["td3bc", "iql"])
def test_actions_are_better_than_those_of_the_data(policy, tmp_path):
    stream = Stream("random-actions", (Task(0, "one", SPEC, random_actions(), score=ScoreScale("action_error")),))
    errors = {}
    for name, options in ((policy, {"discount": 0.5, **({"temperature": 30.0} if policy == "iql" else {})}), ("bc", {})):
        result = perdure.run("finetune", stream, policy=name, quiet=True, out=tmp_path / name,
                             method_options={"steps": 1500}, policy_options={"width": 64, **options},
                             evaluation={"episodes": 2, "shared": 1, "curve": 0})  # fmt: skip
        agent = perdure.load_agent(result.folder)
        obs = np.random.default_rng(1).normal(size=(200, 2)).astype(np.float32)
        actor = agent.actor("one")
        chosen = actor.act(torch.from_numpy(obs), actor.start(200), torch.Generator())[0].numpy()
        errors[name] = float(np.abs(chosen - wanted(obs)).mean())
    assert errors[policy] < 0.4 * errors["bc"], errors
