"""TaskIndex: few comparisons, the same decisions as measuring every earlier task, and a state that is saved whole."""

import math

import pytest
import torch

from perdure.bench.routing import decisions, synthetic
from perdure.continual.task_index import GROUPS, TaskIndex, signature_of
from perdure.core.rng import generator


def filled(count, size=5, seed=0):
    rows = torch.randn(count, size, generator=generator(seed, "rows"), dtype=torch.float64)
    index = TaskIndex()
    for task, row in enumerate(rows):
        index.add(task, row)
    return index, rows


@pytest.mark.parametrize("count", [1, 2, 5, 17, 120])
def test_every_task_is_in_one_group_whose_pivot_is_first(count):
    index, rows = filled(count)
    assert index.tasks() == list(range(count))
    assert all(torch.equal(index.signature(task), row) for task, row in enumerate(rows))
    assert math.sqrt(count) / 2 <= len(index.members) <= math.sqrt(count) + 1


def test_few_tasks_are_all_candidates():
    index, _ = filled(6)
    assert index.near(torch.zeros(5, dtype=torch.float64), 6) == list(range(6))
    index.compared = 0
    assert index.near(torch.zeros(5, dtype=torch.float64), 8, among=[1, 4]) == [1, 4] and index.compared == 0


def test_the_nearest_come_first_and_others_are_left_out():
    index, rows = filled(200)
    for query in rows[:20]:
        found = index.near(query, 4)
        gaps = (rows - query).square().sum(1)
        assert found[0] == int(gaps.argmin()) and gaps[found].tolist() == sorted(gaps[found].tolist())
    assert set(index.near(rows[7], 3, among=range(100, 200))) <= set(range(100, 200))


def test_comparisons_grow_with_the_root_of_the_number_of_tasks():
    spent = {}
    for count in (100, 400, 1600):
        index, _ = filled(count)
        index.compared = 0
        for row in torch.randn(30, 5, dtype=torch.float64, generator=generator(1, "queries")):
            index.near(row, 8)
        spent[count] = index.compared / 30
        assert spent[count] < count
    assert spent[1600] / spent[100] < 8, "four times as many for sixteen times the tasks, with some slack for uneven groups"
    assert GROUPS < 4


def test_what_is_saved_answers_alike():
    index, rows = filled(50)
    again = TaskIndex()
    again.rebuild(index.architecture())
    again.load_state_dict(index.state_dict())
    again.add(50, rows[0] + 0.1)
    index.add(50, rows[0] + 0.1)
    assert again.members == index.members
    assert again.near(rows[3], 5) == index.near(rows[3], 5)


@pytest.mark.parametrize("discrete", [False, True])
def test_signatures_of_one_task_are_alike(discrete):
    drawn = {(kind, sample): signature_of(synthetic(kind, sample, discrete), 4) for kind in range(6) for sample in range(2)}
    for kind in range(6):
        own = (drawn[kind, 0] - drawn[kind, 1]).square().sum()
        others = min((drawn[kind, 0] - drawn[other, 1]).square().sum() for other in range(6) if other != kind)
        assert own < 0.5 * others


def test_constant_coordinates_and_images_have_signatures():
    batch = synthetic(0, 0, False)[0]
    still = torch.cat([batch.obs[..., :-1], torch.ones_like(batch.obs[..., :1])], -1)
    flat = signature_of([type(batch)(**{**vars(batch), "obs": still})], 0)
    assert bool(flat.isfinite().all())
    images = torch.randint(0, 256, (len(batch), 1, 2, 36, 36), dtype=torch.uint8)
    assert len(signature_of([type(batch)(**{**vars(batch), "obs": images})], 0)) == 2 * 32 + 2 * 2 + 32 * 2


def test_routing_by_the_index_decides_as_exact_routing_does():
    exact, indexed, spent = decisions(150, candidates=16)
    assert sum(a == b for a, b in zip(exact, indexed, strict=True)) >= 0.95 * 150
    assert len({a is None for a in exact}) == 2, "some share, some do not"
    assert spent < 0.6 * 150 * 149 / 2


@pytest.mark.slow
def test_so_it_does_for_a_thousand_tasks():
    exact, indexed, spent = decisions(1000, candidates=16)
    assert sum(a == b for a, b in zip(exact, indexed, strict=True)) >= 0.95 * 1000
    assert spent < 0.2 * 1000 * 999 / 2
