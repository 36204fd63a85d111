"""A run from names and options to a finished folder: resolve the config, claim the folder, drive, keep the records."""

from __future__ import annotations

import contextlib
import json
import platform
import resource
import shlex
import shutil
import socket
import time
from dataclasses import asdict, dataclass, field
from importlib import import_module, metadata
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from perdure import __version__
from perdure.benchmarks import STREAMS
from perdure.core.config import build, convert, digest, first_difference, to_json
from perdure.core.errors import UsageError, nearest
from perdure.core.files import read_json, write_json
from perdure.core.lock import claimed
from perdure.core.log import Sink, open_sinks
from perdure.core.matrix import ScoreMatrix
from perdure.core.method import Method, Need
from perdure.core.roles import Progress
from perdure.core.run import Run
from perdure.core.task import Stream
from perdure.data.access import Access, Views, grant
from perdure.data.stats import behaviour_means
from perdure.evaluate.evaluator import EvaluationConfig, StreamEvaluator
from perdure.methods import METHODS
from perdure.policies import POLICIES
from perdure.streams import benchmark, known_spaces, load_stream, stream_options

PROFILES = ("cpu", "paper")

LITTER = ".*.json.*.tmp"
"""Of a write that a kill cut short."""


@dataclass(frozen=True)
class RunConfig:
    """Everything that decides a run's result; resolved, so that nothing depends on later defaults."""

    method: str
    """A name of `perdure methods`, or `module:Class`."""
    stream: str
    policy: str
    profile: str
    seed: int
    precision: str
    """`fp32`, or `bf16` autocast with fp32 weights."""
    method_config: dict[str, Any]
    policy_config: dict[str, Any]
    stream_options: dict[str, Any]
    evaluation: dict[str, Any]

    @property
    def hash(self) -> str:
        """Eight hex digits of everything but the seed. A user's stream counts by its content, wherever its file lies."""
        values = {k: v for k, v in asdict(self).items() if k != "seed"}
        if self.stream.endswith(".toml"):
            values["stream"] = Path(self.stream).name
        return digest(values)

    @property
    def default_folder(self) -> Path:
        """`runs/<stream>/<method>/<policy>-<hash>-seed<N>`."""
        stream = Path(self.stream).stem
        return Path("runs") / stream / self.method.split(":")[-1] / f"{self.policy}-{self.hash}-seed{self.seed}"


def find(reference: str, table: dict[str, str], what: str) -> Any:
    """The class that a table name or a `module:Class` reference names.

    Raises:
        UsageError: unknown name (with the nearest known one), or a reference that cannot be imported.
    """
    target = table.get(reference, reference)
    if ":" not in target:
        raise UsageError(f"unknown {what} '{reference}'{nearest(reference, table) or '; known: ' + ', '.join(table)}")
    module, _, name = target.partition(":")
    try:
        return import_module(module).__dict__[name]
    except (ImportError, KeyError, ValueError) as problem:
        raise UsageError(f"{what} '{reference}' cannot be imported ({problem}); give module:Class of a module on the Python"
                         " path") from None


def resolve(
    method: str,
    stream: str | Stream,
    *,
    policy: str = "",
    profile: str = "cpu",
    seed: int = 0,
    precision: str = "fp32",
    method_options: dict[str, Any] | None = None,
    policy_options: dict[str, Any] | None = None,
    stream_options_: dict[str, Any] | None = None,
    evaluation: dict[str, Any] | None = None,
) -> RunConfig:
    """The config of a run: defaults, then the profile, then the benchmark's settings, then the options given.

    A Stream made in Python counts by its facts and the digests of its data; it keeps the settings of its name.

    Raises:
        UsageError: an unknown name or option, or a value that cannot be used.
    """
    method_class, policy = find(method, METHODS, "method"), policy_of(method, policy)
    policy_class = find(policy, POLICIES, "policy")
    if policy_class.staged and not method_class.trains_staged:
        able = [name for name in METHODS if find(name, METHODS, "method").trains_staged]
        raise UsageError(f"policy is '{policy}', which learns with critics or in stages, and {method} does not attend to them;"
                         f" use one of {', '.join(able)}, or another policy")
    for name, value, known in (("profile", profile, PROFILES), ("precision", precision, ("fp32", "bf16"))):
        if value not in known:
            raise UsageError(f"{name} is '{value}'{nearest(value, known)}; use one of {', '.join(known)}")
    seed = convert(seed, int, "seed")
    if not 0 <= seed < 2**31:
        raise UsageError(f"seed is {seed}; give a whole number from 0 to {2**31 - 1}")
    preset, (stream_name, module, options) = policy_class.PROFILES[profile], _identified(stream, stream_options_ or {})
    recipe = dict(preset["training"])
    for name in ("*", method):
        recipe |= module.SETTINGS.get((name, policy, profile), {})
    method_config = build(method_class.Config, recipe | (method_options or {}), "method")
    sizes = preset["policy"] | module.POLICY.get((policy, profile), {}) | method_class.policy_options(method_config)
    return RunConfig(
        method=method, stream=stream_name, policy=policy, profile=profile, seed=seed, precision=precision,
        method_config=to_json(method_config),
        policy_config=to_json(build(policy_class.Config, sizes | (policy_options or {}), "policy")),
        stream_options=options,
        evaluation=to_json(build(EvaluationConfig, evaluation or {}, "evaluation")),
    )  # fmt: skip


