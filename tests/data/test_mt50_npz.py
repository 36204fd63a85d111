"""Converting published MT50 episodes: what is kept, what is refused with file and array, and nothing left behind."""

import json
import os

import numpy as np
import pytest

from perdure.core.errors import UsageError
from perdure.core.spec import Box, Spec
from perdure.data.convert import cage, caged, mt50_npz
from perdure.data.store import check

SPEC = Spec(Box((39,), names=tuple(f"o{i}" for i in range(39))), Box((4,), low=(-1.0,) * 4, high=(1.0,) * 4))


def episode(path, steps=7, seed=0, **changes):
    """One synthetic file in the published layout: float32, (T, 1) rewards and flags, the time limit as a flag."""
    rng = np.random.default_rng(seed)
    seen = rng.normal(size=(steps + 1, 39)).astype(np.float32)
    arrays = {
        "observations": seen[:-1],
        "actions": rng.uniform(-1, 1, (steps, 4)).astype(np.float32),
        "rewards": rng.uniform(0, 10, (steps, 1)).astype(np.float32),
        "next_observations": seen[1:],
        "terminals": np.eye(1, steps, steps - 1, dtype=np.float32).T,
        **changes,
    }
    path.parent.mkdir(exist_ok=True)
    np.savez(path, **{key: array for key, array in arrays.items() if array is not None})
    return arrays


def task_folder(place, count=3):
    """(folder of a task with `count` files, what they hold)"""
    return place / "hammer-v2", [episode(place / "hammer-v2" / f"{i}.npz", seed=i) for i in range(count)]


def converted(folder, out, files=("0.npz", "1.npz", "2.npz")):
    return mt50_npz.convert(folder, out, files=files, name="hammer-v2", spec=SPEC, quality="suboptimal")


def test_episodes_are_kept_whole_and_in_the_order_of_the_files(tmp_path):
    folder, arrays = task_folder(tmp_path)
    data = converted(folder, tmp_path / "data" / "out", ("2.npz", "0.npz"))
    assert check(data.folder) == []
    assert data.lengths.tolist() == [7, 7]
    assert data.spec == SPEC
    for kept, source in zip((data.trajectory(0), data.trajectory(1)), (arrays[2], arrays[0]), strict=True):
        assert kept.observations[:-1].tobytes() == source["observations"].tobytes()
        assert kept.observations[-1].tobytes() == source["next_observations"][-1].tobytes()
        assert kept.actions.tobytes() == source["actions"].tobytes()
        assert kept.rewards.tobytes() == source["rewards"].tobytes()
    assert not data.array("terminated").any()
    assert np.flatnonzero(data.array("truncated")).tolist() == [6, 13]
    assert data.successes == [None, None]
    assert sorted(os.listdir(tmp_path)) == ["data", "hammer-v2"]


def test_the_card_says_where_the_episodes_come_from_and_how_good_they_are(tmp_path):
    folder, arrays = task_folder(tmp_path)
    data = converted(folder, tmp_path / "out")
    behaviour, returns = data.card["behaviour"], [float(each["rewards"].sum(dtype=np.float64)) for each in arrays]
    assert data.card["licence"] == "unknown"
    assert "2305.18459" in data.card["source"]
    assert data.card["quality"] == "suboptimal"
    assert behaviour["episodes"] == 3
    assert behaviour["return"] == pytest.approx({"min": min(returns), "mean": np.mean(returns), "max": max(returns)})
    assert behaviour["success"] is None
    assert behaviour["files"] == ["0.npz", "2.npz"]
    assert behaviour["source_digest"] == mt50_npz.digest_of_files(folder, ["0.npz", "1.npz", "2.npz"])
    episode(folder / "1.npz", seed=9)
    assert behaviour["source_digest"] != mt50_npz.digest_of_files(folder, ["0.npz", "1.npz", "2.npz"])


def test_success_is_kept_where_it_was_recorded(tmp_path):
    folder, _ = task_folder(tmp_path)
    episode(folder / "0.npz", success=np.zeros(7))
    episode(folder / "1.npz", success=np.eye(1, 7, 2)[0])  # at one step: latched
    data = converted(folder, tmp_path / "out", ("0.npz", "1.npz"))
    assert data.successes == [False, True]
    assert data.card["behaviour"]["success"] == 0.5


def served(file, tmp_path):
    """What the child says of one file, without starting one."""
    work = tmp_path / "work"
    work.mkdir()
    request = {"format": "mt50_npz", "path": str(file.parent), "folder": str(work), "limits": {"memory_mb": 300},
               "options": {"bounds": [[-1], [1]], "n_actions": None}, "reader": {"files": [file.name]}}  # fmt: skip
    cage.outcome(caged.serve(request), file.parent, work, cage.Limits())
    return json.loads((work / "result.json").read_text())


