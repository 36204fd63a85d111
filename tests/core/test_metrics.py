"""Metrics against hand-computed values, and their refusal to make numbers out of cells that do not exist."""

import pytest

from perdure.core import metrics
from perdure.core.matrix import Episode, ScoreMatrix

FIRST = ([0.0, 0.1, 0.1], [0.9, 0.2, 0.1], [0.5, 0.8, 0.3], [0.1, 0.6, 0.7])
"""Row 0 (before any learning), then a; values of the published metrics of Offline Continual World computed by hand."""

SECOND = ([0.0, 0.0, 0.0], [0.7, 0.2, 0.1], [0.9, 0.8, 0.3], [0.1, 0.6, 0.7])


def empty(tasks=("push", "pull", "turn")) -> ScoreMatrix:
    protocol = {"heads": "per task", "normaliser": "per task", "task_id_at_test": True, "past_data": False}
    scale = {"kind": "success", "low": 0.0, "high": 1.0, "source": "latched success"}
    return ScoreMatrix("toy", 1, tasks, "er", "bc", "cpu", 0, "ab12cd34", protocol, scale)


def from_rows(rows, skip=()) -> ScoreMatrix:
    matrix = empty(tuple(f"task{j}" for j in range(len(rows[0]))))
    for learned, row in enumerate(rows):
        for task, score in enumerate(row):
            if (learned, task) not in skip:
                matrix.set_cell(learned, task, [Episode(score)])
    return matrix


def with_curve(score: float, tasks=1) -> ScoreMatrix:
    matrix = empty(tuple(f"task{j}" for j in range(tasks)))
    for task in range(tasks):
        for fraction in metrics.CURVE_POINTS:
            matrix.set_curve(task, fraction, [Episode(score)])
    return matrix


def test_first_golden_matrix():
    matrix = from_rows(FIRST)
    assert metrics.average_performance(matrix).value == pytest.approx(0.4667, abs=5e-5)
    assert metrics.forgetting(matrix).value == pytest.approx(0.3333, abs=5e-5)
    assert metrics.backward_transfer(matrix).value == pytest.approx(-0.5)
    assert metrics.forward_transfer_zero_shot(matrix).value == pytest.approx(0.15)


def test_the_published_metrics_of_offline_continual_world_name_their_source():
    """P, F, BWT and FWT of its tables; its F divides by N although the last task counts 0, so BWT = -F N / (N - 1)."""
    measured = metrics.measure(from_rows(FIRST))
    for name, symbol in {"average_performance": "(P)", "forgetting": "(F)", "backward_transfer": "(BWT)",
                         "forward_transfer_zero_shot": "(FWT"}.items():  # fmt: skip
        assert "arXiv 2411.11364" in measured[name].source
        assert symbol in measured[name].source
    assert "2411.11364" not in measured["forward_transfer"].source  # the area form is Continual World's alone
    assert measured["backward_transfer"].value == pytest.approx(-measured["forgetting"].value * 3 / 2)


def test_second_golden_matrix_tells_the_three_kinds_of_forgetting_apart():
    matrix = from_rows(SECOND)
    assert metrics.forgetting(matrix).value == pytest.approx(0.2667, abs=5e-5)
    assert metrics.forgetting_max(matrix).value == pytest.approx(0.5)
    assert metrics.backward_transfer(matrix).value == pytest.approx(-0.4)


def test_forward_transfer_of_constant_curves():
    result = metrics.forward_transfer(with_curve(0.6), with_curve(0.2))
    assert result.value == pytest.approx(0.5)
    assert metrics.forward_transfer_difference(with_curve(0.6), with_curve(0.2)).value == pytest.approx(0.4)


def test_the_area_is_a_trapezoid_over_the_five_points():
    matrix = empty(("a",))
    for fraction, score in zip(metrics.CURVE_POINTS, (0.0, 0.4, 0.4, 1.0, 1.0), strict=True):
        matrix.set_curve(0, fraction, [Episode(score)])
    assert metrics.area(matrix, 0) == pytest.approx(0.25 * (0.0 / 2 + 0.4 + 0.4 + 1.0 + 1.0 / 2))


