import pytest
import torch

from perdure.core.errors import UsageError
from perdure.evaluate.carry import restart


def test_only_the_given_rows_begin_again():
    carry = {"a": torch.ones(3, 2), "b": torch.full((3,), 7)}
    fresh = {"a": torch.zeros(3, 2), "b": torch.tensor([0, 1, 2])}
    new = restart(carry, fresh, torch.tensor([False, True, False]))
    assert new["a"].tolist() == [[1, 1], [0, 0], [1, 1]]
    assert new["b"].tolist() == [7, 1, 7]
    assert carry["a"].min() == 1 and fresh["a"].max() == 0


def test_fresh_rows_survive_an_actor_that_writes_into_its_carry():
    fresh = {"a": torch.zeros(2)}
    new = restart({"a": torch.ones(2)}, fresh, torch.tensor([True, True]))
    new["a"] += 5
    assert fresh["a"].tolist() == [0, 0]


def test_nan_in_an_old_row_does_not_reach_the_new_one():
    new = restart({"a": torch.full((2, 1), torch.nan)}, {"a": torch.zeros(2, 1)}, torch.tensor([True, False]))
    assert new["a"][0] == 0 and new["a"][1].isnan()


@pytest.mark.parametrize("carry", [{}, {"a": torch.zeros(2, 2)}, {"a": torch.zeros(2), "b": torch.zeros(2)}])
def test_an_actor_that_changes_the_form_of_its_carry_is_refused(carry):
    with pytest.raises(UsageError, match="keeps its keys and shapes"):
        restart(carry, {"a": torch.zeros(2)}, torch.tensor([True, False]))
