"""tsn_affinity: a task like an earlier one shares its weights, a task unlike all gets its own, and old tasks never change."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from related import lab_of
from safetensors.torch import load_file
from tiny import Lab, actions_of, config, execute, stream_of

from perdure.continual.affinity import Latent, latent_affinity, symmetric_divergence
from perdure.continual.routing import Distances, nearest_source, ratio, released_source
from perdure.core.errors import UsageError
from perdure.core.method import Need, Step
from perdure.core.task import Stream
from perdure.data.access import Views


def sources(lab):
    return [facts["source"] for facts in lab.method.facts.values()]


def copies(lab):
    return list(lab.method.pool.copy_of.values())


@pytest.mark.parametrize("discrete", [False, True])
@pytest.mark.parametrize("router", ["action", "latent", "hybrid", "oracle"])
def test_a_resampled_task_shares_and_a_turned_one_does_not(router, discrete):
    lab = lab_of(["A", "A", "B", "B"], discrete=discrete, router=router, growth="copy").learn()
    assert sources(lab) == [None, 0, None, 2]
    assert copies(lab) == [0, 0, 1, 1], "a copy is opened although there are two earlier tasks"


@pytest.mark.parametrize(("router", "number"), [("never", 1), ("always", 3)])
def test_never_and_always(router, number):
    lab = lab_of(["A", "B", "A"], router=router, steps=8).learn()
    assert len(set(copies(lab))) == number


def test_room_is_used_before_a_copy_is_made():
    lab = lab_of(["A", "B", "A", "B"], keep_ratio=0.4, policy="bc").learn()
    assert copies(lab) == [0, 0, 0, 0]
    first, second = lab.method.pool.masks.mask(0), lab.method.pool.masks.mask(1)
    assert not any(bool((first[name] & second[name]).any()) for name in first), "a far task takes free weights alone"
    third = lab.method.pool.masks.mask(2)
    assert any(bool((first[name] & third[name]).any()) for name in first)
    assert not any(bool((second[name] & third[name]).any()) for name in first), "a near task takes nothing of the others"
    full = lab_of(["A", "B"], keep_ratio=0.6, steps=60).learn()
    assert copies(full) == [0, 1]


@pytest.mark.filterwarnings("ignore:task .* could train")
@pytest.mark.parametrize("options", [{}, {"growth": "copy"}, {"router": "oracle"}, {"router": "random"}], ids=str)
def test_no_more_copies_than_allowed(options):
    lab = lab_of(["A", "B", "B"], max_copies=1, steps=20, **({"keep_ratio": 0.6} | options)).learn()
    assert copies(lab) == [0, 0, 0]
    spaces = Lab(config("tsn_affinity", stream="toy-spaces", max_copies=1, **({"keep_ratio": 0.6} | options))).learn()
    assert copies(spaces) == [0, 0, 0], "nor where nothing can be compared"


@pytest.mark.filterwarnings("ignore:task .* could train")
def test_never_is_one_copy_whatever_the_spaces():
    assert copies(Lab(config("tsn_affinity", stream="toy-spaces", router="never", keep_ratio=0.6)).learn()) == [0, 0, 0]


def test_a_source_that_learned_nothing_attracts_nobody():
    """Task 1 has actions of pure noise; task 2 is task 0 again."""
    lab = lab_of(["A", "noise", "A"]).learn()
    assert sources(lab) == [None, None, 0]


@pytest.mark.parametrize("options", [{}, {"growth": "copy", "clusters": 16}, {"compat": True}], ids=str)
@pytest.mark.parametrize("policy", ["bc", "dt"])
def test_old_tasks_act_bit_for_bit_as_before(policy, options):
    """In a shared copy and in others, with dropout and weight decay."""
    lab = lab_of(["A", "A", "B", "A"], policy, weight_decay=0.1, **options)
    before = []
    for task in range(4):
        lab.learn(task)
        before.append(outputs(lab, task))
    assert len(set(sources(lab))) > 1, "at least one task shares"
    for task in range(4):
        assert torch.equal(outputs(lab, task), before[task]), task


def outputs(lab, task):
    policy, weights = lab.method.eval().model(task)
    batch = lab.views.views[task].windows(policy.context, 32, Step(9, task, "probe", 0))
    with torch.no_grad():
        return policy.predict(batch, weights).output()


def test_routing_leaves_the_training_alone(monkeypatch):
    """Keyed randomness: with the router on and off the first update reads the same batch and finds the same global generators."""
    read, states = [], []
    for router in ("action", "always"):
        lab = lab_of(["A", "A"], router=router, steps=4).learn(0)
        view, windows = lab.views.views[1], lab.views.views[1].windows
        drawn = []
        torch.manual_seed(5)
        phase = lab.phases(1)[0]
        phase.begin()
        states.append(torch.get_rng_state())
        monkeypatch.setattr(view, "windows", lambda *a, kept=drawn, draw=windows: kept.append(draw(*a)) or kept[-1])
        phase.update(Step(0, 1, "train", 0))
        read.append(drawn[0].obs)
    assert torch.equal(*read)
    assert torch.equal(*states)


def test_routing_twice_decides_the_same():
    lab = lab_of(["A", "A", "B"]).learn(0, 1)
    lab.phases(2)[0].begin()
    again = lab_of(["A", "A", "B"]).learn(0, 1)
    torch.rand(100)
    again.phases(2)[0].begin()
    assert again.method.facts[2] == lab.method.facts[2]


KINDS = ["A", "A", "B"]


@pytest.mark.parametrize("policy", ["bc", "dt"])
def test_every_task_is_learned(policy):
    """At least 90 % of what one network per task reaches, where finetuning falls below 60 % on the first task."""
    labs = {method: lab_of(KINDS, policy, method, steps=400).learn() for method in ("tsn_affinity", "tsn", "independent")}
    for task in range(3):
        alone = accuracy(labs["independent"], task, task)
        assert alone > 0.9
        for method in ("tsn_affinity", "tsn"):
            assert accuracy(labs[method], task, task) >= 0.9 * alone
    one_head = {"heads": "single", "normaliser": "first"}
    assert accuracy(lab_of(KINDS, policy, "finetune", steps=400, shared=one_head).learn(), 0, 0) < 0.6


def test_what_a_sharing_task_could_train_is_told():
    lab = lab_of(["A", "A"], warm_start=0.02)
    lab.learn(0)
    phase = lab.phases(1)[0]
    phase.begin()
    before = lab.loss(1)
    lab = lab_of(["A", "A"], warm_start=0.02).learn(0, 1)
    first, second = (lab.method.facts[task]["new_share"] for task in (0, 1))
    assert first == 1.0 and 0.05 < second < 1.0
    assert lab.loss(1) < 0.8 * before
    with pytest.warns(UserWarning, match=r"task 2 could train \d+ of the \d+ weights in its mask"):
        lab_of(["A", "A"], warm_start=1.0).learn(0, 1)


def accuracy(lab, task, of):
    """Share of held-out actions whose sign is right."""
    policy, weights = lab.method.eval().model(task)
    batch = lab.views.views[task].windows(policy.context, 256, Step(9, of, "probe", 0), "holdout")
    with torch.no_grad():
        mean = policy.predict(batch, weights).output()
    right = (mean.sign() == batch.action.sign())[batch.valid]
    return float(right.float().mean())


def test_a_lent_subnetwork_is_where_training_begins_and_not_where_it_ends():
    lab = lab_of(["A", "A"], warm_start=0.1).learn(0)
    lent = lab.method.pool.masks.mask(0)
    lab.phases(1)[0].begin()
    begun = lab.method.pool.masks.choose(lab.method._taken(1))
    assert all(torch.equal(begun[name], lent[name]) for name in lent)
    lab = lab_of(["A", "A"], warm_start=0.01).learn(0, 1)
    moved = lab.method.pool.masks.mask(1)
    changed = sum(int((moved[name] & ~lent[name]).sum()) for name in lent) / sum(int(m.sum()) for m in lent.values())
    assert changed > 0.02
    with pytest.warns(UserWarning, match="its mask hardly changes"):
        lab_of(["A", "A"], compat=True, steps=20, action_threshold=10.0).learn()


@pytest.mark.parametrize(("stream", "task_id"), [("toy", "given"), ("toy", "inferred"), ("toy-pixels", "inferred")])
def test_nothing_of_the_data_is_in_the_agent(tmp_path, stream, task_id):
    """Statistics and masks only: no row of any dataset is in a file below agent/, in whatever type."""
    settings = config("tsn_affinity", stream=stream, task_id=task_id)
    execute(settings, tmp_path)
    views = Views(stream_of(settings)).views
    rows = {row for view in views for row in wanted_rows(view.sampler.windows_at(view.sampler.starts["train"].step, 1).obs)}
    size = len(next(iter(rows))) // 4
    files = list((tmp_path / "agent").rglob("*.safetensors"))
    assert len(files) == 3
    for file in files:
        for name, tensor in load_file(file).items():
            flat = tensor.flatten().float().numpy()
            found = {flat[i : i + size].tobytes() for i in range(len(flat) - size + 1)}
            assert not found & rows, name


def wanted_rows(obs):
    """Bytes of each observation as float32, but for those that are one number all along."""
    flat = obs.flatten(1).float()
    return [row.numpy().tobytes() for row in flat if len(row.unique()) > 1]


@pytest.mark.filterwarnings("ignore:task .* could train")
def test_fifty_tasks_in_one_copy_add_masks_and_statistics_only():
    options = {"router": "never", "steps": 2, "tasks": 50, "policy_options": {"width": 64, "layers": 3}}
    lab, sizes = Lab(config("tsn_affinity", **options)), {}
    for task in range(50):
        lab.learn(task)
        sizes[task] = lab.method.state_dict()
    assert lab.method.copies() == 1
    last = {name: value.nbytes for name, value in sizes[49].items() if name not in sizes[48]}
    bits = sum(mask.numel() for mask in lab.method.pool.masks.mask(49).values()) / 8
    own = sum(p.nbytes for p in [*lab.method.policy.private(49).values(), *lab.method.pool.small.of(49).values()])
    assert sum(last.values()) < bits + own + 2000, "2,000 bytes of statistics"
    grown = {name for name in sizes[48] if name in sizes[49] and sizes[49][name].nbytes > sizes[48][name].nbytes}
    assert not grown


# -- the distances themselves ---------------------------------------------------------------------------------


def test_symmetric_divergence_is_that_of_torch():
    g = torch.Generator().manual_seed(0)
    a, b = (Latent(torch.randn(7, generator=g), 0.1 + torch.rand(7, generator=g)) for _ in range(2))
    one, other = (torch.distributions.Normal(s.mean, s.variance.sqrt()) for s in (a, b))
    kl = torch.distributions.kl_divergence
    assert torch.allclose(symmetric_divergence(a, b), 0.5 * (kl(one, other) + kl(other, one)), atol=1e-5)
    assert torch.allclose(symmetric_divergence(a, b), symmetric_divergence(b, a))
    assert float(symmetric_divergence(a, a).abs().max()) == 0


def test_constant_dimensions_do_not_count():
    a, b = Latent(torch.zeros(3), torch.ones(3)), Latent(torch.ones(3), torch.ones(3))

    def padded(latent):
        return Latent(torch.cat([latent.mean, torch.zeros(5)]), torch.cat([latent.variance, torch.full((5,), 1e-6)]))

    assert latent_affinity(a, b) == latent_affinity(padded(a), padded(b)) == 0.5


def test_thresholds_are_relative():
    near = Distances(action=0.5, latent=0.3, own_action=0.2, own_latent=0.1)
    assert ratio("action", near, 0.5, 1.0, 0.7) == pytest.approx(0.75)  # 0.3 of a way of 0.4
    assert ratio("latent", near, 0.5, 1.0, 0.7) == pytest.approx(0.2)
    assert ratio("hybrid", near, 0.5, 1.0, 0.7) == pytest.approx(0.7 * 0.75 + 0.3 * 0.2)
    better = Distances(action=0.1, latent=0.0, own_action=0.2, own_latent=0.1)
    assert ratio("action", better, 0.5, 1.0, 0.7) == ratio("latent", better, 0.5, 1.0, 0.7) == 0
    for own in (1.0, 1.3):  # no better than a constant on its own data
        useless = Distances(action=0.99, latent=0.1, own_action=own, own_latent=0.1)
        assert min(ratio(kind, useless, 0.5, 1.0, 0.7) for kind in ("action", "hybrid")) > 1e6
        assert ratio("hybrid", useless, 0.5, 1.0, 0.0) == 0
    assert nearest_source({0: 1.2, 1: 0.9, 2: 0.9}, {0: 0.1, 1: 0.5, 2: 0.5}) == 1
    assert nearest_source({0: 0.0, 1: 0.2}, {0: 0.9, 1: 0.02}) == 1, "of near tasks the one that does best"
    assert nearest_source({0: 1.2}, {0: 0.1}) is None
    assert nearest_source({}, {}) is None


def test_the_released_hybrid_never_opens_a_copy_from_the_third_task_on():
    g = np.random.default_rng(0)
    for _ in range(50):
        actions, latents = ({t: float(x) for t, x in enumerate(g.uniform(0, 1000, 3))} for _ in range(2))
        assert released_source("hybrid", actions, latents, 0.35, 25.0)[1]
    assert released_source("hybrid", {0: 9.0}, {0: 900.0}, 0.35, 25.0) == (0, False)
    assert released_source("action", {0: 0.4, 1: 0.3}, {0: 1.0, 1: 2.0}, 0.35, 25.0) == (1, True)
    assert released_source("latent", {0: 0.4, 1: 0.3}, {0: 26.0, 1: 27.0}, 0.35, 25.0) == (0, False)


@pytest.mark.parametrize(("options", "message"), [
    ({"router": "best"}, "method.router is 'best'; use one of action, latent"),
    ({"tolerance": 0.0}, "method.tolerance is 0.0; give a number above 0"),
    ({"mix": 1.5}, "method.mix is 1.5"),
    ({"max_copies": 0}, "method.max_copies is 0; give 1 or more, or none"),
    ({"max_copies": 2, "router": "always"}, "method.max_copies is 2 and method.router 'always'"),
    ({"compat": True, "norms": "masked"}, "method.norms is 'masked'"),
])  # fmt: skip
def test_options_that_cannot_be(options, message):
    with pytest.raises(UsageError, match=message):
        config("tsn_affinity", **options)


# -- task inference -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", ["bc", "dt"])
def test_without_the_id_it_acts_as_with_it_where_observations_tell_the_tasks_apart(policy):
    given, inferred = (lab_of(["A", "B"], policy, task_id=kind).learn() for kind in ("given", "inferred"))
    for task in range(2):
        first = given.views.views[task].sampler.obs[::9][:20]  # of every episode
        wanted, got = (actions_of(lab.method.eval().actor(task), first, n=20, steps=1) for lab in (given, inferred))
        same = (wanted == got).all(-1).float().mean()
        assert float(same) > 0.9, "B is A shifted by three deviations"
    assert Need.TASK_ID in type(given.method).needs(given.method.config)
    assert Need.TASK_ID not in type(inferred.method).needs(inferred.method.config)


@pytest.mark.parametrize("options", [{}, {"clusters": 4}], ids=str)
def test_the_learning_curve_is_that_of_the_task_that_is_learned(tmp_path, options):
    matrices = [execute(config("tsn_affinity", task_id=kind, evaluation={"curve": 2}, **options), tmp_path / kind)
                for kind in ("given", "inferred")]
    curves = [[[e.raw_return for e in episodes] for (_, at), episodes in sorted(m.curve.items()) if 0 < at < 1] for m in matrices]
    assert curves[0] == curves[1]


def test_the_table_says_that_no_id_was_given(tmp_path):
    for kind in ("given", "inferred"):
        matrix = execute(config("tsn_affinity", task_id=kind), tmp_path / kind)
        assert matrix.protocol["task_id_at_test"] is (kind == "given")
        assert bool(matrix.action_error) is (kind == "given"), "held-out errors would be measured with the id"


def test_scores_from_data_alone_would_need_the_id(tmp_path):
    stream = Lab(config("tsn_affinity")).stream
    logs = Stream(stream.name, tuple(replace(task, env=None) for task in stream.tasks))
    with pytest.raises(UsageError, match=r"has no environment for .*task_id given"):
        execute(config("tsn_affinity", task_id="inferred"), tmp_path / "inferred", stream=logs)
    assert execute(config("tsn_affinity"), tmp_path / "given", stream=logs).complete
