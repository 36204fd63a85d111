"""A run from its config to a finished folder: claim the folder, drive, keep the records."""

from __future__ import annotations

import contextlib
import platform
import resource
import shlex
import shutil
import socket
import time
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from perdure import __version__
from perdure.core.checkpoint import read_folder
from perdure.core.config import build
from perdure.core.errors import UsageError
from perdure.core.files import read_json, write_json
from perdure.core.lock import claimed
from perdure.core.log import Sink, open_sinks
from perdure.core.matrix import ScoreMatrix
from perdure.core.method import Method, Need
from perdure.core.roles import Progress
from perdure.core.run import Run
from perdure.core.state import RESUME_PREFIX
from perdure.core.task import Stream
from perdure.data.access import Access, Views, grant
from perdure.data.stats import behaviour_means
from perdure.evaluate.evaluator import EvaluationConfig, StreamEvaluator
from perdure.methods import METHODS
from perdure.policies import POLICIES
from perdure.run_config import RunConfig, find, forget, settle_config
from perdure.streams import known_spaces, load_stream


def make_method(config: RunConfig) -> Method:
    """The method of a config, without tasks, with keyed initial weights."""
    policy_class = find(config.policy, POLICIES, "policy")
    policy_config = build(policy_class.Config, config.policy_config, "policy")
    method_class = find(config.method, METHODS, "method")
    method_config = build(method_class.Config, config.method_config, "method")
    return method_class(method_config, lambda: policy_class(policy_config), config.seed)


def fingerprint(device: str, stream: Stream | None = None) -> dict[str, Any]:
    """What "bit-identical" depends on: machine type, versions and thread count."""
    cpu = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), cpu)
    if device != "cpu":
        cpu = f"{cpu}; {torch.cuda.get_device_name(device)}"
    return {"machine": cpu, "instructions": torch.backends.cpu.get_cpu_capability(), **versions(stream),
            "threads": torch.get_num_threads(), "device": device}


def versions(stream: Stream | None = None) -> dict[str, str]:
    """Versions of what computes a result, with those of the simulators that the stream's data name."""
    found = {"python": platform.python_version(), "perdure": __version__}
    simulators = [name for task in (stream.tasks if stream else ()) for name in task.data.card.get("versions", {})]
    for name in dict.fromkeys(["torch", "numpy", "safetensors", "gymnasium", "mujoco", "metaworld", *simulators]):
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


