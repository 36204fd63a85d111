"""`perdure run`: from words to a finished run folder."""

from __future__ import annotations

import shlex
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import arg

from perdure import __version__
from perdure.cli.dotted import closest, split_dotted
from perdure.cli.fields import option_rows
from perdure.cli.parse import asks_for_help, parse, print_help
from perdure.cli.show import described, print_json
from perdure.core.config import GROUPS, field_types
from perdure.core.errors import UsageError

if TYPE_CHECKING:
    from perdure.run_config import RunConfig

EXAMPLES = (
    "perdure run packnet toy",
    "perdure run ewc cw3-v3 --method.strength 100 --seed 0 1 2",
    "perdure run er kitchen.toml --policy dt --dry-run",
    "perdure run --from runs/toy/packnet/bc-1a2b3c4d-seed0/config.json",
)

FIXED_BY_FILE = ("--policy", "--profile", "--seed", "--precision")
"""Options that a config file decides."""


@dataclass(frozen=True)
class Options:
    """Learn a stream of tasks with a method, score it, and write a run folder. What was interrupted resumes, what is
    finished is not done again."""

    names: Annotated[tuple[str, ...], arg(metavar="METHOD STREAM", help_behavior_hint="")]
    """A name of `perdure methods` or module:Class, and a name of `perdure streams` or the path of a .toml file."""
    from_: Annotated[str, arg(name="from", metavar="FILE", help_behavior_hint="")] = ""
    """Instead of METHOD and STREAM: the config.json of a run, to repeat or to finish it."""
    policy: Annotated[str, arg(metavar="bc|dt|td3bc|iql|sfbc", help_behavior_hint="")] = ""
    """What learns and acts: behaviour cloning, Decision Transformer, or a value-based policy. Default: bc; sfbc for cugro."""
    profile: Literal["cpu", "paper"] = "cpu"
    """Sizes of networks and training: for a CPU, or as published."""
    seed: Annotated[tuple[int, ...], arg(metavar="N ...")] = (0,)
    """One run for each, one after the other."""
    out: Annotated[str, arg(metavar="DIR", help_behavior_hint="")] = ""
    """Run folder; with several seeds DIR/seed<N>. Default: runs/<stream>/<method>/<policy>-<hash>-seed<N>."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Where the policy learns."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """bf16: autocast with fp32 weights."""
    workers: int = 1
    """Processes that step the environments of an evaluation."""
    threads: int = 1
    """Of torch on the CPU; results are bit-identical for equal numbers."""
    log: Annotated[tuple[Literal["tensorboard", "wandb"], ...], arg(metavar="tensorboard|wandb", help_behavior_hint="")] = ()
    """Where to log, beside metrics.jsonl."""
    show: bool = False
    """Print the complete config as JSON and stop."""
    dry_run: bool = False
    """Print the expected minutes, memory and disk and stop."""


def main(argv: list[str]) -> int:
    rest, dotted = split_dotted(argv)
    if asks_for_help(rest):
        return _help([word for word in rest if word not in ("-h", "--help")], dotted)
    options = parse(Options, rest, "run", EXAMPLES[0], lambda: _elsewhere(rest))
    configs = _configs(options, dotted, rest)
    if options.show:
        shown = [asdict(config) | {"hash": config.hash, "perdure": __version__} for config in configs]
        print_json(shown[0] if len(shown) == 1 else shown)
        return 0
    folders = [_folder(options, config) for config in configs]
    if options.dry_run:
        from perdure.api import enough_memory
        from perdure.cli.estimate import estimate

        with enough_memory(configs[0]):
            print(estimate(configs[0], len(configs), options.workers, options.threads, options.device))
        return 0
    _execute(options, configs, folders, shlex.join(["perdure", "run", *argv]))
    return 0


def _configs(options: Options, dotted: dict[str, dict[str, Any]], words: list[str]) -> list[RunConfig]:
    """One config per seed."""
    from perdure.run_config import load_config

    if options.from_:
        given = [*options.names, *(w.split("=")[0] for w in words if w.split("=")[0] in FIXED_BY_FILE)]
        given += [f"--{group}.{field}" for group, values in dotted.items() for field in values]
        if given:
            raise UsageError(f"--from is given together with {given[0]}, but the config file decides that; leave one of them out")
        return [load_config(Path(options.from_)).named()]
    if len(options.names) != 2:
        what = f"METHOD and STREAM, and got {' '.join(options.names) or 'neither'}"
        raise UsageError(f"perdure run needs {what}; example: {EXAMPLES[0]}")
    if not options.seed or len(set(options.seed)) < len(options.seed):
        raise UsageError(f"--seed is {' '.join(map(str, options.seed)) or 'empty'}; give different whole numbers")
    return [_resolved(options, dotted, seed) for seed in options.seed]


def _resolved(options: Options, dotted: dict[str, dict[str, Any]], seed: int) -> RunConfig:
    from perdure.run_config import resolve

    method, stream = options.names
    known = _dotted(method, options.policy, stream)
    for group, values in dotted.items():
        mine = [f"--{group}.{field}" for field in field_types(known[group])]
        for option in (f"--{group}.{field}" for field in values):
            if option not in mine:
                raise UsageError(f"unknown option {option}{closest(option, mine) or '; known: ' + ', '.join(mine)}")
    return resolve(method, stream, policy=options.policy, profile=options.profile, seed=seed, precision=options.precision,
                   method_options=dotted["method"], policy_options=dotted["policy"], stream_options_=dotted["stream"],
                   evaluation=dotted["evaluation"])


def _dotted(method: str, policy: str, stream: str) -> dict[str, type]:
    """Group of the options `--group.field` -> the dataclass whose fields they set."""
    from perdure.evaluate.evaluator import EvaluationConfig
    from perdure.methods import METHODS
    from perdure.policies import POLICIES
    from perdure.run_config import find, policy_of
    from perdure.streams import benchmark

    policy_class = find(policy_of(method, policy), POLICIES, "policy")
    found = (find(method, METHODS, "method").Config, policy_class.Config, benchmark(stream).Options)
    return dict(zip(GROUPS, (*found, EvaluationConfig), strict=True))


def _elsewhere(words: list[str]) -> list[str]:
    """Every `--group.field` of the method, policy and stream that the words name; where they name none, of a plain one."""
    from perdure.benchmarks import STREAMS
    from perdure.methods import METHODS
    from perdure.policies import POLICIES

    named = [next((word for word in words if word in table), plain)
             for table, plain in ((METHODS, "finetune"), (POLICIES, ""), (STREAMS, "toy"))]
    return [f"--{group}.{field}" for group, cls in _dotted(*named).items() for field in field_types(cls)]


def _folder(options: Options, config: RunConfig) -> Path:
    """Where a run goes: --out, or the run folder that --from points into, or the default."""
    if options.out:
        return Path(options.out) / f"seed{config.seed}" if len(options.seed) > 1 else Path(options.out)
    home = Path(options.from_).parent
    if options.from_ and any((home / name).exists() for name in ("resume", "agent", "scores.json")):
        return home
    return config.default_folder


def _execute(options: Options, configs: list[RunConfig], folders: list[Path], command: str) -> None:
    from perdure.api import execute

    for config, folder in zip(configs, folders, strict=True):
        print(_first_line(config, folder), flush=True)
        result = execute(config, folder, device=options.device, workers=options.workers, threads=options.threads,
                         log=options.log, resume_command=command)
        print(f"{config.method} on {config.stream}, seed {config.seed}: {result.summary()}", flush=True)
    for folder in folders:
        print(f"files: {folder}")
    print(f"next:  perdure report {shlex.join(str(folder) for folder in folders)}")


def _first_line(config: RunConfig, folder: Path) -> str:
    sizes = config.policy_config
    network = ", ".join(f"{name} {sizes[name]}" for name in ("layers", "width", "context") if name in sizes)
    training = f"{config.method_config['steps']} steps per task, batch {config.method_config['batch']}"
    return (f"{config.method} on {_stream(config)} | {config.policy} {network} | {config.profile} profile: {training} |"
            f" seed {config.seed} | {folder}")


def _stream(config: RunConfig) -> str:
    """The stream with those of its options that are not the default."""
    from perdure.streams import stream_options

    if config.stream.endswith(".toml"):
        return config.stream
    plain = stream_options(config.stream, {})
    chosen = ", ".join(f"{name} {value}" for name, value in config.stream_options.items() if value != plain[name])
    return f"{config.stream} ({chosen})" if chosen else config.stream


def _help(words: list[str], dotted: dict[str, dict[str, Any]]) -> int:
    """The fixed options; with METHOD and STREAM also the fields of their configs, with the values a run would use."""
    print_help(Options, "run", *EXAMPLES)
    options = parse(Options, words, "run", EXAMPLES[0])
    if len(options.names) != 2:
        print("\n`perdure run METHOD STREAM --help` adds the options --method.FIELD, --policy.FIELD, --stream.FIELD and"
              "\n--evaluation.FIELD with the values that this method, policy, profile and stream use.")
        return 0
    config = _resolved(options, dotted, options.seed[0])
    values = {"method": config.method_config, "policy": config.policy_config, "stream": config.stream_options,
              "evaluation": config.evaluation}
    names = {"method": config.method, "policy": config.policy, "stream": config.stream, "evaluation": ""}
    for group, cls in _dotted(config.method, config.policy, config.stream).items():
        print(f"\n{f'{group} {names[group]}'.rstrip()}, with the values of the {config.profile} profile:")
        print(described(option_rows(cls, group, values[group])))
    return 0
