"""tsn: exactly the share that is asked for, disjoint masks, and old tasks that never change by a bit."""

import pytest
import torch
from tiny import Lab, config

from perdure.core.errors import GuardError, UsageError
from perdure.data.access import Views

DECAY = {"weight_decay": 0.1, "learning_rate": 0.02}
VARIANTS = [{}, {"overlap": True, "clusters": 16}, {"biases": "masked", "norms": "frozen"}, {"clusters": 4, "cluster_share": 0.4}]


@pytest.mark.parametrize("options", VARIANTS, ids=str)
@pytest.mark.parametrize(("policy", "stream"), [("bc", "toy"), ("dt", "toy"), ("dt", "toy-discrete"), ("bc", "toy-spaces")])
def test_old_tasks_act_bit_for_bit_as_before(policy, stream, options):
    """With dropout, weight decay and momentum on."""
    lab = Lab(config("tsn", policy, stream, **DECAY, **options)).learn(0)
    first = lab.actions(0), effective(lab, 0)
    lab.learn(1)
    second = lab.actions(1), effective(lab, 1)
    lab.learn(2)
    for task, (actions, weights) in enumerate((first, second)):
        assert torch.equal(lab.actions(task), actions)
        now = effective(lab, task)
        assert list(now) == list(weights)
        assert all(torch.equal(now[name], weights[name]) for name in weights)


def effective(lab, task):
    return {name: value.detach().clone() for name, value in lab.method.model(task)[1].items()}


@pytest.mark.parametrize("policy", ["bc", "dt"])
def test_a_task_takes_its_share_of_what_is_free(policy):
    lab = Lab(config("tsn", policy, keep_ratio=0.5)).learn()
    masks = [lab.method.pool.masks.mask(task) for task in range(3)]
    for name in masks[0]:
        size = masks[0][name].numel()
        free = size
        for task in range(3):
            assert int(masks[task][name].sum()) == max(1, round(0.5 * free)), name
            free -= int(masks[task][name].sum())
        assert int(torch.stack([mask[name] for mask in masks]).sum(0).max()) == 1, "masks are disjoint"
        if size > 100:
            assert abs(1 - free / size - 0.875) < 0.02


@pytest.mark.parametrize("options", [{}, {"biases": "masked", "norms": "frozen"}], ids=str)
def test_what_no_task_acts_with_is_not_counted(options):
    """Whatever stands there, every task acts as before."""
    lab = Lab(config("tsn", "dt", **options)).learn()
    before = [lab.actions(task) for task in range(3)]
    policy, pool, changed = lab.method.policy, lab.method.pool, 0
    used, own = pool.occupied(0), {name for task in range(3) for name in pool.small.of(task)}
    with torch.no_grad():
        for name, p in policy.shared().items():
            free = ~used[name] if name in used else torch.full_like(p, name in own, dtype=torch.bool)
            p[free] = 7.0
            changed += int(free.sum())
    assert changed == lab.method.unused_parameters() > 0
    assert all(torch.equal(lab.actions(task), before[task]) for task in range(3))


def test_equal_remaining_leaves_nothing_and_a_further_task_is_refused():
    lab = Lab(config("tsn", schedule="equal_remaining")).learn()
    masks = [lab.method.pool.masks.mask(task) for task in range(3)]
    for name in masks[0]:
        counts = [int(mask[name].sum()) for mask in masks]
        assert sum(counts) == masks[0][name].numel()
        assert max(counts) - min(counts) <= 1, name
    whole = Lab(config("tsn", keep_ratio=1.0)).learn(0)
    with pytest.raises(GuardError, match=r"task 2 finds no free weight in .*: the capacity is exhausted"):
        whole.learn(1)


def test_overlap_may_use_old_weights_and_never_moves_them():
    lab = Lab(config("tsn", overlap=True, keep_ratio=0.5, **DECAY)).learn(0, 1)
    first, second = lab.method.pool.masks.mask(0), lab.method.pool.masks.mask(1)
    assert any(bool((first[name] & second[name]).any()) for name in first)
    assert any(bool((~first[name] & second[name]).any()) for name in first)


def test_only_what_the_task_uses_is_masked():
    lab = Lab(config("tsn", stream="toy-spaces")).learn()
    for task, own in enumerate(("float32-2", "float32-3", "float32-1")):
        encoders = {name.split(".")[1] for name in lab.method.pool.masks.mask(task) if name.startswith("encoders.")}
        assert encoders == {own}


