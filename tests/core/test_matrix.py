"""Score matrix: absent cells are never 0, the file round-trips, malformed files are refused."""

import copy
import json

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from perdure.core.errors import UsageError
from perdure.core.matrix import Episode, ScoreMatrix


def empty(tasks=("push", "pull", "turn")) -> ScoreMatrix:
    protocol = {"heads": "per task", "normaliser": "per task", "task_id_at_test": True, "past_data": False}
    scale = {"kind": "success", "low": 0.0, "high": 1.0, "source": "latched success"}
    return ScoreMatrix("toy", 1, tasks, "er", "bc", "cpu", 0, "ab12cd34", protocol, scale)


def filled() -> ScoreMatrix:
    matrix = empty()
    matrix.set_cell(1, 0, [Episode(1.0, True, 64), Episode(0.0, False, 200, -3.5)])
    matrix.null_cell(0, 2, "no head yet")
    matrix.set_curve(0, 0.25, [Episode(0.5, None, 7)])
    matrix.set_action_error(1, 0, 0.012, 2000)
    matrix.set_leans({(1, 0): 1.0, (2, 0): 0.25, (2, 1): 0.75})
    return matrix


def test_a_cell_returns_scores_in_goal_order():
    matrix = filled()
    assert matrix.cell(1, 0).tolist() == [1.0, 0.0]
    assert matrix.mean(1, 0) == 0.5


def test_null_and_absent_cells_are_nan_and_never_zero():
    matrix = filled()
    assert matrix.cell(0, 2) is None
    assert matrix.mean(0, 2) is None
    assert matrix.cell(3, 0) is None
    array = matrix.as_array()
    assert array.shape == (4, 3)
    assert array[1, 0] == 0.5
    assert np.isnan(array).sum() == 11


def test_reasons_tell_null_from_absent():
    matrix = filled()
    assert matrix.reason(0, 2) == "no head yet"
    assert matrix.known(0, 2)
    assert matrix.reason(3, 0) == "not evaluated"
    assert not matrix.known(3, 0)
    assert matrix.reason(1, 0) == ""


def test_the_file_round_trips(tmp_path):
    matrix = filled()
    path = tmp_path / "scores.json"
    path.write_text(json.dumps(matrix.to_json()))
    assert ScoreMatrix.load(path) == matrix


def test_the_order_of_evaluation_leaves_no_trace():
    first, second = empty(), empty()
    for place in ((1, 0), (3, 2)):
        first.set_cell(*place, [Episode(1.0)])
    for place in ((3, 2), (1, 0)):
        second.set_cell(*place, [Episode(1.0)])
    assert json.dumps(first.to_json()) == json.dumps(second.to_json())


def test_numpy_numbers_become_plain_json():
    matrix = empty()
    matrix.set_cell(1, 0, [Episode(np.float32(1.0), np.bool_(True), np.int64(5), np.float64(2.0))])
    assert json.loads(json.dumps(matrix.to_json()))["cells"][0]["episodes"][0] == {
        "score": 1.0, "success": True, "length": 5, "raw_return": 2.0,
    }  # fmt: skip


@pytest.mark.parametrize(("place", "weight"), [((0, 0), 0.5), ((1, 2), 0.5), ((3, 0), 0.5), ((2, 1), 1.5), ((2, 1), -0.1)])
def test_tasks_lean_on_earlier_ones_by_a_share(place, weight):
    with pytest.raises(UsageError, match="leans on earlier tasks, by 0 to 1"):
        empty().set_leans({place: weight})


def test_a_matrix_that_leans_on_nothing_is_written_as_before():
    assert "leans" not in empty().to_json()


@pytest.mark.parametrize("place", [(4, 0), (-1, 0), (0, 3), (0, -1)])
def test_places_outside_the_matrix_are_refused(place):
    with pytest.raises(UsageError, match="outside the matrix"):
        empty().set_cell(*place, [Episode(1.0)])


def test_an_empty_cell_needs_a_reason():
    with pytest.raises(UsageError, match="null_cell"):
        empty().set_cell(1, 0, [])


