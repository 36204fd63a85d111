"""What a run says of its data: means of their returns, which a run that was begun without them does without."""

import signal
from dataclasses import replace

import pytest
from tiny import config, execute, stream_of, watch

from perdure.core.errors import Interrupted
from perdure.core.matrix import ScoreMatrix
from perdure.core.task import ScoreScale, Stream


def scored_by_return(settings):
    scale = ScoreScale("return", -20.0, 0.0, "made here")
    return Stream("toy", tuple(replace(task, score=scale) for task in stream_of(settings).tasks))


def test_scores_hold_the_mean_return_of_every_dataset(tmp_path):
    settings = config(tasks=2)
    for name, stream in (("success", stream_of(settings)), ("return", scored_by_return(settings))):
        execute(settings, tmp_path / name, stream=stream)
        data = ScoreMatrix.load(tmp_path / name / "scores.json").data
        means = [float(task.data.returns.mean()) for task in stream.tasks]
        assert [entry["mean_return"] for entry in data] == means
        assert [entry.get("mean_score") for entry in data] == [(mean + 20) / 20 if name == "return" else None for mean in means]


def test_a_run_that_was_begun_without_them_goes_on(tmp_path, monkeypatch):
    def stop(*place):
        if place == (1, "train", 3):
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr("perdure.experiment.behaviour_means", lambda task: {})
    with pytest.raises(Interrupted):
        execute(config(tasks=2), tmp_path / "run", change=lambda method: watch(method, stop))
    monkeypatch.undo()
    matrix = execute(config(tasks=2), tmp_path / "run")
    assert matrix.complete and not any("mean_return" in entry for entry in matrix.data)