def test_biases_norms_and_time_steps():
    names = {True: set(), False: set()}
    for frozen in names:
        options = {"biases": "masked", "norms": "frozen"} if frozen else {}
        lab = Lab(config("tsn", "dt", **DECAY, **options)).learn(0)
        norm = lab.method.policy.get_parameter("norm_out.weight").detach().clone()
        lab.learn(1)
        names[frozen] = set(lab.method.pool.small.of(1))
        assert torch.equal(lab.method.policy.get_parameter("norm_out.weight"), norm)
        assert ("norm_out.bias" in lab.method.pool.masks.mask(1)) is False
        assert ("embed_return.bias" in lab.method.pool.masks.mask(1)) is frozen
    assert names[True] == set()
    assert {"embed_time.weight", "norm_out.weight", "embed_return.bias"} <= names[False]


def test_the_first_task_trains_frozen_norms():
    lab = Lab(config("tsn", "dt", norms="frozen", **DECAY))
    before = lab.method.policy.get_parameter("norm_out.weight").detach().clone()
    lab.learn(0)
    assert not torch.equal(lab.method.policy.get_parameter("norm_out.weight"), before)


@pytest.mark.parametrize("policy", ["bc", "dt"])
def test_a_task_is_learned(policy):
    lab = Lab(config("tsn", policy, steps=150, learning_rate=0.01))
    lab.learn(0)
    early = Lab(config("tsn", policy, steps=1, learning_rate=1e-6)).learn(0)
    assert lab.loss(0) < 0.5 * early.loss(0)


@pytest.mark.parametrize("policy", ["bc", "dt"])
def test_what_a_task_adds_is_where_its_data_are(policy):
    """A phase begins with a forward pass; on another device, here one without values, the new head must be there by then."""
    lab = Lab(config("tsn", policy))
    lab.views = Views(lab.stream, "meta")
    lab.method.to("meta")
    lab.method.open_task(lab.stream.tasks[0], lab.access(0))
    assert {value.device.type for value in [*lab.method.parameters(), *lab.method.buffers()]} == {"meta"}


@pytest.mark.parametrize(("options", "message"), [
    ({"keep_ratio": 0.0}, "method.keep_ratio is 0.0; give a share above 0"),
    ({"schedule": "equal_remaining", "overlap": True}, "method.overlap is true and method.schedule 'equal_remaining'"),
    ({"schedule": "even"}, "method.schedule is 'even'; use one of constant, equal_remaining"),
    ({"norms": "masked"}, "method.norms is 'masked'; use one of task, frozen"),
])  # fmt: skip
def test_options_that_cannot_be(options, message):
    with pytest.raises(UsageError, match=message):
        config("tsn", **options)


def test_clustered_weights_take_few_values_and_fine_tuning_lowers_the_loss():
    lab = Lab(config("tsn", clusters=8, cluster_share=0.5, steps=80, learning_rate=0.01))
    train, cluster = lab.phases(0)
    lab.play(0, train)
    cluster.begin()
    worse = lab.loss(0)
    lab = Lab(config("tsn", clusters=8, cluster_share=0.5, steps=80, learning_rate=0.01)).learn(0)
    for name, mask in lab.method.pool.masks.mask(0).items():
        assert len(lab.method.policy.get_parameter(name)[mask].unique()) <= 8
    assert lab.loss(0) < worse


@pytest.mark.parametrize("clusters", [0, 16])
def test_a_saved_agent_holds_used_weights_and_bits_only(clusters):
    options = {"clusters": clusters, "policy_options": {"width": 64, "layers": 3}}
    lab = Lab(config("tsn", **options)).learn(0, 1)
    state = lab.method.state_dict()
    masked = lab.method.pool.masks.shapes
    assert not any(f"policy.{name}" in state for name in masked)
    size = sum(torch.Size(shape).numel() for shape in masked.values())
    assert sum(v.nbytes for k, v in state.items() if k.startswith("pool.masks.")) <= 2 * (size / 8 + 1)
    used = sum(int(mask.sum()) for mask in lab.method.pool.masks.occupied([0, 1]).values())
    stored = sum(v.nbytes for k, v in state.items() if k.startswith("packed-"))
    assert stored == used * 4 if not clusters else stored <= used / 2 + 2 * len(masked)
    other = lab.method.copy()
    for name, p in lab.method.named_parameters():
        assert torch.equal(other.get_parameter(name), p), name
