"""The text of the benchmark."""

from __future__ import annotations

from typing import Any


def heading(facts: dict[str, Any], ceiling: dict[str, float], clock: str, rounds: int, trusted: bool) -> str:
    """Machine, ceiling and load."""
    lines = [
        f"{facts['machine']}, {facts['cores']} cores, load {facts['load']}; torch {facts['torch']}, device {facts['device']}",
        "ceiling (640x256 by 256x768), GFLOP/s: " + ", ".join(f"{n.replace('_', ' ')} {v:.0f}" for n, v in ceiling.items()),
        f"one thread, {rounds} alternating rounds (steps: 15 or more), {clock} time; median [lowest - highest round]",
    ]
    if not trusted:
        lines.append(
            f"the load of {facts['load']} exceeds the {facts['cores']} cores, so no verdict is given; wait for a free machine, or"
            " judge by CPU time (--cpu-time)"
        )
    return "\n".join(lines)


def table(rows: list[dict[str, Any]], clock: str) -> str:
    """One line per figure, with the other clock's median and what explains it underneath."""
    other = "wall" if clock == "cpu" else "cpu"
    lines = []
    for row in rows:
        here, unit = row[clock], row["unit"]
        value = f"{here['median']:.3g}{unit} [{here['low']:.3g} - {here['high']:.3g}]"
        target = f"target {row['target']}" if row["target"] else ""
        verdict = {"none": "no verdict"}.get(row["verdict"], row["verdict"])
        lines.append(f"{row['name']:<72} {value:<28} {target:<14} {verdict}")
        notes = [f"{other} {row[other]['median']:.3g}{unit}"]
        if row["equality"]:
            notes.append(f"equal within {row['equality']['difference']:.1e}")
        notes += [f"{name.replace('_', ' ')} {_short(value)}" for name, value in row["details"].items()]
        lines.append("    " + ", ".join(notes))
    return "\n".join(lines)


def _short(value: Any) -> str:
    if isinstance(value, dict):
        return "(" + ", ".join(f"{name} {_short(inner)}" for name, inner in value.items()) + ")"
    return f"{value:.3g}" if isinstance(value, float) else str(value)