@pytest.mark.parametrize("score", [float("nan"), float("inf")])
def test_scores_are_finite(score):
    with pytest.raises(UsageError, match="finite"):
        Episode(score)


WRONG = {
    "newer format": (("format",), 2, "reads 1"),
    "no tasks": (("tasks",), [], "1 to 300 task names"),
    "half a surrogate pair": (("method",), "\ud800", "scores.method"),
    "absurd number": (("cells", 1, "episodes", 0, "score"), 10**400, "cells.score"),
    "absurd count": (("footprint",), {"parameters": 10**400}, "footprint.parameters"),
    "task no text": (("tasks",), [3], "task name"),
    "seed as text": (("seed",), "0", "scores.seed"),
    "true as seed": (("seed",), True, "scores.seed"),
    "complete as number": (("complete",), 1, "scores.complete"),
    "protocol field": (("protocol", "task_id_at_test"), "yes", "protocol.task_id_at_test"),
    "scale": (("score", "low"), 2.0, "low < high"),
    "scale kind": (("score", "low"), None, "score.low"),
    "cells no list": (("cells",), {}, "a list"),
    "cell no object": (("cells", 0), 7, "an object"),
    "row outside": (("cells", 0, "learned"), 9, "outside"),
    "row as text": (("cells", 0, "learned"), "1", "cells.learned"),
    "success as number": (("cells", 1, "episodes", 0, "success"), 1, "cells.success"),
    "score missing": (("cells", 1, "episodes", 0, "score"), None, "cells.score"),
    "length negative": (("cells", 1, "episodes", 0, "length"), -1, "cells.length"),
    "no episodes": (("cells", 1, "episodes"), [], "no episodes"),
    "fraction": (("curve", 0, "fraction"), 1.5, "between 0 and 1"),
    "footprint": (("footprint",), {"parameters": -1}, "footprint.parameters"),
    "footprint per task": (("footprint",), {"parameters_per_task": ["a"]}, "parameters_per_task"),
    "data": (("data",), [{"task": "push"}], "data lacks"),
    "mean of the data": (("data",), [{"task": "push", "digest": "d", "quality": "q", "mean_score": "1"}], "data.mean_score"),
}


@pytest.mark.parametrize("name", WRONG)
def test_malformed_files_are_refused(name, tmp_path):
    place, value, words = WRONG[name]
    content = copy.deepcopy(filled().to_json())
    target = content
    for step in place[:-1]:
        target = target[step]
    target[place[-1]] = value
    path = tmp_path / "scores.json"
    path.write_text(json.dumps(content))
    with pytest.raises(UsageError, match=words) as caught:
        ScoreMatrix.load(path)
    assert str(path) in str(caught.value)


def test_an_unknown_field_is_refused_with_the_nearest_name():
    content = filled().to_json() | {"footprnt": {}}
    with pytest.raises(UsageError, match="did you mean 'footprint'"):
        ScoreMatrix.from_json(content)


@pytest.mark.parametrize("field", ["protocol", "tasks", "method", "seed", "score", "complete"])
def test_a_missing_field_is_named(field):
    content = filled().to_json()
    del content[field]
    with pytest.raises(UsageError, match=field):
        ScoreMatrix.from_json(content)


def test_a_cell_named_twice_is_refused():
    content = filled().to_json()
    content["cells"].append(content["cells"][0])
    with pytest.raises(UsageError, match="twice"):
        ScoreMatrix.from_json(content)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 60) | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=200, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_any_damage_to_a_file_is_one_sentence_or_still_a_matrix(data):
    content = filled().to_json()
    target = content
    while True:
        keys = list(target) if isinstance(target, dict) else list(range(len(target)))
        key = data.draw(st.sampled_from(keys))
        inner = target[key]
        if not isinstance(inner, dict | list) or not inner or data.draw(st.booleans()):
            break
        target = inner
    target[key] = data.draw(json_values)
    try:
        matrix = ScoreMatrix.from_json(content)
    except UsageError:
        return
    assert ScoreMatrix.from_json(json.loads(json.dumps(matrix.to_json()))) == matrix
