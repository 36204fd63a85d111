"""The contract's tools: one optimizer step with its hooks, the guard on NaN, copies, options."""

import pytest
import torch
from tiny import Lab, config, state_digest
from torch.nn import Parameter

from perdure.core.errors import GuardError, UsageError
from perdure.core.method import Method, MethodConfig


class Bare(Method):
    """Two parameters and an optimizer, no policy."""

    def __init__(self, **options):
        torch.nn.Module.__init__(self)
        self.config = MethodConfig(**{"learning_rate": 0.1, "weight_decay": 0.0, "clip": 0.0, **options})
        self.seed, self.optimizers, self.recipes, self.trouble = 0, {}, {}, None
        self.a, self.b = Parameter(torch.ones(4)), Parameter(torch.full((2,), 2.0))
        self.optimizer("main", {"a": self.a, "b": self.b})

    def loss(self):
        return (self.a * torch.tensor([1.0, -2.0, 3.0, 0.5])).sum() + self.b.square().sum()


def reference(method, steps, change=lambda p: None):
    """The same updates by torch alone."""
    a, b = (p.detach().clone().requires_grad_() for p in (method.a, method.b))
    adam = torch.optim.AdamW([a, b], lr=method.config.learning_rate, weight_decay=method.config.weight_decay)
    for _ in range(steps):
        adam.zero_grad()
        ((a * torch.tensor([1.0, -2.0, 3.0, 0.5])).sum() + b.square().sum()).backward()
        change((a, b))
        if method.config.clip:
            torch.nn.utils.clip_grad_norm_([a, b], method.config.clip)
        adam.step()
    return a, b


@pytest.mark.parametrize("options", [{}, {"clip": 0.5}, {"weight_decay": 0.1, "clip": 1.0}])
def test_descend_is_adamw_with_clipping(options):
    method = Bare(**options)
    wanted = reference(method, 3)
    losses = [method.descend("main", method.loss()) for _ in range(3)]
    torch.testing.assert_close(method.a, wanted[0])
    torch.testing.assert_close(method.b, wanted[1])
    assert not losses[0].requires_grad
    assert float(losses[0]) == 2.5 + 8


@pytest.mark.parametrize("hook", ["penalty", "edit"])
def test_penalty_and_edit_act_before_clipping(hook):
    def change(parameters):
        for p in parameters:
            p.grad.add_(5.0)

    method = Bare(clip=1.0)
    wanted = reference(method, 2, change)
    for _ in range(2):
        method.descend("main", method.loss(), **{hook: lambda: change((method.a, method.b))})
    torch.testing.assert_close(method.a, wanted[0])


def test_penalty_comes_before_edit():
    method, order = Bare(), []
    method.descend("main", method.loss(), penalty=lambda: order.append("penalty"), edit=lambda: order.append("edit"))
    assert order == ["penalty", "edit"]


def test_keep_restores_entries_that_momentum_and_weight_decay_move():
    method, free = Bare(weight_decay=0.5), Bare(weight_decay=0.5)
    for other in (method, free):
        other.descend("main", other.loss())  # builds momentum
    before = method.a.detach().clone()
    mask = torch.tensor([True, False, False, True])
    for other, keep in ((method, {"a": mask}), (free, None)):
        other.descend("main", other.loss() * 0, keep=keep)  # no gradient: only momentum and decay move
    assert not torch.equal(free.a, before)
    assert torch.equal(method.a[mask], before[mask])
    assert torch.equal(method.a[~mask], free.a[~mask])
    assert torch.equal(method.b, free.b)


def test_keep_of_unknown_names_does_nothing():
    method, free = Bare(), Bare()
    method.descend("main", method.loss(), keep={"elsewhere": torch.ones(1, dtype=torch.bool)})
    free.descend("main", free.loss())
    assert torch.equal(method.a, free.a)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("where", ["loss", "gradient"])
@pytest.mark.parametrize("clip", [0.0, 1.0])
def test_nan_in_loss_or_gradient_is_remembered_until_the_next_check(value, where, clip):
    method = Bare(clip=clip)
    method.check_health("step 0")
    spoil = {"edit": lambda: method.a.grad.fill_(value)} if where == "gradient" else {}
    method.descend("main", method.loss() * (value if where == "loss" else 1.0), **spoil)
    method.descend("main", method.loss().nan_to_num() * 0)
    with pytest.raises(GuardError, match="became NaN or infinite at task x, step 2; nothing of it was saved"):
        method.check_health("task x, step 2")


def test_healthy_updates_pass_the_check():
    method = Bare()
    method.descend("main", method.loss())
    method.check_health("step 1")
    assert method.trouble is None


def test_copies_are_equal_and_separate():
    lab = Lab(config("packnet")).learn(0)
    copy = lab.method.copy()
    assert state_digest(copy) == state_digest(lab.method)
    copy.open_task(lab.stream.tasks[1], lab.access(1))
    with torch.no_grad():
        for p in copy.parameters():
            p.zero_()
    assert lab.method.policy.tasks() == [0]
    assert any(p.any() for p in lab.method.parameters())


def test_opening_a_task_is_keyed():
    def head(before):
        lab = Lab(config("finetune"))
        torch.manual_seed(before)
        lab.method.open_task(lab.stream.tasks[1], lab.access(1))
        return lab.method.policy.bank.heads["task-1"].weight

    assert torch.equal(head(1), head(2))


def test_optimizers_are_forgotten_together():
    method = Bare()
    method.forget_optimizers()
    assert method.optimizers == method.recipes == {}


@pytest.mark.parametrize(
    ("field", "value"), [("steps", 0), ("batch", -1), ("learning_rate", 0.0), ("weight_decay", -1e-3), ("clip", -1.0)]
)
def test_wrong_options_are_named(field, value):
    with pytest.raises(UsageError, match=rf"method\.{field} is {value}; give"):
        MethodConfig(**{field: value})
