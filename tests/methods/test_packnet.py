"""packnet: what a task owns is its own, is exactly its share, and never changes again."""

import pytest
import torch
from tiny import Lab, config

from perdure.core.errors import GuardError, UsageError

DECAY = {"weight_decay": 0.1, "learning_rate": 0.02}


def trained(policy="bc", tasks=3, **options):
    lab = Lab(
        config(
            "packnet",
            policy,
            stream=options.pop("stream", "toy"),
            policy_options=options.pop("policy_options", None),
            **(DECAY | options),
        )
    )
    return lab.learn(*range(tasks))


@pytest.mark.parametrize("policy", ["bc", "dt"])
def test_masks_are_disjoint_equal_and_complete(policy):
    lab = trained(policy)
    masks = lab.method.shares.masks
    assert set(masks.shapes) == {name for name, p in lab.method.policy.shared().items() if p.dim() > 1}
    for name, shape in masks.shapes.items():
        counts, total = masks.counts(name), torch.Size(shape).numel()
        assert counts[0] == 0, "every weight is owned in the end"
        assert sum(counts) == total
        for count in counts[1:]:
            assert abs(count - total / 3) < 1, name
        visible = masks.visible(0)[name].int() + (masks.visible(1)[name] & ~masks.visible(0)[name]).int()
        assert int(visible.sum()) == counts[1] + counts[2], "an owner map can own a weight once only"


@pytest.mark.parametrize("norms", ["task", "frozen", "masked"])
@pytest.mark.parametrize("policy", ["bc", "dt"])
def test_old_tasks_act_bit_for_bit_as_before(policy, norms):
    lab = Lab(config("packnet", policy, norms=norms, **DECAY)).learn(0)
    first = lab.actions(0)
    lab.learn(1)
    second = lab.actions(1)
    lab.learn(2)
    assert torch.equal(lab.actions(0), first)
    assert torch.equal(lab.actions(1), second)
    assert not torch.equal(lab.actions(2), second)


@pytest.mark.parametrize("norms", ["task", "frozen"])
def test_frozen_entries_are_bit_identical_and_the_others_move(norms):
    lab = Lab(config("packnet", "dt", norms=norms, **DECAY)).learn(0)
    masks = lab.method.shares.masks.owned(before=1)
    before = {name: p.detach().clone() for name, p in lab.method.policy.named_parameters()}
    lab.learn(1)
    after = dict(lab.method.policy.named_parameters())
    for name, mask in masks.items():
        assert torch.equal(after[name][mask], before[name][mask]), name
    free = [not torch.equal(after[name][~mask], before[name][~mask]) for name, mask in masks.items()]
    assert all(free)
    vectors = [name for name, p in lab.method.policy.shared().items() if p.dim() == 1]
    assert all(torch.equal(after[name], before[name]) for name in vectors)


def test_single_head_is_masked_too():
    lab = trained(policy_options={"heads": "single"})
    assert "bank.heads.all-box-2.weight" in lab.method.shares.masks.shapes


def test_pruned_weights_are_the_small_ones_and_zero_until_reused():
    lab = Lab(config("packnet", **DECAY))
    dense, retrain = lab.phases(0)
    lab.play(0, dense)
    before = {name: p.detach().clone() for name, p in lab.method.shares.masked(lab.method.policy).items()}
    retrain.begin()
    for name, p in lab.method.shares.masked(lab.method.policy).items():
        mine = lab.method.shares.masks.owner(name) == 1
        assert before[name].abs()[mine].min() >= before[name].abs()[~mine].max()
        assert torch.equal(p[mine], before[name][mine])
        assert not p[~mine].any()


def test_a_later_task_reads_earlier_weights():
    lab = trained(tasks=2)
    second = lab.actions(1)
    with torch.no_grad():
        for name, mask in lab.method.shares.masks.owned(before=1).items():
            lab.method.shares.masked(lab.method.policy)[name][mask] += 0.5
    assert not torch.equal(lab.actions(1), second)


def test_geometric_shares_keep_their_ratio_and_run_out():
    options = {"share": "geometric", "keep_ratio": 0.9, "steps": 2, **DECAY}
    lab = Lab(config("packnet", tasks=12, **options, policy_options={"width": 4, "layers": 2})).learn(0, 1)
    counts = lab.method.shares.masks.counts("trunk.1.weight")  # 4 x 4
    assert counts[1:] == [14, 2]
    with pytest.raises(GuardError, match=r"task 3 finds no free weight in .*: the capacity is exhausted"):
        lab.learn(2)


def test_equal_shares_need_the_number_of_tasks_and_geometric_ones_do_not():
    with pytest.raises(UsageError, match=r"Need\.TASK_COUNT"):
        Lab(config("packnet"), frozenset()).learn(0)
    Lab(config("packnet", share="geometric"), frozenset()).learn(0)


