"""The released importances: the gradient of one batch's mean error, and options that `compat` would replace."""

import pytest
import torch
from tiny import Lab, config

from perdure.continual.compat import batch_gradient
from perdure.core.errors import UsageError
from perdure.core.method import Step


@pytest.mark.parametrize(("policy", "stream"), [("bc", "toy"), ("dt", "toy"), ("bc", "toy-discrete"), ("bc", "toy-spaces")])
def test_gradient_of_the_mean_over_valid_steps_and_channels(policy, stream):
    lab = Lab(config("finetune", policy, stream, steps=3)).learn(0, 1)
    net = lab.method.policy.eval()
    batch = lab.views.views[1].windows(net.context, 16, Step(0, 1, "probe", 0))
    if policy == "dt":
        assert not batch.valid.all()
    out, valid = net(batch), batch.valid.flatten()
    if out.logits is None:
        loss = (out.mean - batch.action).flatten(0, 1)[valid].square().mean()
    else:
        loss = torch.nn.functional.cross_entropy(out.logits.flatten(0, 1)[valid], batch.action.flatten()[valid])
    shared = net.shared()
    wanted = torch.autograd.grad(loss, list(shared.values()), allow_unused=True)
    mine = batch_gradient(net, batch, shared)
    assert list(mine) == list(shared)
    for (name, p), gradient in zip(shared.items(), wanted, strict=True):
        torch.testing.assert_close(mine[name], torch.zeros_like(p) if gradient is None else gradient)
    assert (stream == "toy-spaces") == any(gradient is None for gradient in wanted)


@pytest.mark.parametrize(
    ("method", "option", "value"),
    [("ewc", "decay", 0.9), ("ewc", "fisher", "empirical"), ("mas", "importance_batch", 8), ("rwalk", "damping", 0.5),
     ("vcl", "log_variance", -3.0), ("lwf", "temperature", 1.0)],
)  # fmt: skip
def test_replaced_options_are_refused(method, option, value):
    config(method, **{option: value})
    with pytest.raises(UsageError, match=rf"method\.{option} is {value!r} and method\.compat true, which replaces it"):
        config(method, compat=True, **{option: value})


def test_the_config_says_what_runs():
    assert config("ewc", compat=True).method_config | {"merge": "online", "decay": 0.5, "fisher_batches": 1, "fisher_batch": 32,
                                                       "normalise": False} == config("ewc", compat=True).method_config
    assert config("mas", compat=True, normalise=False) == config("mas", compat=True)
