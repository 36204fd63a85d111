"""Minari datasets (format 0.5), both ways, through Minari's storage interface.

Minari builds an environment from its metadata where the spaces are missing, which imports and calls whatever
the metadata name; such datasets are refused. Nothing is downloaded: give the folder of a local dataset.
"""

import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np

from perdure.core.errors import UsageError
from perdure.core.files import read_json
from perdure.core.spec import Box, Discrete, Spec
from perdure.data.convert.d4rl_hdf5 import DIGEST, charge, check_array, check_link, import_h5py
from perdure.data.convert.episodes import Budget, RawEpisode, Source, data_bounds
from perdure.data.store import Dataset

MOST_EPISODES = 1_000_000
MAIN_FILE = "main_data.hdf5"


def downloaded(name: str) -> Path:
    """Folder of the dataset that `minari download` brought under `name`, such as "mujoco/hopper/medium-v0".

    Raises:
        UsageError: it is not there.
    """
    folder = Path(os.environ.get("MINARI_DATASETS_PATH") or "~/.minari/datasets").expanduser() / name
    if not (folder / "data" / "metadata.json").is_file():
        raise UsageError(f"{folder} holds no Minari dataset; get it with: minari download {name}")
    return folder


def import_minari() -> Any:
    try:
        import minari
        from minari.data_collector import EpisodeBuffer
        from minari.dataset.minari_storage import MinariStorage
    except ImportError:
        raise UsageError("Minari is not installed: pip install 'perdure[minari]'") from None
    return minari, EpisodeBuffer, MinariStorage


def read(path: Path, budget: Budget) -> Source:
    """Every episode of a local Minari dataset: its folder, or the `data` folder in it."""
    folder = path / "data" if (path / "data" / "metadata.json").exists() else path
    _, _, storage_class = import_minari()
    metadata = read_json(folder / "metadata.json")
    place = str(folder)
    if not isinstance(metadata, dict):
        raise UsageError(f"{place}/metadata.json holds no table of fields; restore it from a copy")
    spaces = {name: serialized_space(metadata.get(name), f"{place}/metadata.json, {name}") for name in SPACES}
    if metadata.get("data_format") == "hdf5":
        _check_hdf5(folder / MAIN_FILE, budget)
    else:
        budget.take(sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()), place)
    storage = storage_class.read(folder)
    total = int(storage.total_episodes)
    if not 1 <= total <= MOST_EPISODES:
        raise UsageError(f"{place}/metadata.json: total_episodes is {total}; it must be 1 to {MOST_EPISODES}")
    start = spaces["action_space"].get("start", 0) if spaces["action_space"]["type"] == "Discrete" else 0
    episodes = [
        RawEpisode(
            place=f"{place}, episode {number}",
            observations=np.asarray(item["observations"]),
            actions=np.asarray(item["actions"]) - start if start else np.asarray(item["actions"]),
            rewards=np.asarray(item["rewards"]),
            terminals=np.asarray(item["terminations"]),
            timeouts=np.asarray(item["truncations"]),
        )
        for number, item in enumerate(storage.get_episodes(range(total)))
    ]
    if len(episodes) != total:
        raise UsageError(
            f"{place} has {len(episodes)} episodes and its metadata say {total}; restore it from a copy"
        )
    for episode, facts in zip(episodes, storage.get_episode_metadata(range(total)), strict=True):
        seed = facts.get("seed")
        episode.seed = int(seed) if isinstance(seed, (int, np.integer)) else None
    spec, bounds_from = _spec(spaces, episodes)
    notes = [f"actions were counted from {start}; they are counted from 0 here"] if start else []
    claimed = metadata.get(DIGEST)
    digest = claimed if isinstance(claimed, str) else None
    return Source(episodes, spec=spec, bounds_from=bounds_from, notes=notes, claimed_digest=digest)


SPACES = ("observation_space", "action_space")


def serialized_space(text: Any, place: str) -> dict[str, Any]:
    """A serialized Box or Discrete space."""
    if not isinstance(text, str):
        raise UsageError(
            f"{place} is missing; without it Minari would run the environment that the file names"
        )
    try:
        space = json.loads(text)
    except (ValueError, RecursionError):
        raise UsageError(f"{place} is not valid JSON; restore it from a copy") from None
    kind = space.get("type") if isinstance(space, dict) else None
    if kind not in ("Box", "Discrete"):
        raise UsageError(f"{place} is of type {ascii(kind)[:40]}; only Box and Discrete spaces are read")
    return space


