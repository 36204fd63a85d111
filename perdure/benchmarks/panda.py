"""Panda manipulation with panda-gym v3: reach, push, pick and place, as three tasks with spaces of their own.

The three tasks of TSN-Affinity (arXiv 2604.25898), here recorded with scripted experts; docs/benchmarks/panda.md says what can
be compared. Imports no torch and no simulator.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from perdure.benchmarks.panda_env import HORIZON, TASKS, PandaFactory, Variant, goals
from perdure.benchmarks.panda_layout import Layout, LayoutName
from perdure.benchmarks.panda_source import PandaSource
from perdure.benchmarks.recorded import recorded
from perdure.core.errors import UsageError
from perdure.core.task import Goals, Stream, Task, TaskOutline
from perdure.data.names import dataset_folder
from perdure.data.store import Dataset
from perdure.data.trajectory import Trajectory

ORDERS = {"panda3-v3": TASKS}
"""Stream name -> task order: that of TSN-Affinity."""

TEXTS = {
    "reach": "Move the hand to the target.",
    "push": "Push the cube over the table to the target.",
    "pick-and-place": "Pick up the cube and carry it to the target, on the table or above it.",
}
"""One sentence per task, in the project's own words; for agents that read text."""

CITATION = (
    "Gallouedec, Cazin, Dellandrea, Chen: panda-gym: Open-source goal-conditioned environments for robotic learning. NeurIPS "
    "2021 workshop on robot learning, arXiv 2106.13687. TSN-Affinity, arXiv 2604.25898 (order of the tasks)."
)

MOST = 1000
"""Episodes per task: one per goal for data."""

SETTINGS: dict[tuple[str, str, str], dict[str, object]] = {}
"""(method or *, policy, profile) -> recipe; nothing differs from the profile's."""

POLICY: dict[tuple[str, str], dict[str, object]] = {("dt", profile): {"longest_episode": HORIZON} for profile in ("cpu", "paper")}
"""(policy, profile) -> sizes: time steps beyond the horizon would be parameters that nothing reads."""


@dataclass(frozen=True)
class Options:
    """Of the Panda stream."""

    quality: Literal["expert", "mixed", "suboptimal"] = "expert"
    """Behaviour of the data."""
    episodes: int = MOST
    """Per task."""
    variant: Variant = "fixed"
    """fixed: episodes of 50 steps, success at any of them; published: episodes end with success, in data and evaluation."""
    layout: LayoutName = "aligned"
    """Of observations. aligned: every quantity at the same place in all tasks, with a presence mask; separate: each task its
    own 13, 25 and 26 numbers; compat: those, padded at the end to 26, and actions padded to 4."""

    def __post_init__(self) -> None:
        if not 2 <= self.episodes <= MOST:
            raise UsageError(f"stream.episodes is {self.episodes}; a Panda task has goals for 2 to {MOST}")


def dataset_name(task: str, options: Options) -> str:
    """Of a recording, below the data folder; the layouts share it."""
    return f"panda-v3/{task}/{options.variant}-{options.quality}-{options.episodes}x{HORIZON}"


def outline(name: str, options: Options) -> list[TaskOutline]:
    """The tasks of the stream, without opening its data."""
    return [
        TaskOutline(task, options.quality, dataset_folder(dataset_name(task, options)),
                    PandaFactory(task, options.variant, options.layout), goals(task)["probe"][0], options.episodes * HORIZON,
                    options.episodes, PandaSource(task, options.variant))
        for task in ORDERS[name]
    ]  # fmt: skip


def stream(name: str, options: Options, say: Callable[[str], None]) -> Stream:
    """A Panda stream with its data, collected first where they are not there yet."""
    made = []
    for index, (task, data) in enumerate(zip(ORDERS[name], recorded(outline(name, options), say), strict=True)):
        layout, lists = Layout(task, options.layout), goals(task)
        made.append(Task(
            index=index, name=task, spec=layout.spec, data=laid_out(data, layout), text=TEXTS[task], to_horizon=True,
            env=PandaFactory(task, options.variant, options.layout),
            goals=Goals(final=lists["final"], curve=lists["curve"], probe=lists["probe"]),
        ))  # fmt: skip
    return Stream(name, tuple(made), citation=CITATION, variant=variant_of(options))


def variant_of(options: Options) -> str:
    """What the options add to the stream's name in results, where they are not the defaults."""
    words = [] if options.variant == "fixed" else ["published length"]
    words += [] if options.layout == "aligned" else [f"{options.layout} layout"]
    return ", ".join(words)


def laid_out(data: Dataset, layout: Layout) -> Dataset:
    """A recording in the spaces of a layout: the memory-mapped one itself for `separate`, otherwise made in memory."""
    if layout.name == "separate":
        return data
    card = data.card
    behaviour = {key: value for key, value in card["behaviour"].items() if key != "noise"}
    return Dataset.in_memory(
        [_laid_out(data.trajectory(e), layout) for e in range(len(data))], name=data.name, spec=layout.spec,
        quality=card["quality"], behaviour=behaviour, licence=card["licence"], source=card["source"], versions=card["versions"],
    )  # fmt: skip


def _laid_out(trajectory: Trajectory, layout: Layout) -> Trajectory:
    changed = {"observations": layout.observations(np.asarray(trajectory.observations)),
               "actions": layout.actions(np.asarray(trajectory.actions))}
    return Trajectory(**{**vars(trajectory), **changed})
