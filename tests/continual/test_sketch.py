"""Sketches: data are known by a few quantiles of them."""

import pytest
import torch

from perdure.continual.sketch import Sketches


def test_a_sketch_knows_its_data_and_not_others():
    g = torch.Generator().manual_seed(0)
    points, sketches = torch.randn(4000, 6, generator=g), Sketches(0)
    sketches.add(0, points[:2000])
    assert sketches.distance(0, points[:2000]) < 1e-3 and sketches.distance(0, points[2000:]) < 0.05
    assert sketches.distance(0, points + 1) > 0.3 and sketches.distance(0, 2 * points) > 0.3
    large = points * 50 + 7
    sketches.add(1, large[:2000])
    assert sketches.distance(1, large[2000:]) == pytest.approx(sketches.distance(0, points[2000:]), rel=1e-3), "its own scale"
    ordered = torch.cat([torch.randn(30_000, 6, generator=g), torch.randn(30_000, 6, generator=g) + 2])
    sketches.add(2, ordered)
    assert sketches.distance(2, ordered[torch.randperm(60_000, generator=g)]) < 0.03, "the order of the rows says nothing"
    again = Sketches(0)
    again.rebuild(sketches.architecture())
    again.load_state_dict(sketches.state_dict())
    assert again.distance(0, points[2000:]) == sketches.distance(0, points[2000:])
    assert sum(value.nbytes for value in sketches.buffers()) / 3 <= 1024


def test_a_sketch_of_episodes_is_of_all_their_times():
    """100 episodes of 1,000 steps, in which everything depends on the time: every fifth row would be of the same 200 times."""
    time = torch.arange(100_000) % 1000
    points = torch.stack([(time % 5).float(), torch.randn(100_000, generator=torch.Generator().manual_seed(0))], 1)
    sketches = Sketches(0)
    sketches.add(0, points)
    rows = torch.randint(100_000, (10_000,), generator=torch.Generator().manual_seed(1))
    assert sketches.distance(0, points[rows]) < 0.03


@pytest.mark.filterwarnings("error")
def test_a_single_row_has_a_sketch():
    sketches = Sketches(0)
    sketches.add(0, torch.zeros(1, 3))
    assert all(value.isfinite().all() for value in sketches.buffers())


def test_a_sketch_lies_where_its_data_lie():
    sketches = Sketches(0)
    sketches.add(0, torch.zeros(100, 3))
    sketches.add(1, torch.zeros(100, 3, device="meta"))
    assert {value.device.type for value in sketches.buffers()} == {"meta"}
