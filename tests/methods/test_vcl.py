"""vcl: a Gaussian over every shared weight, sampled, learned and held near the last one by its closed-form divergence."""

import pytest
import torch
from penalties import no_strength_is_finetuning
from tiny import Lab, config
from torch.distributions import Normal, kl_divergence

from perdure.continual.masks import buffer_name
from perdure.core.batch import average
from perdure.core.errors import UsageError
from perdure.core.method import Step


def state(lab):
    return {name: value.clone() for name, value in lab.method.state_dict().items()}


def same(one, two):
    assert one.keys() == two.keys()
    return all(torch.equal(value, two[name]) for name, value in one.items())


def posterior(lab):
    """Name -> (mean, log variance)."""
    shared = lab.method.policy.shared()
    return {name: (p, lab.method.log_variances[buffer_name(name)]) for name, p in shared.items()}


@pytest.mark.parametrize("policy", ["bc", "dt"])
def test_without_variance_and_strength_it_is_finetuning_bit_for_bit(policy):
    no_strength_is_finetuning("vcl", policy, clip=0.0, log_variance=-80.0)  # a norm of twice as many tensors rounds differently
    no_strength_is_finetuning("vcl", policy, compat=True)


@pytest.mark.parametrize("policy", ["bc", "dt"])
def test_with_weight_0_it_is_the_run_without_a_divergence(policy, monkeypatch):
    weightless, plain = Lab(config("vcl", policy, strength=0.0)), Lab(config("vcl", policy, strength=3.0))
    held = Lab(config("vcl", policy, strength=3.0))
    monkeypatch.setattr(plain.method, "_add_divergence", lambda shared, weight: None)
    for task in (0, 1):
        states = [state(lab.learn(task)) for lab in (weightless, plain, held)]
        assert same(states[0], states[1])
        assert same(states[0], states[2]) == (task == 0), "there is no divergence in the first task"


def seen_gradients(lab, task, step):
    """What the optimizer sees of means and log variances in one update, and the phase's own batch."""
    phase, seen = lab.phases(task)[0], {}
    phase.begin()
    with torch.no_grad():
        for mean, log_variance in posterior(lab).values():
            mean.add_(0.01)
            log_variance.add_(0.2)
    before = {name: (m.detach().clone(), v.detach().clone()) for name, (m, v) in posterior(lab).items()}
    optimizer = lab.method.optimizers["policy"]
    optimizer.step = lambda: seen.update({n: (m.grad, v.grad) for n, (m, v) in posterior(lab).items()})
    phase.update(step)
    return before, seen, lab.access(task).current


@pytest.mark.parametrize("strength", [0.0, 5.0])
@pytest.mark.parametrize(("policy", "stream"), [("bc", "toy"), ("bc", "toy-discrete"), ("dt", "toy")])
def test_an_update_is_that_of_the_sampled_bound_by_autograd(policy, stream, strength):
    """Loss of one keyed sample by reparametrisation, plus strength / transitions times torch's own divergence."""
    sizes = {} if policy == "bc" else {"dropout": 0.0}
    lab = Lab(config("vcl", policy, stream, strength=strength, clip=0.0, policy_options=sizes))
    lab.learn(0)
    prior = {n: (m.detach().clone(), v.detach().clone()) for n, (m, v) in posterior(lab).items()}
    step = Step(0, 1, "train", 0)
    before, seen, view = seen_gradients(lab, 1, step)
    leaves = {name: (m.requires_grad_(), v.requires_grad_()) for name, (m, v) in before.items()}
    normal = torch.randn(sum(m.numel() for m, _ in leaves.values()), generator=step.generator("weights"))
    sample, place = {}, 0
    for name, (m, v) in leaves.items():
        sample[name] = m + (v / 2).exp() * normal[place : place + m.numel()].view_as(m)
        place += m.numel()
    batch = view.windows(lab.method.policy.context, lab.method.config.batch, step)
    loss = average(lab.method.policy.loss, batch, weights=sample)
    divergence = sum(
        kl_divergence(Normal(m, (v / 2).exp()), Normal(prior[n][0], (prior[n][1] / 2).exp())).sum()
        for n, (m, v) in leaves.items()
    )
    total = loss + strength / view.sampler.count("train") * divergence
    wanted = torch.autograd.grad(total, [leaf for pair in leaves.values() for leaf in pair])
    for (name, pair), mean, log_variance in zip(seen.items(), wanted[::2], wanted[1::2], strict=True):
        torch.testing.assert_close(pair[0], mean, rtol=1e-3, atol=1e-6, msg=lambda text, name=name: f"{name}: {text}")
        torch.testing.assert_close(pair[1], log_variance, rtol=1e-3, atol=1e-7)
    with torch.no_grad():
        for name, (m, v) in posterior(lab).items():
            m.copy_(leaves[name][0])
            v.copy_(leaves[name][1])
    torch.testing.assert_close(lab.method.divergence(), divergence, rtol=1e-4, atol=1e-3)
    assert float(divergence) > 1


