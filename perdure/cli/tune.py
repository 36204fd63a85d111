"""`perdure tune`: choose a method's strength on tasks that are not in the benchmark."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import arg

from perdure.benchmarks.tuned import FOLDER, choices, record
from perdure.cli.dotted import split_dotted
from perdure.cli.parse import asks_for_help, parse, print_help
from perdure.cli.show import columns, print_json
from perdure.core.errors import UsageError

if TYPE_CHECKING:
    from perdure.tune import Choice, Question

EXAMPLES = ("perdure tune ewc cw10-v3", "perdure tune ewc toy --values 0.1,1,10 --out tuned.json")


@dataclass(frozen=True)
class Options:
    """Choose a coefficient of a method for a benchmark: every value learns the benchmark's tuning stream, whose tasks are not
    in the benchmark, and the highest average performance wins. The choice is written into a file with every candidate. What is
    finished is not done again."""

    method: Annotated[str, arg(metavar="METHOD", help_behavior_hint="")]
    """A name of `perdure methods`."""
    stream: Annotated[str, arg(metavar="STREAM", help_behavior_hint="")]
    """The benchmark to tune for, such as cw10-v3."""
    policy: Annotated[str, arg(metavar="NAME")] = "bc"
    """What learns and acts: one of the policies in `perdure methods`."""
    profile: Literal["cpu", "paper"] = "cpu"
    """Sizes of networks and training: for a CPU, or as published."""
    field: Annotated[str, arg(metavar="NAME", help_behavior_hint="(default: the method's own, such as strength)")] = ""
    """Which option of the method."""
    values: Annotated[tuple[str, ...], arg(metavar="V,V,...", help_behavior_hint="(default: the method's own five)")] = ()
    """What to try."""
    seed: int = 0
    """Of all candidates."""
    out: Annotated[str, arg(metavar="FILE", help_behavior_hint="(default: tuned/<stream>-<method>.json)")] = ""
    """Where the choice is written."""
    install: bool = False
    """Write it into the package instead, as the value that later runs of this method, policy and profile have by default on all
    streams of the benchmark."""
    runs: Annotated[str, arg(metavar="DIR", help_behavior_hint="(default: runs)")] = "runs"
    """Root of the run folders."""
    parallel: Annotated[int | None, arg(metavar="N", help_behavior_hint="")] = None
    """Runs at a time; default: as many as there are cores."""
    backend: Literal["auto", "ray", "processes"] = "auto"
    """auto: Ray where it is installed, else processes of this machine."""
    json: bool = False
    """Print the choice as JSON."""


def main(argv: list[str]) -> int:
    rest, dotted = split_dotted(argv)
    if asks_for_help(rest):
        return print_help(Options, "tune", *EXAMPLES)
    options = parse(Options, rest, "tune", EXAMPLES[0])
    from perdure.tune import Question

    if given := next(iter(dotted["stream"]), ""):
        raise UsageError(f"--stream.{given} is given, but the tuning stream is taken as it is; leave it out")
    question = Question(options.method, options.stream, options.policy, options.profile, options.seed, options.field,
                        [value for part in options.values for value in part.split(",")], dotted)
    question.settled()
    if options.install and options.out:
        raise UsageError(f"--install is given together with --out {options.out}; the choice goes into one place: leave one out")
    target = question.file() if options.install else Path(options.out or f"tuned/{options.stream}-{options.method}.json")
    _writable(target)
    choices(target)
    choice = _answered(question, options)
    if choice is None:
        return 1
    record(target, choice.to_json())
    if options.json:
        print_json(choice.to_json() | {"edge": choice.edge, "file": str(target)})
    else:
        _tell(choice, target)
    if choice.edge:
        print(f"perdure: {choice.field} {choice.best.value:g} is the {choice.edge} value tried, and a better one may lie beyond"
              " it; repeat with --values that go further", file=sys.stderr)
    return 0


def _writable(path: Path) -> None:
    place = path if path.exists() else next(parent for parent in path.absolute().parents if parent.exists())
    if path.is_dir() or path.suffix != ".json" or not os.access(place, os.W_OK):
        raise UsageError(f"--out is {path}, which cannot be written as a .json file; choose another --out")


def _answered(question: Question, options: Options) -> Choice | None:
    """Run what is missing; None, with the reasons told, if a run failed."""
    from perdure.sweep.backends import Resources, choose
    from perdure.sweep.driver import Sweep
    from perdure.sweep.show import Screen
    from perdure.tune import choose as decide

    root, resources = Path(options.runs), Resources(parallel=options.parallel)
    with _of_runs(), Screen() as screen:
        planned = question.planned(root)
        opened = choose(options.backend, "", resources, screen.say)
        entries = Sweep(planned, root, opened, screen, resources).execute()
    failed = [entry for entry in entries if entry.state == "failed"]
    for entry in failed:
        print(f"failed: {entry.run.folder}: {entry.sentence}", file=sys.stderr)
    if failed:
        print("perdure: nothing was chosen; mend what failed, or leave its value out with --values", file=sys.stderr)
        return None
    name = question.settled()[0]
    values: dict[Path, Any] = {run.folder: run.config.method_config[name] for run in planned}
    return decide(question, list(values), values.__getitem__)


@contextmanager
def _of_runs() -> Iterator[None]:
    """The run folders are below --runs here, and --out is something else."""
    try:
        yield
    except UsageError as problem:
        raise type(problem)(re.sub(r"^out is", "--runs is", str(problem)).replace("another --out", "another --runs")) from None


def _tell(choice: Choice, target: Path) -> None:
    """The table of all candidates, and where the choice is."""
    question, best = choice.question, choice.best
    print(f"{question.method} ({question.policy}, {question.profile} profile) on {choice.matrix.stream}:"
          f" {', '.join(choice.matrix.tasks)}; seed {question.seed}")
    rows = [[f"{c.value:g}", f"{c.average_performance:.3f}", f"{c.forgetting:+.3f}", "chosen" if c is best else ""]
            for c in choice.candidates]
    print(columns([[choice.field, "average performance", "forgetting", ""], *rows], "  "))
    print(f"written: {target}")
    same = f"{question.method} with {question.policy} and the {question.profile} profile"
    if target.parent == FOLDER:
        print(f"runs of {same} on {question.stream} use it from now on")
    else:
        print(f"next:    perdure run {question.method} {question.stream} --method.{choice.field} {best.value:g}")