@dataclass
class Experiment:
    """One config in one folder."""

    config: RunConfig
    folder: Path
    progress: Progress
    workers: int = 1
    device: str = "cpu"
    sinks: tuple[Sink, ...] = ()
    stream: Stream | None = None
    """Loaded beforehand, or by name."""
    resume_command: str = ""
    _accesses: dict[int, Access] = field(default_factory=dict)

    def execute(self) -> ScoreMatrix:
        """Run, or resume, or return the finished result."""
        with claimed(self.folder):
            new = settle_config(self.folder, self.config)
            scores = self.folder / "scores.json"
            found = ScoreMatrix.load(scores) if scores.exists() else None
            if found is not None and found.complete:
                self.progress.say(f"{self.folder} is finished already; nothing to do")
                shutil.rmtree(self.folder / "resume", ignore_errors=True)
                return found
            try:
                return self._run()
            except UsageError:
                if new:
                    forget(self.folder)
                raise

    def _run(self) -> ScoreMatrix:
        config = self.config
        started = time.time()
        method = make_method(config)
        if self.stream is None and (specs := known_spaces(config.stream, config.stream_options)):
            method.check_spaces(specs)  # as `grant` does, which needs the data
        stream = self.stream or load_stream(config.stream, say=self.progress.say, **config.stream_options)
        needs = self._needs(method, stream)
        views = Views(stream, self.device, method.config.sampling)
        device = torch.device(self.device)

        def access(index: int) -> Access:
            return self._accesses.setdefault(index, Access(views, index, needs, lambda m, task: evaluator.probe(m, task)))

        evaluator = StreamEvaluator(stream, access, build(EvaluationConfig, config.evaluation, "evaluation"), config.seed,
                                    method.schedule == "joint", self.workers, device)
        run = Run(
            folder=self.folder, method=method, stream=stream, access=access, evaluator=evaluator,
            matrix=self._empty_matrix(stream, needs), progress=self.progress,
            resume_command=self.resume_command or f"perdure run --from {shlex.quote(str(self.folder / 'config.json'))}"
            f" --out {shlex.quote(str(self.folder))}",
            agent_facts={"config": asdict(config), "stream": stream.to_json()},
            device=device, precision=config.precision, fingerprint=fingerprint(self.device, stream),
            sinks=lambda folder, position: open_sinks(self.sinks, folder, position),
        )  # fmt: skip
        try:
            return run.execute()
        finally:
            evaluator.close()
            with contextlib.suppress(OSError, UsageError):  # the reason why the run ended must not be hidden by this one
                self._record(run, time.time() - started)

    def check(self, stream: Stream) -> None:
        """Refuse a method that cannot begin with this policy on this stream; nothing is written.

        Raises:
            UsageError: in the method's or the protocol's own words.
        """
        with torch.random.fork_rng(devices=[]):
            method = make_method(self.config)
            task = stream.tasks[-1 if method.schedule == "joint" else 0]
            views = Views(stream, "cpu", method.config.sampling)
            phases = method.phases(task, Access(views, task.index, self._needs(method, stream)))
            if phases and phases[0].begin is not None:
                phases[0].begin()

    def _needs(self, method: Method, stream: Stream) -> frozenset[Need]:
        infers = method.infers_task(method.config)
        logs = [task.name for task in stream.tasks if task.env is None] if infers else []
        if logs:
            raise UsageError(f"{self.config.method} is to infer the task by acting, but {stream.name} has no environment for"
                             f" {', '.join(logs)}; give --method.task_id given, or a stream with environments")
        granted = grant(type(method), method.config, stream)
        return granted if infers else granted | self._uses_task_id(stream)

    def _uses_task_id(self, stream: Stream) -> frozenset[Need]:
        """Per-task heads, normalisers, return targets or parts use the task id, whatever the method declares."""
        name, config = self.config.policy, self.config.policy_config
        policy = find(name, POLICIES, "policy")
        options = [f"policy.{field} is 'task'" for field in ("heads", "normaliser") if config.get(field) == "task"]
        if policy.return_conditioned:
            use, instead = f"policy is '{name}', which is asked for each task's own return", "--policy bc "
        elif policy.per_task:
            use, instead = f"policy is '{name}', which has parts for every task", "--policy bc "
        elif options:
            use, instead = " and ".join(options), ""
        else:
            return frozenset()
        if not stream.protocol.task_id_at_test:
            raise UsageError(f"{use}, but the stream {stream.name} forbids {Need.TASK_ID.value}; use"
                             f" {instead}--policy.heads single --policy.normaliser first")
        return frozenset({Need.TASK_ID})

    def _empty_matrix(self, stream: Stream, needs: frozenset[Need]) -> ScoreMatrix:
        config, policy = self.config, self.config.policy_config
        words = {"task": "per task", "single": "single", "first": "first task's"}
        return ScoreMatrix(
            stream=stream.title, stream_version=stream.version, tasks=tuple(task.name for task in stream.tasks),
            method=config.method, policy=config.policy, profile=config.profile, seed=config.seed, config_hash=config.hash,
            protocol={
                "heads": words[policy.get("heads", "task")], "normaliser": words[policy.get("normaliser", "task")],
                "task_id_at_test": Need.TASK_ID in needs, "past_data": Need.PAST_DATA in needs,
            },
            score=asdict(stream.score_scale()),
            data=[{"task": task.name, "digest": task.data.digest, "quality": task.data.card.get("quality", ""),
                   "episodes": len(task.data.lengths), **behaviour_means(task)} for task in stream.tasks],
        )  # fmt: skip

    def _record(self, run: Run, seconds: float) -> None:
        path = self.folder / "environment.json"
        found = read_json(path) if path.exists() else {}
        before = found if isinstance(found, dict) else {}
        memory = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)) // 1024
        write_json(path, {
            "versions": versions(run.stream), "fingerprint": run.fingerprint, "host": socket.gethostname(),
            **{name: round(value, 2) for name, value in run.clock.items()},
            "phase_cpu_seconds": {name: round(value, 2) for name, value in run.by_phase.items()},
            "wall_seconds": round(before.get("wall_seconds", 0.0) + seconds, 2),
            "starts": before.get("starts", 0) + 1,
            "peak_memory_mb": max(memory, before.get("peak_memory_mb", 0)),
        })  # fmt: skip


def build_method(meta: dict[str, Any]) -> tuple[Method, RunConfig]:
    """The method that an agent's meta.json describes, with its architecture and without its weights."""
    config = RunConfig(**meta["config"])
    method = make_method(config)
    method.rebuild(meta["architecture"])
    return method, config


def open_agent(folder: Path) -> tuple[Method, RunConfig, tuple[str, ...]]:
    """The method in an agent folder, ready to act, its config and the tasks that it learned; every digest is checked.

    Raises:
        UsageError: none there, damaged, of a newer format, or of another version of its method.
    """
    meta, groups = read_folder(folder)
    try:
        method, config = build_method(meta)
        missing, unknown = method.load_state_dict(groups.get("tensors", {}), strict=False)
        wrong = [*(name for name in missing if not name.startswith(RESUME_PREFIX)), *unknown]
        if wrong:
            raise KeyError(f"tensor {wrong[0]}")
        learned = tuple(str(task["name"]) for task in meta["stream"]["tasks"])[: int(meta["learned"])]
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as problem:
        reason = " ".join(str(problem).split())[:120]
        raise UsageError(f"{folder} holds no agent that can be built ({reason}); restore it from a copy") from None
    method.eval()
    return method, config, learned
