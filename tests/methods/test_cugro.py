"""cugro: the losses by hand, dreams that hold no data, controls, collapse, and tasks that come again."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from tiny import Lab, begin, config, execute, stream_of

from perdure.bench.workload import Scale, stream
from perdure.continual.dreams import Dreams, bare, per_task, rows_of
from perdure.core.batch import concatenate
from perdure.core.checkpoint import read_folder
from perdure.core.errors import GuardError, UsageError
from perdure.core.method import Need, Step
from perdure.core.state import capture
from perdure.methods.cugro import OWN_POLICY, RELEASED, RELEASED_POLICY, CuGROConfig
from perdure.run_config import resolve


def learned(tasks=1, **options):
    """A lab that has learned its first tasks."""
    lab = Lab(config("cugro", "sfbc", tasks=3, **options))
    return lab.learn(*range(tasks))


# -- dreams --------------------------------------------------------------------------------------------------------


def test_dreams_are_of_earlier_tasks_and_carry_what_the_old_critic_said():
    lab = learned(2)
    dream = begin(lab, 2, "dream")
    old = lab.method.copy()
    for i in range(dream.steps()):
        dream.update(Step(0, 2, "dream", i))
    assert lab.method.dreams.tasks() == [0, 1]
    batch = lab.method.dreams.draw(9, torch.Generator().manual_seed(0))
    assert batch.task.tolist() == [0] * 5 + [1] * 4 and batch.tasks == (0, 1)
    with torch.no_grad():
        torch.testing.assert_close(old.policy.value(batch, batch.action[:, 0]), batch.extra["kept"])
    data = rows_of(lab.access(0).current)[0]
    low, high = data.amin(0), data.amax(0)
    margin = 0.05 * (high - low) + 1e-6
    obs = lab.method.dreams.of(0)[0]
    assert bool((obs >= low - margin).all()) and bool((obs <= high + margin).all())


def test_dreams_end_with_their_task():
    lab = learned(2)
    assert not [name for name in capture(lab.method)[1]["resume"] if name.startswith("resume.")]


def rows_found(folder, data):
    """How many rows of observations, or of observations and actions, of datasets stand in the files of a folder."""
    content = b"".join(path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file())
    found = 0
    for one in data:
        obs, action = one.array("observations"), one.array("actions")
        kinds = (obs, np.concatenate([obs[: len(action)], action], 1)) if len(obs) == len(action) else (obs,)
        found += sum(row.astype(kind).tobytes() in content for rows in kinds for row in rows for kind in ("<f4", "<f8"))
    return found


def test_the_agents_files_hold_no_row_of_any_data_and_grow_by_little(tmp_path):
    """By 4 KB per task at most, of Meta-World's shape, heads and normalisers apart."""
    tasks = stream(Scale(episodes=4, length=20), 4)
    data = [task.data for task in tasks.tasks]
    execute(config("cugro", "sfbc", recognise=0.0, steps=2), tmp_path / "run", stream=tasks)
    sizes = []
    for folder in (tmp_path / "run" / "agent" / str(n) for n in (1, 2, 3, 4)):
        own = sum(value.nbytes for name, value in read_folder(folder)[1]["tensors"].items()
                  if name.startswith(("policy.critic.bank", "policy.normalizer", "states.moments")))
        sizes.append(sum(path.stat().st_size for path in folder.iterdir()) - own)
    assert max(b - a for a, b in pairwise(sizes)) <= 4096
    assert rows_found(tmp_path / "run" / "agent", data) == 0
    execute(config("cugro", "sfbc", recognise=0.0, steps=2, on_collapse="coreset", coreset=5), tmp_path / "coreset", stream=tasks)
    assert rows_found(tmp_path / "coreset" / "agent" / "4", data) > 0, "what is kept would be found"


def test_half_of_a_batch_is_dreams_or_as_many_of_every_task():
    for balance, new in (("half", 4), ("equal", 2)):
        lab = learned(2, balance=balance)
        begin(lab, 2, "behaviour")
        own, dreams = lab.method._mixed(lab.access(2).current, Step(0, 2, "behaviour", 0), [])
        assert len(own) == new and len(dreams) == 8 - new and set(dreams.task.tolist()) == {0, 1}, balance