def test_without_next_observations_the_last_transition_is_lost_and_dones_are_read(tmp_path):
    file = tmp_path / "hammer-v2" / "0.npz"
    episode(file, next_observations=None, terminals=None, dones=np.zeros(7, bool), rewards=np.ones(7))
    result = served(file, tmp_path)
    assert result["episode_lengths"] == [6]
    assert "last transition" in result["notes"][0]


def test_rounding_beyond_the_bounds_is_clipped(tmp_path):
    folder, _ = task_folder(tmp_path, 1)
    episode(folder / "0.npz", actions=np.full((7, 4), np.float32(1) + np.float32(2e-7)))
    assert converted(folder, tmp_path / "out", ("0.npz",)).array("actions").max() == 1.0


def spoiled(array, place, value):
    changed = array.copy()
    changed[place] = value
    return changed


def plain(**changes):
    return lambda file, arrays: episode(file, **changes)


def one_value(name, place, value):
    return lambda file, arrays: episode(file, **{name: spoiled(arrays[name], place, value)})


def cut_short(file, arrays):
    file.write_bytes(file.read_bytes()[:-30])


REFUSED = {
    "columns": (plain(observations=np.zeros((7, 38), "f4")), r"observations has the shape \(7, 38\); with 7 actions"),
    "actions": (plain(actions=np.zeros((7, 3), "f4")), r"actions has the shape \(7, 3\)"),
    "one row more": (plain(observations=np.zeros((8, 39), "f4")), r"observations has the shape \(8, 39\)"),
    "rewards": (plain(rewards=np.zeros((7, 2), "f4")), r"rewards has the shape \(7, 2\)"),
    "too long": (plain(steps=501), r"actions has the shape \(501, 4\); an MT50 episode has 2 to 500 rows"),
    "one step": (plain(steps=1), r"2 to 500 rows"),
    "scalar": (plain(actions=np.float32(1)), r"actions has the shape \(\)"),
    "nan": (one_value("rewards", (3, 0), np.nan), "rewards, step 3 is not finite"),
    "infinity": (one_value("observations", (2, 5), np.inf), "observations, step 2 is not finite"),
    "outside": (one_value("actions", (4, 1), 1.5), r"actions, step 4, column 1 is 1.5; .* \[-1, 1\]"),
    "early flag": (one_value("terminals", (2, 0), 1), "terminals is set at step 2 of 7"),
    "no flags": (one_value("terminals", (6, 0), 0.5), "terminals holds values other than 0 and 1"),
    "missing array": (plain(rewards=None), "has no array 'rewards'"),
    "missing flags": (plain(terminals=None), "has no array 'terminals'"),
    "two episodes": (one_value("next_observations", (3, 0), 7), "next_observations, step 3 is not the observation"),
    "objects": (plain(rewards=np.array([None] * 7)), "rewards holds Python objects"),
    "text": (plain(rewards=np.array(["1"] * 7)), "only arrays of plain numbers"),
    "cut short": (cut_short, "is no sound .npz file"),
    "no zip": (lambda file, arrays: file.write_bytes(b"PK\x03\x04"), "is no sound .npz file"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_wrong_file_is_named_with_its_array(tmp_path, case):
    spoil, words = REFUSED[case]
    file = tmp_path / "hammer-v2" / "0.npz"
    spoil(file, episode(file))
    with pytest.raises(UsageError, match=words) as caught:
        served(file, tmp_path)
    assert str(caught.value).startswith(str(file))
    assert "\n" not in str(caught.value)


def test_a_refusal_leaves_nothing_behind(tmp_path):
    folder, arrays = task_folder(tmp_path)
    episode(folder / "1.npz", rewards=spoiled(arrays[1]["rewards"], (0, 0), np.nan))
    with pytest.raises(UsageError, match=r"1\.npz: rewards, step 0 is not finite"):
        converted(folder, tmp_path / "data" / "mt50" / "hammer")
    assert os.listdir(tmp_path) == ["hammer-v2"]


def test_missing_files_are_counted(tmp_path):
    folder, _ = task_folder(tmp_path, 2)
    mt50_npz.present(folder, ["0.npz", "1.npz"])
    with pytest.raises(UsageError, match=r"2\.npz is missing, as are 1 more of the 4 episodes asked for \(0\.npz to 3\.npz\)"):
        mt50_npz.present(folder, [f"{i}.npz" for i in range(4)])