def test_samples_follow_the_posterior_and_their_keys():
    lab = Lab(config("vcl", log_variance=-4.0)).learn(0)
    shared = lab.method.policy.shared()

    def draw(i):
        return lab.method._draw(shared, Step(0, 1, "train", i).generator("weights")).weights

    name = "encoders.float32-2.weight" if "encoders.float32-2.weight" in shared else next(iter(shared))
    many = torch.stack([draw(i)[name] for i in range(2000)]).detach()
    mean, log_variance = (value.detach() for value in posterior(lab)[name])
    deviation = (log_variance / 2).exp()
    assert ((many.mean(0) - mean).abs() < 5 * deviation / 2000**0.5).all()
    torch.testing.assert_close(many.std(0), deviation, rtol=0.1, atol=0)
    assert torch.equal(draw(3)[name], draw(3)[name])
    pairs = torch.corrcoef(torch.stack([draw(i)[name].flatten() - mean.flatten() for i in range(2)]))
    assert abs(float(pairs[0, 1])) < 0.6


def test_it_learns_where_the_weights_must_be_exact():
    """Weights that the loss feels get narrower than weights of a unit that is always off."""
    lab = Lab(config("vcl", log_variance=-2.0, batch=64, learning_rate=0.01, strength=0.0))
    task = lab.phases(0)[0]
    task.begin()
    encoder = next(iter(lab.method.policy.encoders.values()))
    with torch.no_grad():
        encoder.bias[0] = -1e3
    for index in range(150):
        task.update(Step(0, 0, "train", index))
    name = next(n for n in lab.method.policy.shared() if n.startswith("encoders") and n.endswith("weight"))
    variances = posterior(lab)[name][1]
    assert float(variances[1:].mean()) < -2.08 < -2.01 < float(variances[0].mean())


def test_it_acts_with_the_means():
    lab = Lab(config("vcl")).learn(0)
    policy, weights = lab.method.model(0)
    assert policy is lab.method.policy
    assert weights is None


def test_more_strength_stays_nearer_to_the_last_posterior():
    gaps = []
    for strength in (0.0, 1.0, 100.0):
        lab = Lab(config("vcl", strength=strength, steps=60)).learn(0)
        before = {name: m.detach().clone() for name, (m, _) in posterior(lab).items()}
        lab.learn(1)
        gaps.append(sum(float((m.detach() - before[name]).square().sum()) for name, (m, _) in posterior(lab).items()))
    assert gaps[0] > 1.2 * gaps[1] > 1.4 * gaps[2], gaps


def test_the_posterior_becomes_the_prior_and_new_weights_have_none_at_first():
    lab = Lab(config("vcl", stream="toy-spaces", strength=1.0)).learn(0)
    prior = lab.method.prior
    for name, (mean, log_variance) in posterior(lab).items():
        assert torch.equal(prior.get("mean", [name])[0], mean)
        torch.testing.assert_close(prior.get("precision", [name])[0], (-log_variance).exp())
    other = next(t.index for t in lab.stream.tasks if t.spec.obs_key != lab.stream.tasks[0].spec.obs_key)
    encoder = f"encoders.{lab.stream.tasks[0].spec.obs_key}.weight"
    kept = [value.detach().clone() for value in posterior(lab)[encoder]]
    phase = lab.phases(other)[0]
    phase.begin()
    new = {name for name, _ in lab.method.policy.shared().items()} - set(prior.names("mean"))
    assert any(name.startswith("encoders") for name in new)
    assert float(lab.method.divergence()) == pytest.approx(0, abs=1e-2)
    phase.update(Step(0, other, "train", 0))
    assert all(torch.equal(a, b) for a, b in zip(kept, posterior(lab)[encoder], strict=True)), "not in use"
    phase.end()
    assert new <= set(prior.names("mean"))


def test_heads_are_points():
    lab = Lab(config("vcl")).learn(0, 1)
    assert not any("heads" in name for name in lab.method.log_variances)


def test_compat_is_the_released_penalty_which_hardly_holds_a_weight():
    """For a tensor of n weights it is about 1 / (2 n) times the squared distance, so the larger the network, the less."""
    lab = Lab(config("vcl", compat=True, strength=1.0, clip=0.0, steps=30)).learn(0)
    assert len(lab.method.log_variances) == 0
    anchor = {n: p.detach().clone() for n, p in lab.method.policy.shared().items()}
    phase, seen, step = lab.phases(1)[0], {}, Step(0, 1, "train", 0)
    phase.begin()
    with torch.no_grad():
        for p in lab.method.policy.shared().values():
            p.mul_(1.2)
    weights = {n: p.detach().clone().requires_grad_() for n, p in lab.method.policy.shared().items()}
    batch = lab.access(1).current.windows(1, lab.method.config.batch, step)
    fit = average(lab.method.policy.loss, batch, weights=weights)
    penalty = 0.0
    for name, w in weights.items():
        p, q = w.flatten().softmax(0), anchor[name].flatten().softmax(0)
        term, gap = (p * (p / q).log()).sum(), (w - anchor[name]).detach()
        penalty = penalty + term
        assert float(term) == pytest.approx(0.5 * float(gap.var(correction=0)), rel=0.3)
    data, pull = (torch.autograd.grad(x, list(weights.values())) for x in (fit, penalty))
    lab.method.optimizers["policy"].step = lambda: seen.update({n: p.grad for n, p in lab.method.policy.shared().items()})
    phase.update(step)
    for name, one, two in zip(weights, data, pull, strict=True):
        torch.testing.assert_close(seen[name], one + two, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(("field", "value"), [("strength", -1.0), ("log_variance", -100.0), ("log_variance", float("nan"))])
def test_wrong_options_are_named(field, value):
    with pytest.raises(UsageError, match=rf"method\.{field}"):
        config("vcl", **{field: value})
