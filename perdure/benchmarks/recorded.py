"""Datasets that behaviour policies make: opened, and collected first where they are not there yet. Imports no torch."""

from collections.abc import Callable, Sequence

from perdure.core.task import TaskOutline
from perdure.data.collect import collect
from perdure.data.progress import collecting, sparsely
from perdure.data.store import Dataset


def recorded(tasks: Sequence[TaskOutline], say: Callable[[str], None], workers: int = 2) -> list[Dataset]:
    """The dataset of every task, each with a `source`; tasks of one folder share one.

    Raises:
        UsageError: a folder holds other data, or the simulator is not installed.
    """
    opened: dict[object, Dataset] = {}
    for task in {task.folder: task for task in tasks}.values():
        assert task.folder is not None
        if not task.present:
            what = f"{task.episodes} {task.quality} episodes of {task.source.task}"
            say(f"collecting {what} into {task.folder} (in the simulator, no download)")
        collect(task.source, task.folder, quality=task.quality, episodes=task.episodes, seed=0, workers=workers,
                progress=collecting(task.source.task, sparsely(say)))
        opened[task.folder] = Dataset.open(task.folder)
    return [opened[task.folder] for task in tasks]
