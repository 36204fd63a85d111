"""What both policies share: spaces, heads and statistics per task, weights as an argument, rebuild."""

import json

import pytest
import torch
from policy_samples import CHOICE, SPACES, VECTOR, generator, make, opened, windows

from perdure.core.batch import concatenate
from perdure.core.errors import UsageError
from perdure.core.policy import Stats
from perdure.core.spec import Box, Spec
from perdure.policies import POLICIES
from perdure.run_config import find

both = pytest.mark.parametrize("name", ["bc", "dt"])


@both
@pytest.mark.parametrize("kind", list(SPACES))
def test_shapes_for_every_space(name, kind):
    spec = SPACES[kind]
    policy = opened(name, spec)
    batch = windows(policy, spec)
    out = policy(batch)
    size = spec.action.n if spec.discrete else spec.action.size
    assert out.output().shape == (4, policy.context, size)
    assert policy.loss(batch).shape == (4,)
    assert out.best().shape == batch.action.shape
    assert out.error(batch.action).shape == batch.valid.shape
    if not spec.discrete:
        assert out.mean.abs().max() <= 1


@both
@pytest.mark.parametrize("kind", list(SPACES))
def test_actions_fit_the_bounds(name, kind):
    spec = SPACES[kind]
    policy = opened(name, spec)
    with torch.no_grad():
        for p in policy.private(0).values():
            p.mul_(100.0)  # far beyond the bounds without tanh and limits
    actor, batch = policy.actor(0), windows(policy, spec, n=6)
    carry = actor.start(6)
    assert all(len(value) == 6 for value in carry.values())
    for step in range(3):
        action, carry = actor.act(batch.obs[:, 0], carry, generator(), torch.ones(6))
        if spec.discrete:
            assert action.dtype == torch.int64
            assert action.shape == (6,)
            assert set(action.tolist()) <= set(range(spec.action.n))
        else:
            assert action.dtype == torch.float32
            assert action.shape == (6, 2)
            assert ((action >= torch.tensor(spec.action.low)) & (action <= torch.tensor(spec.action.high))).all(), (
                step
            )