def _check_hdf5(path: Path, budget: Budget) -> None:
    """Refuse links and outside storage anywhere in the file, and count what the arrays declare."""
    h5py = import_h5py()
    with h5py.File(path, "r") as file:
        groups = [(file, str(path))]
        while groups:
            group, place = groups.pop()
            for name in group:
                check_link(h5py, group, name, place)
                child, inner = group[name], f"{place}, {name}"
                if isinstance(child, h5py.Group):
                    groups.append((child, inner))
                else:
                    check_array(child, inner, allow_variable=True)  # texts in infos, JPEG frames
                    charge(child, inner, budget)


def _spec(spaces: dict[str, dict[str, Any]], episodes: list[RawEpisode]) -> tuple[Spec, str]:
    """Spec from the serialized spaces; bounds that are infinite are taken from the data instead."""
    observation, action = spaces["observation_space"], spaces["action_space"]
    if observation["type"] != "Box":
        raise UsageError("observation_space is Discrete; observations are float vectors or uint8 images")
    image = observation.get("dtype") == "uint8"
    shape = tuple(observation["shape"])
    low, high = (np.ravel(observation[side]).astype(float) for side in ("low", "high"))
    bounded = not image and np.isfinite(low).all() and np.isfinite(high).all() and (low < high).all()
    limits: dict[str, Any] = {"low": tuple(low.tolist()), "high": tuple(high.tolist())} if bounded else {}
    obs = Box(shape, "uint8" if image else "float32", **limits)
    if action["type"] == "Discrete":
        return Spec(obs, Discrete(action["n"])), "number of actions from the Minari action space"
    low, high = (np.ravel(action[side]).astype(float) for side in ("low", "high"))
    if np.isfinite(low).all() and np.isfinite(high).all() and math.prod(action["shape"]) == len(low):
        bounds, origin = (tuple(low.tolist()), tuple(high.tolist())), "from the Minari action space"
    else:
        bounds = data_bounds(np.concatenate([episode.actions for episode in episodes]))
        origin = "taken from the data, as the Minari action space is unbounded"
    return Spec(obs, Box(tuple(action["shape"]), low=bounds[0], high=bounds[1])), origin


def write(dataset: Dataset, path: Path) -> None:
    """A local Minari dataset in the folder `path`; Minari finds it by name inside its root folder."""
    minari, buffer_class, storage_class = import_minari()
    from gymnasium import spaces

    spec = dataset.spec
    if spec.obs.dtype == "uint8":
        observation_space: Any = spaces.Box(0, 255, spec.obs.stored.shape, np.uint8)
    else:
        low, high = (
            _side(values, spec.obs.shape, fill)
            for values, fill in ((spec.obs.low, -np.inf), (spec.obs.high, np.inf))
        )
        observation_space = spaces.Box(low, high, dtype=np.float32)
    if isinstance(spec.action, Box):
        sides = [np.asarray(values, np.float32) for values in (spec.action.low, spec.action.high)]
        action_space: Any = spaces.Box(sides[0], sides[1], dtype=np.float32)
    else:
        action_space = spaces.Discrete(spec.action.n)
    path.mkdir()
    storage = storage_class.new(
        path / "data",
        observation_space=observation_space,
        action_space=action_space,
        data_format="hdf5",
        jpeg_encoding=False,  # JPEG would change the pixels
    )
    card = dataset.card
    storage.update_metadata(
        {
            "dataset_id": f"{path.name}" if "-v" in path.name else f"{path.name}-v0",
            "minari_version": minari.__version__,
            DIGEST: dataset.digest,
            "algorithm_name": str(card["behaviour"]["policy"]),
            "description": f"{dataset.name}, {card['quality']}; {card['source']}; licence {card['licence']}",
        }
    )
    buffers = []
    for e in range(len(dataset)):
        item = dataset.trajectory(e)
        buffers.append(
            buffer_class(
                id=e,
                seed=item.seed,
                observations=item.observations,
                actions=item.actions,
                rewards=item.rewards,
                terminations=item.terminated,
                truncations=item.truncated,
            )
        )
    storage.update_episodes(buffers)


def _side(values: tuple[float, ...] | None, shape: tuple[int, ...], fill: float) -> np.ndarray:
    if values is None:
        return np.full(shape, fill, np.float32)
    return np.asarray(values, np.float32).reshape(shape)
