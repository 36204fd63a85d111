"""lora: the first task's weights never change again, what a task adds has a low rank, and it starts as nothing."""

import pytest
import torch
from tiny import Lab, config

from perdure.core.errors import UsageError

DECAY = {"weight_decay": 0.1, "learning_rate": 0.02}
both = pytest.mark.parametrize("policy", ["bc", "dt"])


def copies(lab):
    return {name: p.detach().clone() for name, p in lab.method.policy.named_parameters()}


@both
@pytest.mark.parametrize("norms", ["task", "frozen"])
def test_base_weights_stay_bit_for_bit_and_old_tasks_act_as_before(policy, norms):
    lab = Lab(config("lora", policy, norms=norms, **DECAY)).learn(0)
    base, first = copies(lab), lab.actions(0)
    lab.learn(1)
    second = lab.actions(1)
    lab.learn(2)
    after = copies(lab)
    assert all(torch.equal(after[name], value) for name, value in base.items())
    assert torch.equal(lab.actions(0), first)
    assert torch.equal(lab.actions(1), second)
    assert not torch.equal(lab.actions(2), second)


@both
def test_first_task_is_finetunes_bit_for_bit(policy):
    mine, plain = (Lab(config(method, policy)).learn(0) for method in ("lora", "finetune"))
    theirs = copies(plain)
    assert all(torch.equal(value, theirs[name]) for name, value in copies(mine).items())


@both
@pytest.mark.parametrize("norms", ["task", "frozen"])
def test_a_task_starts_at_the_base_weights_and_adds_a_low_rank(policy, norms):
    lab = Lab(config("lora", policy, rank=2, norms=norms, **DECAY)).learn(0)
    base = copies(lab)
    lab.method.open_task(lab.stream.tasks[1], lab.access(1))
    assert all(torch.equal(value, base[name]) for name, value in lab.method.model(1)[1].items())
    lab.learn(2)
    seen = lab.method.model(2)[1]
    linear = {name for name in base if name in lab.method.adapters.bank.names(2)}
    assert linear == {n for n, p in base.items() if p.dim() == 2 and "heads" not in n and n != "embed_time.weight"}
    for name in linear:
        difference = seen[name].detach() - base[name]
        assert 1 <= int(torch.linalg.matrix_rank(difference, rtol=1e-4)) <= 2, name
    moved = {name for name, value in seen.items() if not torch.equal(value, base[name])}
    vectors = {name for name in base if base[name].dim() == 1 and "heads" not in name}
    assert moved == linear | (vectors if norms == "task" else set())


def test_an_update_asks_for_no_gradient_of_frozen_weights():
    lab = Lab(config("lora", "dt", steps=2)).learn(0)
    lab.method.zero_grad()
    lab.learn(1)
    assert all(p.grad is None for p in lab.method.policy.shared().values())
    assert all(p.grad is not None for p in lab.method.adapters.bank.pairs(1).values())


def test_the_view_of_a_task_is_scaled_by_alpha_over_rank():
    lab = Lab(config("lora", rank=2, alpha=6.0, norms="frozen", **DECAY)).learn(0, 1)
    pairs, base = lab.method.adapters.bank.pairs(1), copies(lab)["trunk.1.weight"]
    wanted = base + 3.0 * pairs["up/trunk/1/weight"] @ pairs["down/trunk/1/weight"]
    torch.testing.assert_close(lab.method.model(1)[1]["trunk.1.weight"], wanted)


@pytest.mark.parametrize(
    ("layers", "wanted"),
    [
        ("trunk", {"trunk.1.weight"}), ("encoders, trunk.1.*", {"encoders.float32-2.weight", "trunk.1.weight"}),
        ("enc*", {"encoders.float32-2.weight"}), ("*", {"encoders.float32-2.weight", "trunk.1.weight"}),
    ],
)  # fmt: skip
def test_layers_are_chosen_by_patterns(layers, wanted):
    lab = Lab(config("lora", layers=layers)).learn(0, 1)
    assert set(lab.method.adapters.bank.names(1)) == wanted


def test_a_pattern_that_names_nothing_lists_the_names():
    with pytest.raises(UsageError, match=r"'trunc' names no weight of this policy; it has .*trunk\.1\.weight"):
        Lab(config("lora", layers="encoders,trunc")).learn(0)


@both
def test_a_trunk_that_nobody_trains(policy):
    lab = Lab(config("lora", policy, first="adapter", **DECAY))
    before = copies(lab)
    lab.learn()
    after = copies(lab)
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert "encoders.float32-2.weight" not in lab.method.adapters.bank.names(0), "the first task opens it and trains it"
    assert "encoders.float32-2.weight" in lab.method.adapters.bank.names(1)


