"""Progress: a live line on a terminal, a line every half minute elsewhere, and the time left."""

import io

import pytest
from rich.console import Console

from perdure import progress
from perdure.core.matrix import Episode
from perdure.progress import Quiet, Terminal

TASKS = ["corner-1", "corner-2"]


class Clock:
    now = 1000.0


@pytest.fixture
def clock(monkeypatch):
    made = Clock()
    monkeypatch.setattr(progress.time, "monotonic", lambda: made.now)
    return made


def shown(terminal=False, joint=False):
    out = io.StringIO()
    return out, Terminal(
        "run a", TASKS, 100, joint, console=Console(file=out, force_terminal=terminal, width=200, color_system=None)
    )


def test_a_log_file_gets_a_line_every_half_minute(clock):
    out, bar = shown()
    with bar:
        for step in range(0, 100, 10):
            clock.now += 6
            bar.step(0, "train", step, 100, {"fit": 0.5})
    lines = out.getvalue().splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("run a | task 1/2 corner-1 | train 40/100 | fit 0.5000 | training ")


def test_time_left_follows_the_pace_of_the_steps(clock):
    out, bar = shown()
    for step in (50, 100):
        clock.now += 50
        bar.step(0, "train", step, 100, {})
    clock.now += 50
    bar.step(1, "train", 50, 100, {})
    assert bar.step_seconds == pytest.approx(1.0)
    assert out.getvalue().splitlines()[-1].endswith("training 50 s left"), (
        "200 steps in all, 150 done at a second each"
    )


def test_phases_of_a_task_add_up(clock):
    _, bar = shown()
    for phase, steps, step in (("dense", 80, 40), ("dense", 80, 80), ("retrain", 20, 20)):
        clock.now += 60
        bar.step(0, phase, step, steps, {})
    assert bar.seen[1] == 100


def test_joint_counts_from_the_beginning(clock):
    _, bar = shown(joint=True)
    clock.now += 60
    bar.step(1, "train", 30, 200, {})
    assert bar.seen[1] == 30


def test_an_evaluation_is_no_part_of_the_pace(clock):
    _, bar = shown()
    for step in (10, 20):
        clock.now += 10
        bar.step(0, "train", step, 100, {})
    bar.evaluating(1, 0)
    clock.now += 500
    bar.step(0, "train", 30, 100, {})
    clock.now += 10
    bar.step(0, "train", 40, 100, {})
    assert bar.step_seconds == pytest.approx(1.0)


def test_a_terminal_has_one_live_line():
    out, bar = shown(terminal=True)
    with bar:
        bar.step(0, "train", 10, 100, {"fit": 0.25})
        bar.evaluating(1, 0)
        bar.say("a sentence")
    assert bar.live is not None
    assert "a sentence" in out.getvalue()
    assert "evaluating corner-1 after 1 of 2 tasks" in out.getvalue()


def test_a_learned_task_is_reported_with_its_score():
    out, bar = shown()
    episodes = [Episode(1.0, True, 5), Episode(0.0, False, 20)]
    bar.evaluated(1, 0, episodes)
    bar.evaluated(2, 0, episodes)  # not the task just learned
    bar.evaluated(1, 1, [])
    assert out.getvalue().splitlines() == ["run a | learned corner-1: score 0.50 over 2 episodes"]


def test_long_sentences_are_not_wrapped():
    out, bar = shown()
    bar.say("x" * 500)
    assert out.getvalue() == "x" * 500 + "\n"


def test_quiet_is_quiet(capsys):
    quiet = Quiet()
    quiet.say("x")
    quiet.step(0, "train", 1, 2, {})
    quiet.evaluating(0, 0)
    quiet.evaluated(0, 0, [])
    assert capsys.readouterr() == ("", "")


def test_slow_steps_of_a_short_phase_are_not_taken_for_the_pace_of_all(clock):
    """100 steps of a second, then 5 of 20 seconds that are not among them: another task will take as long."""
    out, bar = shown()
    for phase, steps, seconds in (("train", 100, 1), ("plan", 5, 20)):
        for step in range(1, steps + 1):
            clock.now += seconds
            bar.step(0, phase, step, steps, {})
    clock.now += 1
    bar.evaluated(1, 0, [])
    for step in (1, 2):
        clock.now += 1
        bar.step(1, "train", step, 100, {})
    clock.now += 40
    bar.step(1, "train", 3, 100, {})
    line = out.getvalue().splitlines()[-1]
    assert line.endswith("training 10 min left"), "97 steps, now taken for 4.9 seconds, and 100 seconds of planning"


def test_a_task_that_trained_in_part_says_nothing_about_later_ones(clock):
    """A resumed one, or one without a module of its own: the phases are those of the last task that went through all."""
    bar = Terminal("run a", list("abcd"), 100, False, console=Console(file=io.StringIO()))
    bar.step(0, "plan", 5, 5, {})
    bar.step(1, "train", 1, 100, {})
    assert bar.earlier == {}, "5 of 100 steps"
    bar.step(1, "train", 100, 100, {})
    for task in (2, 3):
        bar.step(task, "plan", 5, 5, {})
        assert bar.earlier == {"train": 100}