def policy_of(method: str, policy: str) -> str:
    """The policy asked for, or the method's own if none is; raises UsageError for one that the method does not work with."""
    known = find(method, METHODS, "method").works_with
    if policy and known and policy not in known:
        raise UsageError(f"policy is '{policy}', and {method} works with {', '.join(known)}; leave --policy out")
    return policy or (known or ("bc",))[0]


def _identified(stream: str | Stream, options: dict[str, Any]) -> tuple[str, ModuleType, dict[str, Any]]:
    """Name, benchmark module and settled options of a stream."""
    if isinstance(stream, str):
        return stream, benchmark(stream), stream_options(stream, options)
    if options:
        raise UsageError(f"stream.{next(iter(options))} is given beside a Stream object; give the options to load_stream")
    module = import_module(STREAMS.get(stream.name, "perdure.benchmarks.custom"))
    return stream.name, module, {"content": digest(stream.to_json())}


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


def settle_config(folder: Path, config: RunConfig) -> bool:
    """Write config.json and return True, or check that the folder's is this config and return False.

    Raises:
        UsageError: the folder belongs to another config; names the first differing field.
    """
    for litter in folder.glob(LITTER):
        litter.unlink()
    if holds(folder, config):
        return False
    try:
        write_json(folder / "config.json", asdict(config) | {"hash": config.hash, "perdure": __version__})
    except OSError as problem:
        reason = f"which cannot be written ({problem.strerror})"
        raise UsageError(f"out is {folder}, {reason}; make room, or choose another --out") from None
    return True


def holds(folder: Path, config: RunConfig) -> bool:
    """Whether the folder holds a run of this config; not if it is empty, or not there.

    Raises:
        UsageError: it belongs to another config, or to something else.
    """
    path = folder / "config.json"
    if path.exists():
        theirs = {k: v for k, v in read_config_json(path).items() if k not in ("perdure", "hash")}
        if found := first_difference(json.loads(json.dumps(asdict(config))), theirs):
            raise UsageError(f"{folder} holds a run of another config ({found}); choose another --out or remove the folder")
        return True
    if folder.is_dir() and any(p.name != "run.lock" and not p.match(LITTER) for p in folder.iterdir()):
        raise UsageError(f"{folder} is not empty and holds no run; choose another --out")
    return False


def forget(folder: Path) -> None:
    """Remove the run folder of a run that was refused before its first checkpoint, so that nothing looks like a run."""
    if any((folder / "resume").glob("*")) or (folder / "agent").exists() or (folder / "scores.json").exists():
        return
    for name in ("config.json", "environment.json", "metrics.jsonl", "run.lock"):
        (folder / name).unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        (folder / "resume").rmdir()
    with contextlib.suppress(OSError):  # anything else in it belongs to somebody else
        folder.rmdir()


def read_config_json(path: Path) -> dict[str, Any]:
    """The fields of a config.json.

    Raises:
        UsageError: no run config, or a field missing or unknown.
    """
    value = read_json(path)
    names = set(RunConfig.__dataclass_fields__)
    if not isinstance(value, dict) or not names <= set(value):
        missing = ", ".join(sorted(names - set(value))) if isinstance(value, dict) else "everything"
        raise UsageError(f"{path} is no run config (missing: {missing}); give the config.json of a run folder")
    if unknown := set(value) - names - {"hash", "perdure"}:
        raise UsageError(f"{path} has the unknown field '{sorted(unknown)[0]}'{nearest(sorted(unknown)[0], names)}")
    return value


def load_config(path: Path) -> RunConfig:
    """The config of `config.json`, checked as if it had been typed."""
    value = read_config_json(path)
    return resolve(
        value["method"], value["stream"], policy=value["policy"], profile=value["profile"], seed=value["seed"],
        precision=value["precision"], method_options=value["method_config"], policy_options=value["policy_config"],
        stream_options_=value["stream_options"], evaluation=value["evaluation"],
    )  # fmt: skip


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
            if scores.exists() and ScoreMatrix.load(scores).complete:
                self.progress.say(f"{self.folder} is finished already; nothing to do")
                shutil.rmtree(self.folder / "resume", ignore_errors=True)
                return ScoreMatrix.load(scores)
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
            with contextlib.suppress(OSError):  # the reason why the run ended must not be hidden by this one
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
        uses = frozenset() if infers else self._uses_task_id(stream)
        return grant(type(method), method.config, stream) | uses

    def _uses_task_id(self, stream: Stream) -> frozenset[Need]:
        """Per-task heads, normalisers or return targets use the task id, whatever the method declares."""
        policy = self.config.policy_config
        conditioned = find(self.config.policy, POLICIES, "policy").return_conditioned
        if not conditioned and "task" not in (policy.get("heads"), policy.get("normaliser")):
            return frozenset()
        if conditioned and not stream.protocol.task_id_at_test:
            raise UsageError(f"policy is '{self.config.policy}', which is asked for each task's own return, but the stream"
                             f" {stream.name} forbids {Need.TASK_ID.value}; use --policy bc")
        if not stream.protocol.task_id_at_test:
            raise UsageError(f"policy.heads is '{policy['heads']}' and policy.normaliser '{policy['normaliser']}', but the stream"
                             f" {stream.name} forbids {Need.TASK_ID.value}; use --policy.heads single --policy.normaliser first")
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
        before = read_json(path) if path.exists() else {}
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
