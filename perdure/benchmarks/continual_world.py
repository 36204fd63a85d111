"""Continual World on Meta-World v3: task orders, task texts, citations.

Continual World: Wolczyk et al. 2021, arXiv 2105.10919 (order of the ten tasks, 200-step episodes, an episode
succeeds when any of its steps did). It used Meta-World v1; scores on v1, v2 and v3 are not comparable, so the
version is part of every stream name here. Imports no torch and no simulator.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from perdure.benchmarks.metaworld_env import SPEC, MetaWorldFactory, goals
from perdure.benchmarks.metaworld_source import MetaWorldSource
from perdure.benchmarks.recorded import recorded
from perdure.benchmarks.tuned import tuned
from perdure.core.errors import UsageError
from perdure.core.task import Goals, Protocol, Stream, Task, TaskOutline
from perdure.data.names import dataset_folder
from perdure.data.store import Dataset

CW10 = (
    "hammer",
    "push-wall",
    "faucet-close",
    "push-back",
    "stick-pull",
    "handle-press-side",
    "push",
    "shelf-place",
    "window-close",
    "peg-unplug-side",
)
"""Order of Continual World."""

CW20 = CW10 + CW10
"""The ten tasks twice, as in Continual World."""

CW3 = ("hammer", "faucet-close", "handle-press-side")
"""A selected triple: chosen beforehand because one model per task reaches 1.0 and finetuning forgets."""

CW3B = ("push-wall", "push", "window-close")
"""An unselected triple: by rule, whatever any learner makes of them, the first three tasks of CW10 that are not
in CW3 and that the scripted policy solves within 200 steps for at least 95 % of the goals."""

CWTUNE = ("reach", "drawer-open", "button-press-topdown")
"""For choosing hyperparameters: three tasks outside CW10 and METAWORLD5 that the scripted policies solve."""

METAWORLD5 = ("coffee-button", "drawer-close", "plate-slide-back", "window-close", "window-open")
"""Order of CuGRO (Liu et al. 2024, arXiv 2404.10662), which used Meta-World v2; shares window-close with CW10."""

PAIRS = (
    ("window-close", "window-open"), ("drawer-open", "drawer-close"), ("door-open", "door-close"),
    ("faucet-open", "faucet-close"), ("push", "push-wall"), ("handle-press", "handle-press-side"),
    ("button-press", "button-press-wall"), ("plate-slide", "plate-slide-back"),
)
"""Pairs of tasks that are near in words, of which some are near in what is to be done. A selection, with the tasks that are
repeated, made before any learner saw them."""

AGAIN = "-again"
"""What marks a task that comes again with freshly collected data, other goals in them, and other words."""

CWPAIRS = (*(task for pair in PAIRS for task in pair), *(task + AGAIN for task in ("window-close", "push", "faucet-open")))
"""The pairs, and three of their tasks again."""

TASKS = tuple(dict.fromkeys(CW10 + METAWORLD5 + CWTUNE + tuple(task for pair in PAIRS for task in pair)))
"""Every task with frozen goals and a measured noise ladder."""

TEXTS = {
    "button-press": "Press the button on the front of the box.",
    "button-press-topdown": "Press the button from above.",
    "button-press-wall": "Reach over the wall and press the button on the front of the box.",
    "coffee-button": "Push the button of the coffee machine.",
    "door-close": "Push the door until it is closed.",
    "door-open": "Pull the door open by its handle.",
    "drawer-close": "Push the drawer until it is closed.",
    "drawer-open": "Pull the drawer open by its handle.",
    "faucet-close": "Turn the faucet handle until it is closed.",
    "faucet-open-again": "Rotate the tap to let the water run.",
    "faucet-open": "Turn the faucet handle until it is open.",
    "hammer": "Pick up the hammer and drive the nail into the wall.",
    "handle-press": "Press the handle down.",
    "handle-press-side": "Press the handle down from its side.",
    "peg-unplug-side": "Pull the peg out of the socket sideways.",
    "plate-slide": "Slide the plate into the goal.",
    "plate-slide-back": "Slide the plate out of the goal towards the robot.",
    "push-again": "Move the disc over the table to where it should be.",
    "push": "Push the puck to the target.",
    "push-back": "Pull the block back towards the robot onto the target.",
    "push-wall": "Push the puck around the wall to the target.",
    "reach": "Move the hand to the target.",
    "shelf-place": "Lift the block and place it on the shelf.",
    "stick-pull": "Take the stick, hook it into the mug's handle and pull the mug to the target.",
    "window-close": "Slide the window shut.",
    "window-close-again": "Push the sliding window until nothing is open.",
    "window-open": "Slide the window open.",
}
"""One sentence per task, in the project's own words; for agents that read text."""

