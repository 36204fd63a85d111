"""Import and export: round trips, missing last observations, bounds, recognising a format."""

import os

import h5py
import numpy as np
import pytest
from dataset_samples import (
    ALL_SPECS,
    CONTINUOUS,
    DESCRIPTION,
    assert_same_arrays,
    episodes,
    lengths_of_episodes,
    specs,
    written,
)
from foreign_samples import refused, save_d4rl, save_episode, served
from hypothesis import given, settings
from hypothesis import strategies as st

from perdure.core.errors import UsageError
from perdure.core.spec import Box, Discrete, Spec
from perdure.data.convert import FORMATS, export_dataset, import_dataset, recognise
from perdure.data.convert.npz import natural
from perdure.data.store import Dataset, check

SUFFIX = {"npz": "", "d4rl_hdf5": ".hdf5", "minari": "-v0"}


@pytest.mark.parametrize("format", FORMATS)
@settings(max_examples=12, deadline=None)
@given(spec=specs(), lengths=lengths_of_episodes, seed=st.integers(0, 2**32))
def test_export_and_import_are_bit_for_bit(tmp_path_factory, format, spec, lengths, seed):
    if format == "minari":
        pytest.importorskip("minari")
    folder = tmp_path_factory.mktemp("convert")
    dataset = Dataset.in_memory(episodes(spec, lengths, seed), name="sample", spec=spec, **DESCRIPTION)
    path = export_dataset(dataset, folder / f"out{SUFFIX[format]}", format)
    assert recognise(path) == format
    result, digest = served(path, format, folder / "work")
    assert digest == dataset.digest
    assert result["episode_lengths"] == lengths
    assert result["notes"] == []
    if format == "minari":
        assert result["spec"]["action"].get("n") == (spec.action.n if spec.discrete else None)
        assert result["seeds"] == list(range(len(lengths)))


@pytest.mark.parametrize("format", FORMATS)
def test_import_in_a_child_process_makes_a_sound_dataset(tmp_path, format):
    if format == "minari":
        pytest.importorskip("minari")
    dataset = written(tmp_path / "set", ALL_SPECS[3] if format == "npz" else CONTINUOUS)
    path = export_dataset(dataset, tmp_path / f"out{SUFFIX[format]}", format)
    back = import_dataset(path, tmp_path / "back", name="again", licence="CC-BY-4.0")
    assert_same_arrays(back, dataset)
    assert back.spec == dataset.spec
    assert check(tmp_path / "back") == []
    assert back.card["quality"] == "imported"
    assert back.card["licence"] == "CC-BY-4.0"
    assert format in back.card["source"]
    assert sorted(os.listdir(tmp_path)) == sorted(["set", path.name, "back"])
    with pytest.raises(UsageError, match="exists already"):
        import_dataset(path, tmp_path / "back", name="again")
    with pytest.raises(UsageError, match="exists already"):
        export_dataset(dataset, path, format)


def test_an_exported_minari_dataset_loads_in_minari(tmp_path, monkeypatch):
    minari = pytest.importorskip("minari")
    dataset = written(tmp_path / "set")
    export_dataset(dataset, tmp_path / "point-v0", "minari")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    loaded = minari.load_dataset("point-v0")
    assert loaded.total_episodes == 3
    assert loaded.total_steps == 11
    np.testing.assert_array_equal(loaded[2].observations, dataset.trajectory(2).observations)


def test_minari_images_keep_every_pixel_and_jpeg_is_read(tmp_path):
    """Minari's default for images is JPEG, which changes them; other people's datasets may use it."""
    pytest.importorskip("minari")
    spec = Spec(Box((40, 36, 3), dtype="uint8"), Discrete(2))
    dataset = written(tmp_path / "set", spec)
    path = export_dataset(dataset, tmp_path / "p-v0", "minari")
    assert served(path, "minari", tmp_path / "work")[1] == dataset.digest
    from minari.data_collector import EpisodeBuffer
    from minari.dataset.minari_storage import MinariStorage

    storage = MinariStorage.read(path / "data")
    (tmp_path / "jpeg-v0").mkdir()
    lossy = MinariStorage.new(tmp_path / "jpeg-v0" / "data", storage.observation_space, storage.action_space)
    lossy.update_episodes(EpisodeBuffer(**item) for item in storage.get_episodes(range(3)))
    result, digest = served(tmp_path / "jpeg-v0", "minari", tmp_path / "lossy")
    assert result["spec"] == spec.to_json()
    assert digest != dataset.digest


# --- npz: the layout of the published MT50 files, T observations, float64, flags as numbers


def test_files_are_in_natural_order_and_short_episodes_lose_their_last_transition(tmp_path):
    source = tmp_path / "mt50"
    source.mkdir()
    for number, steps in ((10, 4), (9, 6), (2, 1), (100, 3)):
        save_episode(source / f"ep_{number}.npz", steps)
    dataset = import_dataset(source, tmp_path / "out", name="mt50")
    assert dataset.lengths.tolist() == [5, 3, 2]
    notes = " ".join(dataset.card["behaviour"]["notes"])
    assert "last transition" in notes
    assert "1 episodes of one step were left out" in notes
    assert not dataset.array("terminated").any()
    assert np.flatnonzero(dataset.array("truncated")).tolist() == [
        4,
        7,
        9,
    ]