def test_retraining_takes_its_share_of_the_steps():
    phases = Lab(config("packnet", steps=10, retrain_share=0.3)).phases(0)
    assert [(phase.name, phase.steps) for phase in phases] == [("dense", 7), ("retrain", 3)]


@pytest.mark.parametrize(
    ("field", "value"),
    [("share", "half"), ("keep_ratio", 1.0), ("retrain_share", 0.0), ("norms", "none"), ("steps", 1)],
)
def test_wrong_options_are_named(field, value):
    with pytest.raises(UsageError, match=rf"method\.{field} is"):
        config("packnet", **{field: value})


# -- as in the code released with CompoFormer -------------------------------------------------------------------


@pytest.mark.parametrize(("policy", "tasks"), [("bc", 5), ("dt", 3)])
def test_released_shares_are_geometric_over_all_tensors_together(policy, tasks):
    """The n-th task owns (1 - q) q^(n - 1) of everything, q = 0.7; the last one all that is left."""
    lab = Lab(config("packnet", policy, tasks=tasks, compat=True, steps=2)).learn()
    masks = lab.method.shares.masks
    counts = torch.tensor([masks.counts(name) + [0] * (tasks + 1 - len(masks.counts(name))) for name in masks.shapes])
    total = int(counts.sum())
    for n, owned in enumerate(counts.sum(0)[1:-1].tolist()):
        assert abs(owned - 0.3 * 0.7**n * total) <= 1.5, n
    assert abs(int(counts.sum(0)[-1]) - 0.7 ** (tasks - 1) * total) <= 3
    shares = counts[:, 1] / counts.sum(1)
    assert shares.max() - shares.min() > 0.2, "tensors do not get equal shares"


def test_released_masks_cover_biases_and_norms_but_no_embeddings():
    lab = Lab(config("packnet", "dt", compat=True, **DECAY))
    time = lab.method.policy.embed_time.weight.detach().clone()
    lab.learn(0, 1)
    assert torch.equal(lab.method.policy.embed_time.weight, time), "the table stays at its initial values"
    assert lab.method.policy.embed_time.weight.grad is None
    assert set(lab.method.shares.masks.shapes) == set(lab.method.policy.shared()) - {"embed_time.weight"}
    assert not lab.method.shares.small


def test_a_claim_over_all_tensors_takes_the_largest_of_all():
    lab = Lab(config("packnet", "dt", compat=True))
    dense, retrain = lab.phases(0)
    lab.play(0, dense)
    before = {name: p.detach().abs().clone() for name, p in lab.method.shares.masked(lab.method.policy).items()}
    retrain.begin()
    mine = {name: lab.method.shares.masks.owner(name) == 1 for name in before}
    least = min(float(before[name][mask].min()) for name, mask in mine.items() if mask.any())
    assert least >= max(float(before[name][~mask].max()) for name, mask in mine.items() if not mask.all())


@pytest.mark.parametrize("stream", ["toy", "toy-spaces"])
@pytest.mark.parametrize("policy", ["bc", "dt"])
def test_released_behaviour_forgets_nothing(policy, stream):
    lab = Lab(config("packnet", policy, stream, compat=True, **DECAY)).learn(0)
    first = lab.actions(0)
    lab.learn(1, 2)
    assert torch.equal(lab.actions(0), first)
    masks = lab.method.shares.masks
    assert all(masks.counts(name)[0] == 0 for name in masks.shapes), "nothing stays free in the end"


def test_released_behaviour_runs_out_of_weights_by_name_of_the_task():
    lab = Lab(config("packnet", compat=True, tasks=3, steps=2)).learn(0)
    for name in lab.method.shares.masks.shapes:
        lab.method.shares.masks.owner(name).fill_(1)
    with pytest.raises(GuardError, match="task 2 finds no free weight: the capacity is exhausted"):
        lab.learn(1)


def test_released_values_replace_options_and_say_so():
    made = config("packnet", compat=True).method_config
    assert (made["share"], made["keep_ratio"], made["retrain_share"], made["norms"]) == ("geometric", 0.3, 0.2, "masked")
    assert config("packnet", compat=True, keep_ratio=0.3).method_config == made, "a stored config is read again"
    with pytest.raises(UsageError, match=r"method\.keep_ratio is 0\.4 and method\.compat true"):
        config("packnet", compat=True, keep_ratio=0.4)


def test_a_tensor_that_opens_late_is_used_up_too():
    """toy-spaces opens an encoder at every task: the tasks that are left share it, and nothing stays zero for ever."""
    masks = trained("bc", stream="toy-spaces").method.shares.masks
    counts = {name: masks.counts(name) for name in masks.shapes if name.startswith("encoders.")}
    assert len(counts) == 3
    assert all(count[0] == 0 for count in counts.values()), counts
