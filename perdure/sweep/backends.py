"""What a sweep needs of whoever runs its workers, and which of the two does it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Literal, Protocol

from perdure.core.errors import UsageError

Kind = Literal["auto", "ray", "processes"]

Ended = tuple[str, dict[str, str]]
"""Key of a job, and how it ended: {"state": ..., "sentence": ...} as from `worker.work`, or with the state "lost"."""


class Backend(Protocol):
    """Runs jobs somewhere."""

    slots: int | None
    """How many jobs it takes at a time; None: any number, it queues them itself."""
    note: str
    """What the user should know before it starts; usually empty."""

    def start(self, job: dict[str, Any]) -> None:
        """Take a job."""

    def ended(self, seconds: float) -> list[Ended]:
        """The jobs that ended; waits up to `seconds` for one."""

    def stop(self, key: str) -> None:
        """Ask a job to save and end; `ended` will report it."""

    def kill(self, key: str) -> None:
        """End a job at once and forget it."""

    def close(self) -> None:
        """End whatever is left."""


@dataclass(frozen=True)
class Resources:
    """What one run takes, and how much there is."""

    cpus: float = 1.0
    gpus: float = 0.0
    parallel: int | None = None
    """Runs at a time; None: as many as fit."""
    threads: int = 1

    def __post_init__(self) -> None:
        if not 0 < self.cpus <= 1024:
            raise UsageError(f"--cpus is {self.cpus:g}; give a number above 0, such as 1")
        if not 0 <= self.gpus <= 1:
            raise UsageError(f"--gpus is {self.gpus:g}; give 0, or the share of one GPU that a run takes, such as 0.25")
        if self.parallel is not None and not 1 <= self.parallel <= 10_000:
            raise UsageError(f"--parallel is {self.parallel}; give a whole number from 1 to 10000")
        if not 1 <= self.threads <= 1024:
            raise UsageError(f"--threads is {self.threads}; give a whole number from 1 to 1024")

    def fit(self) -> int:
        """Runs that this machine holds at a time.

        Raises:
            UsageError: not even one.
        """
        from perdure.doctor import usable_cores

        cores = usable_cores()
        if self.cpus > cores and not self.parallel:
            raise UsageError(f"--cpus is {self.cpus:g}, but this machine has {cores:g}; give at most that, or --parallel 1")
        fitting = self.parallel or int(cores // self.cpus)
        if self.gpus:
            fitting = min(fitting, self.per_gpu() * gpu_count(self.gpus))
        return max(1, fitting)

    def per_gpu(self) -> int:
        """Runs that share one GPU."""
        return int(1 / self.gpus + 1e-9)


def gpu_count(gpus: float) -> int:
    """GPUs of this machine.

    Raises:
        UsageError: there is none.
    """
    import torch

    if not (count := torch.cuda.device_count()):
        raise UsageError(f"--gpus is {gpus:g}, but torch sees no GPU here; leave --gpus out, see `perdure doctor`")
    return count


def choose(kind: Kind, address: str, resources: Resources, say: Callable[[str], None]) -> Callable[[], Backend]:
    """How to open the backend: Ray where it is installed, else processes of this machine. Nothing is started yet.

    Raises:
        UsageError: Ray is asked for and not installed, no cluster answers, or this machine is too small.
    """
    installed = find_spec("ray") is not None
    if kind == "processes" and address:
        raise UsageError(f"--address is {address}, but --backend processes stays on this machine; leave one of them out")
    if not installed and (kind == "ray" or address):
        what = f"--address is {address}" if address else "--backend is ray"
        raise UsageError(f"{what}, but Ray is not installed: pip install 'perdure[ray]', or use --backend processes")
    if kind == "processes" or not installed:
        from perdure.sweep.processes import Processes

        if kind == "auto":
            say("Ray is not installed, so the runs are processes of this machine; for a cluster: pip install 'perdure[ray]'")
        slots = resources.fit()
        return lambda: Processes(slots, resources)
    from perdure.sweep.on_ray import OnRay, reach

    if address:
        reach(address)
        return lambda: OnRay(resources.parallel, resources, address)
    slots = resources.fit()
    return lambda: OnRay(slots, resources, "")