@both
def test_weights_that_open_late_are_trained_by_their_task_alone(policy):
    """toy-spaces opens an encoder at every one of its three tasks; the fourth has the spaces of the first."""
    lab = Lab(config("lora", policy, "toy-spaces", tasks=4, **DECAY)).learn(0)
    first = lab.actions(0)
    lab.method.open_task(lab.stream.tasks[1], lab.access(1))
    fresh = copies(lab)["encoders.float32-3.weight"]
    lab = Lab(config("lora", policy, "toy-spaces", tasks=4, **DECAY)).learn(0, 1)
    second = copies(lab)["encoders.float32-3.weight"]
    assert not torch.equal(second, fresh)
    assert "encoders.float32-3.weight" not in lab.method.adapters.bank.names(1)
    lab.learn(2, 3)
    assert torch.equal(copies(lab)["encoders.float32-3.weight"], second)
    assert "encoders.float32-2.weight" in lab.method.adapters.bank.names(3)
    assert torch.equal(lab.actions(0), first)


def test_a_shared_head_is_adapted_too():
    lab = Lab(config("lora", policy_options={"heads": "single"}, **DECAY)).learn(0)
    first = lab.actions(0)
    lab.learn(1, 2)
    assert "bank.heads.all-box-2.weight" in lab.method.adapters.bank.names(2)
    assert torch.equal(lab.actions(0), first)
    assert not torch.equal(lab.actions(2), first)


def test_convolutions_are_adapted():
    lab = Lab(config("lora", stream="toy-pixels", tasks=2, steps=2, batch=4)).learn()
    convolutions = [name for name in lab.method.adapters.bank.names(1) if "convolutions" in name]
    assert len(convolutions) == 3
    seen, base = lab.method.model(1)[1], copies(lab)
    assert all(seen[name].shape == base[name].shape and not torch.equal(seen[name], base[name]) for name in convolutions)


# -- as in the code released with CompoFormer -------------------------------------------------------------------


def test_released_behaviour_trains_an_adapter_beside_the_trunk_on_the_first_task():
    lab = Lab(config("lora", "dt", compat=True, **DECAY))
    before = copies(lab)
    lab.learn(0)
    attention = [f"blocks.{i}.query_key_value.weight" for i in (0, 1)]
    assert lab.method.adapters.bank.names(0) == attention
    assert all(p.any() for name, p in lab.method.adapters.bank.pairs(0).items() if name.startswith("up"))
    base, first = copies(lab), lab.actions(0)
    assert all(not torch.equal(base[name], before[name]) for name in before)
    lab.learn(1, 2)
    assert lab.method.adapters.bank.names(2) == attention
    assert not lab.method.adapters.small
    after = copies(lab)
    assert all(torch.equal(after[name], value) for name, value in base.items())
    assert torch.equal(lab.actions(0), first)
    assert set(lab.method.model(2)[1]) == set(lab.method.policy.shared())


def test_released_behaviour_makes_a_new_optimizer_after_every_fifth_of_the_steps():
    lab = Lab(config("lora", "dt", compat=True, steps=12))
    assert [(p.name, p.steps) for p in lab.phases(0)] == [(f"train-{i + 1}", n) for i, n in enumerate((2, 2, 3, 2, 3))]
    made = []
    for phase in lab.phases(0):
        lab.play(0, phase)
        made.append(lab.method.optimizers["policy"])
    assert len({id(optimizer) for optimizer in made}) == 5
    assert [p.name for p in Lab(config("lora", "dt")).phases(0)] == ["train"]


def test_released_values_replace_options_and_say_so():
    made = config("lora", "dt", compat=True).method_config
    assert (made["rank"], made["alpha"], made["layers"], made["norms"]) == (8, 1.0, "query_key_value", "frozen")
    assert config("lora", "dt", compat=True, rank=8).method_config == made, "a stored config is read again"
    with pytest.raises(UsageError, match=r"method\.rank is 4 and method\.compat true"):
        config("lora", "dt", compat=True, rank=4)
    with pytest.raises(UsageError, match=r"method\.layers is 'query_key_value' as method\.compat sets it, .* it has encoders"):
        Lab(config("lora", "bc", compat=True)).learn(0)


@pytest.mark.parametrize(
    ("field", "value"), [("rank", 0), ("alpha", 0.0), ("layers", "a,,b"), ("first", "all"), ("norms", "none")]
)
def test_wrong_options_are_named(field, value):
    with pytest.raises(UsageError, match=rf"method\.{field} (is )?"):
        config("lora", **{field: value})