CITATION = (
    "Wolczyk, Zajac, Pascanu, Kucinski, Milos: Continual World: A Robotic Benchmark For Continual "
    "Reinforcement Learning. NeurIPS 2021, arXiv 2105.10919. "
    "Yu, Quillen, He, Julian, Hausman, Finn, Levine: Meta-World: A Benchmark and Evaluation for Multi-Task and "
    "Meta Reinforcement Learning. CoRL 2019, arXiv 1910.10897."
)

ORDERS = {"cw3-v3": CW3, "cw3b-v3": CW3B, "cwtune-v3": CWTUNE, "cw10-v3": CW10, "cw20-v3": CW20, "cwpairs-v3": CWPAIRS,
          "metaworld5-v3": METAWORLD5}  # fmt: skip
"""Stream name -> task order."""

SHUFFLED = {
    "1": (7, 9, 10, 8, 6, 4, 1, 5, 2, 3),
    "2": (6, 10, 4, 5, 7, 8, 3, 9, 2, 1),
    "3": (2, 6, 7, 1, 10, 5, 8, 3, 9, 4),
}
"""Shuffled orders of the ten tasks, by their place in CW10 from 1: the robustness study of CompoFormer (Hu et al. 2024,
arXiv 2411.11364, config/MetaWorld/task.json of its code)."""

Order = Literal["default", "1", "2", "3"]

QUALITY = {"cw3-v3": "expert", "cw3b-v3": "expert"}
"""Default quality of a stream's data where it is not `mixed`."""

SETTINGS: dict[tuple[str, str, str], dict[str, object]] = tuned("continual_world")
"""(method or *, policy, profile) -> recipe, where it differs from the profile's: what `perdure tune` chose on cwtune-v3."""

TUNING = dict.fromkeys((name for name in ORDERS if name not in ("cwtune-v3", "cwpairs-v3")), "cwtune-v3")
"""Stream -> the one on which its methods are tuned; they share no task, and so cwpairs-v3, which has drawer-open, has none."""

POLICY: dict[tuple[str, str], dict[str, object]] = {("sfbc", profile): {"average": 1} for profile in ("cpu", "paper")}
"""(policy, profile) -> options, where they differ from the profile's: CuGRO's code executes one candidate on Meta-World, and the
mean of four elsewhere."""


@dataclass(frozen=True)
class Options:
    """Of a Continual World stream."""

    quality: Literal["default", "expert", "mixed", "suboptimal"] = "default"
    """Behaviour of the data; `default` is expert for cw3-v3 and cw3b-v3, mixed for the others."""
    episodes: int = 100
    """Per task."""
    horizon: int = 200
    """Steps per episode, of data and evaluation (Continual World: 200)."""
    order: Order = "default"
    """Of the tasks of cw10-v3: a shuffled one; `default` is Continual World's own."""
    rollouts: bool = False
    """Whether a method may roll out on probe goals while it learns; the steps are counted and shown."""

    def __post_init__(self) -> None:
        check_recording(self.episodes, self.horizon)


def check_recording(episodes: int, horizon: int) -> None:
    """Refuse numbers of which no recording can be made.

    Raises:
        UsageError: naming the option.
    """
    if not 2 <= episodes <= 200:
        raise UsageError(f"stream.episodes is {episodes}; a task has goals for 2 to 200")
    if not 1 <= horizon <= 500:
        raise UsageError(f"stream.horizon is {horizon}; a Meta-World episode has 1 to 500 steps")


@dataclass(frozen=True)
class Recording:
    """What was recorded of every task of a stream with its scripted policy."""

    quality: str
    episodes: int
    horizon: int

    def name(self, task: str) -> str:
        """Of the dataset of a task, below the data folder."""
        return dataset_name(task, self.quality, self.episodes, self.horizon)


