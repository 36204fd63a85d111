"""`perdure doctor`: what is installed, what works, and the exact repair of the rest."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from perdure.cli.parse import asks_for_help, parse, print_help
from perdure.cli.show import columns, print_json

EXAMPLE = "perdure doctor"


@dataclass(frozen=True)
class Options:
    """Look at this machine and this installation, change nothing, and name the exact repair of what is missing."""

    json: bool = False
    """Print JSON."""


def main(argv: list[str]) -> int:
    if asks_for_help(argv):
        return print_help(Options, "doctor", EXAMPLE, "perdure doctor --json")
    options = parse(Options, argv, "doctor", EXAMPLE)
    from perdure.doctor import demo_runs, examine

    checks = examine()
    ready = demo_runs(checks)
    if options.json:
        print_json({"demo_runs": ready, "checks": [asdict(check) for check in checks]})
        return 0
    marks = {(True, True): "ok", (True, False): "ok", (False, True): "MISSING", (False, False): "-"}
    print(columns([[marks[check.ok, check.needed], check.name, check.detail] for check in checks]))
    repairs = [[check.name, check.repair] for check in checks if check.repair and not check.ok]
    if repairs:
        print("\nto repair (a line marked - is optional):")
        print(columns(repairs, indent="  "))
    print("\neverything that the demo needs is here" if ready else "\nthe demo needs the lines marked MISSING repaired first")
    return 0
