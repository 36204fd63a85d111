"""MuJoCo streams on Gymnasium v5: a velocity, a direction or other proportions per task, or another body.

The sequences of CuGRO (arXiv 2404.10662), of Continual Diffuser (arXiv 2409.02512) and of VQ-CD (arXiv 2410.15698), here recorded
with policies that ship with the package; docs/benchmarks/mujoco.md says what can be compared. Imports no torch and no simulator.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

from perdure.benchmarks import behaviour
from perdure.benchmarks.mujoco_env import ACTIONS, OBSERVED, MujocoFactory, Variant
from perdure.benchmarks.mujoco_source import EPISODES, MujocoSource, training_of
from perdure.benchmarks.mujoco_tasks import ANT_ANGLES, FAMILIES, SPREAD
from perdure.benchmarks.numbered import goals
from perdure.benchmarks.recorded import recorded
from perdure.core.errors import UsageError, nearest
from perdure.core.task import ScoreScale, Stream, Task, TaskOutline
from perdure.data.convert import import_dataset
from perdure.data.convert.minari import downloaded
from perdure.data.names import dataset_folder
from perdure.data.store import Dataset

ORDERS: dict[str, tuple[str, tuple[str, ...]]] = {
    "cheetah-vel-v5": ("cheetah-vel", tuple(FAMILIES["cheetah-vel"])),
    "swimmer-dir-v5": ("swimmer-dir", tuple(FAMILIES["swimmer-dir"])),
    "walker-params-v5": ("walker-params", tuple(FAMILIES["walker-params"])),
    "ant-dir-4-v5": ("ant-dir", tuple(f"ant-{number}" for number in (10, 15, 19, 25))),
    "ant-dir-6-v5": ("ant-dir", tuple(f"ant-{number}" for number in (4, 18, 26, 34, 42, 49))),
    "ant-dir-spread-v5": ("ant-dir", tuple(f"ant-{number}" for number in SPREAD)),
    "hopper-walker-cheetah-v5": ("bodies", ("hopper", "walker2d", "halfcheetah")),
}
"""Stream name -> family and order of its tasks."""

CITATION = (
    "Todorov, Erez, Tassa: MuJoCo. IROS 2012. Towers et al.: Gymnasium, arXiv 2407.17032. Sequences: CuGRO, arXiv 2404.10662; "
    "Continual Diffuser, arXiv 2409.02512; VQ-CD, arXiv 2410.15698."
)

D4RL: dict[str, tuple[float, float]] = {
    "hopper": (-20.272305, 3234.3), "walker2d": (1.629008, 4592.3), "halfcheetah": (-280.178953, 12135.0),
}  # fmt: skip
"""Body -> returns that D4RL's normalised score reports as 0 and 1 (Fu et al. 2020, arXiv 2004.07219)."""

MINARI = {"minari-simple": "simple-v0", "minari-medium": "medium-v0", "minari-expert": "expert-v0"}
"""Quality -> its name among Minari's `mujoco` datasets of the same bodies, Gymnasium v5 as here."""

SETTINGS: dict[tuple[str, str, str], dict[str, object]] = {}
"""(method or *, policy, profile) -> recipe; nothing differs from the profile's."""

POLICY: dict[tuple[str, str], dict[str, object]] = {}
"""(policy, profile) -> options; nothing differs from the profile's."""


@dataclass(frozen=True)
class Options:
    """Of the MuJoCo streams."""

    quality: str = "default"
    """Behaviour of the data: random, medium, expert, medium-replay, full-replay or medium-expert; default: medium of the three
    bodies, expert of all else. Of the three bodies also minari-simple, minari-medium, minari-expert, once `minari download` has
    brought mujoco/<body>/medium-v0."""
    episodes: int = 0
    """Per task; 0: 200 of the three bodies, which have 1,000 steps, 500 of all else, which have 200; all that Minari has."""
    variant: Variant = "v5"
    """published: observations and rewards as in CuGRO's code where they differ from Gymnasium's (cheetah-vel, swimmer-dir)."""

    def __post_init__(self) -> None:
        if not (self.episodes == 0 or 2 <= self.episodes <= EPISODES):
            raise UsageError(f"stream.episodes is {self.episodes}; give 2 to {EPISODES}, or 0 for the stream's own number")

    def settled(self, family: str) -> tuple[str, int]:
        """(quality, episodes) with the defaults of a family put in.

        Raises:
            UsageError: its policies have no such quality.
        """
        bodies = family == "bodies"
        quality = {"default": "medium" if bodies else "expert"}.get(self.quality, self.quality)
        for name in FAMILIES[family]:
            known = (*MujocoSource(family, name).qualities(), *(MINARI if bodies else ()))
            if quality not in known:
                raise UsageError(f"stream.quality is '{quality}'{nearest(quality, known)}; {training_of(family, name)} has"
                                 f" {', '.join(known)}")
        if quality in MINARI and self.episodes:
            raise UsageError(f"stream.episodes is {self.episodes}; quality {quality} takes all that Minari has, so give 0")
        return quality, self.episodes or (200 if bodies else 500)


