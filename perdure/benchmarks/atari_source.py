"""Atari games as sources of data: scripted players that read the console's memory. Imports no torch.

Where things are in memory: OCAtari (Delfosse et al. 2024, arXiv 2306.08649). The players are the project's own;
docs/benchmarks/atari.md has what they reach beside random play and people.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from perdure.benchmarks import atari_env, frozen
from perdure.benchmarks.atari_env import AtariEnv, AtariFactory
from perdure.benchmarks.numbered import goals_of_data
from perdure.core.spec import Spec
from perdure.data.roll import Expert, Level

LADDER = tuple(Level(noise) for noise in (0.0, 0.05, 0.15, 0.3, 0.6))
"""Share of random actions; the same in every game."""

EPISODES = 1000
"""Most that data are made of."""

REFERENCES: dict[str, tuple[float, float]] = {
    "breakout": (1.7, 30.5),
    "alien": (227.8, 7127.7),
    "atlantis": (12850.0, 29028.1),
    "boxing": (0.1, 12.1),
    "centipede": (2090.9, 12017.0),
}
"""Game -> points of random play and of a person in whole games (Wang et al. 2016, arXiv 1511.06581, table 2)."""

PLAYERS_FILE = frozen.FOLDER / "atari_v5_players.json"

TWICE, SHARE = 2.0, 0.05
"""A player is weak below so many times random play in whole games, or so much of the way from random play to a person."""


@dataclass(frozen=True)
class AtariSource:
    """The scripted player of one game, recorded as single frames and with the actions that differ in the game."""

    game: str
    horizon: int = 1000

    @property
    def task(self) -> str:
        return self.game

    @property
    def name(self) -> str:
        return f"atari-{self.game}-v5"

    @property
    def factory(self) -> AtariFactory:
        return AtariFactory(self.game, self.horizon, "minimal", frames=1)

    @property
    def spec(self) -> Spec:
        return AtariFactory(self.game, self.horizon, "minimal").spec

    @property
    def licence(self) -> str:
        return "unknown"

    @property
    def origin(self) -> str:
        random, person = REFERENCES[self.game]
        return (f"ALE/{self.game.capitalize()}-v5, sticky actions {atari_env.STICKY} (Bellemare et al. 2013, JAIR 47); in whole"
                f" games random play makes {random:g} points, a person {person:g}{'; a weak player' if weak(self.game) else ''}")

    def environment(self) -> AtariEnv:
        return self.factory()

    def expert(self, env: Any) -> Expert:
        names, playing = self.factory.names, PLAYERS[self.game]()

        def act(obs: np.ndarray) -> int:
            nonlocal playing
            if env.steps == 0:
                playing = PLAYERS[self.game](env.episode)
            return names.index(playing.act(env.memory().astype(int)))

        return act

    def goals(self) -> Sequence[tuple[float, ...]]:
        return goals_of_data(EPISODES)

    def ladder(self) -> tuple[Level, ...]:
        return LADDER

    def versions(self) -> dict[str, str]:
        return atari_env.versions()


def measured(game: str) -> dict[str, float]:
    """Mean points of `random` play and of the `player` in 20 whole games of at most 5,000 decisions
    (`tools/measure_players.py`)."""
    return frozen.tasks_of(PLAYERS_FILE)[game]


def weak(game: str) -> bool:
    """Whether the player is so weak that the data's card must say so."""
    points, (random, person) = measured(game), REFERENCES[game]
    return points["player"] < max(TWICE * points["random"], random + SHARE * (person - random))


def action(x: float, y: float, fire: bool = False) -> str:
    """Name of the action that goes towards (x, y), y downwards, by their signs."""
    word = ("UP" if y < 0 else "DOWN" if y > 0 else "") + ("LEFT" if x < 0 else "RIGHT" if x > 0 else "")
    return (word + ("FIRE" if fire else "")) or "NOOP"


class Player:
    """Chooses actions from the memory (128,) of one episode."""

    def __init__(self, episode: int = 0):
        self.rng = np.random.default_rng(episode)

    def act(self, memory: np.ndarray) -> str:
        raise NotImplementedError


class Breakout(Player):
    """Keeps the paddle under where the ball will be."""

    before: int | None = None

    def act(self, memory: np.ndarray) -> str:
        ball, height, paddle = memory[99] - 49, memory[101], memory[72] - 39
        if height == 0:  # no ball in play
            self.before = None
            return "FIRE"
        drift = 0 if self.before is None else ball - self.before
        self.before = ball
        gap = ball + 0.5 * drift - paddle
        return "RIGHT" if gap > 3 else "LEFT" if gap < -3 else "NOOP"


