"""`perdure sweep`: many runs at once, on this machine or a cluster."""

from __future__ import annotations

import os
import shlex
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import arg

from perdure import __version__
from perdure.cli.dotted import split_dotted
from perdure.cli.parse import asks_for_help, parse, print_help
from perdure.cli.show import columns, print_json
from perdure.core.errors import UsageError
from perdure.core.words import counted, duration, size

if TYPE_CHECKING:
    from perdure.sweep.backends import Resources
    from perdure.sweep.driver import Entry
    from perdure.sweep.plan import Axis, Planned

EXAMPLES = (
    "perdure sweep --methods finetune,packnet --streams toy --seeds 0-4",
    "perdure sweep --methods l2,ewc,mas --streams cw10-v3 --seeds 0-2 --grid method.strength=1e2,1e3",
    "perdure sweep --methods er,ewc --streams toy --grid ewc:method.strength=0.1,1 --dry-run",
    "perdure sweep --methods packnet --streams cw10-v3 --policies dt --gpus 0.25 --address 10.0.0.1:6379 --out /nfs/runs",
)

MOST_SEEDS = 100_000
"""More are a slip of the keyboard."""


@dataclass(frozen=True)
class Options:
    """Learn and score every combination of methods, streams, policies, seeds and grid values, several at once. What is
    finished is not done again, what was interrupted resumes, and a failed run does not stop the others. Options
    --method.FIELD, --policy.FIELD, --stream.FIELD and --evaluation.FIELD hold for all runs."""

    methods: Annotated[tuple[str, ...], arg(metavar="M,M,...", help_behavior_hint="")] = ()
    """Names of `perdure methods`, or module:Class, with commas between them."""
    streams: Annotated[tuple[str, ...], arg(metavar="S,S,...", help_behavior_hint="")] = ()
    """Names of `perdure streams`, or paths of .toml files."""
    seeds: Annotated[tuple[str, ...], arg(metavar="0-4", help_behavior_hint="(default: 0)")] = ("0",)
    """Such as 0-4 or 0,2,5-7."""
    policies: Annotated[tuple[str, ...], arg(metavar="P,P,...", help_behavior_hint="(default: the one of each method)")] = ()
    """What learns and acts."""
    grid: Annotated[tuple[str, ...], arg(metavar="KEY=V,V,...", help_behavior_hint="")] = ()
    """method.FIELD, policy.FIELD, stream.FIELD or evaluation.FIELD with the values to try. Several after one --grid: every
    combination.
    NAME:method.FIELD=V,V is for the runs of one method, policy or stream alone."""
    profile: Literal["cpu", "paper"] = "cpu"
    """Sizes of networks and training: for a CPU, or as published."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """bf16: autocast with fp32 weights."""
    out: Annotated[str, arg(metavar="DIR", help_behavior_hint="(default: runs)")] = "runs"
    """Root of the run folders <stream>/<method>/<policy>-<hash>-seed<N>; on a cluster a folder that all nodes share."""
    parallel: Annotated[int | None, arg(metavar="N", help_behavior_hint="")] = None
    """Runs at a time; default: as many as --cpus and --gpus allow."""
    cpus: float = 1.0
    """CPUs that a run takes."""
    gpus: float = 0.0
    """Share of a GPU that a run takes, such as 0.25; 0: it learns on the CPU."""
    threads: int = 1
    """Of torch in every run; results are bit-identical for equal numbers."""
    backend: Literal["auto", "ray", "processes"] = "auto"
    """auto: Ray where it is installed, else processes of this machine. The results are the same."""
    address: Annotated[str, arg(metavar="HOST:PORT", help_behavior_hint="")] = ""
    """A Ray cluster that runs already."""
    patience: float = 60.0
    """Minutes without progress after which a run is repeated in a new worker."""
    report: Annotated[str, arg(metavar="DIR", help_behavior_hint="")] = ""
    """Write the report of every stream into DIR/<stream> at the end."""
    show: bool = False
    """Print the complete config of every run as JSON and stop."""
    dry_run: bool = False
    """Print what would run and about how long, and stop."""
    json: bool = False
    """Print the result, or with --dry-run the plan, as JSON."""


def main(argv: list[str]) -> int:
    rest, dotted = split_dotted(argv)
    if asks_for_help(rest):
        return print_help(Options, "sweep", *EXAMPLES)
    options = parse(Options, rest, "sweep", EXAMPLES[0])
    planned = _planned(options, dotted)
    resources = _resources(options)
    if options.show:
        print_json([_facts(run) for run in planned])
        return 0
    if options.dry_run:
        return _dry_run(options, planned, resources)
    return _summary(options, _executed(options, planned, resources))


def _planned(options: Options, dotted: dict[str, dict[str, Any]]) -> list[Planned]:
    from perdure.sweep.plan import Space, plan

    for name, given in (("methods", options.methods), ("streams", options.streams)):
        if not given:
            raise UsageError(f"perdure sweep needs --{name}; example: {EXAMPLES[0]}")
    space = Space(
        methods=split("methods", options.methods), streams=split("streams", options.streams),
        policies=split("policies", options.policies) if options.policies else (), seeds=seeds(options.seeds),
        grid=[axis(text) for text in options.grid], fixed=dotted, profile=options.profile, precision=options.precision,
    )  # fmt: skip
    return plan(space, Path(options.out))


def split(name: str, given: tuple[str, ...]) -> list[str]:
    """The words between commas and spaces, each once."""
    words = [word for part in given for word in part.split(",")]
    if not words or "" in words:
        raise UsageError(f"--{name} is '{' '.join(given)}'; give names with one comma between them")
    return list(dict.fromkeys(words))


def seeds(given: tuple[str, ...]) -> list[int]:
    """The whole numbers of `0-4` and `0,2,5-7`."""
    found: list[int] = []
    for word in split("seeds", given):
        first, dash, last = word.partition("-")
        if not (first.isdecimal() and first.isascii()) or (dash and not (last.isdecimal() and last.isascii())):
            raise UsageError(f"--seeds is '{word}'; give whole numbers from 0 and ranges, such as 0-4 or 0,2,5-7")
        start, end = int(first), int(last or first)
        if end < start or end - start >= MOST_SEEDS:
            raise UsageError(f"--seeds is '{word}'; a range goes from the smaller to the larger number, over less than"
                             f" {MOST_SEEDS} seeds")
        found += range(start, end + 1)
    return found


def axis(text: str) -> Axis:
    """An axis of the grid, from `method.strength=1,10` or `ewc:method.strength=1,10`."""
    from perdure.sweep.plan import Axis

    key, sign, values = text.partition("=")
    only, _, dotted = key.rpartition(":")
    group, dot, name = dotted.partition(".")
    if not (sign and dot and group and name):
        raise UsageError(f"--grid is '{text}'; give a field and its values, such as method.strength=1,10, or for one method"
                         " alone ewc:method.strength=1,10")
    return Axis(group, name.replace("-", "_"), tuple(dict.fromkeys(values.split(","))), only)


def _facts(run: Planned) -> dict[str, Any]:
    return asdict(run.config) | {"hash": run.config.hash, "perdure": __version__, "folder": str(run.folder)}


# -- doing it -----------------------------------------------------------------------------------------------


def _executed(options: Options, planned: list[Planned], resources: Resources) -> list[Entry]:
    from perdure.sweep.backends import choose
    from perdure.sweep.driver import Sweep
    from perdure.sweep.show import Screen

    with Screen() as screen:
        opened = choose(options.backend, options.address, resources, screen.say)
        return Sweep(planned, Path(options.out), opened, screen, resources, 60 * options.patience).execute()


def _resources(options: Options) -> Resources:
    """What a run takes; what would fail only after the last run is refused here as well.

    Raises:
        UsageError: a number that cannot be, or a place for the report that cannot be written.
    """
    from perdure.sweep.backends import Resources

    if not 0 < options.patience <= 1e6:
        raise UsageError(f"--patience is {options.patience:g}; give minutes above 0")
    place = Path(options.report or ".").absolute()
    there = next(path for path in (place, *place.parents) if path.exists())
    if options.report and not (there.is_dir() and os.access(there, os.W_OK)):
        raise UsageError(f"--report is {options.report}, which cannot be written as a folder; choose another --report")
    return Resources(options.cpus, options.gpus, options.parallel, options.threads)


def _dry_run(options: Options, planned: list[Planned], resources: Resources) -> int:
    """The plan: how each run stands, and the time that the missing ones will take, from one trial per method."""
    from perdure.api import enough_memory
    from perdure.cli.estimate import Expected, expect

    states = {run.key: "finished" if run.finished() else "begun" if run.begun() else "new" for run in planned}
    todo = [run for run in planned if states[run.key] != "finished"]
    slots = options.parallel or (None if options.address else resources.fit())
    trials: dict[tuple[str, str, str], Expected] = {}
    for run in todo:
        kind = (run.config.method, run.config.policy, run.config.stream)
        if kind not in trials:
            with enough_memory(run.config):
                trials[kind] = expect(run.config, 0, options.threads, "cuda" if options.gpus else "cpu")
    costs = [trials[run.config.method, run.config.policy, run.config.stream] for run in todo]
    work = sum(cost.learning + cost.evaluating for cost in costs)
    disk = sum(cost.disk for cost in costs)
    if options.json:
        print_json({"runs": [_facts(run) | {"state": states[run.key]} for run in planned], "slots": slots,
                    "expected_core_seconds": round(work, 1), "expected_bytes": round(disk)})
        return 0
    print(columns([[states[run.key], run.name, str(run.folder)] for run in planned]))
    print(f"\n{counted(len(planned), 'run')}, {len(planned) - len(todo)} finished already")
    if todo:
        at_a_time = f"{slots} at a time: {duration(work / min(slots, len(todo)))}; " if slots else ""
        print(f"expected: {duration(work)} of work, {at_a_time}{size(disk)} on disk (a trial of each method, evaluations at"
              " their longest)")
    return 0


# -- the end ------------------------------------------------------------------------------------------------


def _summary(options: Options, entries: list[Entry]) -> int:
    """What is there now, what failed and why; 1 if anything did."""
    done = [entry for entry in entries if entry.state == "done"]
    failed = [entry for entry in entries if entry.state == "failed"]
    pages = _reports(options, done) if options.report else []
    if options.json:
        print_json({"runs": [_facts(entry.run) | {"state": entry.state, "sentence": entry.sentence} for entry in entries],
                    "reports": [str(page) for page in pages]})
    else:
        before = sum(entry.before for entry in done)
        print(f"{len(done)} of {counted(len(entries), 'run')} done" + (f", {before} of them before" if before else ""))
        for line in (f"page:  {page}" for page in pages) if pages else _next(done, Path(options.out)):
            print(line)
    if failed:
        print(f"{counted(len(failed), 'run')} failed:", file=sys.stderr)
        for entry in failed:
            print(f"  {entry.run.folder}: {entry.sentence}", file=sys.stderr)
    return 1 if failed else 0


def _reports(options: Options, done: list[Entry]) -> list[Path]:
    from perdure.report.write import write_report

    return [write_report([entry.run.folder for entry in mine], Path(options.report) / name, title=name).page
            for name, mine in _by_stream(done).items()]


def _by_stream(done: list[Entry]) -> dict[str, list[Entry]]:
    found: dict[str, list[Entry]] = {}
    for entry in done:
        found.setdefault(Path(entry.run.config.stream).stem, []).append(entry)
    return found


def _next(done: list[Entry], root: Path) -> list[str]:
    """The command that compares the runs of each stream."""
    lines = []
    for name, mine in _by_stream(done).items():
        home, folders = root / name, {entry.run.folder for entry in mine}
        lines.append(f"files: {home}")
        others = {path.parent for path in home.glob("*/*/scores.json")} - folders
        words = [str(home)] if not others else [*sorted(map(str, folders)), "--out", str(home)]
        lines.append(f"next:  perdure report {shlex.join(words)}")
    return lines
