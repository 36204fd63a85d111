"""Run folders in the format of the library, small enough to make a report in a second."""

import base64
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from perdure.core.files import write_json
from perdure.core.matrix import Episode, ScoreMatrix
from perdure.report.collect import collect
from perdure.report.model import Table, build
from perdure.report.write import Report, write_report

TASKS = ("push", "pull", "turn")
KEEPS = {"finetune": 0.2, "er": 0.9, "packnet": 1.0, "independent": 1.0, "ewc": 0.5, "der": 0.8, "tsn_affinity": 1.0}


def episodes(rate: float, count: int, seed: int) -> list[Episode]:
    flags = np.random.default_rng(seed).permutation(count) < round(rate * count)
    return [Episode(float(flag), bool(flag), 40, None) for flag in flags]


def matrix(method: str, seed: int, tasks=TASKS, **fields) -> ScoreMatrix:
    """A finished run: every task is learned to 0.9 and later keeps KEEPS[method] of it."""
    n = len(tasks)
    head = {
        "stream": "toy",
        "stream_version": 1,
        "policy": "bc",
        "profile": "cpu",
        "config_hash": "ab12cd34",
        "protocol": {
            "heads": "per task",
            "normaliser": "per task",
            "task_id_at_test": True,
            "past_data": method == "joint",
        },
        "score": {"kind": "success", "low": 0.0, "high": 1.0, "source": "latched success"},
        "complete": True,
        "footprint": {
            "parameters": 1500,
            "parameters_per_task": [500] * n,
            "memory_bytes": 2_500_000 if method == "er" else 0,
            "agent_bytes": 8000,
            "environment_steps": 0,
        },
        "data": [
            {"task": t, "digest": f"sha256:{i:064d}", "quality": "expert", "episodes": 9}
            for i, t in enumerate(tasks)
        ],
    }
    result = ScoreMatrix(tasks=tasks, method=method, seed=seed, **(head | fields))
    for j in range(n):
        if method == "joint":
            result.set_cell(n, j, episodes(0.9, 50, seed))
            continue
        result.set_cell(0, j, episodes(0.1, 10, seed))
        result.set_cell(j, j, episodes(0.1, 10, seed))
        learned = episodes(0.9, 50, seed)
        result.set_cell(j + 1, j, learned)
        for k in range(j + 2, n + 1):
            kept = learned if KEEPS[method] == 1 else episodes(0.9 * KEEPS[method], 50, seed + k)
            result.set_cell(k, j, kept if k == n else kept[:10])
        for fraction in (0.0, 0.25, 0.5, 0.75, 1.0):
            result.set_curve(j, fraction, episodes(min(0.9, 0.1 + fraction), 10, seed))
    return result


def save(folder: Path, result: ScoreMatrix) -> Path:
    folder.mkdir(parents=True)
    write_json(folder / "scores.json", result.to_json())
    write_json(folder / "config.json", {"method": result.method})
    versions = {"perdure": "0.1.0", "torch": "2.13.0"}
    write_json(folder / "environment.json", {"versions": versions, "train_seconds": 90.0 + result.seed})
    return folder


EVIL = "<script>alert(1)</script>"
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAQAAAC1HAwCAAAAC0lEQVR42mNk+A8AAQUBAScY42YAAAAASUVORK5CYII="


@pytest.fixture(scope="session")
def report(tmp_path_factory) -> Report:
    """A report of three methods with hostile task names and one clip; runs/ and out/ lie side by side."""
    root = tmp_path_factory.mktemp("report")
    for method in ("finetune", "packnet", "joint"):
        save(root / "runs" / f"{method}-0", matrix(method, 0, tasks=(EVIL, "a\"b'$x$", "turn")))
    folder = root / "runs" / "packnet-0" / "clips"
    folder.mkdir()
    (folder / "x.png").write_bytes(base64.b64decode(PIXEL))
    clip = {"task": EVIL, "when": "end of stream", "file": "x.png", "success": True}
    write_json(folder / "index.json", {"clips": [clip]})
    return write_report([root / "runs"], root / "out")


@pytest.fixture(scope="session")
def five(tmp_path_factory) -> Table:
    """The table of four methods with five seeds each."""
    root = tmp_path_factory.mktemp("five")
    for method in ("finetune", "packnet", "independent", "joint"):
        for seed in range(5):
            save(root / f"{method}-{seed}", matrix(method, seed))
    return build(collect([root]))


@pytest.fixture
def make_run(tmp_path) -> Callable[..., Path]:
    """make_run(method, seed, **fields of the score matrix) -> the run's folder below tmp_path/runs."""

    def make(method: str, seed: int = 0, name: str = "", **fields) -> Path:
        folder = tmp_path / "runs" / (name or f"{method.replace('/', '_')[:20]}-{seed}")
        return save(folder, matrix(method, seed, **fields))

    return make
