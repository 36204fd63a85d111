"""Fisher diagonals against closed forms and against a plain loop over single samples."""

import pytest
import torch
from tiny import Lab, config

from perdure.continual.compat import batch_gradient
from perdure.continual.importance import factored, fisher_diagonal, output_sensitivity, per_sample
from perdure.core.batch import Windows, map_fields
from perdure.core.method import Step
from perdure.core.policy import Stats
from perdure.core.spec import Box, Spec
from perdure.policies.bc import BC, BCConfig


def generator():
    return torch.Generator().manual_seed(0)


def windows(obs, action):
    """Windows of one step from (B, O) observations and (B, A) actions."""
    n = len(obs)
    flags, zeros = torch.zeros(n, 1, dtype=torch.bool), torch.zeros(n, 1)
    return Windows(
        obs=obs.unsqueeze(1),
        action=action.unsqueeze(1),
        reward=zeros,
        return_to_go=zeros,
        timestep=torch.zeros(n, 1, dtype=torch.int64),
        terminated=flags,
        truncated=flags,
        valid=~flags,
        last_obs=obs,
        task=torch.zeros(n, dtype=torch.int64),
        weight=torch.ones(n),
        tasks=(0,),
    )


class Linear(BC):
    """mu = W x + b: the model whose Fisher diagonal is known."""

    once_per_sample = True

    def __init__(self):
        super().__init__(BCConfig(width=2, layers=1))
        self.add_task(
            0, Spec(Box((3,)), Box((2,), low=(-1, -1), high=(1, 1))), Stats(torch.zeros(3), torch.ones(3), 1.0, 1.0)
        )

    def forward(self, batch):
        from perdure.core.policy import ActionDist

        mean = self.encoders["float32-3"](batch.obs)
        return ActionDist(mean=mean, log_std=torch.zeros_like(mean))


def linear_data(n=400):
    g = generator()
    x = torch.randn(n, 3, generator=g) * torch.tensor([1.0, 2.0, 0.5]) + torch.tensor([0.0, 1.0, -1.0])
    y = x @ torch.tensor([[0.3, -0.2], [0.1, 0.4], [-0.5, 0.2]]) + 0.3 * torch.randn(n, 2, generator=g)
    return x, y


def test_linear_regression_has_its_analytic_diagonal():
    """Unit-variance Gaussian: F of W[o, i] is the mean of x_i^2, of b[o] it is 1."""
    model, (x, y) = Linear(), linear_data()
    batch = windows(x, y)
    names = {name: p for name, p in model.named_parameters() if name.startswith("encoders")}
    exact = factored(model, batch, names, generator(), "expected")
    torch.testing.assert_close(
        exact["encoders.float32-3.weight"], x.square().mean(0).expand(2, 3), atol=1e-5, rtol=1e-5
    )
    torch.testing.assert_close(exact["encoders.float32-3.bias"], torch.ones(2), atol=1e-5, rtol=0)
    one_draw = per_sample(
        model, batch, names, generator(), "expected"
    )  # signs square to one: exact for a linear model
    torch.testing.assert_close(
        one_draw["encoders.float32-3.weight"], x.square().mean(0).expand(2, 3), atol=1e-5, rtol=1e-5
    )


def test_it_stays_positive_at_convergence_where_the_squared_mean_gradient_vanishes():
    model, (x, y) = Linear(), linear_data()
    batch = windows(x, y)
    design = torch.cat([x, torch.ones(len(x), 1)], 1).double()
    solution = torch.linalg.lstsq(design, y.double()).solution
    with torch.no_grad():
        model.encoders["float32-3"].weight.copy_(solution[:3].T)
        model.encoders["float32-3"].bias.copy_(solution[3])
    names = {name: p for name, p in model.named_parameters() if name.startswith("encoders")}
    released = batch_gradient(model, batch, names)
    assert max(float(g.square().max()) for g in released.values()) < 1e-6, "what the released EWC takes for importance"
    assert max(float(g.abs().max()) for g in released.values()) < 1e-3, "and the released MAS"
    assert min(float(value.min()) for value in output_sensitivity(model, batch, names).values()) > 0.1
    for kind in ("expected", "empirical"):
        assert min(float(f.min()) for f in fisher_diagonal(model, batch, names, generator(), kind).values()) > 0.01


def loop(policy, batch, parameters, kind):
    """One sample and one output channel at a time, with nothing clever."""
    total = {name: torch.zeros_like(p) for name, p in parameters.items()}
    policy.eval()
    for i in range(len(batch)):
        one = map_fields(batch, lambda tensor, i=i: tensor[i : i + 1])
        for step in range(one.valid.shape[1]):
            count = len(list(policy(one).fisher_roots()))
            for place in range(count if kind == "expected" else 1):
                out = policy(one)
                root = list(out.fisher_roots())[place] if kind == "expected" else out.error_root(one.action)
                if (
                    kind == "expected"
                ):  # channels and steps are independent; the logged error is one gradient per sample
                    keep = torch.zeros_like(root)
                    keep[:, step] = root[:, step]
                    root = keep * one.valid.unsqueeze(-1)
                elif step:
                    continue
                else:
                    root = root * one.valid.unsqueeze(-1)
                gradients = torch.autograd.grad(out.output(), list(parameters.values()), root, allow_unused=True)
                for (name, _), gradient in zip(parameters.items(), gradients, strict=True):
                    if gradient is not None:
                        total[name] += gradient.square()
    return {name: value / len(batch) for name, value in total.items()}


