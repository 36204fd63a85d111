"""Reservoir: a uniform sample of what was offered, in a fixed number of bytes, equal after a rebuild."""

import json
from functools import cache

import pytest
import torch
from dataset_samples import CONTINUOUS, DESCRIPTION, DISCRETE, episodes

from perdure.core.batch import map_fields, tensor_fields
from perdure.core.errors import UsageError
from perdure.core.method import Step
from perdure.data.memory import with_extra
from perdure.data.reservoir import SLACK, Reservoir
from perdure.data.sampler import Sampler
from perdure.data.store import Dataset


@cache
def windows(task, spec=CONTINUOUS, n=20, length=3):
    data = Dataset.in_memory(episodes(spec, (9, 12, 7), seed=task), name="sample", spec=spec, **DESCRIPTION)
    return Sampler(data, task).windows(length, n, torch.Generator().manual_seed(task))


def numbered(begin, n, task=0, spec=CONTINUOUS):
    """n windows with the numbers from `begin` on as what a method keeps with them."""
    return with_extra(windows(task, spec, n), number=torch.arange(begin, begin + n, dtype=torch.float32))


def offered(reservoir, batches, n=8, task=0, seed=0, begin=0, spec=CONTINUOUS):
    """Offer the numbers from `begin` on in batches of n."""
    for i in range(batches):
        reservoir.offer(numbered(begin + i * n, n, task, spec), Step(seed, task, "train", i).generator("reservoir"))
    return reservoir


def opened(rows, task=0):
    reservoir = Reservoir()
    reservoir.open(task, numbered(0, 1, task), more=rows)
    return reservoir


SPACES = windows(0).spaces


def numbers(reservoir, spaces=SPACES):
    return reservoir.all(spaces).extra["number"].long()


def test_everything_stays_while_there_is_room():
    reservoir = offered(opened(40), 5)
    assert numbers(reservoir).tolist() == list(range(40))
    kept, original = reservoir.all(SPACES), numbered(32, 8)
    for name in tensor_fields(original):
        assert torch.equal(getattr(kept, name)[32:], getattr(original, name)), name
        assert getattr(kept, name).dtype == getattr(original, name).dtype


