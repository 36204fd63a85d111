"""dt: causal, exact in its shortcuts, and acting on the window it would have been trained on."""

from dataclasses import replace

import pytest
import torch
from policy_samples import CHOICE, SPACES, VECTOR, generator, opened, windows

from perdure.core.errors import UsageError
from perdure.policies.decision_transformer import DTConfig


def later_changed(batch, first):
    """The same windows with everything from step `first` on replaced."""
    other = replace(batch)
    for name in ("obs", "action", "return_to_go", "timestep", "reward"):
        value = getattr(batch, name).clone()
        value[:, first:] = value[:, first:].flip(0)
        object.__setattr__(other, name, value)
    return other


@pytest.mark.parametrize("spec", [VECTOR, CHOICE], ids=["vector", "choice"])
def test_later_steps_do_not_change_earlier_outputs(spec):
    policy = opened("dt", spec)
    batch = windows(policy, spec)
    whole = policy(batch).output()
    for first in range(1, policy.context):
        cut = policy(later_changed(batch, first)).output()
        assert torch.equal(cut[:, :first], whole[:, :first])
        assert not torch.equal(cut[:, first:], whole[:, first:])


def test_an_output_sees_its_own_observation_and_not_its_own_action():
    policy = opened("dt", VECTOR)
    batch = windows(policy, VECTOR)
    whole, last = policy(batch).output(), policy.context - 1
    action, obs, goal = batch.action.clone(), batch.obs.clone(), batch.return_to_go.clone()
    action[:, last], obs[:, last], goal[:, last] = 0.123, 0.5, 9.0
    assert torch.equal(policy(replace(batch, action=action)).output(), whole)
    assert not torch.equal(policy(replace(batch, obs=obs)).output()[:, last], whole[:, last])
    assert not torch.equal(policy(replace(batch, return_to_go=goal)).output()[:, last], whole[:, last])


def untrimmed(policy, batch):
    """Every token through every block, the observation tokens read at the end."""
    spec = policy.specs[batch.tasks[0]]
    obs = policy._normalised(batch.obs, batch.task, batch.tasks)
    scale = policy._scales(batch.task, batch.tasks)
    time = policy.embed_time(batch.timestep)
    steps = [
        policy.embed_return((batch.return_to_go / scale).unsqueeze(-1)),
        policy.encoders[spec.obs_key](obs),
        policy.embed_actions[spec.action_key](batch.action),
    ]
    tokens = [token[:, t] + time[:, t] for t in range(batch.timestep.shape[1]) for token in steps]
    x = policy.norm_in(torch.stack(tokens, 1))
    for block in policy.blocks:
        x = block(x)
    return policy.distribution(policy.norm_out(x[:, 1::3]), batch.task, batch.tasks).output()


@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("kind", ["vector", "choice", "image"])
def test_the_trimmed_last_block_equals_the_whole_computation(kind, layers):
    policy = opened("dt", SPACES[kind], layers=layers, activation="gelu")
    batch = windows(policy, SPACES[kind])
    torch.testing.assert_close(policy(batch).output(), untrimmed(policy, batch), rtol=1e-5, atol=1e-6)


