"""Offline Continual World on the published MT50 episodes, from a folder that the user has; scored in Meta-World v3.

Data: released with MTDiff (He et al. 2023, arXiv 2305.18459), replay of one SAC agent per task on Meta-World v2; licence
unknown, so perdure neither ships nor downloads them. v2 cannot be installed beside current software, so policies learned
from v2 data act in v3: docs/benchmarks/offline_continual_world.md says what is known of that. Imports no torch and no
simulator.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from perdure.benchmarks import offline_continual_world
from perdure.benchmarks.continual_world import CW10, Order, assembled, shuffled, task_names, variant_of
from perdure.benchmarks.metaworld_env import SPEC, MetaWorldFactory, goals
from perdure.benchmarks.offline_continual_world import HORIZON
from perdure.core.errors import UsageError
from perdure.core.task import Stream, TaskOutline
from perdure.data.convert import mt50_npz
from perdure.data.names import dataset_folder
from perdure.data.store import Dataset

FILES = {"near-optimal": 2000, "suboptimal": 1000}
"""Quality -> how many files it is, from the beginning of the replay: all, from random to converged, or the first half."""

WANTED = "the folder of the published MT50 episodes, the one with hammer-v2/0.npz in it"

CITATION = (
    "He, Bai, Xu, Yang, Zhang, Wang, Zhao, Li: Diffusion Model is an Effective Planner and Data Synthesizer for Multi-Task "
    "Reinforcement Learning. NeurIPS 2023, arXiv 2305.18459 (data). " + offline_continual_world.CITATION
)

SETTINGS = offline_continual_world.SETTINGS
POLICY = offline_continual_world.POLICY


@dataclass(frozen=True)
class Options:
    """Of ocw10-mt50."""

    folder: str = ""
    """With the published episodes: a folder per task, such as hammer-v2, with 0.npz to 1999.npz. Needed once, to convert
    them; given again, it must hold the same episodes."""
    quality: Literal["near-optimal", "suboptimal"] = "near-optimal"
    """Of the replay: all 2000 files, or the first 1000."""
    episodes: int = 0
    """Per task, evenly spaced over the files of the quality; 0: all of them."""
    order: Order = "default"
    """Of the tasks: a shuffled one; `default` is Continual World's own."""
    rollouts: bool = False
    """Whether a method may roll out on probe goals while it learns; the steps are counted and shown."""

    def __post_init__(self) -> None:
        most = FILES[self.quality]
        if self.episodes != 0 and not 2 <= self.episodes <= most:
            raise UsageError(f"stream.episodes is {self.episodes}; quality {self.quality} is {most} files, so give 2 to {most},"
                             " or 0 for all")

    @property
    def files(self) -> list[str]:
        """Names of the files that are read, in time order."""
        count, whole = self.episodes or FILES[self.quality], FILES[self.quality]
        return [f"{i * whole // count}.npz" for i in range(count)]

    def dataset(self, task: str) -> str:
        """Name of the converted dataset of a task, below the data folder."""
        return f"metaworld-v2-mt50/{task}/{self.quality}-{len(self.files)}"


def outline(name: str, options: Options) -> list[TaskOutline]:
    """The tasks of the stream; their data are there once they were converted."""
    tasks = shuffled(name, CW10, options.order)
    return [TaskOutline(task, options.quality, dataset_folder(options.dataset(task)), MetaWorldFactory(task, HORIZON),
                        goals(task)["probe"][0]) for task in tasks]  # fmt: skip


def stream(name: str, options: Options, say: Callable[[str], None]) -> Stream:
    """The stream with its data, converted first where they are not there yet.

    Raises:
        UsageError: data that were not converted and no folder, or a folder that lacks episodes or holds others.
    """
    tasks = shuffled(name, CW10, options.order)
    folders = {task: dataset_folder(options.dataset(task)) for task in task_names(tasks)}
    _check_source(options, folders)
    data = [_opened(task, folders[task], options, say) for task in tasks]
    return assembled(name, tasks, data, HORIZON, variant=variant_of(options.order), citation=CITATION,
                     rollouts=options.rollouts)


def _source(options: Options, task: str) -> Path:
    return Path(options.folder).expanduser() / f"{task}-v2"


def _check_source(options: Options, folders: dict[str, Path]) -> None:
    """Refuse a source in which anything is missing before the first of its tasks is converted."""
    if not options.folder:
        absent = [folder for folder in folders.values() if not (folder / "card.json").exists()]
        if absent:
            what = f"{len(absent)} of {len(folders)} tasks are not converted yet, such as {absent[0]}"
            raise UsageError(f"stream.folder is not given, and {what}; give --stream.folder, {WANTED}")
        return
    root = Path(options.folder).expanduser()
    if not root.is_dir():
        raise UsageError(f"stream.folder is {options.folder}, which is no folder; give {WANTED}")
    missing = [f"{task}-v2" for task in folders if not _source(options, task).is_dir()]
    if missing:
        raise UsageError(f"stream.folder is {options.folder}, which has no folder {', '.join(missing)}; the stream reads all"
                         f" {len(folders)} tasks, each from the folder of its name")
    for task in folders:
        mt50_npz.present(_source(options, task), options.files)


def _opened(task: str, folder: Path, options: Options, say: Callable[[str], None]) -> Dataset:
    """The converted dataset of a task; one that exists is compared with the source, if one is given."""
    if not (folder / "card.json").exists():
        try:
            return mt50_npz.convert(_source(options, task), folder, files=options.files, name=f"{task}-v2-{options.quality}",
                                    spec=SPEC, quality=options.quality, say=say)
        except UsageError:
            if not (folder / "card.json").exists():
                raise  # else another run converted it in the meantime
    data = Dataset.open(folder)
    converted = data.card["behaviour"].get("source_digest")
    if options.folder and mt50_npz.digest_of_files(_source(options, task), options.files) != converted:
        raise UsageError(f"stream.folder is {options.folder}, whose episodes of {task}-v2 are not those that {folder} was made"
                         " from; leave the option out to use what was converted, or remove that folder to convert again")
    return data
