"""pnn: columns never change once learned, later ones really read them, and by the paper's formula."""

import pytest
import torch
from tiny import Lab, config

from perdure.core.errors import UsageError
from perdure.core.method import Step
from perdure.methods.pnn import PNN

DECAY = {"weight_decay": 0.1, "learning_rate": 0.02}
both = pytest.mark.parametrize("policy", ["bc", "dt"])
adapters = pytest.mark.parametrize("adapter", ["nonlinear", "linear"])


def column(lab, task):
    return lab.method.columns[str(task)]


def batch(lab, task, n=6):
    return lab.views.views[task].windows(column(lab, task).context, n, Step(9, task, "probe", 0))


@both
@adapters
def test_earlier_columns_stay_bit_for_bit_and_act_as_before(policy, adapter):
    lab = Lab(config("pnn", policy, adapter=adapter, **DECAY)).learn(0)
    first = lab.actions(0)
    lab.learn(1)
    second, before = lab.actions(1), {name: p.detach().clone() for name, p in lab.method.named_parameters()}
    lab.learn(2)
    after = dict(lab.method.named_parameters())
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert torch.equal(lab.actions(0), first)
    assert torch.equal(lab.actions(1), second)


@both
def test_first_column_is_the_first_model_of_independent_bit_for_bit(policy):
    mine, plain = Lab(config("pnn", policy)).learn(0), Lab(config("independent", policy)).learn(0)
    theirs = dict(plain.method.policies["0"].named_parameters())
    for name, p in column(mine, 0).named_parameters():
        assert torch.equal(p, theirs[name]), name


@both
def test_later_columns_start_as_independent_does_with_laterals_beside(policy):
    mine, plain = Lab(config("pnn", policy)).learn(0), Lab(config("independent", policy)).learn(0)
    for lab in (mine, plain):
        lab.method.open_task(lab.stream.tasks[1], lab.access(1))
    theirs, own = dict(plain.method.policies["1"].named_parameters()), dict(column(mine, 1).named_parameters())
    assert all(torch.equal(own[name], value) for name, value in theirs.items())
    assert {name.split(".")[0] for name in own.keys() - theirs.keys()} == {"side"}
    with torch.no_grad():
        for name in own.keys() - theirs.keys():
            own[name].zero_()
    given = batch(mine, 1)
    assert torch.equal(column(mine, 1).eval()(given).output(), plain.method.policies["1"].eval()(given).output())


@both
@adapters
def test_every_lateral_receives_gradient_and_matters(policy, adapter):
    options = {"adapter": adapter, "steps": 20, "learning_rate": 0.01}
    fresh = Lab(config("pnn", policy, **options)).learn(0, 1)
    fresh.method.open_task(fresh.stream.tasks[2], fresh.access(2))
    fresh.method.zero_grad()
    column(fresh, 2).loss(batch(fresh, 2)).mean().backward()
    laterals = dict(column(fresh, 2).side.named_parameters())
    assert len(laterals) == (4 if adapter == "nonlinear" else 2) * len(column(fresh, 2).hidden_widths())
    for name, p in laterals.items():
        assert p.grad is not None and p.grad.any(), name
        if name.endswith("scale"):
            assert p.shape == (2,) and p.grad.all(), "a scale per earlier column"
    assert all(p.grad is None for task in (0, 1) for p in column(fresh, task).parameters())
    trained = Lab(config("pnn", policy, **options)).learn()
    with_laterals = trained.actions(2)
    for place, lateral in enumerate(column(trained, 2).side.laterals):
        kept = lateral.write.weight.detach().clone()
        with torch.no_grad():
            lateral.write.weight.zero_()
        assert not torch.equal(trained.actions(2), with_laterals), f"layer {place}"
        with torch.no_grad():
            lateral.write.weight.copy_(kept)
    assert torch.equal(trained.actions(2), with_laterals)