def setting(policy, stream="toy", n=12, **options):
    lab = Lab(config("finetune", policy, stream, policy_options=options, steps=3)).learn(0)
    net = lab.method.policy
    batch = lab.views.views[0].windows(net.context, n, Step(0, 0, "probe", 0))
    return net, batch, net.shared() | net.private(0)


def close(mine, theirs, rtol):
    assert set(mine) == set(theirs)
    for name in theirs:
        torch.testing.assert_close(
            mine[name], theirs[name], rtol=rtol, atol=1e-6, msg=lambda text, name=name: f"{name}: {text}"
        )


@pytest.mark.parametrize("kind", ["expected", "empirical"])
@pytest.mark.parametrize("stream", ["toy", "toy-discrete"])
@pytest.mark.parametrize(
    "options", [{}, {"layer_norm": True, "layers": 3, "activation": "leaky_relu"}], ids=["plain", "layer_norm"]
)
def test_factored_is_the_exact_loop_for_the_mlp(kind, stream, options):
    policy, batch, parameters = setting("bc", stream, **options)
    mine = fisher_diagonal(policy, batch, parameters, generator(), kind)
    close(mine, loop(policy, batch, parameters, kind), 1e-4)
    assert max(float(value.max()) for value in mine.values()) > 1e-3


@pytest.mark.parametrize(
    ("policy", "stream", "options"),
    [("bc", "toy", {}), ("bc", "toy", {"layer_norm": True, "layers": 3}), ("bc", "toy", {"std": "learned"}),
     ("bc", "toy-discrete", {}), ("dt", "toy", {}), ("dt", "toy-discrete", {})],
)  # fmt: skip
def test_output_sensitivity_is_the_loop_of_autograd_over_samples(policy, stream, options):
    net, batch, parameters = setting(policy, stream, **options)
    net.eval()
    total = {name: torch.zeros_like(p) for name, p in parameters.items()}
    for i in range(len(batch)):
        one = map_fields(batch, lambda tensor, i=i: tensor[i : i + 1])
        size = (net(one).output().square().sum(-1) * one.valid).sum()
        for (name, _), g in zip(
            parameters.items(), torch.autograd.grad(size, list(parameters.values()), allow_unused=True), strict=True
        ):
            total[name] += 0 if g is None else g.abs()
    mine = output_sensitivity(net.train(), batch, parameters)
    assert net.training
    close(mine, {name: value / len(batch) for name, value in total.items()}, 1e-4)
    assert max(float(value.max()) for value in mine.values()) > 1e-2


@pytest.mark.parametrize("kind", ["expected", "empirical"])
def test_learned_deviations_scale_it(kind):
    policy, batch, parameters = setting("bc", std="learned")
    names = {name: p for name, p in parameters.items() if "log_std" not in name}
    close(fisher_diagonal(policy, batch, names, generator(), kind), loop(policy, batch, names, kind), 1e-4)


@pytest.mark.parametrize("stream", ["toy", "toy-discrete"])
def test_sequence_estimate_is_unbiased(stream):
    """Many draws of one random cotangent per sample average to the exact diagonal."""
    policy, batch, parameters = setting("dt", stream, n=4, layers=1, width=8)
    exact = loop(policy, batch, parameters, "expected")
    draws = 300
    many = map_fields(batch, lambda tensor: tensor.repeat(draws, *[1] * (tensor.dim() - 1)))
    mean = per_sample(policy, many, parameters, generator(), "expected")
    for name, wanted in exact.items():
        error = (mean[name] - wanted).norm() / wanted.norm().clamp_min(1e-9)
        assert error < 0.15, name
    whole = sum(float(v.sum()) for v in mean.values()) / sum(float(v.sum()) for v in exact.values())
    assert whole == pytest.approx(1.0, abs=0.05)


def test_empirical_sequence_importance_is_the_exact_loop():
    policy, batch, parameters = setting("dt", n=5, layers=1, width=8)
    close(
        fisher_diagonal(policy, batch, parameters, generator(), "empirical"),
        loop(policy, batch, parameters, "empirical"),
        1e-3,
    )


def test_padding_carries_no_importance():
    policy, batch, parameters = setting("dt", n=6)
    assert not batch.valid.all()
    junk = batch.action + (~batch.valid).unsqueeze(-1) * 3.0
    other = type(batch)(**{**batch.__dict__, "action": junk})
    for kind in ("expected", "empirical"):
        one, two = (fisher_diagonal(policy, b, parameters, generator(), kind) for b in (batch, other))
        close(one, two, 1e-4)


def test_mode_and_gradients_are_left_alone():
    policy, batch, parameters = setting("dt")
    policy.train()
    fisher_diagonal(policy, batch, parameters, generator())
    assert policy.training
    assert all(p.grad is None for p in parameters.values()) or all(
        torch.isfinite(p.grad).all() for p in parameters.values() if p.grad is not None
    )
