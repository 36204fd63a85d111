"""Datasets in words: the short form of a card and the long one."""

from __future__ import annotations

from typing import Any

from perdure.cli.show import columns
from perdure.core.words import size
from perdure.data.store import Dataset


def info(data: Dataset) -> dict[str, Any]:
    """Facts that the card alone holds."""
    known = [outcome for outcome in data.successes if outcome is not None]
    behaviour = data.card["behaviour"]
    return {
        "name": data.name, "folder": str(data.folder), "quality": data.card["quality"], "episodes": len(data),
        "transitions": data.transitions, "held_out": int(data.holdout.sum()), "mean_return": float(data.returns.mean()),
        "success": sum(known) / len(known) if known else None, "observations": data.spec.obs_key,
        "actions": data.spec.action_key, "policy": str(behaviour.get("policy", "")), **remarks(behaviour),
        "licence": data.card["licence"], "source": data.card["source"], "digest": data.digest,
        "bytes": sum(data.array(name).nbytes for name in ("observations", "actions", "rewards", "terminated", "truncated")),
    }  # fmt: skip


def remarks(behaviour: dict[str, Any]) -> dict[str, Any]:
    """What an import noted: where the action bounds come from, and what it changed or left out."""
    return {name: behaviour[name] for name in ("action_bounds", "notes") if behaviour.get(name)}


def _in_words(value: Any) -> str:
    return "; ".join(map(str, value)) if isinstance(value, list) else str(value)


def info_text(facts: dict[str, Any]) -> str:
    """`info` as lines."""
    shown = facts | {"bytes": size(facts["bytes"]), "mean_return": f"{facts['mean_return']:.4g}",
                     "success": "not recorded" if facts["success"] is None else f"{facts['success']:.2f}"}
    return columns([[name.replace("_", " ").replace("bytes", "size"), _in_words(value)] for name, value in shown.items()])


def card_text(facts: dict[str, Any]) -> str:
    """`describe` as lines: facts, then a table per noise level and per channel."""
    spread = ("min", "lower_quartile", "median", "upper_quartile", "max", "mean")
    success = facts["success"]
    rate = "not recorded" if success["rate"] is None else f"{success['rate']:.2f} ({success['successes']} of {success['known']})"
    head = [[name, str(facts[name])] for name in ("name", "folder", "quality", "policy", "licence", "source", "digest")]
    head += [[name.replace("_", " "), _in_words(value)] for name, value in remarks(facts).items()]
    head += [["episodes", f"{facts['episodes']} ({facts['split']['holdout']} held out)"],
             ["transitions", f"{facts['transitions']} ({size(facts['bytes'])})"], ["success", rate],
             ["spaces", f"{facts['observation_space']}, actions {facts['action_space']}"],
             ["ends", f"{facts['terminated']} terminated, {facts['truncated']} truncated"]]
    parts = [columns(head)]
    table = [["", *(name.replace("_", " ") for name in spread)]]
    table += [[name, *(f"{facts[name][q]:.4g}" for q in spread)] for name in ("lengths", "returns")]
    parts.append(columns(table))
    if facts["levels"]:
        rows = [[str(row["level"]), str(row["episodes"]), f"{row['mean_return']:.4g}", _rate(row["success"])]
                for row in facts["levels"]]
        parts.append(columns([["noise level", "episodes", "mean return", "success"], *rows]))
    parts.append(_channels("observation", facts["observations"]))
    parts.append(_channels("action", facts["actions"]))
    return "\n\n".join(parts)


def _rate(success: dict[str, Any]) -> str:
    return "-" if success["rate"] is None else f"{success['rate']:.2f}"


def _channels(title: str, rows: list[dict[str, Any]]) -> str:
    """One line per channel, or per discrete action."""
    if rows and "count" in rows[0]:
        return columns([[title, "count"], *([row["name"], str(row["count"])] for row in rows)])
    numbers = ("min", "mean", "max", "std")
    body = [[row["name"], *(f"{row[name]:.4g}" for name in numbers), "constant" if row["constant"] else row["unit"] or ""]
            for row in rows]
    return columns([[title, *numbers, ""], *body])
