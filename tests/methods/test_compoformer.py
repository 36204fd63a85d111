"""compoformer: near tasks are served by earlier modules, others get one of their own, and finished tasks never change."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from composers import lab, policies, variants
from tiny import config, execute, stream_of
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from perdure.continual.composition import Attention, Stack
from perdure.core.errors import UsageError
from perdure.core.method import Need, Step
from perdure.core.rng import generator
from perdure.core.task import Stream
from perdure.data.access import Views, grant
from perdure.evaluate import evaluator
from perdure.experiment import make_method


@policies
@variants
@pytest.mark.parametrize("discrete", [False, True])
def test_finished_tasks_act_bit_for_bit_as_before(variant, policy, discrete):
    made = lab(["A", "B", "noise", "B"], policy, learn=False, variant=variant, discrete=discrete, weight_decay=0.1, steps=60)
    seen = []
    for task in range(4):
        made.learn(task)
        seen.append(made.actions(task))
        made.method.train()
    assert all(torch.equal(made.actions(task), before) for task, before in enumerate(seen))


@variants
def test_a_dropped_module_leaves_nothing_behind(variant):
    made = lab(["A", "A"], variant=variant)
    alone = lab(["A"], variant=variant)
    mine, theirs = ({name for name, _ in each.method.bank.named_parameters()} for each in (made, alone))
    assert mine == theirs and not made.method.composition.fusions and made.method.attention is None
    if variant == "grow":
        head = sum(p.numel() for p in made.method.policy.private(1).values())
        assert made.method.unused_parameters() == head, "the head that add_task made is all"
    else:
        masks = made.method.bank.masks
        assert all(not bool(p[masks.owner(name) == 0].any()) for name, p in made.method.bank.masked(made.method.policy).items())


def test_weights_add_up_to_one_and_leave_out_tasks_without_a_module():
    """Check 6 e."""
    made = lab(["A", "A", "B", "noise"], tolerance=0.2)
    composition = made.method.composition
    assert composition.sources[2] == [0] and composition.sources[3] == [0, 2]
    for task in (1, 2, 3):
        assert float(composition.weights(task).sum()) == pytest.approx(1.0)


def test_query_rows_differ_after_training_and_rows_of_ones_do_not():
    """Check 6 a, and what is wrong with the released initial values."""
    vectors = F.normalize(torch.randn(5, 12, generator=torch.Generator().manual_seed(0)), dim=1)
    for kind, alike in (("learned", False), ("ones", True)):
        attention = Attention(12, 8, generator(0, "x"), kind)
        optimizer = torch.optim.AdamW([p for p in attention.parameters() if p.requires_grad], lr=1e-2)
        for _ in range(200):
            loss = -attention(vectors[4], vectors[:4])[2].log()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        distinct = len({tuple(row) for row in attention.query.weight.tolist()})
        assert distinct == (1 if alike else 8)
        assert float(attention(vectors[4], vectors[:4]).detach()[2]) > 0.5


def test_weights_of_different_tasks_differ_after_composing():
    """The vectors are those of other kinds, so the data must have moved the weights."""
    made = lab(["A", "B", "noise", "A", "B"], reuse="never", steps=200, compose_share=0.5, learn=False)
    meanings = [task.vector for task in made.stream.tasks]
    tasks = zip(made.stream.tasks, [*meanings[:3], meanings[2], meanings[2]], strict=True)
    made.stream = Stream("made", tuple(replace(task, vector=vector) for task, vector in tasks))
    made.views = Views(made.stream)
    made.learn()
    rows = [made.method.composition.weights(task)[:3] for task in (3, 4)]
    assert rows[0].argmax() == 0 and rows[1].argmax() == 1


@policies
def test_a_stack_of_modules_is_each_of_them(policy):
    made = lab(["A", "B", "noise"], policy, reuse="never", steps=40)
    method, composition = made.method.eval(), made.method.composition
    batch = made.views.views[2].windows(method.policy.context, 8, Step(0, 2, "x", 0))
    inputs = method.trunk.inputs(batch)
    together = method._stack([0, 1, 2]).features(method.trunk, inputs)
    for task in range(3):
        alone = Stack(method.trunk, {task: method.bank.view(task, method.policy)}).features(method.trunk, inputs)[task]
        torch.testing.assert_close(together[task], alone, rtol=1e-4, atol=1e-5)
    assert composition.needed(2) == [0, 1, 2]


class Shapes(TorchDispatchMode):
    """Collects the shapes of all that is computed."""

    def __init__(self):
        super().__init__()
        self.made = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        self.made |= {tuple(x.shape) for x in tree_leaves(out) if isinstance(x, torch.Tensor) and "view" not in str(function)
                      and not str(function).startswith(("aten.t.", "aten.transpose", "aten.permute", "aten.unsqueeze",
                                                        "aten.expand", "aten.detach", "aten.squeeze", "aten.alias"))}
        return out


@variants
def test_a_forward_pass_copies_no_weight(variant):
    made = lab(["A", "B", "noise"], variant=variant, reuse="never", steps=40)
    stack = made.method.eval()._stack([0, 1, 2])
    batch = made.views.views[2].windows(1, 7, Step(0, 2, "x", 0))
    with Shapes() as shapes:
        stack.features(made.method.trunk, made.method.trunk.inputs(batch))
    weights = [tuple(value.shape) for value in stack.varying.values() if value.dim() == 3]
    assert weights and not shapes.made & {*weights, *((w[0], w[2], w[1]) for w in weights), *(w[1:] for w in weights)}


def test_what_is_cached_is_what_would_be_computed():
    runs = [lab(["A", "B", "noise"], "dt", reuse="never", steps=40, cache_bytes=size) for size in (0, 2**30)]
    for task in range(3):
        torch.testing.assert_close(runs[0].actions(task), runs[1].actions(task), rtol=1e-3, atol=1e-4)


@variants
def test_a_loaded_agent_acts_the_same(variant, tmp_path):
    """Check 6 d, in the same process; the contract suite does it in another."""
    made = lab(["A", "B", "A", "B"], variant=variant)
    other = made.method.copy()
    assert other.decisions == made.method.decisions
    obs = made.views.views[0].sampler.obs
    for task in range(4):
        mine, theirs = (method.eval().actor(task) for method in (made.method, other))
        assert torch.equal(mine.act(obs[:5], mine.start(5), torch.Generator())[0],
                           theirs.act(obs[:5], theirs.start(5), torch.Generator())[0])


@pytest.mark.parametrize("attention", ["uniform", "cosine", "oracle"])
@variants
def test_weights_that_are_not_learned(attention, variant):
    made = lab(["A", "B", "noise", "B"], attention=attention, variant=variant, reuse="never", steps=120)
    weights = made.method.composition.weights(3)
    assert "compose" not in made.method.config.parts()
    if attention == "uniform":
        assert torch.allclose(weights, weights.new_full((len(weights),), 1 / len(weights)))
    else:
        assert made.method.composition.sources[3][int(weights.argmax())] == 1
        assert attention == "cosine" or sorted(weights.tolist())[-1] == 1.0


@pytest.mark.parametrize("join", ["addition", "sharing"])
def test_other_ways_to_join(join):
    made = lab(["A", "B"], join=join)
    assert not made.method.composition.fusions
    assert made.method.composition.needed(1) == ([1] if join == "sharing" else [0, 1])
    assert made.loss(1) < 0.1


def test_meaning_from_data_needs_no_words():
    options = {"meaning": "data", "attention": "cosine", "steps": 120}
    made = lab(["A", "B", "noise", "B"], **options)
    assert Need.TEXT not in type(made.method).needs(made.method.config)
    weights = made.method.composition.weights(3)
    assert made.method.composition.sources[3][int(weights.argmax())] == 1


def test_a_task_that_was_only_described_acts_like_the_one_it_means():
    """With the statistics of that task, not those of data it has not got."""
    made = lab(["A", "B"], reuse="never")
    made.stream = Stream("made", (*made.stream.tasks, replace(made.stream.tasks[1], index=2, name="described")))
    made.views.stream = made.stream
    made.views.views.append(made.views.views[1])
    made.method.open_task(made.stream.tasks[2], made.access(2))
    mine, theirs = made.method.trunk.statistics(2), made.method.trunk.statistics(1)
    assert torch.equal(mine.mean, theirs.mean) and mine.target_return == theirs.target_return
    obs = made.views.views[1].sampler.obs[:16]
    acted = [made.method.eval().actor(t).act(obs, made.method.actor(t).start(16), torch.Generator())[0] for t in (1, 2)]
    torch.testing.assert_close(*acted, atol=0.05, rtol=0)


def test_other_spaces_are_refused_by_name_before_anything_is_learned(tmp_path):
    with pytest.raises(UsageError, match=r"task corner-2 has other spaces than corner-1 .*choose a stream that aligns"):
        execute(config("compoformer", stream="toy-spaces"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_rollouts_are_counted_and_on_goals_of_their_own(tmp_path, monkeypatch):
    settings = config("compoformer", reuse="rollout", threshold=1.0, tasks=2)
    with pytest.raises(UsageError, match=r"rollouts on probe goals.*stream.rollouts"):
        execute(settings, tmp_path / "refused")
    plain = stream_of(settings)
    allowed = replace(plain, protocol=replace(plain.protocol, rollouts_allowed=True),
                      tasks=tuple(replace(t, goals=replace(t.goals, probe=t.goals.curve[:2])) for t in plain.tasks))
    seen, rollout = [], evaluator.rollout

    def watched(actor, env, goals, **arguments):
        seen.append((arguments["place"][0], tuple(goals)))
        return rollout(actor, env, goals, **arguments)

    monkeypatch.setattr(evaluator, "rollout", watched)
    matrix = execute(settings, tmp_path / "run", stream=allowed)
    assert [goals for place, goals in seen if place == "probe"] == [allowed.tasks[1].goals.probe]
    assert 2 <= matrix.footprint["environment_steps"] <= 2 * 200
    assert Need.ROLLOUTS in type(make_method(settings)).needs(make_method(settings).config)


def test_a_task_without_probe_goals_is_refused_before_anything_is_learned(tmp_path):
    settings = config("compoformer", reuse="rollout", tasks=2)
    plain = stream_of(settings)
    goals = [replace(task.goals, probe=()) for task in plain.tasks]
    allowed = replace(plain, protocol=replace(plain.protocol, rollouts_allowed=True),
                      tasks=tuple(replace(task, goals=g) for task, g in zip(plain.tasks, goals, strict=True)))
    with pytest.raises(UsageError, match="task corner-1 has no probe goals"):
        execute(settings, tmp_path / "run", stream=allowed)
    assert not (tmp_path / "run").exists()


def test_a_task_that_learns_nothing_has_a_whole_learning_curve(tmp_path):
    """The points of training that does not happen show the policy that stands."""
    matrix = execute(config("compoformer", tasks=2, reuse="always", steps=50, evaluation={"curve": 2}), tmp_path / "run")
    fractions = [[f for t, f in sorted(matrix.curve) if t == task] for task in (0, 1)]
    assert fractions[0] == fractions[1] and len(fractions[1]) > 2
    assert len({tuple(e.raw_return for e in matrix.curve[1, f]) for f in fractions[1][-2:]}) == 1
    assert matrix.leans == {(1, 0): 1.0} and matrix.footprint["modules"] == [0]


@variants
def test_compat_runs_and_acts_as_the_most_attended_module(variant, tmp_path):
    settings = config("compoformer", "dt", variant=variant, compat=True, threshold=1e-9, tasks=3, steps=20)
    plain = stream_of(settings)
    allowed = replace(plain, protocol=replace(plain.protocol, rollouts_allowed=True),
                      tasks=tuple(replace(t, goals=replace(t.goals, probe=t.goals.curve[:1])) for t in plain.tasks))
    matrix = execute(settings, tmp_path / "run", stream=allowed)
    assert matrix.complete
    made = lab(["A", "B", "A"], variant=variant, learn=False, steps=40)
    made.method.composition.hard = True
    made.method.config = replace(made.method.config, reuse="never")
    made.learn(0, 1)
    made.method.config = replace(made.method.config, reuse="always")
    made.learn(2)
    weights = made.method.composition.acting_weights(2)
    assert sorted(weights.tolist()) == [0.0, 1.0]
    assert [made.method.leans()[2, source] for source in (0, 1)] == weights.tolist()


def test_what_is_not_read_is_not_said_to_be_leant_on():
    assert lab(["A", "B"], join="sharing", reuse="never", steps=20).method.leans() == {}
    assert lab(["A", "B"], reuse="never", steps=20).method.leans() == {(1, 0): 1.0}


def test_vectors_of_unequal_size_and_numbers_that_are_none_are_refused_at_once():
    for vector, words in (((1.0,), "vectors of 1, 4 numbers"), ((1.0, float("nan"), 0.0, 0.0), "not finite")):
        made = lab(["A", "B"], learn=False)
        tasks = (made.stream.tasks[0], replace(made.stream.tasks[1], vector=vector))
        with pytest.raises(UsageError, match=words):
            grant(type(made.method), made.method.config, replace(made.stream, tasks=tasks))
    assert made.stream.to_json() != replace(made.stream, tasks=tasks).to_json(), "another vector is another run"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"variant": "both"}, "method.variant is 'both'"), ({"norms": "masked"}, "has no masks"),
        ({"compose_share": 0.0}, "method.compose_share is 0.0"), ({"tolerance": -1.0}, "method.tolerance is -1.0"),
        ({"probe_share": 0.95}, "give more steps"), ({"rank": 0}, "method.rank is 0"),
        ({"compat": True, "attention": "cosine"}, "method.attention is 'cosine' and method.compat"),
    ],
)  # fmt: skip
def test_wrong_options_are_refused_in_one_sentence(options, words):
    with pytest.raises(UsageError, match=words):
        config("compoformer", **options)


@variants
def test_compat_is_what_was_released(variant):
    options = config("compoformer", "dt", variant=variant, compat=True).method_config
    assert (options["attention"], options["reuse"]) == ("ones", "rollout")
    wanted = {"rank": 8, "alpha": 1.0, "layers": "query_key_value", "norms": "frozen"} if variant == "grow" else {
        "share": "global", "keep_ratio": 0.5, "norms": "masked"}
    assert {name: options[name] for name in wanted} == wanted
