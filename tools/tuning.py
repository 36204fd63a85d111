"""Write docs/benchmarks/tuning.md: every coefficient that `perdure tune` chose, and every value that was tried.

    python tools/tuning.py
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from perdure.benchmarks.tuned import FOLDER, choices
from perdure.core.files import write_atomic

PAGE = Path(__file__).resolve().parent.parent / "docs" / "benchmarks" / "tuning.md"

HEAD = """# Tuning: what was chosen, and what was tried

Written by `python tools/tuning.py` from `perdure/benchmarks/settings/*.json`. Every row is one `perdure tune METHOD STREAM`:
each value learned the tasks named once, with one seed, and the highest average performance was taken (in brackets: forgetting;
**bold**: chosen). None of these tasks is in the benchmark. With one seed and 50 episodes per task, differences below about 0.1
say little.
"""


def page() -> str:
    """The whole page."""
    parts = [HEAD]
    for path in sorted(FOLDER.glob("*.json")):
        parts.append(f"## {path.stem.replace('_', ' ').capitalize()}\n")
        places: dict[tuple[str, ...], list[dict[str, Any]]] = {}
        for choice in choices(path):
            places.setdefault((choice["stream"], choice["policy"], choice["profile"], *choice["tasks"]), []).append(choice)
        for (stream, policy, profile, *tasks), made in sorted(places.items()):
            parts.append(f"On `{stream}` ({', '.join(tasks)}) with `{policy}`, {profile} profile:\n")
            rows = [f"| `{choice['method']}` | {choice['field']} | {tried(choice)} | {choice['seed']} |" for choice in made]
            parts.append("\n".join(["| method | option | values tried | seed |", "|---|---|---|---|", *rows]) + "\n")
    return "\n".join(parts)


def tried(choice: dict[str, Any]) -> str:
    """All candidates of a choice, with what else was set."""
    words = []
    for candidate in choice["candidates"]:
        word = f"{candidate['value']:g}: {candidate['average_performance']:.2f} ({candidate['forgetting']:+.2f})"
        words.append(f"**{word}**" if candidate["value"] == choice["value"] else word)
    others = [f"{name} {value}" for options in choice["options"].values() for name, value in options.items()]
    return ", ".join(words) + (f"; with {', '.join(others)}" if others else "")


if __name__ == "__main__":
    write_atomic(PAGE, page().encode())
    print(PAGE)