@both
@pytest.mark.parametrize("spec", [VECTOR, CHOICE], ids=["vector", "choice"])
@pytest.mark.parametrize("options", [{}, {"std": "learned"}, {"heads": "single"}, {"normaliser": "first"}], ids=str)
def test_mixed_batches_equal_single_task_batches(name, spec, options):
    """Each sample goes through its own head, statistics and return scale, whatever else is in the batch."""
    policy = opened(name, spec, spec, spec, **options)
    with torch.no_grad():
        for p in policy.log_stds.values():
            p.add_(torch.randn(p.shape, generator=generator(3)))
    parts = [windows(policy, spec, task=t, seed=t) for t in (2, 0, 1)]
    with torch.no_grad():
        alone = torch.cat([policy.loss(part) for part in parts])
        torch.testing.assert_close(policy.loss(concatenate(parts)), alone, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(policy.loss(concatenate(parts[:2])), alone[:8], rtol=1e-5, atol=1e-6)


@both
def test_tasks_differ_by_head_statistics_and_return_scale(name):
    policy = opened(name, VECTOR, VECTOR)
    batch = windows(policy, VECTOR)
    other = type(batch)(**{**batch.__dict__, "task": torch.ones(4, dtype=torch.int64), "tasks": (1,)})
    base, before = policy(batch).output(), policy(other).output()
    assert not torch.equal(base, before)
    with torch.no_grad():
        policy.bank.heads["task-0"].weight.copy_(policy.bank.heads["task-1"].weight)
        policy.bank.heads["task-0"].bias.copy_(policy.bank.heads["task-1"].bias)
    assert not torch.equal(policy(batch).output(), before), "statistics still differ"
    for what in ("mean", "std"):
        policy.normalizer.get_buffer(f"{what}_0").copy_(policy.normalizer.get_buffer(f"{what}_1"))
    assert torch.equal(policy(batch).output(), before) == (name == "bc"), "the return scale is left, for dt"
    policy.get_buffer("returns_0").copy_(policy.get_buffer("returns_1"))
    assert torch.equal(policy(batch).output(), before)


@both
def test_first_normaliser_is_that_of_the_first_equal_space(name):
    policy = opened(name, VECTOR, CHOICE, Spec(Box((5,)), VECTOR.action), normaliser="first")
    assert sorted(policy.normalizer.sizes) == [0, 2]
    assert policy.normalizer.sizes[2] == 5


@both
def test_weights_stand_in_for_parameters_and_change_nothing(name):
    policy = opened(name, VECTOR)
    batch = windows(policy, VECTOR)
    before = {n: p.detach().clone() for n, p in policy.named_parameters()}
    plain = policy(batch).output()
    doubled = {n: p.detach() * 2 for n, p in policy.named_parameters()}
    other = policy.predict(batch, doubled).output()
    assert not torch.equal(other, plain)
    assert torch.equal(policy.predict(batch, {}).output(), plain)
    assert all(torch.equal(p, before[n]) for n, p in policy.named_parameters())
    with torch.no_grad():
        for p in policy.parameters():
            p.mul_(2)
    assert torch.equal(policy(batch).output(), other)
    first, _ = policy.actor(0).act(batch.obs[:, 0], policy.actor(0).start(4), generator())
    half = policy.actor(0, {n: p / 2 for n, p in policy.named_parameters()})
    assert not torch.equal(half.act(batch.obs[:, 0], half.start(4), generator())[0], first)


@both
def test_an_actor_does_not_change_its_carry(name):
    policy = opened(name, VECTOR)
    actor, obs = policy.actor(0), windows(policy, VECTOR).obs[:, 0]
    carry = actor.start(4)
    _, carry = actor.act(obs, carry, generator(), torch.zeros(4))
    kept = {n: value.clone() for n, value in carry.items()}
    once, _ = actor.act(obs * 2, carry, generator(), torch.ones(4))
    again, _ = actor.act(obs * 2, carry, generator(), torch.ones(4))
    assert torch.equal(once, again)
    assert all(torch.equal(value, kept[n]) for n, value in carry.items())


@both
@pytest.mark.parametrize("std", ["fixed", "learned"])
def test_private_and_shared_divide_the_parameters(name, std):
    policy = opened(name, VECTOR, CHOICE, std=std)
    private = [policy.private(task) for task in (0, 1)]
    assert set(private[0]) == {"bank.heads.task-0.weight", "bank.heads.task-0.bias"} | (
        {"log_stds.task-0"} if std == "learned" else set()
    )
    assert set(private[1]) == {"bank.heads.task-1.weight", "bank.heads.task-1.bias"}
    names = {n for n, _ in policy.named_parameters()}
    assert set(policy.shared()) == names - set(private[0]) - set(private[1])


@both
def test_task_names_of_two_digits_are_not_mixed_up(name):
    policy = opened(name, *[VECTOR] * 12)
    assert set(policy.private(1)) == {"bank.heads.task-1.weight", "bank.heads.task-1.bias"}


@both
@pytest.mark.parametrize("options", [{}, {"heads": "single", "normaliser": "first"}, {"std": "learned"}], ids=str)
def test_rebuild_from_json_gives_the_same_outputs(name, options):
    policy = opened(name, *SPACES.values(), VECTOR, **options)
    other = make(name, **options)
    other.rebuild(json.loads(json.dumps(policy.architecture())))
    other.load_state_dict(policy.state_dict())
    for task, spec in enumerate([*SPACES.values(), VECTOR]):
        batch = windows(policy, spec, task)
        assert torch.equal(other(batch).output(), policy(batch).output())
        assert other.target_return(task) == policy.target_return(task) == 3.0 + task
        assert other.return_scale(task) == 2.0 + task


@both
def test_a_task_opens_once(name):
    policy = opened(name, VECTOR)
    with pytest.raises(UsageError, match="task 0 is open already"):
        policy.add_task(0, VECTOR, Stats(torch.zeros(3), torch.ones(3), 1.0, 1.0))


@both
@pytest.mark.parametrize("field", ["heads", "normaliser", "std", "width", "layers"])
def test_wrong_options_are_named(name, field):
    value = -1 if field in ("width", "layers") else "both"
    with pytest.raises(UsageError, match=rf"policy\.{field}"):
        find(name, POLICIES, "policy").Config(**{field: value})


def read(policy, batch, lateral=None):
    with torch.no_grad():
        return policy.hidden(policy.inputs(batch), lateral)


@both
@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("kind", ["vector", "choice"])
def test_hidden_lists_every_layer_and_no_lateral_is_one_of_zeros(name, layers, kind):
    policy = opened(name, SPACES[kind], layers=layers)
    batch = windows(policy, SPACES[kind])
    outputs = read(policy, batch)
    assert [out.shape[-1] for out in outputs] == policy.hidden_widths()
    assert outputs[-1].shape == (4, policy.context, policy.width)
    silent = read(policy, batch, [torch.zeros_like(out) for out in outputs])
    assert all(torch.equal(one, other) for one, other in zip(outputs, silent, strict=True))
    features = policy.distribution(outputs[-1], batch.task, batch.tasks)
    assert torch.equal(features.output(), policy(batch).output())


@both
@pytest.mark.parametrize("layers", [1, 2, 3])
def test_a_lateral_enters_the_next_layer_and_the_last_the_features(name, layers):
    policy = opened(name, VECTOR, layers=layers)
    batch = windows(policy, VECTOR)
    outputs = read(policy, batch)
    for place in range(len(outputs)):
        given = [torch.zeros_like(out) for out in outputs]
        given[place] += 0.5 * torch.randn(given[place].shape, generator=generator(place))
        changed = read(policy, batch, given)
        same = [torch.equal(one, other) for one, other in zip(outputs, changed, strict=True)]
        last = len(outputs) - 1
        assert same == [i <= place and not i == place == last for i in range(len(outputs))], place
    assert torch.equal(changed[-1], outputs[-1] + given[-1])


class Shift(torch.nn.Module):
    """A side that adds the same to every feature."""

    def __init__(self, policy):
        super().__init__()
        self.size = torch.nn.Parameter(torch.tensor(0.0))
        self.policy = (policy,)

    def forward(self, inputs):
        return [self.size.expand_as(out) for out in self.policy[0].hidden(inputs)]


@both
def test_the_side_of_a_policy_is_used_whenever_it_runs(name):
    policy = opened(name, VECTOR)
    batch = windows(policy, VECTOR)
    plain = policy(batch).output()
    acted, _ = policy.actor(0).act(batch.obs[:, 0], policy.actor(0).start(4), generator())
    policy.side = Shift(policy)
    assert "side.size" in dict(policy.named_parameters())
    assert torch.equal(policy(batch).output(), plain)
    with torch.no_grad():
        policy.side.size.fill_(0.7)
    assert not torch.equal(policy(batch).output(), plain)
    assert not torch.equal(policy.actor(0).act(batch.obs[:, 0], policy.actor(0).start(4), generator())[0], acted)
    policy.loss(batch).sum().backward()
    assert policy.side.size.grad != 0
