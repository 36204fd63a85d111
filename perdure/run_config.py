"""The config of a run: resolved from names and options, and kept in config.json of its folder."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from perdure import __version__
from perdure.benchmarks import STREAMS
from perdure.core.config import build, convert, digest, first_difference, to_json
from perdure.core.errors import UsageError, nearest
from perdure.core.files import read_json, write_json
from perdure.core.method import Method
from perdure.core.policy import Policy
from perdure.core.task import Stream, in_python
from perdure.evaluate.evaluator import EvaluationConfig
from perdure.methods import METHODS
from perdure.policies import POLICIES
from perdure.streams import benchmark, load_stream, stream_options

PROFILES = ("cpu", "paper")

KINDS: dict[str, type] = {"method": Method, "policy": Policy}

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
    def made_in_python(self) -> bool:
        """Whether the stream was a Stream object, which has no name by which another process could load it."""
        return in_python(self.stream, self.stream_options)

    def load_stream(self, say: Callable[[str], None] = print) -> Stream:
        """The stream with its data.

        Raises:
            UsageError: as `named`, or data that cannot be used.
        """
        return load_stream(self.named().stream, say=say, **self.stream_options)

    def named(self) -> RunConfig:
        """This config.

        Raises:
            UsageError: its stream was a Stream object.
        """
        if self.made_in_python:
            raise UsageError(f"the stream {self.stream} was made in Python, so that it has no name to load; give the Stream"
                             " itself to perdure.run")
        return self

    @property
    def default_folder(self) -> Path:
        """`runs/<stream>/<method>/<policy>-<hash>-seed<N>`."""
        stream = Path(self.stream).stem
        return Path("runs") / stream / self.method.split(":")[-1] / f"{self.policy}-{self.hash}-seed{self.seed}"


def find(reference: str, table: dict[str, str], what: str) -> Any:
    """The class that a table name or a `module:Class` reference names.

    Raises:
        UsageError: unknown name (with the nearest known one), or a reference that is no such class.
    """
    target = table.get(reference, reference)
    if ":" not in target:
        if what == "method" and reference in POLICIES:
            raise UsageError(f"method is '{reference}', which is a policy; name a method, such as 'finetune', and give"
                             f" --policy {reference}")
        raise UsageError(f"unknown {what} '{reference}'{nearest(reference, table) or '; known: ' + ', '.join(table)}")
    module, _, name = target.partition(":")
    try:
        found = getattr(import_module(module), name, None)
    except (ImportError, ValueError) as problem:
        raise UsageError(f"{what} '{reference}' cannot be imported ({problem}); give module:Class of a module on the Python"
                         " path") from None
    base = KINDS[what]
    if found is None:
        raise UsageError(f"{what} '{reference}' is not there: the module {module} has no {name}")
    if not isinstance(found, type) or not issubclass(found, base):
        raise UsageError(f"{what} '{reference}' is no {base.__name__}; derive the class from {base.__module__}.{base.__name__}")
    if issubclass(found, Method) and found.phases is Method.phases:
        raise UsageError(f"{what} '{reference}' has no `phases`; they say how a task is learned, see docs/adding_a_method.md")
    return found


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
    given = method_options or {}
    method_config = build(method_class.Config, recipe | given, "method", given)
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
        raise UsageError(f"policy is '{policy}', and {method} works with {', '.join(known)}; leave the policy out")
    return policy or (known or ("bc",))[0]


def _identified(stream: str | Stream, options: dict[str, Any]) -> tuple[str, ModuleType, dict[str, Any]]:
    """Name, benchmark module and settled options of a stream."""
    if isinstance(stream, str):
        return stream, benchmark(stream), stream_options(stream, options)
    if options:
        raise UsageError(f"stream.{next(iter(options))} is given beside a Stream object; give the options to load_stream")
    module = import_module(STREAMS.get(stream.name, "perdure.benchmarks.custom"))
    return stream.name, module, {"content": digest(stream.to_json())}


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
    """The config of `config.json`, checked as if it had been typed; that of a Stream made in Python as it stands there.

    Raises:
        UsageError: no run config, or one that this version does not know.
    """
    value = read_config_json(path)
    if in_python(value["stream"], value["stream_options"]):  # whose options only the Stream knows
        return RunConfig(**{name: value[name] for name in RunConfig.__dataclass_fields__})
    return resolve(
        value["method"], value["stream"], policy=value["policy"], profile=value["profile"], seed=value["seed"],
        precision=value["precision"], method_options=value["method_config"], policy_options=value["policy_config"],
        stream_options_=value["stream_options"], evaluation=value["evaluation"],
    )  # fmt: skip
