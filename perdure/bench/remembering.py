"""What a long stream costs in memory: the same run on few and on many tasks, each in a process of its own."""

from __future__ import annotations

import multiprocessing
import tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch

from perdure.bench import machine
from perdure.bench.measure import Bench, Clock, Figure, Spread, Target
from perdure.experiment import Experiment
from perdure.progress import Quiet
from perdure.run_config import RunConfig, resolve

CONSTANT = ("finetune", "ewc", "packnet", "er", "clonex", "tsn_affinity")
"""Methods whose state is bounded, up to a head and some masks per task."""

GROWING = ("perfect_memory", "independent")
"""Methods that keep more with every task, as they say under Keeps."""

OPTIONS: dict[str, dict[str, Any]] = {
    "er": {"memory_bytes": 1_000_000}, "clonex": {"memory_bytes": 1_000_000}, "tsn_affinity": {"router": "never"},
}  # fmt: skip
"""That bound what a method keeps: by default replay keeps a share of all data, and tasks that are far from all others copies."""

FEW = 2


def remembering(bench: Bench) -> list[Figure]:
    """Peak resident memory of a whole run on 20 tasks over that of one on 2; data of the toy stream, sizes of the cpu profile.
    No time is measured: both clocks show megabytes."""
    scale = bench.scale
    method = {"steps": scale.memory_steps, "batch": scale.batch or 256}
    policy = scale.policy["bc"] if scale.policy else {"width": 256, "layers": 3}
    figures = []
    for name in (*CONSTANT, *GROWING):
        peaks = {}
        for tasks in (FEW, scale.memory_tasks):
            config = resolve(name, "toy", method_options=method | OPTIONS.get(name, {}), policy_options=policy,
                             stream_options_={"tasks": tasks},
                             evaluation={"episodes": 2, "shared": 1, "curve": 0, "slots": 2})
            peaks[tasks] = _peak(config, bench.folder)
        few, many = peaks.values()
        clocks: tuple[Clock, ...] = ("cpu", "wall")
        figures.append(Figure(
            f"peak memory of {name} on {scale.memory_tasks} tasks over {FEW} tasks, bc", "x",
            dict.fromkeys(clocks, Spread.of([many / few])), Target(1.25, at_least=False) if name in CONSTANT else None,
            details={f"megabytes_{FEW}_tasks": few, f"megabytes_{scale.memory_tasks}_tasks": many,
                     "megabytes_per_task": round((many - few) / (scale.memory_tasks - FEW), 2)},
        ))  # fmt: skip
    return figures


def _peak(config: RunConfig, folder: Path) -> int:
    """Megabytes, in a fresh process: memory that earlier work freed stays with the process that did it."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["perdure.bench.remembering"])  # imports once, for all
    with (tempfile.TemporaryDirectory(dir=folder, prefix="bench-") as name,
          ProcessPoolExecutor(1, mp_context=context) as pool):  # fmt: skip
        return pool.submit(_run, config, Path(name) / "run").result()


def _run(config: RunConfig, folder: Path) -> int:
    torch.set_num_threads(1)
    Experiment(config, folder, Quiet(), workers=0).execute()
    return machine.peak_megabytes()
