"""ReplayMemory: raw windows, cut to prefixes, drawn by keyed generators, and rebuilt from JSON."""

import json

import pytest
import torch
from dataset_samples import ALL_SPECS, CONTINUOUS, DESCRIPTION, DISCRETE, episodes

from perdure.core.batch import tensor_fields
from perdure.core.errors import UsageError
from perdure.core.method import Step
from perdure.data.memory import ReplayMemory, with_extra
from perdure.data.sampler import Sampler
from perdure.data.store import Dataset


def windows(task, spec=CONTINUOUS, n=20, length=3):
    data = Dataset.in_memory(episodes(spec, (9, 12, 7), seed=task), name="sample", spec=spec, **DESCRIPTION)
    return Sampler(data, task).windows(length, n, torch.Generator().manual_seed(task))


def filled(*specs, n=20):
    memory = ReplayMemory()
    for task, spec in enumerate(specs):
        memory.add(task, windows(task, spec, n))
    return memory


@pytest.mark.parametrize("spec", ALL_SPECS, ids=lambda spec: f"{spec.obs_key}-{spec.action_key}")
def test_what_is_kept_comes_back_unchanged(spec):
    memory = filled(CONTINUOUS, spec)
    kept, original = memory.all(1), windows(1, spec)
    for name in tensor_fields(original):
        assert torch.equal(getattr(kept, name), getattr(original, name)), name
        assert getattr(kept, name).dtype == getattr(original, name).dtype
    assert kept.tasks == (1,)


def test_bytes_count_every_stored_tensor():
    memory = filled(CONTINUOUS, DISCRETE)
    assert memory.bytes() == sum(value.nbytes for value in memory.state_dict().values())
    assert memory.bytes() == memory.task_bytes(0) + memory.task_bytes(1)


@pytest.mark.parametrize("budget", [4000, 5001, 10**9])
def test_shrinking_keeps_a_prefix_of_every_task(budget):
    memory = filled(CONTINUOUS, CONTINUOUS, DISCRETE)
    before = {task: memory.all(task).obs for task in memory.tasks()}
    memory.shrink(budget)
    assert memory.bytes() <= budget
    for task, obs in before.items():
        size = memory.size(task)
        assert torch.equal(memory.all(task).obs, obs[:size])
        per_window = memory.task_bytes(task) / size
        assert size == 20 or size == int(budget / 3 // per_window)


def test_a_budget_without_room_is_named():
    with pytest.raises(
        UsageError,
        match=r"method.memory_bytes is 200, less than one window of \d+ bytes for each of 2 tasks; give \d+ or more",
    ):
        filled(CONTINUOUS, CONTINUOUS).shrink(200)


def test_the_least_budget_named_is_enough():
    memory = filled(CONTINUOUS, CONTINUOUS)
    with pytest.raises(UsageError) as error:
        memory.shrink(1)
    memory.shrink(int(str(error.value).split("give ")[1].split()[0]))
    assert memory.size(0) == memory.size(1) == 1


def test_draws_share_evenly_and_join_equal_spaces():
    memory = filled(CONTINUOUS, DISCRETE, CONTINUOUS)
    for index in range(6):
        batches = memory.draw(10, Step(0, 3, "train", index))
        assert sorted(batch.tasks for batch in batches) == [(0, 2), (1,)]
        counts = torch.bincount(torch.cat([batch.task for batch in batches]), minlength=3)
        assert sorted(counts.tolist()) == [3, 3, 4]
    totals = sum(
        torch.bincount(torch.cat([b.task for b in memory.draw(10, Step(0, 3, "train", i))]), minlength=3)
        for i in range(3)
    )
    assert totals.tolist() == [10, 10, 10]


def test_fewer_samples_than_tasks():
    memory = filled(CONTINUOUS, CONTINUOUS, CONTINUOUS)
    drawn = [memory.draw(1, Step(0, 3, "train", i))[0].task.tolist() for i in range(3)]
    assert drawn == [[0], [1], [2]]


def test_what_a_method_adds_is_kept_and_drawn_with_its_window():
    memory = ReplayMemory()
    for task, spec in enumerate((CONTINUOUS, DISCRETE, CONTINUOUS)):
        kept = windows(task, spec)
        memory.add(task, with_extra(kept, mark=kept.timestep[:, 0] + 100.0 * task))
    memory.shrink(12_000)
    for batch in memory.draw(40, Step(0, 3, "train", 0)):
        assert torch.equal(batch.extra["mark"], batch.timestep[:, 0] + 100.0 * batch.task)
    assert memory.bytes() == sum(value.nbytes for value in memory.state_dict().values())


def test_selecting_keeps_the_named_windows_in_their_order_and_drops_what_is_left_empty():
    memory = filled(CONTINUOUS, DISCRETE, CONTINUOUS)
    before = {task: memory.all(task).obs for task in memory.tasks()}
    places = {0: torch.tensor([5, 2, 9]), 1: torch.tensor([], dtype=torch.int64), 2: torch.tensor([19])}
    memory.select(places)
    assert memory.tasks() == [0, 2]
    for task in memory.tasks():
        assert torch.equal(memory.all(task).obs, before[task][places[task]])
    assert memory.bytes() == sum(value.nbytes for value in memory.state_dict().values())
    assert [batch.tasks for batch in memory.draw(4, Step(0, 3, "train", 0))] == [(0, 2)]
    memory.add(3, windows(3, DISCRETE))
    assert torch.equal(memory.all(3).obs, windows(3, DISCRETE).obs)


def test_windows_of_equal_spaces_keep_equal_fields():
    memory = filled(CONTINUOUS)
    with pytest.raises(AssertionError, match="equal spaces keep the same fields"):
        memory.add(1, with_extra(windows(1), mark=torch.zeros(20)))


def test_draws_are_keyed_by_their_step():
    memory = filled(CONTINUOUS)
    one, same, other = (memory.draw(8, Step(0, 1, "train", i))[0].obs for i in (4, 4, 5))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_rebuild_from_json():
    memory, other = filled(*ALL_SPECS), ReplayMemory()
    other.rebuild(json.loads(json.dumps(memory.architecture())))
    other.load_state_dict(memory.state_dict())
    assert other.bytes() == memory.bytes()
    for task in memory.tasks():
        for name in tensor_fields(memory.all(task)):
            assert torch.equal(getattr(other.all(task), name), getattr(memory.all(task), name))
