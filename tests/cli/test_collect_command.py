"""`perdure collect` in words, with a collection that takes no time."""

import pytest
from cli_samples import dataset

STREAM = "hopper-walker-cheetah-v5"


@pytest.mark.parametrize(("workers", "speeds", "said"), [
    (2, (100.0, 300.0, 240.0), 120), (8, (100.0, 300.0, 240.0), 80), (0, (100.0, 240.0), 240), (2, (), None),
])  # fmt: skip
def test_it_says_how_much_each_worker_did(workers, speeds, said, perdure, monkeypatch):
    """No more workers are started than there are episodes to roll; of data that were there already nothing is said."""

    def rolled(source, folder, *, episodes, progress, **_):
        for done, speed in enumerate(speeds, start=episodes - len(speeds) + 1):
            progress(done, episodes, speed)
        dataset(folder)

    monkeypatch.setattr("perdure.cli.collect.collect", rolled)
    code, out, _ = perdure("collect", STREAM, "--workers", workers)
    assert code == 0 and len(out.splitlines()) == 3
    for line in out.splitlines():
        assert line.endswith(f", {said} steps/s per worker") if said else "steps/s" not in line