class Alien(Player):
    """Runs to where eggs are, away from aliens, and uses the flame on those in its corridor."""

    MOVES = {"UP": (0, -1), "DOWN": (0, 1), "LEFT": (-1, 0), "RIGHT": (1, 0)}
    COLUMNS = ((26, 56, 34, 64, 42, 72), (89, 118, 97, 126, 105, 134))
    """Places of the eggs of one row, of the left and the right half of the maze."""
    FEAR, RADIUS, MOMENTUM = 4.0, 50, 0.1

    def __init__(self, episode: int = 0):
        super().__init__(episode)
        self.way, self.place = "", (0, 0)

    def act(self, memory: np.ndarray) -> str:
        if memory[0] != 0:  # the crossing between two mazes
            return "UP"
        x, y = memory[52] + 18, 197 - 2 * memory[45]
        aliens = [(memory[49 + i] + 17 - x, 196 - 2 * memory[42 + i] - y) for i in range(3) if memory[42 + i] and memory[49 + i]]
        eggs = [(column - x, 19 + 12 * row + 2 * (bit // 2) - y)
                for half, columns in enumerate(self.COLUMNS) for row in range(13) for bit, column in enumerate(columns)
                if memory[65 + 13 * half + row] & (4 << bit)]
        stuck, self.place = self.place == (x, y), (x, y)
        values = {way: self._value(way, aliens, eggs, stuck) for way in self.MOVES}
        self.way = max(values, key=lambda way: values[way])
        return self.way + ("FIRE" if any(abs(dx) < 40 and abs(dy) < 8 for dx, dy in aliens) else "")

    def _value(self, way: str, aliens: list[tuple[int, int]], eggs: list[tuple[int, int]], stuck: bool) -> float:
        right, down = self.MOVES[way]
        value = (0.02 + 0.5 * stuck) * self.rng.gumbel()
        if way == self.way:
            value += -5.0 if stuck else self.MOMENTUM
        for dx, dy in aliens:
            near = self.RADIUS - abs(dx) - abs(dy)
            if near > 0:
                towards = right * np.sign(dx) * (abs(dx) > 3) + down * np.sign(dy) * (abs(dy) > 3)
                value -= self.FEAR * towards * near / self.RADIUS
        for dx, dy in eggs:
            along, aside = dx * right + dy * down, abs(dx * down) + abs(dy * right)
            if along > 0:
                value += 1 / (4 + along + 2 * aside)
        return value


class Atlantis(Player):
    """Fires the outer guns in turn; a gun fires again only after its button was released."""

    TURNS = ("RIGHTFIRE", "NOOP", "LEFTFIRE", "NOOP")

    def __init__(self, episode: int = 0):
        super().__init__(episode)
        self.turn = 0

    def act(self, memory: np.ndarray) -> str:
        self.turn += 1
        return self.TURNS[self.turn % len(self.TURNS)]


class Boxing(Player):
    """Comes within an arm's length, a little above or below, and punches every other time."""

    REACH, ASIDE = 26, 12

    def __init__(self, episode: int = 0):
        super().__init__(episode)
        self.punched = False

    def act(self, memory: np.ndarray) -> str:
        x, y = memory[33] - memory[32], memory[35] - memory[34]
        along = x if abs(x) > self.REACH else 0
        aside = y + (self.ASIDE if y >= 0 else -self.ASIDE)
        self.punched = not self.punched and abs(x) < self.REACH + 6 and abs(y) < 30
        return action(along, aside if abs(aside) > 3 else 0, self.punched)


class Centipede(Player):
    """Stands under the lowest part of the centipede, fires all the time, and steps aside from a spider or a flea that is near."""

    NEAR, LOW = 16, 4
    NONE = 255

    def act(self, memory: np.ndarray) -> str:
        x = memory[111]
        parts = [(memory[91 + i] % 32, abs(memory[100 + i] - x), memory[100 + i] - x) for i in range(9)]
        gap = min(parts)[2]
        way = gap if abs(gap) > 3 else 0
        for row, place in ((memory[124], memory[123]), (memory[120], memory[119])):
            if row != self.NONE and row % 32 <= self.LOW and abs(place - x) < self.NEAR:
                way = (x - place) or 1
        return action(way, 0, fire=True)


PLAYERS: dict[str, Callable[..., Player]] = {
    "breakout": Breakout, "alien": Alien, "atlantis": Atlantis, "boxing": Boxing, "centipede": Centipede,
}  # fmt: skip
"""Game -> its scripted player; called with the number of the episode."""
