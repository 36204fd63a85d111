"""metrics.jsonl: cut back to a checkpoint on resume, wherever the kill tore it."""

import json

import pytest

from perdure.core.errors import UsageError
from perdure.core.log import MetricsLog, open_sinks


def written(path, steps, offset=0):
    log = MetricsLog(path, offset)
    offsets = []
    for step in steps:
        log.write(0, "train", step, step, {"fit": step / 7})
        offsets.append(log.offset)
    log.close()
    return offsets


def steps_in(path):
    return [json.loads(line)["step"] for line in path.read_text().splitlines()]


def test_one_object_per_line(tmp_path):
    written(tmp_path / "m.jsonl", [50, 100])
    first = json.loads((tmp_path / "m.jsonl").read_text().splitlines()[0])
    assert first == {"task": 0, "phase": "train", "step": 50, "fit": 50 / 7}


def test_a_file_torn_at_any_byte_continues_without_gap_or_repetition(tmp_path):
    """Rows after the checkpoint go, rows before it stay, whatever a kill left behind it."""
    whole = tmp_path / "whole.jsonl"
    offsets = written(whole, range(1, 5))
    content = whole.read_bytes()
    for length in range(len(content) + 1):
        path = tmp_path / "torn.jsonl"
        for saved in (0, 2):  # rows that the checkpoint knows
            offset = offsets[saved - 1] if saved else 0
            path.write_bytes(content[:length])
            written(path, range(saved + 1, 5), offset)
            kept = [step for step in range(1, saved + 1) if offsets[step - 1] <= length]
            assert steps_in(path) == [*kept, *range(saved + 1, 5)]
            if length >= offset:
                assert path.read_bytes() == content


def test_values_that_are_not_numbers_are_null(tmp_path):
    log = MetricsLog(tmp_path / "m.jsonl")
    log.write(0, "train", 1, 1, {"fit": float("nan"), "other": float("inf")})
    log.close()
    assert json.loads((tmp_path / "m.jsonl").read_text()) == {
        "task": 0,
        "phase": "train",
        "step": 1,
        "fit": None,
        "other": None,
    }


def test_sinks_see_every_row_with_the_position_of_the_whole_run(tmp_path):
    class Sink(list):
        def write(self, position, values):
            self.append((position, values))

        def close(self):
            self.append("closed")

    log, sink = MetricsLog(tmp_path / "m.jsonl"), Sink()
    log.sinks = [sink]
    log.write(1, "train", 50, 450, {"fit": 0.5})
    log.close()
    assert sink == [(450, {"train/fit": 0.5, "task": 1}), "closed"]


def test_tensorboard_writes_events(tmp_path):
    pytest.importorskip("tensorboard")
    (sink,) = open_sinks(("tensorboard",), tmp_path, 0)
    sink.write(3, {"train/fit": 0.5})
    sink.close()
    assert list((tmp_path / "tensorboard").iterdir())


def test_a_missing_sink_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "wandb", None)
    with pytest.raises(UsageError, match="W&B is not installed"):
        open_sinks(("wandb",), tmp_path, 0)
