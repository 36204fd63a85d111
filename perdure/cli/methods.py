"""`perdure methods`: every method with what it needs to see."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from itertools import takewhile

from perdure.cli.parse import asks_for_help, parse, print_help
from perdure.cli.show import described, print_json

EXAMPLE = "perdure methods --json"


@dataclass(frozen=True)
class Options:
    """List the methods with what each must be allowed to see beside the current task's data."""

    json: bool = False
    """Print JSON."""


def main(argv: list[str]) -> int:
    if asks_for_help(argv):
        return print_help(Options, "methods", "perdure methods", EXAMPLE)
    options = parse(Options, argv, "methods", EXAMPLE)
    from perdure.methods import METHODS
    from perdure.run_config import find

    listed = []
    for name, reference in METHODS.items():
        cls = find(name, METHODS, "method")
        text = str(import_module(reference.split(":")[0]).__doc__)
        about = text.splitlines()[0].removeprefix(f"{name}: ")
        needs = sorted(cls.needs(cls.Config()), key=lambda need: need.name)
        listed.append({"name": name, "about": about, "paper": section(text, "Paper"), "needs": [need.name for need in needs],
                       "needs_in_words": [need.value for need in needs], "class": reference})
    if options.json:
        print_json(listed)
        return 0
    rows = [(str(m["name"]), f"{m['about']} Needs: {', '.join(m['needs_in_words']) or 'nothing more'}. Paper: {m['paper']}.")
            for m in listed]
    print(described(rows))
    print("\nheads and normalisers per task (the default of every policy) also use the task id at test time"
          "\nexample: perdure run packnet toy; a method of your own: perdure run my_module:MyMethod toy")
    return 0


def section(text: str, name: str) -> str:
    """A part of a method's docstring, such as Paper, as one line; continuation lines are indented, every part begins a line."""
    lines = text.splitlines()
    first = next((i for i, line in enumerate(lines) if line.startswith(f"{name} ")), None)
    if first is None:
        return ""
    more = list(takewhile(lambda line: line.startswith(" "), lines[first + 1 :]))
    return " ".join([lines[first].removeprefix(name).strip(), *(line.strip() for line in more)])