def dataset_name(task: str, quality: str, episodes: int, horizon: int) -> str:
    """Name of a dataset below the data folder."""
    return f"metaworld-v3/{task}/{quality}-{episodes}x{horizon}"


def quality_of(name: str, options: Options) -> str:
    """Quality of the stream's data, its default filled in."""
    return QUALITY.get(name, "mixed") if options.quality == "default" else options.quality


def shuffled(name: str, tasks: tuple[str, ...], order: str) -> tuple[str, ...]:
    """The tasks of the stream `name` in the order asked for.

    Raises:
        UsageError: another order than the default of a stream that is not the ten tasks once.
    """
    if order == "default":
        return tasks
    if tasks != CW10:
        raise UsageError(f"stream.order is {order}; {name} has no shuffled orders, the streams of the ten tasks once have them")
    return tuple(tasks[place - 1] for place in SHUFFLED[order])


def variant_of(order: str) -> str:
    """What the order adds to the stream's name in results."""
    return "" if order == "default" else f"order {order}"


def task_names(tasks: tuple[str, ...]) -> list[str]:
    """The tasks in order; a repeated one carries its number."""
    return [f"{task}-{tasks[:i].count(task) + 1}" if task in tasks[:i] else task for i, task in enumerate(tasks)]


def in_simulator(task: str) -> str:
    """What Meta-World calls the task."""
    return task.removesuffix(AGAIN)


def outlines(tasks: tuple[str, ...], recording: Recording) -> list[TaskOutline]:
    """The outline of each task."""
    made = []
    for shown, task in zip(task_names(tasks), tasks, strict=True):
        known = in_simulator(task)
        made.append(TaskOutline(
            shown, recording.quality, dataset_folder(recording.name(task)), MetaWorldFactory(known, recording.horizon),
            goals(known)["probe"][0], recording.episodes * recording.horizon, recording.episodes,
            MetaWorldSource(known, recording.horizon, again=task != known),
        ))  # fmt: skip
    return made


def datasets(tasks: tuple[str, ...], recording: Recording, say: Callable[[str], None], workers: int = 2) -> list[Dataset]:
    """The dataset of every task, collected first where it is not there yet. Repeated tasks share one."""
    return recorded(outlines(tasks, recording), say, workers)


def assembled(
    name: str, tasks: tuple[str, ...], data: list[Dataset], horizon: int, *, variant: str = "", citation: str = CITATION,
    rollouts: bool = False,
) -> Stream:
    """The stream of Meta-World tasks with these data, scored in Meta-World v3 on the frozen goals."""
    made = []
    for index, (shown, task) in enumerate(zip(task_names(tasks), tasks, strict=True)):
        known = in_simulator(task)
        lists = goals(known)
        made.append(Task(
            index=index, name=shown, spec=SPEC, data=data[index], env=MetaWorldFactory(known, horizon), text=TEXTS[task],
            goals=Goals(final=lists["final"], curve=lists["curve"], probe=lists["probe"]),
        ))  # fmt: skip
    return Stream(name, tuple(made), Protocol(rollouts_allowed=rollouts), citation=citation, variant=variant)


def _recording(name: str, options: Options) -> Recording:
    """Raises UsageError where a task comes again, so that each recording has half of its goals, and is to have more episodes."""
    if options.episodes > 100 and any(task.endswith(AGAIN) for task in ORDERS[name]):
        raise UsageError(f"stream.episodes is {options.episodes}; a task of {name} has goals for 2 to 100: some come again")
    return Recording(quality_of(name, options), options.episodes, options.horizon)


def outline(name: str, options: Options) -> list[TaskOutline]:
    """The tasks of the stream, without opening its data."""
    return outlines(shuffled(name, ORDERS[name], options.order), _recording(name, options))


def stream(name: str, options: Options, say: Callable[[str], None]) -> Stream:
    """A Continual World stream on Meta-World v3 with its data."""
    tasks = shuffled(name, ORDERS[name], options.order)
    data = datasets(tasks, _recording(name, options), say)
    return assembled(name, tasks, data, options.horizon, variant=variant_of(options.order), rollouts=options.rollouts)
