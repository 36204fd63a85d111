"""Exit codes, and the nearest known name."""

import signal

import pytest

from perdure.core.errors import GuardError, Interrupted, UsageError, nearest


def test_exit_codes():
    assert (UsageError.exit_code, GuardError.exit_code) == (2, 3)
    assert Interrupted("stopped", signal.SIGINT).exit_code == 130
    assert Interrupted("stopped", signal.SIGTERM).exit_code == 143
    assert Interrupted("stopped", signal.SIGHUP).exit_code == 129


@pytest.mark.parametrize(
    ("word", "hint"),
    [("finetun", "; did you mean 'finetune'?"), ("packet", "; did you mean 'packnet'?"), ("zzz", ""), ("", "")],
)
def test_nearest(word, hint):
    assert nearest(word, {"finetune": 1, "packnet": 2, "er": 3}) == hint


def test_nearest_takes_names_of_any_kind():
    assert nearest(12, [1, 2]) in ("", "; did you mean '1'?", "; did you mean '2'?")