def outline(name: str, options: Options) -> list[TaskOutline]:
    """The tasks of the stream, without opening its data."""
    family, order = ORDERS[name]
    quality, episodes = options.settled(family)
    made = []
    for task in order:
        source, goal = MujocoSource(family, task, options.variant), goals().probe[0]
        place = f"mujoco-v5/{family}/{task}/"
        if quality in MINARI:
            made.append(TaskOutline(task, quality, dataset_folder(place + quality), source.factory, goal))
            continue
        folder = dataset_folder(f"{place}{options.variant}-{quality}-{episodes}x{source.horizon}")
        made.append(TaskOutline(task, quality, folder, source.factory, goal, episodes * source.horizon, episodes, source))
    return made


def stream(name: str, options: Options, say: Callable[[str], None]) -> Stream:
    """A MuJoCo stream with its data, collected or imported first where they are not there yet.

    Raises:
        UsageError: a folder holds other data, or there is nothing to import.
    """
    family, order = ORDERS[name]
    made, tasks = [], outline(name, options)
    every = recorded(tasks, say) if tasks[0].source else imported(tasks, say)
    for index, (task, data) in enumerate(zip(order, every, strict=True)):
        factory = MujocoFactory(family, task, options.variant)
        made.append(Task(
            index=index, name=task, spec=factory.spec, data=data, text=text(family, task), env=factory, goals=goals(),
            score=scale(family, task),
        ))  # fmt: skip
    return Stream(name, tuple(made), citation=CITATION, variant="" if options.variant == "v5" else "published layout")


def imported(tasks: list[TaskOutline], say: Callable[[str], None]) -> list[Dataset]:
    """The dataset of every body, from Minari's.

    Raises:
        UsageError: one is not on this machine, or is made for another body.
    """
    known = {task.name: f"mujoco/{task.name}/{MINARI[task.quality]}" for task in tasks if not task.present}
    places = {name: downloaded(path) for name, path in known.items()}  # all of them are there before the first is imported
    found = []
    for task in tasks:
        assert task.folder is not None
        if task.name in places:
            say(f"importing {places[task.name]} into {task.folder}")
            import_dataset(places[task.name], task.folder, name=f"{task.name}-{task.quality}", format="minari",
                           quality=task.quality, source=f"Minari's {known[task.name]}")
        data = Dataset.open(task.folder)
        if (data.spec.obs.size, data.spec.action.size) != (OBSERVED[task.name], ACTIONS[task.name]):
            raise UsageError(f"{task.folder} has {data.spec.obs.size} observed numbers and {data.spec.action.size} actions;"
                             f" {task.name} has {OBSERVED[task.name]} and {ACTIONS[task.name]}")
        found.append(data)
    return found


def scale(family: str, task: str) -> ScoreScale:
    """0 is random actions, 1 the best behaviour policy; of the three bodies, D4RL's normalised score."""
    if family == "bodies":
        return ScoreScale("return", *D4RL[task], "D4RL normalised score / 100")
    facts = behaviour.facts(training_of(family, task))
    best = list(facts["levels"].values())[-1]
    return ScoreScale("return", facts["random"][task], facts["checkpoints"][best]["tasks"][task],
                      "returns of random actions and of the best behaviour policy")


def text(family: str, task: str) -> str:
    """The task in words; for agents that read text."""
    value = task.partition("-")[2]
    match family:
        case "cheetah-vel":
            return f"Run at {value} metres per second."
        case "swimmer-dir":
            return f"Swim in the direction of {value} degrees."
        case "ant-dir":
            return f"Walk in the direction of {math.degrees(ANT_ANGLES[int(value)]):.0f} degrees."
        case "walker-params":
            return f"Walk forward with body number {value}."
    return {"hopper": "Hop forward on one leg.", "walker2d": "Walk forward on two legs.",
            "halfcheetah": "Run forward like a cheetah."}[task]
