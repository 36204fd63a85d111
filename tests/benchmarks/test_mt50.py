"""ocw10-mt50: a folder in the published layout becomes the stream; what is missing or different is named."""

import os

import numpy as np
import pytest

from perdure.benchmarks import mt50
from perdure.benchmarks.continual_world import CW10, TEXTS
from perdure.benchmarks.metaworld_env import SPEC
from perdure.core.errors import UsageError
from perdure.streams import load_stream, outline


def quiet(text):
    pass


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PERDURE_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("PERDURE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(mt50, "FILES", {"near-optimal": 4, "suboptimal": 2})
    return tmp_path


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """The ten tasks of five steps each, four files; the reward is the number of the file."""
    root = tmp_path_factory.mktemp("MT50")
    for task in CW10:
        (root / f"{task}-v2").mkdir()
        for number in range(4):
            save(root / f"{task}-v2" / f"{number}.npz", number)
    return root


def save(file, number, steps=5):
    rng = np.random.default_rng(number)
    seen = rng.normal(size=(steps + 1, 39)).astype(np.float32)
    actions, rewards = rng.uniform(-1, 1, (steps, 4)).astype(np.float32), np.full((steps, 1), number, np.float32)
    ends = np.eye(1, steps, steps - 1, dtype=np.float32).T
    np.savez(file, observations=seen[:-1], next_observations=seen[1:], actions=actions, rewards=rewards, terminals=ends)


def rewards(task):
    return [task.data.trajectory(e).rewards[0] for e in range(len(task.data))]


def test_the_folder_becomes_the_stream_and_is_then_not_needed(published, place):
    said = []
    made = load_stream("ocw10-mt50", say=said.append, folder=str(published))
    assert [task.name for task in made.tasks] == list(CW10)
    assert all(rewards(task) == [0, 1, 2, 3] for task in made.tasks)
    assert {task.env.horizon for task in made.tasks} == {500}
    assert {(task.spec, task.data.spec) for task in made.tasks} == {(SPEC, SPEC)}
    assert [task.text for task in made.tasks] == [TEXTS[task] for task in CW10]
    assert {task.data.card["licence"] for task in made.tasks} == {"unknown"}
    assert len(said) == 10
    again = load_stream("ocw10-mt50", say=said.append, order="2")
    assert again.title == "ocw10-mt50 (order 2)"
    assert {task.name: task.data.digest for task in again.tasks} == {task.name: task.data.digest for task in made.tasks}
    assert len(said) == 10
    assert all(task.present for task in outline("ocw10-mt50", {}))
    assert sorted(os.listdir(place)) == ["cache", "data"]


def test_the_lower_quality_is_the_first_half_and_fewer_episodes_span_the_whole(published):
    half = load_stream("ocw10-mt50", say=quiet, folder=str(published), quality="suboptimal")
    assert rewards(half.tasks[0]) == [0, 1]
    assert half.tasks[0].data.card["quality"] == "suboptimal"
    fewer = load_stream("ocw10-mt50", say=quiet, folder=str(published), episodes=2)
    assert rewards(fewer.tasks[0]) == [0, 2]
    with pytest.raises(UsageError, match=r"stream\.episodes is 3; quality suboptimal is 2 files"):
        outline("ocw10-mt50", {"quality": "suboptimal", "episodes": 3})


def test_the_published_numbers_of_files(monkeypatch):
    monkeypatch.undo()
    assert mt50.Options().files == [f"{i}.npz" for i in range(2000)]
    assert mt50.Options(quality="suboptimal").files == [f"{i}.npz" for i in range(1000)]
    assert mt50.Options(episodes=3).files == ["0.npz", "666.npz", "1333.npz"]


def copy_of(published, place):
    """The published folder again, to take something out of it."""
    root = place / "copy"
    for task in CW10:
        (root / f"{task}-v2").mkdir(parents=True)
        for file in (published / f"{task}-v2").iterdir():
            os.link(file, root / f"{task}-v2" / file.name)
    return root


def refused(words, **options):
    with pytest.raises(UsageError, match=words) as caught:
        load_stream("ocw10-mt50", say=quiet, **options)
    assert "\n" not in str(caught.value)


def test_what_is_missing_is_named_before_anything_is_converted(published, place):
    refused("stream.folder is not given, and 10 of 10 tasks are not converted yet")
    refused("stream.folder is nowhere, which is no folder", folder="nowhere")
    root = copy_of(published, place)
    for file in (root / "push-v2").iterdir():
        file.unlink()
    refused(r"push-v2/0\.npz is missing, as are 3 more of the 4 episodes", folder=str(root))
    save(root / "push-v2" / "0.npz", 0)
    refused(r"push-v2/1\.npz is missing, as are 2 more", folder=str(root))
    (root / "push-v2" / "0.npz").unlink()
    (root / "push-v2").rmdir()
    refused("has no folder push-v2; the stream reads all 10 tasks", folder=str(root))
    assert sorted(os.listdir(place)) == ["copy"]


def test_a_damaged_file_is_named_and_the_sound_tasks_before_it_stay(published, place):
    root = copy_of(published, place)
    (root / "push-wall-v2" / "3.npz").unlink()
    (root / "push-wall-v2" / "3.npz").write_bytes((published / "push-wall-v2" / "3.npz").read_bytes()[:-40])
    refused(r"push-wall-v2/3\.npz is no sound \.npz file", folder=str(root))
    assert os.listdir(place / "data" / "metaworld-v2-mt50") == ["hammer"]
    (root / "push-wall-v2" / "3.npz").unlink()
    save(root / "push-wall-v2" / "3.npz", 3)
    load_stream("ocw10-mt50", say=quiet, folder=str(root))


def test_two_runs_may_convert_at_the_same_time(published, place, monkeypatch):
    convert = mt50.mt50_npz.convert

    def overtaken(source, out, **rest):
        convert(source, out, **rest)
        return convert(source, out, **rest)  # as the slower one: the folder is there when it wants to write

    monkeypatch.setattr(mt50.mt50_npz, "convert", overtaken)
    made = load_stream("ocw10-mt50", say=quiet, folder=str(published), quality="suboptimal")
    assert all(rewards(task) == [0, 1] for task in made.tasks)


def test_another_folder_than_the_one_that_was_converted_is_refused(published, place):
    load_stream("ocw10-mt50", say=quiet, folder=str(published), quality="suboptimal")
    root = copy_of(published, place)
    load_stream("ocw10-mt50", say=quiet, folder=str(root), quality="suboptimal")
    (root / "push-v2" / "1.npz").unlink()
    save(root / "push-v2" / "1.npz", 8)
    refused("whose episodes of push-v2 are not those that", folder=str(root), quality="suboptimal")
