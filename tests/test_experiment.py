"""Experiment: what it writes about a run beside its result."""

from unittest.mock import patch

import pytest
from tiny import config, execute

from perdure.core.errors import UsageError


def test_a_full_disk_is_not_hidden_by_the_record_of_the_run(tmp_path):
    refuse = OSError(28, "No space left on device")
    with (
        patch("perdure.core.checkpoint.save_file", side_effect=refuse),
        patch("perdure.experiment.write_json", side_effect=refuse),
        pytest.raises(UsageError, match="No space left"),
    ):
        execute(config(), tmp_path / "run")


@pytest.mark.parametrize("text", ["{", "[]", "3"])
def test_a_damaged_record_of_a_run_hides_nothing(text, tmp_path):
    (tmp_path / "run").mkdir()

    def damage(method):
        (tmp_path / "run" / "environment.json").write_text(text)

    assert execute(config(), tmp_path / "run", change=damage).complete