def test_right_padding_does_not_change_valid_outputs_or_the_loss():
    policy = opened("dt", VECTOR)
    full = windows(policy, VECTOR, length=5)
    short = replace(
        full, **{n: getattr(full, n)[:, :3] for n in ("obs", "action", "reward", "return_to_go", "timestep", "valid")}
    )
    padded = replace(full, valid=torch.arange(5).expand(4, 5) < 3)
    torch.testing.assert_close(policy(padded).output()[:, :3], policy(short).output(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(policy.loss(padded), policy.loss(short), rtol=1e-5, atol=1e-6)
    junk = padded.action.clone()
    junk[:, 3:] = 77.0
    torch.testing.assert_close(policy.loss(replace(padded, action=junk)), policy.loss(padded), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["vector", "choice", "image"])
@pytest.mark.parametrize("steps", [3, 5, 9])
def test_acting_equals_forward_on_the_logged_window(kind, steps):
    """Step by step the actor chooses what `forward` says on the window of the last `context` steps that it went through."""
    spec = SPACES[kind]
    policy = opened("dt", spec)
    actor, n = policy.actor(0), 3
    log = windows(policy, spec, n=n, length=steps, seed=4)
    carry, goal, taken, goals = actor.start(n), torch.full((n,), 3.0), [], []
    for t in range(steps):
        action, carry = actor.act(log.obs[:, t], carry, generator(), log.reward[:, t])
        goal = goal - log.reward[:, t] * (t > 0)
        goals.append(goal)
        low, high = (0, 1) if spec.discrete else (torch.tensor(spec.action.low), torch.tensor(spec.action.high))
        taken.append(action if spec.discrete else (action - low) / (high - low) * 2 - 1)
        first, size = max(0, t + 1 - policy.context), min(t + 1, policy.context)
        seen = torch.stack(taken, 1)[:, first:]
        window = replace(
            log,
            obs=log.obs[:, first : t + 1],
            action=seen,
            return_to_go=torch.stack(goals, 1)[:, first:],
            timestep=torch.arange(first, t + 1).expand(n, size),
            valid=torch.ones(n, size, dtype=torch.bool),
        )
        wanted = policy(window).best()[:, -1]
        torch.testing.assert_close(taken[-1], wanted, rtol=1e-4, atol=1e-5)


def test_the_return_target_falls_by_the_reward_and_stays_without_one():
    policy = opened("dt", VECTOR)
    actor, obs = policy.actor(0), windows(policy, VECTOR, n=2).obs[:, 0]
    _, carry = actor.act(obs, actor.start(2), generator(), torch.tensor([9.0, 9.0]))
    assert carry["target"].tolist() == [3.0, 3.0], "before the first step there is no reward"
    _, carry = actor.act(obs, carry, generator(), torch.tensor([0.5, -1.0]))
    assert carry["target"].tolist() == [2.5, 4.0]
    _, carry = actor.act(obs, carry, generator(), None)
    assert carry["target"].tolist() == [2.5, 4.0]
    assert carry["return_to_go"][:, :3].tolist() == [[3.0, 2.5, 2.5], [3.0, 4.0, 4.0]]


def test_the_return_target_is_that_of_the_task():
    policy = opened("dt", VECTOR, VECTOR)
    assert policy.actor(1).start(2)["target"].tolist() == [4.0, 4.0]
    obs = windows(policy, VECTOR).obs[:, 0]
    before = policy.actor(0).act(obs, policy.actor(0).start(4), generator())[0]
    policy.get_buffer("returns_0")[1] += 5.0
    assert not torch.equal(policy.actor(0).act(obs, policy.actor(0).start(4), generator())[0], before)


def test_steps_beyond_the_longest_episode_share_an_embedding():
    policy = opened("dt", VECTOR, longest_episode=6)
    batch = windows(policy, VECTOR)
    late, later = (replace(batch, timestep=torch.full_like(batch.timestep, t)) for t in (5, 500))
    assert torch.equal(policy(late).output(), policy(later).output())


def test_dropout_follows_the_global_generator_and_rests_in_eval():
    policy = opened("dt", VECTOR, dropout=0.5)
    batch = windows(policy, VECTOR)
    quiet = policy(batch).output()
    policy.train()
    torch.manual_seed(1)
    one = policy(batch).output()
    torch.manual_seed(1)
    assert torch.equal(policy(batch).output(), one)
    assert not torch.equal(policy(batch).output(), one)
    assert torch.equal(policy.eval()(batch).output(), quiet)


@pytest.mark.parametrize(
    ("field", "value"),
    [("context", 0), ("attention_heads", 5), ("dropout", 1.0), ("activation", "tanh"), ("longest_episode", 0)],
)
def test_wrong_options_are_named(field, value):
    with pytest.raises(UsageError, match=rf"policy\.{field}"):
        DTConfig(**{field: value})
