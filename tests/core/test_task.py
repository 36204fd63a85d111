"""Stream and Task: contradictions are refused when a stream is made."""

from dataclasses import replace

import pytest
from tiny import config, stream_of

from perdure.core.errors import UsageError
from perdure.core.task import ScoreScale, Stream

TOY = stream_of(config())
SPACES = stream_of(config(stream="toy-spaces"))


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        ((), "stream mine has no tasks; give at least one"),
        (
            (TOY.tasks[0], replace(TOY.tasks[1], name=TOY.tasks[0].name)),
            "stream mine names the task 'corner-1' twice",
        ),
        ((TOY.tasks[1],), "task corner-2 has index 1; at this place of the stream it is 0"),
        (
            (replace(TOY.tasks[0], data=SPACES.tasks[1].data),),
            "task corner-1: spaces of task and dataset differ .obs is float32-2 here and float32-3 there",
        ),
    ],
)
def test_contradictions_are_named(tasks, message):
    with pytest.raises(UsageError, match=message):
        Stream("mine", tasks)


def test_scores():
    assert ScoreScale().score(True, None) == 1.0
    assert ScoreScale().score(False, 5.0) == ScoreScale().score(None, None) == 0.0
    scale = ScoreScale("return", 10.0, 30.0, "random and expert")
    assert (scale.score(None, 10.0), scale.score(True, 30.0), scale.score(None, 20.0), scale.score(None, 0.0)) == (
        0.0,
        1.0,
        0.5,
        -0.5,
    )


def test_facts_of_a_stream():
    facts = TOY.to_json()
    assert facts["name"] == "toy"
    assert [task["name"] for task in facts["tasks"]] == ["corner-1", "corner-2", "corner-3"]
    assert all(task["simulator"] and task["digest"].startswith("sha256:") for task in facts["tasks"])
    assert facts["protocol"]["task_id_at_test"] is True
    assert len(TOY) == 3


def test_toy_goals_are_disjoint_and_frozen():
    for task in TOY.tasks:
        lists = (task.goals.final, task.goals.curve, task.goals.probe)
        assert list(map(len, lists)) == [50, 10, 10]
        assert len(set().union(*lists)) == 70
    again = stream_of(config(seed=5))
    assert again.tasks[0].goals == TOY.tasks[0].goals
