"""Minari's Atari episodes (`atari/<game>/expert-v0`): screens in colour, made into the frames that an agent sees.

Screens of whole games take gigabytes, so they are read a few at a time and only up to the horizon. The frames are those of
TSN-Affinity's code (arXiv 2604.25898): luma, 84 x 84, bilinear, every fourth screen as it is.
"""

import hashlib
import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from perdure.core.errors import UsageError
from perdure.core.files import read_json
from perdure.core.spec import Box, Discrete, Spec
from perdure.data.convert import read_beside
from perdure.data.convert.cage import Limits
from perdure.data.convert.d4rl_hdf5 import check_array, check_link, import_h5py
from perdure.data.convert.episodes import Budget, RawEpisode, Source
from perdure.data.convert.minari import MAIN_FILE, SPACES, import_minari, serialized_space
from perdure.data.store import Dataset, write_dataset

SIZE = 84
"""Pixels along each side of a frame."""

AT_ONCE = 256
"""Screens in memory."""

ARRAYS = ("observations", "actions", "rewards", "terminations", "truncations")


def grey(screen: np.ndarray) -> np.ndarray:
    """(H, W, 3) or (H, W) uint8 -> (84, 84) uint8."""
    from PIL import Image

    return np.asarray(Image.fromarray(screen).convert("L").resize((SIZE, SIZE), Image.Resampling.BILINEAR))


# -- in the child -----------------------------------------------------------------------------------------------


def read(path: Path, budget: Budget, game: str, names: list[str], episodes: int, horizon: int) -> Source:
    """The first `episodes` episodes of a dataset's `data` folder, each cut at `horizon` decisions; `names` of its actions."""
    place = str(path)
    metadata = read_json(path / "metadata.json")
    if not isinstance(metadata, dict):
        raise UsageError(f"{place}/metadata.json holds no table of fields; restore it from a copy")
    screen, action = (serialized_space(metadata.get(name), f"{place}/metadata.json, {name}") for name in SPACES)
    if screen["type"] != "Box" or screen.get("dtype") != "uint8" or len(screen["shape"]) not in (2, 3):
        raise UsageError(f"{place}/metadata.json: observation_space is {ascii(screen)[:80]}; screens are uint8 images")
    if action["type"] != "Discrete" or action["n"] != len(names):
        raise UsageError(f"{place}/metadata.json: action_space is {ascii(action)[:80]}; {game} has {len(names)} actions")
    reader = _from_hdf5 if metadata.get("data_format") == "hdf5" else _from_storage
    found = list(reader(path, episodes, horizon, budget))
    if not found:
        raise UsageError(f"{place} has no episode; download it again")
    frames = Box((1, SIZE, SIZE), "uint8", stack=1)
    return Source(found, spec=Spec(frames, Discrete(len(names), tuple(names))), bounds_from="the game's own actions")


def _from_hdf5(path: Path, episodes: int, horizon: int, budget: Budget) -> Iterator[RawEpisode]:
    h5py = import_h5py()
    with h5py.File(path / MAIN_FILE, "r") as file:
        for number in range(min(episodes, len(file))):
            place, name = f"{path}, episode {number}", f"episode_{number}"
            if name not in file:
                raise UsageError(f"{place} is missing; download it again")
            check_link(h5py, file, name, str(path))
            group = file[name]
            for array in ARRAYS:
                if array not in group or not isinstance(group[array], h5py.Dataset):
                    raise UsageError(f"{place} has no array '{array}'; download it again")
                check_link(h5py, group, array, place)
                check_array(group[array], f"{place}, {array}", allow_variable=array == "observations")
            steps = min(horizon, len(group["actions"]))
            budget.take((steps + 1) * SIZE * SIZE, place)
            screens = group["observations"]
            parts = (screens[i : min(i + AT_ONCE, steps + 1)] for i in range(0, steps + 1, AT_ONCE))
            rest = {array: group[array][:steps] for array in ARRAYS[1:]}
            yield _episode(place, (_screen(value, place) for part in parts for value in part), len(group["actions"]), rest)


def _from_storage(path: Path, episodes: int, horizon: int, budget: Budget) -> Iterator[RawEpisode]:
    """Through Minari, which reads an episode whole."""
    _, _, storage_class = import_minari()
    budget.take(sum(file.stat().st_size for file in path.rglob("*") if file.is_file()), str(path))
    storage = storage_class.read(path)
    for number in range(min(episodes, int(storage.total_episodes))):
        (item,) = storage.get_episodes([number])
        whole = len(item["actions"])
        steps = min(horizon, whole)
        budget.take((steps + 1) * SIZE * SIZE, str(path))
        rest = {array: np.asarray(item[array])[:steps] for array in ARRAYS[1:]}
        yield _episode(f"{path}, episode {number}", iter(np.asarray(item["observations"])[: steps + 1]), whole, rest)


def _screen(value: np.ndarray, place: str) -> np.ndarray:
    """A screen as stored: an array, or the bytes of a JPEG."""
    from PIL import Image

    if value.ndim > 1:
        return value
    with Image.open(io.BytesIO(value.tobytes()), formats=("JPEG",)) as image:
        if image.width * image.height > 2**20:
            raise UsageError(f"{place}: a screen has {image.width} x {image.height} pixels; an Atari screen has 160 x 210")
        return np.asarray(image)


def _episode(place: str, screens: Iterator[np.ndarray], whole: int, rest: dict[str, np.ndarray]) -> RawEpisode:
    """One episode of frames; `whole` is its length before it was cut."""
    frames = np.stack([grey(screen) for screen in screens])[:, None]
    terminals, timeouts = (np.asarray(rest[name]).astype(bool) for name in ("terminations", "truncations"))
    if len(timeouts) and len(timeouts) < whole:
        timeouts[-1] = True
    return RawEpisode(place, frames, rest["actions"].astype(np.int64), rest["rewards"], terminals, timeouts)


# -- in the parent ----------------------------------------------------------------------------------------------


def convert(
    folder: Path, out: Path, *, game: str, names: tuple[str, ...], episodes: int, horizon: int, origin: str,
    limits: Limits | None = None, say: Callable[[str], None] = lambda text: None,
) -> Dataset:
    """Read a game in a limited child process and write its frames as a new dataset folder.

    Args:
        folder: Minari's dataset of the game; never changed, and nothing in it is executed.
        out: dataset folder to make, whole or not at all.
        names: of the game's actions, in the order of their numbers.
        episodes: at most so many.
        horizon: decisions after which an episode is cut.
        origin: what the card says of the source.
        limits: memory and time of the child process.
        say: told what is being done.

    Raises:
        UsageError: one sentence that names file and field.
    """
    folder = folder / "data"
    say(f"converting Minari's episodes of {game} from {folder} into {out}")
    reader: dict[str, Any] = {"game": game, "names": list(names), "episodes": episodes, "horizon": horizon}
    allowed, options = limits or Limits(memory_mb=16384, seconds=3600), {"bounds": None, "n_actions": None}
    with read_beside("minari_atari", folder, out, options, allowed, reader) as (found, result):
        metadata = hashlib.sha256((folder / "metadata.json").read_bytes()).hexdigest()
        return write_dataset(
            out, found, name=f"atari-{game}-v5-minari",
            spec=Spec(Box((4, SIZE, SIZE), "uint8", stack=4), result.spec.action), quality="minari",
            behaviour={"policy": "expert of Minari's atari datasets", "horizon": horizon, "metadata": f"sha256:{metadata}"},
            licence="unknown", source=origin,
        )  # fmt: skip