@pytest.mark.parametrize("n", [1, 8])
@pytest.mark.parametrize("rows", [1, 5, 64])
def test_a_full_reservoir_holds_no_window_twice_and_never_more_than_its_rows(rows, n):
    reservoir = opened(rows)
    for i in range(480 // n):
        reservoir.offer(numbered(i * n, n), Step(0, 0, "train", i).generator("reservoir"))
        held = numbers(reservoir)
        assert min((i + 1) * n, rows - rows // SLACK) <= len(held) <= rows
        assert len(held.unique()) == len(held)
        assert float(reservoir._buffer(SPACES, "key")[: len(held)].max()) <= reservoir.limit[SPACES]
        assert reservoir.bytes() == sum(value.nbytes for value in reservoir.state_dict().values())


def test_it_is_a_uniform_sample_of_all_that_was_offered():
    """Every tenth of the stream is held equally often, over many seeds."""
    counts = torch.zeros(10)
    for seed in range(150):
        held = numbers(offered(opened(32), 10, n=40, seed=seed))
        counts += torch.bincount(held // 40, minlength=10)
    expected = float(counts.sum()) / 10
    assert (counts - expected).abs().max() < 4 * expected**0.5, counts.tolist()


def test_tasks_of_equal_length_end_with_equal_shares_as_the_room_grows():
    """Room for 400 windows comes with each task: at its end the sample is uniform over all tasks so far."""
    counts = torch.zeros(3)
    for seed in range(8):
        reservoir = Reservoir()
        for task in range(3):
            reservoir.open(task, numbered(0, 1, task), more=400)
            offered(reservoir, 40, n=100, task=task, seed=seed)
        counts += torch.bincount(reservoir.all(SPACES).task, minlength=3)
    expected = float(counts.sum()) / 3
    assert (counts - expected).abs().max() < 0.05 * expected, counts.tolist()


def test_room_that_grew_is_taken_by_what_comes_next():
    reservoir = offered(opened(16), 50)
    before = set(numbers(reservoir).tolist())
    reservoir.open(1, numbered(0, 1, 1), more=16)
    offered(reservoir, 1, task=1, begin=1000)
    held = set(numbers(reservoir).tolist())
    assert before | set(range(1000, 1008)) == held


def test_a_budget_in_bytes_is_kept_and_shared_by_the_number_of_tasks():
    reservoir, budget = Reservoir(), 20_000
    for task, spec in enumerate((CONTINUOUS, CONTINUOUS, DISCRETE)):
        reservoir.open(task, numbered(0, 1, task, spec), more=10**9, budget=budget)
        offered(reservoir, 60, task=task, spec=spec)
        sizes = {spaces: reservoir.rows[spaces] * reservoir._row_bytes(spaces) for spaces in reservoir.rows}
        assert sum(sizes.values()) == reservoir.bytes() <= budget
    first, second = (reservoir._row_bytes(spaces) for spaces in reservoir.rows)
    assert list(reservoir.rows.values()) == [budget * 2 // 3 // first, budget // 3 // second]
    assert all(reservoir.taken[spaces] <= reservoir.rows[spaces] for spaces in reservoir.rows)


def test_giving_room_to_other_spaces_keeps_a_part_of_what_was_held():
    reservoir = Reservoir()
    reservoir.open(0, numbered(0, 1), more=0, budget=20_000)
    before = set(numbers(offered(reservoir, 60)).tolist())
    reservoir.open(1, numbered(0, 1, 1, DISCRETE), more=0, budget=20_000)
    after = set(numbers(reservoir).tolist())
    assert after < before
    assert len(after) == reservoir.rows[SPACES]


def test_a_budget_without_room_is_named():
    reservoir, one = Reservoir(), opened(1).bytes()
    reservoir.open(0, numbered(0, 1), more=0, budget=one)
    with pytest.raises(UsageError, match=rf"bytes is {one}, less than one window of \d+ bytes for each of 2 tasks") as error:
        reservoir.open(1, numbered(0, 1, 1, DISCRETE), more=0, budget=one)
    enough, other = int(str(error.value).split("give ")[1].split()[0]), Reservoir()
    for task, spec in enumerate((CONTINUOUS, DISCRETE)):
        other.open(task, numbered(0, 1, task, spec), more=0, budget=enough)
    assert all(other.rows.values())


def test_draws_are_uniform_over_what_is_held_and_keyed_by_their_step():
    reservoir = Reservoir()
    for task, spec in enumerate((CONTINUOUS, DISCRETE)):
        reservoir.open(task, numbered(0, 1, task, spec), more=(16, 48)[task])
        offered(reservoir, 10, task=task, begin=100 * task, spec=spec)
    drawn = [reservoir.draw(10, Step(0, 1, "train", i)) for i in range(300)]
    assert all(sum(len(batch) for batch in batches) == 10 for batches in drawn)
    values = torch.cat([batch.extra["number"] for batches in drawn for batch in batches])
    held = torch.cat([numbers(reservoir, spaces) for spaces in reservoir.rows])
    assert set(values.long().tolist()) == set(held.tolist())
    counts = torch.tensor([(values == n).sum() for n in held]).float()
    expected = 3000 / len(held)
    assert (counts - expected).abs().max() < 5 * expected**0.5
    for batch in drawn[0]:
        assert batch.tasks == tuple(batch.task.unique().tolist())
    again = reservoir.draw(10, Step(0, 1, "train", 0))
    assert torch.equal(again[0].extra["number"], drawn[0][0].extra["number"])


def test_windows_with_their_task_come_back_as_they_were_offered():
    reservoir = Reservoir()
    for task in range(2):
        reservoir.open(task, numbered(0, 1, task), more=24)
        offered(reservoir, 30, task=task, begin=1000 * task)
    held = reservoir.all(SPACES)
    for task in range(2):
        mine = held.task == task
        original = numbered(0, 8, task)  # every batch holds the same eight windows, numbered on
        rows = held.extra["number"][mine].long() % 8
        expected = map_fields(original, lambda value, at=rows: value[at])
        assert torch.equal(held.obs[mine], expected.obs)
        assert torch.equal(held.action[mine], expected.action)


def test_rebuilt_from_json_it_goes_on_as_if_nothing_had_happened():
    one, two = offered(opened(32), 30), Reservoir()
    two.rebuild(json.loads(json.dumps(one.architecture(), allow_nan=False)))
    two.load_state_dict(one.state_dict())
    for reservoir in (one, two):
        offered(reservoir, 30, seed=1, begin=1000)
    assert torch.equal(numbers(one), numbers(two))
    assert one.architecture() == two.architecture()
    assert json.loads(json.dumps(opened(4).architecture(), allow_nan=False))[SPACES]["limit"] is None
