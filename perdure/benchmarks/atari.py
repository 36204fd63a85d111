"""Five Atari games from pixels: Breakout, Alien, Atlantis, Boxing, Centipede.

The games and the order of TSN-Affinity (arXiv 2604.25898), here recorded with scripted players that read the console's memory;
docs/benchmarks/atari.md says what can be compared. Imports no torch and no emulator.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from perdure.benchmarks.atari_env import ACTIONS, MINIMAL, ActionsName, AtariFactory
from perdure.benchmarks.atari_source import EPISODES, REFERENCES, AtariSource
from perdure.benchmarks.numbered import goals
from perdure.benchmarks.recorded import recorded
from perdure.core.errors import UsageError
from perdure.core.task import ScoreScale, Stream, Task, TaskOutline
from perdure.data.convert import minari_atari
from perdure.data.convert.minari import downloaded
from perdure.data.names import dataset_folder
from perdure.data.store import Dataset

ORDERS = {"atari5-v5": tuple(MINIMAL)}
"""Stream name -> order of the games: that of TSN-Affinity."""

TEXTS = {
    "breakout": "Hit the ball with the paddle so that it breaks the bricks of the wall.",
    "alien": "Collect the eggs in the maze and keep away from the aliens.",
    "atlantis": "Shoot the ships that fly over the city before they destroy it.",
    "boxing": "Hit the other boxer and do not get hit.",
    "centipede": "Shoot the centipede that comes down through the mushrooms.",
}
"""One sentence per game, in the project's own words; for agents that read text."""

CITATION = (
    "Bellemare, Naddaf, Veness, Bowling: The Arcade Learning Environment. JAIR 47, 2013. Machado et al.: Revisiting the Arcade "
    "Learning Environment. JAIR 61, 2018. TSN-Affinity, arXiv 2604.25898 (games and order)."
)

SETTINGS: dict[tuple[str, str, str], dict[str, object]] = {
    ("*", "dt", "cpu"): {"batch": 16},
    ("*", "bc", "cpu"): {"batch": 64},
}
"""(method or *, policy, profile) -> recipe; smaller batches, as an observation is an image."""

POLICY: dict[tuple[str, str], dict[str, object]] = {("dt", "cpu"): {"context": 8}}
"""(policy, profile) -> sizes."""


@dataclass(frozen=True)
class Options:
    """Of the Atari stream."""

    quality: Literal["expert", "mixed", "suboptimal", "minari"] = "expert"
    """Behaviour of the data: scripted players, or the experts of Minari's atari/<game>/expert-v0, once
    `minari download` has brought them."""
    episodes: int = 20
    """Per game; Minari has 10."""
    horizon: int = 1000
    """Decisions, each of four frames, after which an episode is cut, in data and evaluation."""
    actions: ActionsName = "full"
    """full: all 18, so that an action means the same in every game; minimal: those that differ in the game, as published."""

    def __post_init__(self) -> None:
        if not 2 <= self.episodes <= EPISODES:
            raise UsageError(f"stream.episodes is {self.episodes}; give 2 to {EPISODES}")
        if not 1 <= self.horizon <= 27_000:
            raise UsageError(f"stream.horizon is {self.horizon}; give 1 to 27000 decisions, which is half an hour of play")

    def factory(self, game: str) -> AtariFactory:
        """The environment, with frames as in the data."""
        return AtariFactory(game, self.horizon, self.actions, pixels="published" if self.quality == "minari" else "gymnasium")


def dataset_name(game: str, options: Options) -> str:
    """Of a recording, below the data folder."""
    return f"atari-v5/{game}/{options.quality}-{options.episodes}x{options.horizon}"


def outline(name: str, options: Options) -> list[TaskOutline]:
    """The tasks of the stream, without opening its data."""
    return [
        TaskOutline(game, options.quality, dataset_folder(dataset_name(game, options)), options.factory(game), goals().probe[0],
                    options.episodes * options.horizon, options.episodes,
                    None if options.quality == "minari" else AtariSource(game, options.horizon))
        for game in ORDERS[name]
    ]  # fmt: skip


def stream(name: str, options: Options, say: Callable[[str], None]) -> Stream:
    """The Atari stream with its data, collected or converted first where they are not there yet.

    Raises:
        UsageError: a folder holds other data, or there is nothing to convert.
    """
    made = []
    every = converted(name, options, say) if options.quality == "minari" else recorded(outline(name, options), say)
    for index, (game, data) in enumerate(zip(ORDERS[name], every, strict=True)):
        factory = options.factory(game)
        made.append(Task(
            index=index, name=game, spec=factory.spec, data=renumbered(data, factory), text=TEXTS[game], env=factory,
            goals=goals(), score=scale(game),
        ))  # fmt: skip
    words = [] if options.actions == "full" else ["minimal actions"]
    words += [] if options.horizon == 1000 else [f"{options.horizon} decisions"]
    words += ["published frames"] if options.quality == "minari" else []
    return Stream(name, tuple(made), citation=CITATION, variant=", ".join(words))


def converted(name: str, options: Options, say: Callable[[str], None]) -> list[Dataset]:
    """The dataset of every game, from Minari's."""
    folders = {game: dataset_folder(dataset_name(game, options)) for game in ORDERS[name]}
    absent = [game for game, folder in folders.items() if not (folder / "card.json").exists()]
    known = {game: f"atari/{game}/expert-v0" for game in absent}
    downloads = {game: downloaded(known[game]) for game in absent}  # all of them are there before the first is converted
    for game, folder in downloads.items():
        minari_atari.convert(folder, folders[game], game=game, names=MINIMAL[game], episodes=options.episodes,
                             horizon=options.horizon, origin=f"Minari's {known[game]}", say=say)
    return [Dataset.open(folder) for folder in folders.values()]


def scale(game: str) -> ScoreScale:
    """0 is random play, 1 a person."""
    low, high = REFERENCES[game]
    return ScoreScale("return", low, high, "random and human play, Wang et al. 2016")


def renumbered(data: Dataset, factory: AtariFactory) -> Dataset:
    """A recording with the actions numbered as in the environment; the frames stay the memory-mapped ones."""
    if factory.spec.action == data.spec.action:
        return data
    number = np.array([ACTIONS.index(name) for name in MINIMAL[factory.game]], np.int64)
    arrays = {name: data.array(name) for name in ("observations", "rewards", "terminated", "truncated")}
    return Dataset(data.folder, data.card, factory.spec, {**arrays, "actions": number[data.array("actions")]})
