import pytest

from perdure.core.errors import UsageError
from perdure.evaluate.schedule import cells_after, curve_points


def table(n, **options):
    """Row by row, episodes per task, 0 where nothing is evaluated."""
    rows = []
    for learned in range(n + 1):
        row = [0] * n
        for task, episodes in cells_after(learned, n, **options):
            assert row[task] == 0
            row[task] = episodes
        rows.append(row)
    return rows


def test_sequential_schedule():
    assert table(4) == [
        [10, 10, 10, 10],
        [50, 10, 0, 0],
        [10, 50, 10, 0],
        [10, 10, 50, 10],
        [50, 50, 50, 50],
    ]


def test_one_task():
    assert table(1) == [[10], [50]]


def test_joint_has_only_the_last_row():
    assert table(3, joint=True, final=4, shared=2) == [[0] * 3, [0] * 3, [0] * 3, [4] * 3]


@pytest.mark.parametrize("arguments", [{"learned": 4, "n_tasks": 3}, {"learned": -1, "n_tasks": 3}])
def test_rows_outside_the_matrix_are_refused(arguments):
    with pytest.raises(UsageError, match="learned is"):
        cells_after(**arguments)


def test_shared_cells_cannot_have_more_goals_than_there_are():
    with pytest.raises(UsageError, match="shared is 11 and final is 10"):
        cells_after(0, 2, final=10, shared=11)


def test_curve_points():
    assert curve_points(5000) == [(0, 0.0), (1250, 0.25), (2500, 0.5), (3750, 0.75), (5000, 1.0)]
    assert curve_points(3) == [(0, 0.0), (1, 0.25), (2, 0.5), (2, 0.75), (3, 1.0)]