@pytest.mark.parametrize("reference", [1.0, 0.96])
def test_a_perfect_reference_is_not_divided_by(reference):
    result = metrics.forward_transfer(with_curve(0.6), with_curve(reference))
    assert result.value is None
    assert "above 0.95" in result.reason
    difference = metrics.forward_transfer_difference(with_curve(0.6), with_curve(reference))
    assert difference.value == pytest.approx(0.6 - reference)


def test_forward_transfer_averages_the_defined_tasks_and_counts_them():
    own, reference = with_curve(0.6, tasks=2), with_curve(0.2, tasks=2)
    for fraction in metrics.CURVE_POINTS:
        reference.set_curve(1, fraction, [Episode(1.0)])
    result = metrics.forward_transfer(own, reference)
    assert result.value == pytest.approx(0.5)
    assert result.per_task == (pytest.approx(0.5), None)
    assert result.note.startswith("mean over 1 of 2 tasks; task1: the reference area")


def test_forward_transfer_without_reference_or_points_is_not_defined():
    assert metrics.forward_transfer(with_curve(0.6), None).reason == metrics.NO_REFERENCE
    partial = with_curve(0.6)
    del partial.curve[0, 0.5]
    result = metrics.forward_transfer(partial, with_curve(0.2))
    assert result.value is None
    assert "50%" in result.reason


def test_intransigence_is_the_reference_diagonal_minus_the_own():
    own, reference = from_rows(FIRST), from_rows(([0] * 3, [1.0, 0, 0], [0, 0.9, 0], [0, 0, 0.9]))
    assert metrics.intransigence(own, reference).value == pytest.approx((0.1 + 0.1 + 0.2) / 3)
    assert metrics.intransigence(own, None).value is None


NEEDED = [
    (metrics.average_performance, (3, 0)),
    (metrics.forgetting, (2, 1)),
    (metrics.forgetting_max, (2, 0)),
    (metrics.backward_transfer, (1, 0)),
    (metrics.forward_transfer_zero_shot, (0, 2)),
]


@pytest.mark.parametrize(("metric", "cell"), NEEDED)
def test_a_null_cell_makes_a_metric_undefined_and_never_zero(metric, cell):
    matrix = from_rows(FIRST, skip={cell})
    assert metric(matrix).value is None
    matrix.null_cell(*cell, "the simulator is missing")
    result = metric(matrix)
    assert result.value is None
    assert f"task{cell[1]}" in result.reason
    assert "the simulator is missing" in result.reason


@pytest.mark.parametrize("metric", [metrics.forgetting_max, metrics.backward_transfer])
def test_one_task_has_no_earlier_task(metric):
    matrix = from_rows(([0.0], [1.0]))
    assert metric(matrix).reason == "it needs at least two tasks"
    assert metrics.average_performance(matrix).value == 1.0


def test_unequal_cells_are_compared_on_the_goals_they_share():
    matrix = empty(("a", "b"))
    ten = [Episode(1.0)] * 10
    fifty = ten + [Episode(0.0)] * 40
    matrix.set_cell(1, 0, ten)
    matrix.set_cell(2, 0, fifty)
    matrix.set_cell(2, 1, fifty)
    assert metrics.forgetting(matrix).value == 0.0
    assert metrics.backward_transfer(matrix).value == 0.0
    assert metrics.forgetting_max(matrix).value == 0.0
    assert metrics.average_performance(matrix).value == pytest.approx(0.2)


def test_every_metric_carries_formula_and_source():
    measured = metrics.measure(from_rows(FIRST))
    assert measured.keys() == metrics.DEFINITIONS.keys()
    for name, metric in measured.items():
        assert metric.name == name
        assert metric.formula
        assert "arXiv" in metric.source
        assert (metric.value is None) == bool(metric.reason)
