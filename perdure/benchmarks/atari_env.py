"""Atari games of the Arcade Learning Environment as Gymnasium environments whose episodes are named by a number.

Sticky actions (each frame repeats the last action with probability 0.25, Machado et al. 2018, JAIR 61) make episodes differ;
the number seeds them, so equal numbers and actions give byte-identical episodes. Frames are made by Gymnasium's
`AtariPreprocessing` (every fourth frame, the maximum of the last two, 84 x 84 grey) or as TSN-Affinity's code makes them.

ALE: Bellemare et al. 2013, JAIR 47; ale-py is under GPL-2.0 and stays an extra. Imports no torch; ale-py only when used.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any, Literal, get_args

import gymnasium
import numpy as np

from perdure.benchmarks.installed import versions_of
from perdure.benchmarks.numbered import episode_of
from perdure.core.errors import UsageError, nearest
from perdure.core.spec import Box, Discrete, Spec
from perdure.data.convert.minari_atari import SIZE, grey

FRAMES = 4
"""Frames in an observation (Mnih et al. 2015, Nature 518)."""

SKIP = 4
"""Frames of the emulator per decision."""

STICKY = 0.25
"""Probability that a frame repeats the last action."""

ACTIONS = (
    "NOOP", "FIRE", "UP", "RIGHT", "LEFT", "DOWN", "UPRIGHT", "UPLEFT", "DOWNRIGHT", "DOWNLEFT", "UPFIRE", "RIGHTFIRE",
    "LEFTFIRE", "DOWNFIRE", "UPRIGHTFIRE", "UPLEFTFIRE", "DOWNRIGHTFIRE", "DOWNLEFTFIRE",
)  # fmt: skip
"""What a joystick can do, in ALE's order."""

MINIMAL: dict[str, tuple[str, ...]] = {
    "breakout": ("NOOP", "FIRE", "RIGHT", "LEFT"),
    "alien": ACTIONS,
    "atlantis": ("NOOP", "FIRE", "RIGHTFIRE", "LEFTFIRE"),
    "boxing": ACTIONS,
    "centipede": ACTIONS,
}
"""Game -> the actions that differ in it, in ALE's order."""

ActionsName = Literal["full", "minimal"]

Pixels = Literal["gymnasium", "published"]


@dataclass(frozen=True)
class AtariFactory:
    """One game, such as "breakout"."""

    game: str
    horizon: int = 1000
    """Decisions after which an episode is cut."""
    actions: ActionsName = "full"
    """full: all 18, so that an action means the same in every game; minimal: those that differ in this game."""
    frames: int = FRAMES
    """Frames in an observation."""
    pixels: Pixels = "gymnasium"
    """gymnasium: the maximum of the last two screens, area-averaged; published: the last screen, luma, bilinear, as
    TSN-Affinity's code makes frames of Minari's data."""

    def __post_init__(self) -> None:
        if self.game not in MINIMAL:
            known = ", ".join(MINIMAL)
            raise UsageError(f"there is no Atari game '{self.game}' here{nearest(self.game, MINIMAL)}; known: {known}")
        if self.actions not in get_args(ActionsName):
            raise UsageError(f"actions is '{self.actions}'; use one of {', '.join(get_args(ActionsName))}")
        if type(self.horizon) is not int or self.horizon < 1 or type(self.frames) is not int or self.frames < 1:
            raise UsageError(f"horizon is {self.horizon!r} and frames {self.frames!r}; give whole numbers of at least 1")

    @property
    def names(self) -> tuple[str, ...]:
        """Of the actions, in the order of their numbers."""
        return ACTIONS if self.actions == "full" else MINIMAL[self.game]

    @property
    def spec(self) -> Spec:
        obs = Box((self.frames, SIZE, SIZE), "uint8", stack=self.frames)
        return Spec(obs, Discrete(len(self.names), self.names))

    def __call__(self) -> AtariEnv:
        return AtariEnv(self)


class AtariEnv(gymnasium.Env):
    """One game to its end or the horizon; rewards are points, as they are."""

    def __init__(self, factory: AtariFactory):
        self.factory = factory
        shape = factory.spec.obs.shape
        self.observation_space = gymnasium.spaces.Box(0, 255, shape, np.uint8)
        self.action_space = gymnasium.spaces.Discrete(len(factory.names))
        self._env = emulator(factory.game, factory.actions, factory.pixels)
        self._console: Any = vars(self._env.unwrapped)["ale"]
        self._frames: deque[np.ndarray] = deque(maxlen=factory.frames)
        self.steps = 0
        """Decisions since the episode began."""
        self.episode = 0
        """The number that names the episode."""

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start the episode that `options["goal"]`, one whole number, names; without one, that of `seed`.

        Raises:
            UsageError: the goal is something else.
        """
        super().reset(seed=seed)
        self.episode = episode_of(self, seed, options, "an Atari")
        self.steps = 0
        frame, _ = self._env.reset(seed=self.episode)
        self._frames.extend([frame] * self.factory.frames)
        return np.stack(self._frames), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        frame, reward, terminated, truncated, _ = self._env.step(int(action))
        self._frames.append(frame)
        self.steps += 1
        cut = not terminated and (truncated or self.steps >= self.factory.horizon)
        return np.stack(self._frames), float(reward), bool(terminated), cut, {}

    def memory(self) -> np.ndarray:
        """(128,) uint8: the console's memory, which scripted players read and agents never see."""
        return self._console.getRAM()

    def frame(self, size: int) -> np.ndarray:
        """The screen as (size, size, 3) uint8."""
        from PIL import Image

        screen = Image.fromarray(self._console.getScreenRGB())
        return np.asarray(screen.resize((size, size), Image.Resampling.NEAREST))

    def close(self) -> None:
        self._env.close()


def emulator(game: str, actions: ActionsName, pixels: Pixels) -> gymnasium.Env:
    """The game with preprocessing, but for the stack.

    Raises:
        UsageError: ale-py or OpenCV is not installed.
    """
    try:
        import ale_py
        import cv2  # noqa: F401  AtariPreprocessing needs it and says so late
    except ModuleNotFoundError as problem:
        raise missing(problem.name or "ale_py") from None
    ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
    gymnasium.register_envs(ale_py)
    env = gymnasium.make(f"ALE/{game.capitalize()}-v5", frameskip=SKIP if pixels == "published" else 1,
                         repeat_action_probability=STICKY, full_action_space=actions == "full", disable_env_checker=True)
    if pixels == "published":
        return gymnasium.wrappers.TransformObservation(env, grey, gymnasium.spaces.Box(0, 255, (SIZE, SIZE), np.uint8))
    return gymnasium.wrappers.AtariPreprocessing(env, noop_max=0, frame_skip=SKIP, screen_size=SIZE)


def missing(package: str) -> UsageError:
    """What to say where a package of the extra is not there."""
    return UsageError(f"the Arcade Learning Environment is not installed ({package}): pip install 'perdure[atari]'")


def versions() -> dict[str, str]:
    """Versions of what decides how an episode goes and looks.

    Raises:
        UsageError: the extra is not installed.
    """
    return versions_of("ale-py", "gymnasium", "opencv-python-headless", missing=missing)
