"""Offline Continual World on Meta-World v3: the ten tasks of Continual World, once or twice, with episodes of 500 steps.

Offline Continual World: Hu et al. 2024 (CompoFormer), arXiv 2411.11364; Meta-World v2, recorded replay of SAC. Here the
data are recorded with scripted policies on v3, so the version is in the names and scores are not comparable with published
ones; `perdure.benchmarks.mt50` reads the published data. Imports no torch and no simulator.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from perdure.benchmarks import continual_world as world
from perdure.core.task import Stream, TaskOutline

HORIZON = 500
"""Steps per episode, of data and evaluation."""

ORDERS = {"ocw10-v3": world.CW10, "ocw20-v3": world.CW20}
"""Stream name -> task order. The second ten of ocw20-v3 read the same data and environments; heads are their own."""

CITATION = (
    "Hu, Zhou, Fan, Hu, Shen, Zhang, Tao: Continual Task Learning through Adaptive Policy Self-Composition. 2024, "
    "arXiv 2411.11364. " + world.CITATION
)

SETTINGS = world.SETTINGS
"""Hyperparameters are chosen on cwtune-v3 for all streams of these ten tasks."""

TUNING = dict.fromkeys(ORDERS, "cwtune-v3")

POLICY = world.POLICY


@dataclass(frozen=True)
class Options:
    """Of an Offline Continual World stream."""

    quality: Literal["mixed", "suboptimal", "expert"] = "mixed"
    """Behaviour of the data."""
    episodes: int = 100
    """Per task."""
    horizon: int = HORIZON
    """Steps per episode, of data and evaluation (Offline Continual World: 500)."""
    order: world.Order = "default"
    """Of the tasks of ocw10-v3: a shuffled one; `default` is Continual World's own."""
    rollouts: bool = False
    """Whether a method may roll out on probe goals while it learns; the steps are counted and shown."""

    def __post_init__(self) -> None:
        world.check_recording(self.episodes, self.horizon)


def _recording(options: Options) -> world.Recording:
    return world.Recording(options.quality, options.episodes, options.horizon)


def outline(name: str, options: Options) -> list[TaskOutline]:
    """The tasks of the stream, without opening its data."""
    return world.outlines(world.shuffled(name, ORDERS[name], options.order), _recording(options))


def stream(name: str, options: Options, say: Callable[[str], None]) -> Stream:
    """An Offline Continual World stream on Meta-World v3 with its data, collected first where they are not there yet."""
    tasks = world.shuffled(name, ORDERS[name], options.order)
    data = world.datasets(tasks, _recording(options), say)
    return world.assembled(name, tasks, data, options.horizon, variant=world.variant_of(options.order), citation=CITATION,
                           rollouts=options.rollouts)