def test_a_set_of_dreams_survives_json_and_draws_every_row():
    spec = stream_of(config()).tasks[0].spec
    made, again = Dreams(), Dreams()
    made.open(3, 5, spec)
    made.open(7, 2, spec)
    made.put(7, 0, value=torch.tensor([-1.0, -2.0]))
    made.put(3, 1, obs=torch.arange(2 * spec.obs.size).view(2, -1).float(), value=torch.tensor([4.0, 5.0]))
    again.rebuild(made.architecture())
    again.load_state_dict(made.state_dict())
    drawn = again.draw(200, torch.Generator().manual_seed(0))
    kept = {task: set(drawn.extra["kept"][drawn.task == task].tolist()) for task in (3, 7)}
    assert kept == {3: {0.0, 4.0, 5.0}, 7: {-1.0, -2.0}} and drawn.tasks == (3, 7)
    assert made.parts((7, 3), 3) == [(7, 0, 2), (3, 0, 3), (3, 3, 2)]
    made.clear()
    assert not made.tasks() and not list(made.buffers())


def test_many_tasks_share_the_dreams_of_four():
    assert [per_task(100, earlier) for earlier in (1, 4, 5, 19, 1000)] == [100, 100, 80, 21, 1]
    lab = Lab(config("cugro", "sfbc", tasks=7)).learn(*range(6))
    begin(lab, 6, "dream")
    assert {count for count, _ in lab.method.dreams.sets.values()} == {64 // 6}


# -- the critic ----------------------------------------------------------------------------------------------------


def test_the_critics_loss_by_hand_and_heads_that_nothing_pulls():
    for penalty, over in ((0.7, "mean"), (0.7, "sum"), (0.0, "mean")):
        lab = learned(2, penalty=penalty, penalty_over=over)
        critic = begin(lab, 2, "critic")
        method, step = lab.method, Step(0, 2, "critic", 0)
        view = lab.access(2).current
        method.policy.annotate(view)
        with torch.no_grad():
            for j in (0, 1):
                method.policy.critic.bank.heads[f"task-{j}"].weight.add_(0.1)  # so that it has moved from what it said
        new = view.windows(1, 8, step)
        old = method.dreams.draw(8, step.generator("dreams"))
        expected = (method.policy.value(new, new.action[:, 0]) - new.extra["value"]).square().mean()
        if penalty:
            apart = method.policy.value(old, old.action[:, 0]) - old.extra["kept"]
            gaps = [apart[old.task == j].square().mean() for j in (0, 1)]
            expected = expected + penalty * (sum(gaps) if over == "sum" else sum(gaps) / 2)
        seen = []
        method.descend = lambda name, loss, seen=seen, **rest: seen.append(loss) or loss.detach()
        critic.update(step)
        torch.testing.assert_close(seen[0], expected)
        for j in (0, 1):
            head = method.policy.critic.bank.heads[f"task-{j}"].weight
            (slope,) = torch.autograd.grad(seen[0], head, retain_graph=True, allow_unused=True)
            assert (slope is None or not slope.any()) == (penalty == 0.0)


def test_the_penalty_holds_the_old_heads():
    """Values of dreams move less with the penalty than without it: below 0.3 of it (0.035 after 112 updates, 0.016 after 562)."""
    moved = {}
    for penalty in (1.0, 0.0):
        lab = learned(1, steps=300, batch=64, dreams=256, penalty=penalty, learning_rate=1e-3, policy_options={"sweeps": 1})
        begin(lab, 1, "plan 1")
        dreams = lab.method.dreams.draw(256, torch.Generator().manual_seed(0))
        with torch.no_grad():
            moved[penalty] = float((lab.method.policy.value(dreams, dreams.action[:, 0]) - dreams.extra["kept"]).abs().mean())
    assert moved[1.0] < 0.3 * moved[0.0]


# -- controls ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("replay", ["vae", "gan", "noise", "none", "oracle"])
def test_controls_run_on_the_same_path(replay):
    lab = Lab(config("cugro", "sfbc", tasks=2, replay=replay)).learn()
    assert lab.actions(0).shape == lab.actions(1).shape
    assert (lab.method.dreamed(0, 3, torch.Generator()) is None) == (replay in ("noise", "none", "oracle"))
    assert (Need.PAST_DATA in lab.needs) == (replay == "oracle")


@pytest.mark.parametrize(("method", "policy", "option"), [("cugro", "sfbc", "replay"), ("dgr", "bc", "generator"),
                                                          ("tdgr", "bc", "generator"), ("cril", "bc", "generator")])
def test_an_adversarial_generator_has_the_updates_that_are_asked_for(method, policy, option):
    lab, updates = Lab(config(method, policy, tasks=1, state_steps=3, **{option: "gan"})), []
    plain = lab.method.descend
    lab.method.descend = lambda name, *rest, **more: updates.append(name) or plain(name, *rest, **more)
    lab.learn(0)
    assert (updates.count("states generator"), updates.count("states discriminator")) == (3, 15)
    assert updates.count("predictor") == (3 if method == "cril" else 0)


def test_the_oracle_replays_real_rows():
    lab = learned(1, replay="oracle")
    dream = begin(lab, 1, "dream")
    for i in range(dream.steps()):
        dream.update(Step(0, 1, "dream", i))
    real = {tuple(row) for row in torch.cat(rows_of(lab.access(0).current), 1).tolist()}
    assert all(tuple(row) in real for row in torch.cat(lab.method.dreams.of(0), 1).tolist())


def test_the_reference_mode_leaves_the_controls_pairs_alone():
    lab = learned(1, replay="oracle", compat=True, state_steps=4, state_width=16, policy_options={"evaluations": 4})
    begin(lab, 1, "critic")
    real = {tuple(row) for row in torch.cat(rows_of(lab.access(0).current), 1).tolist()}
    assert all(tuple(row) in real for row in torch.cat(lab.method.dreams.of(0), 1).tolist())


def test_the_reference_mode_dreams_the_actions_again_and_keeps_the_observations():
    lab = learned(1, compat=True, state_steps=4, state_width=16, policy_options={"evaluations": 4})
    again = begin(lab, 1, "dream again")
    dreams = lab.method.dreams
    obs, action, value = (x.clone() for x in (*dreams.of(0), dreams.get_buffer("value")))
    again.update(Step(0, 1, "dream again", 0))
    torch.testing.assert_close(dreams.of(0)[0], obs)
    assert not torch.allclose(dreams.of(0)[1], action) and not torch.allclose(dreams.get_buffer("value"), value)


def test_noise_has_the_place_and_width_of_the_data_and_any_action():
    lab = learned(1, replay="noise", dreams=4000, policy_options={"evaluations": 3})
    begin(lab, 1, "behaviour")
    (obs, action), stats = lab.method.dreams.of(0), lab.access(0).current.stats()
    varies = stats.std > 1e-3
    assert bool(((obs.mean(0) - stats.mean).abs() < 0.2 * stats.std)[varies].all())
    assert bool((obs.std(0) < 1.1 * stats.std)[varies].all()) and bool((obs.std(0) > 0.6 * stats.std)[varies].all())
    torch.testing.assert_close(action.std(0), torch.full((2,), 3**-0.5), atol=0.03, rtol=0)


def test_nothing_is_replayed_without_replay():
    lab = learned(1, replay="none")
    begin(lab, 1, "critic")
    assert not lab.method.dreams.tasks()


# -- what is noticed -----------------------------------------------------------------------------------------------


def test_a_collapse_stops_the_run_or_falls_back_to_a_few_real_pairs():
    lab = learned(1, collapse=1e-6)
    with pytest.raises(GuardError, match=r"replay collapsed: the dreams of task 1 are .* more than 0.25 \(method.collapse,"):
        begin(lab, 1, "behaviour")
    lab = learned(1, collapse=1e-6, on_collapse="coreset", coreset=5)
    assert lab.method.memory_bytes() > 0 and Need.MEMORY in lab.needs
    assert lab.method.memory.all(0).extra == {}, "what is kept does not depend on what an update worked out of the data"
    begin(lab, 1, "behaviour")
    real = {tuple(row) for row in torch.cat(rows_of(lab.access(0).current), 1).tolist()}
    replayed = {tuple(row) for row in torch.cat(lab.method.dreams.of(0), 1).tolist()}
    assert replayed <= real and len(replayed) == 5
    assert lab.method.architecture()["noticed"]["coresets"] == [[0, 1]]
    logged = next(phase for phase in lab.phases(1) if phase.name == "behaviour").update(Step(0, 1, "behaviour", 0))
    assert float(logged["coresets"]) == 1, "the log says of how many tasks"
    lab = learned(1, collapse=1e-6, on_collapse="go_on")
    begin(lab, 1, "behaviour")


@pytest.mark.parametrize("kind", ["good", "every observation is the mean one", "a neighbour's"])
def test_the_guard_knows_collapsed_dreams_from_good_ones(kind):
    lab = Lab(config("cugro", "sfbc", tasks=4, episodes=20, dreams=2000)).learn(0, 1, 2)
    begin(lab, 3, "dream")
    lab.method.config = replace(lab.method.config, collapse=CuGROConfig.collapse)
    g = torch.Generator().manual_seed(0)
    for task in (0, 1, 2):
        obs, action = rows_of(lab.access(task if kind != "a neighbour's" or task < 2 else 0).current)
        rows = torch.randint(len(obs), (2000,), generator=g)
        flat = kind == "every observation is the mean one" and task == 2
        lab.method.dreams.put(task, 0, obs=obs.mean(0).expand(2000, -1) if flat else obs[rows], action=action[rows])
    if kind == "good":
        return lab.method._judge(3)
    with pytest.raises(GuardError, match="replay collapsed: the dreams of task 3 are"):
        lab.method._judge(3)


def test_the_log_says_how_far_the_worst_dreams_are():
    lab = learned(2)
    dream = begin(lab, 2, "dream")
    assert dream.steps() == 2 and dream.update(Step(0, 2, "dream", 0)) == {}
    lab.method.dreams.put(0, 0, obs=lab.method.dreams.of(0)[0] + 100)
    logged = dream.update(Step(0, 2, "dream", 1))
    far = lab.method.noticed.sketches.distance(0, torch.cat(lab.method.dreams.of(0), 1))
    assert float(logged["distance"]) == pytest.approx(far) and far > 10


def test_a_task_that_comes_again_is_recognised_and_not_dreamed():
    lab = learned(2)
    lab.views.views[2] = type(lab.views.views[2])(lab.stream.tasks[0])  # the data of task 0 again
    lab.views.views[2].sampler.task = 2
    dream = begin(lab, 2, "dream")
    assert lab.method.noticed.repeated == {0: 2}
    assert {task for task, _, _ in lab.method._parts(2)} == {1} and dream.steps() == 1
    real = {tuple(row) for row in torch.cat(rows_of(lab.access(2).current), 1).tolist()}
    assert all(tuple(row) in real for row in torch.cat(lab.method.dreams.of(0), 1).tolist())
    lab.play(2, dream)
    behaviour, taught = begin(lab, 2, "behaviour"), []
    for name in ("behaviour", "states"):
        kept = lab.method.noticed.came_again(2) if name == "states" else []
        old = lab.method._mixed(lab.access(2).current, Step(0, 2, name, 0), kept)[1]
        taught.append({int(task) for task in old.task[old.extra["taught"]]})
    assert taught == [{0, 1}, {1}], "in the behaviour model teachers speak of what came again too: it may differ in what is done"
    assert float(behaviour.update(Step(0, 2, "behaviour", 0))["recognised"]) == 1


def test_more_earlier_tasks_than_dreams_in_a_batch_are_all_replayed():
    dreams = Dreams()
    for task in range(6):
        dreams.open(task, 5, stream_of(config("cugro", "sfbc")).tasks[0].spec)
    g = torch.Generator().manual_seed(0)
    drawn = [set(dreams.draw(4, g).task.tolist()) for _ in range(40)]
    assert set.union(*drawn) == set(range(6)) and {len(tasks) for tasks in drawn} == {4}


def test_few_dreams_may_miss_their_data_by_chance():
    limits = {}
    for count in (20, 10_000):
        lab = learned(1, dreams=count)
        begin(lab, 1, "dream")
        limits[count] = lab.method.noticed.lost(lab.method.dreams, [0], -10.0)[0][2] + 10
    assert limits == pytest.approx({20: 20**-0.5, 10_000: 0.01})


def test_other_tasks_are_not_taken_for_the_same():
    lab = learned(2)
    begin(lab, 2, "behaviour")
    assert lab.method.noticed.repeated == {}


# -- configuration -------------------------------------------------------------------------------------------------


def test_the_method_brings_its_policy():
    plain = resolve("cugro", "toy")
    assert plain.policy == "sfbc" and OWN_POLICY.items() <= plain.policy_config.items()
    released = resolve("cugro", "toy", method_options={"compat": True})
    assert RELEASED.items() <= released.method_config.items() and RELEASED_POLICY.items() <= released.policy_config.items()
    assert resolve("cugro", "toy", policy_options={"normaliser": "task"}).policy_config["normaliser"] == "task"


def test_on_meta_world_one_candidate_is_executed_and_the_mean_of_four_elsewhere():
    for profile in ("cpu", "paper"):
        executed = {name: resolve("cugro", name, profile=profile).policy_config["average"]
                    for name in ("metaworld5-v3", "cheetah-vel-v5", "swimmer-dir-v5", "walker-params-v5")}
        assert executed == {"metaworld5-v3": 1, "cheetah-vel-v5": 4, "swimmer-dir-v5": 4, "walker-params-v5": 4}


def test_the_reference_mode_runs():
    lab = Lab(config("cugro", "sfbc", tasks=2, compat=True, state_steps=4, state_width=16,
                     policy_options={"evaluations": 4})).learn()
    assert lab.method.policy.told == {} or len(lab.method.policy.told) == 0
    assert "dream again" in [phase.name for phase in lab.phases(1) if phase.when()]


@pytest.mark.parametrize(("options", "words"), [
    ({"replay": "dreams"}, "method.replay is 'dreams'; use one of diffusion"), ({"penalty": -1.0}, "method.penalty is -1.0"),
    ({"state_width": 30}, "method.state_width is 30"), ({"averaging": 2.0}, "method.averaging is 2.0"),
    ({"state_steps": -1}, "method.state_steps is -1"), ({"state_rate": 0.0}, "method.state_rate is 0.0"),
    ({"guidance": 1.0, "left_out": 0.0}, "method.guidance is 1.0 .* left_out 0.0"),
    ({"guidance": 1.0, "replay": "vae"}, "method.guidance is 1.0 with replay vae"),
    ({"guidance": 1.0, "compat": True}, r"left_out 0.0 \(of compat\)"), ({"batch": 1}, "method.batch is 1; give 2 or more"),
    ({"on_collapse": "coreset", "replay": "oracle"}, "only diffusion, vae and gan can collapse"),
    ({"frequency_scale": 0.0}, "method.frequency_scale is 0.0"),
    ({"evaluations": 0}, "method.evaluations is 0; give a number above 0"),
    ({"left_out": 1.0}, "method.left_out is 1.0; give at most 0.9"), ({"left_out": -0.1}, "method.left_out is -0.1"),
    ({"dreams": 10**19}, "method.dreams is 10000000000000000000; give at most 10000000"),
    ({"coreset": 10**9}, "method.coreset is 1000000000"),
    ({"compat": True, "on_collapse": "stop"}, "method.on_collapse is 'stop', and another option .* replaces it by 'go_on'"),
    ({"sampler": "euler"}, "sampler is 'euler'"), ({"compat": True, "balance": "equal", "evaluations": 7},
                                                   "method.evaluations is 7 and method.compat true"),
])  # fmt: skip
def test_values_that_cannot_be_meant_are_named(options, words):
    with pytest.raises(UsageError, match=words):
        resolve("cugro", "toy", method_options=options)


def test_ranges_are_each_tasks_own():
    with pytest.raises(UsageError, match=r"method\.scale is range, of each task its own, and policy.normaliser first"):
        Lab(config("cugro", "sfbc", scale="range", policy_options={"normaliser": "first"}))


def test_other_policies_and_unequal_spaces_are_refused():
    with pytest.raises(UsageError, match="policy is 'bc', and cugro works with sfbc"):
        resolve("cugro", "toy", policy="bc")
    with pytest.raises(UsageError, match=r"one generator for all tasks.*nothing aligns others yet"):
        Lab(config("cugro", "sfbc", "toy-spaces"))
    with pytest.raises(UsageError, match="cugro dreams of vectors and continuous actions, and corner-1 has"):
        Lab(config("cugro", "sfbc", "toy-discrete"))


def test_batches_of_new_pairs_and_dreams_join():
    lab = learned(1)
    begin(lab, 1, "behaviour")
    parts = lab.method._mixed(lab.access(1).current, Step(0, 1, "behaviour", 0), [])
    assert concatenate([bare(part) for part in parts]).extra == {} and {t for part in parts for t in part.tasks} == {0, 1}