def test_natural_order():
    assert sorted(["a10", "a9", "b1", "a", "10", "9"], key=natural) == ["9", "10", "a", "a9", "a10", "b1"]


def test_next_observations_complete_an_episode_and_dones_are_named(tmp_path):
    arrays = save_episode(
        tmp_path / "a.npz", terminals=None, dones=np.eye(1, 5, 4)[0], next_observations=np.ones((5, 3))
    )
    result, _ = served(tmp_path / "a.npz", "npz", tmp_path / "work")
    assert result["episode_lengths"] == [5]
    assert "'dones' was read as termination" in result["notes"][0]
    assert result["spec"]["action"]["low"] == [-1, -1]
    assert "taken from the data" in result["bounds_from"]
    assert len(arrays["observations"]) == 5


def test_bounds_come_from_the_data_or_from_the_caller(tmp_path):
    actions = np.array([[0.5, -3], [0.1, 2], [0.2, 7.0]])
    save_episode(tmp_path / "a.npz", 3, observations=np.zeros((4, 3)), actions=actions)
    result, _ = served(tmp_path / "a.npz", "npz", tmp_path / "w1")
    assert result["spec"]["action"]["low"] == [-1, -3]
    assert result["spec"]["action"]["high"] == [1, 7]
    result, _ = served(tmp_path / "a.npz", "npz", tmp_path / "w2", bounds=[[-9], [9]])
    assert result["spec"]["action"]["high"] == [9, 9]
    assert result["bounds_from"] == "given at import"
    with pytest.raises(
        UsageError, match=r"actions, episode 0, step 2, column 1 is 7, outside the bounds \[-5, 5\]"
    ):
        import_dataset(tmp_path / "a.npz", tmp_path / "out", name="x", bounds=([-5], [5]))
    assert not (tmp_path / "out").exists()


def test_discrete_actions_are_recognised(tmp_path):
    save_episode(tmp_path / "a.npz", 3, observations=np.zeros((4, 3)), actions=np.array([0, 2, 1], np.int32))
    result, _ = served(tmp_path / "a.npz", "npz", tmp_path / "w1")
    assert result["spec"]["action"]["n"] == 3
    result, _ = served(tmp_path / "a.npz", "npz", tmp_path / "w2", n_actions=6)
    assert result["spec"]["action"]["n"] == 6


def test_d4rl_episodes_end_at_flags_and_the_tail_counts(tmp_path):
    following = np.arange(30, dtype=np.float32).reshape(10, 3)
    arrays = save_d4rl(tmp_path / "a.hdf5", next_observations=following)
    with h5py.File(tmp_path / "a.hdf5", "a") as file:
        file["infos/qpos"] = np.zeros(10)
    dataset = import_dataset(tmp_path / "a.hdf5", tmp_path / "out", name="d4rl")
    assert dataset.lengths.tolist() == [4, 4, 2]
    np.testing.assert_array_equal(dataset.trajectory(1).observations[:-1], arrays["observations"][4:8])
    np.testing.assert_array_equal(dataset.trajectory(1).observations[-1], following[7])
    assert np.flatnonzero(dataset.array("terminated")).tolist() == [3]
    assert np.flatnonzero(dataset.array("truncated")).tolist() == [7, 9]


def test_d4rl_without_timeouts_or_next_observations(tmp_path):
    save_d4rl(tmp_path / "a.hdf5", timeouts=None)
    result, _ = served(tmp_path / "a.hdf5", "d4rl_hdf5", tmp_path / "work")
    assert result["episode_lengths"] == [3, 5]
    assert len(result["notes"]) == 2


def test_data_changed_after_our_export_are_named(tmp_path):
    export_dataset(written(tmp_path / "set"), tmp_path / "a.hdf5", "d4rl_hdf5")
    with h5py.File(tmp_path / "a.hdf5", "a") as file:
        file["rewards"][0] += 1
    sentence = refused(tmp_path / "a.hdf5", "d4rl_hdf5", tmp_path / "work")
    assert "differ from the digest they were exported with" in sentence
    assert "take out perdure_digest" in sentence
    with h5py.File(tmp_path / "a.hdf5", "a") as file:
        del file.attrs["perdure_digest"]
    served(tmp_path / "a.hdf5", "d4rl_hdf5", tmp_path / "again")


def test_recognise_and_unknown_formats(tmp_path):
    written(tmp_path / "set")
    (tmp_path / "text").write_text("hello")
    (tmp_path / "empty").mkdir()
    for path, pattern in (
        ("set", "perdure dataset already"),
        ("text", "no known format"),
        ("empty", "no known format"),
    ):
        with pytest.raises(UsageError, match=pattern):
            recognise(tmp_path / path)
    with pytest.raises(UsageError, match="does not exist"):
        recognise(tmp_path / "none")
    with pytest.raises(UsageError, match="did you mean 'minari'"):
        import_dataset(tmp_path / "text", tmp_path / "out", name="x", format="minary")
    with pytest.raises(UsageError, match="dataset name is"):
        import_dataset(tmp_path / "text", tmp_path / "out", name="../x")