@pytest.mark.parametrize(("adapter", "bottleneck"), [("nonlinear", None), ("nonlinear", 3), ("linear", None)])
def test_columns_compute_the_papers_formula(adapter, bottleneck):
    """Eq. 2 written out for three columns, every one with its own laterals; the input is on the newest task's scale."""
    lab = Lab(config("pnn", adapter=adapter, bottleneck=bottleneck, **DECAY)).learn()
    given = batch(lab, 2)
    columns = [column(lab, task) for task in range(3)]
    x = columns[2].inputs(given).obs
    hidden: list[list[torch.Tensor]] = []  # column -> outputs of its two layers
    for k, net in enumerate(columns):
        def lateral(layer, net=net, k=k):
            if k == 0:
                return 0.0
            cell = net.side.laterals[layer]
            seen = torch.cat([cell.scale[j] * hidden[j][layer] for j in range(k)], -1)
            return cell.write(cell.read(seen).relu() if adapter == "nonlinear" else seen)

        first = net.encoders["float32-2"](x).relu()
        second = (net.trunk[1](first) + lateral(0)).relu()
        hidden.append([first, second])
        features = second + lateral(1)
        hidden[-1][1] = features
    if bottleneck:
        assert columns[2].side.laterals[0].read.out_features == bottleneck
    torch.testing.assert_close(columns[2](given).output(), columns[2].distribution(features, given.task, (2,)).output())


@both
def test_finished_columns_are_read_without_dropout_while_a_new_one_trains(policy):
    sizes = {"dropout": 0.5} if policy == "dt" else {}
    lab = Lab(config("pnn", policy, policy_options=sizes)).learn(0)
    lab.method.open_task(lab.stream.tasks[1], lab.access(1))
    for mode in (False, True):
        lab.method.train(mode)
        assert [column(lab, t).training for t in (0, 1)] == [False, mode]
    inputs = column(lab, 1).inputs(batch(lab, 1))
    for one, again in zip(column(lab, 1).side(inputs), column(lab, 1).side(inputs), strict=True):
        assert torch.equal(one, again)


def test_a_column_is_kept_once():
    lab = Lab(config("pnn")).learn()
    state = lab.method.state_dict()
    assert not [name for name in state if "side.columns" in name]
    assert len({value.data_ptr() for value in state.values()}) == len(state)
    assert lab.method.copy().state_dict().keys() == state.keys()


@both
def test_only_columns_of_the_same_spaces_are_read(policy):
    """toy-spaces has three pairs of spaces in turn: the fourth task is the first with an earlier column of its own."""
    lab = Lab(config("pnn", policy, "toy-spaces", tasks=4)).learn()
    assert [column(lab, t).side is None for t in range(4)] == [True, True, True, False]
    assert column(lab, 3).side.columns == (column(lab, 0),)
    assert {lateral.scale.numel() for lateral in column(lab, 3).side.laterals} == {1}


def test_columns_grow_by_laterals_of_every_earlier_one():
    """3 columns of 2 layers of 16: U and V of 16 x 16 per layer, V once per earlier column, with its bias and scales."""
    lab = Lab(config("pnn")).learn()
    sizes = [sum(p.numel() for p in column(lab, t).parameters()) for t in range(3)]
    assert [size - sizes[0] for size in sizes[1:]] == [2 * ((k + 1) * 256 + 16 + k) for k in (1, 2)]


def test_scales_start_small_and_differ():
    lab = Lab(config("pnn")).learn(0, 1)
    lab.method.open_task(lab.stream.tasks[2], lab.access(2))
    scales = torch.cat([lateral.scale.detach() for lateral in column(lab, 2).side.laterals])
    assert 0.01 <= float(scales.min()) < float(scales.max()) <= 0.1


def test_unknown_task_is_named():
    lab = Lab(config("pnn")).learn(0)
    with pytest.raises(UsageError, match="task 2 was not learned; this agent knows the tasks 0"):
        lab.method.actor(2)


def test_a_policy_without_layers_is_refused():
    with pytest.raises(UsageError, match="the policy is Linear, whose layers pnn cannot reach"):
        PNN(PNN.Config(), lambda: torch.nn.Linear(2, 2), 0)


@pytest.mark.parametrize(
    "options", [{"adapter": "deep"}, {"bottleneck": 0}, {"adapter": "linear", "bottleneck": 4}], ids=str
)
def test_wrong_options_are_named(options):
    with pytest.raises(UsageError, match=r"method\.(adapter|bottleneck) is"):
        config("pnn", **options)
