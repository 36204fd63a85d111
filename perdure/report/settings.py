"""Runs of one method in several settings get rows of their own, named by what differs: "er (steps 10)"."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from perdure.core.errors import UsageError
from perdure.core.files import read_json

if TYPE_CHECKING:
    from perdure.report.collect import RunResult

KINDS = ("policy", "profile", "precision")
"""Fields of a config that decide what its other options mean: only runs that agree in them are compared option by option."""

GROUPS = {"method_config": "", "policy_config": "policy.", "stream_options": "stream.", "evaluation": "evaluation."}
"""Groups of options, and how their names begin in a label."""

LONGEST = 60
"""Letters of a label; a longer one gives way to the hash of the config."""


def told_apart(runs: Sequence[RunResult]) -> list[RunResult]:
    """The same runs, each in the row of its setting. Where a config.json does not say it, a row stays as it is."""
    rows: dict[str, list[RunResult]] = {}
    for run in runs:
        rows.setdefault(run.row, []).append(run)
    return [renamed for row in rows.values() for renamed in _row_apart(row)]


def _row_apart(runs: list[RunResult]) -> list[RunResult]:
    if len({run.matrix.config_hash for run in runs}) == 1:
        return runs
    configs = [_settings(run) for run in runs]
    if not all(configs):
        return runs
    kinds = [tuple(config[name] for name in KINDS) for config in configs]
    found = []
    for run, config, kind in zip(runs, configs, kinds, strict=True):
        words = [str(config[name]) for name in KINDS if _differs(name, configs)]
        like = [other for other, its in zip(configs, kinds, strict=True) if its == kind]
        options = [name for name in dict.fromkeys(name for other in like for name in other) if _differs(name, like)]
        words += [f"{name.replace('_', ' ')} {_shown(config.get(name))}" for name in options]
        found.append(_in_row(run, ", ".join(words)) if words else run)
    return found


def _settings(run: RunResult) -> dict[str, Any]:
    """Name -> value of everything in the run's config but method, stream and seed; empty where it cannot be read."""
    path = run.folder / "config.json"
    try:
        from perdure.run_config import load_config  # needs torch, which a table does not need otherwise

        config = asdict(load_config(path))  # with the options that were added since
    except (UsageError, OSError, ImportError):
        config = read_json(path) if path.is_file() else {}
    if not isinstance(config, dict) or not all(isinstance(config.get(group), dict) for group in GROUPS):
        return {}
    options = {prefix + name: value for group, prefix in GROUPS.items() for name, value in config[group].items()}
    return {name: config.get(name) for name in KINDS} | options


def _differs(name: str, configs: Iterable[dict[str, Any]]) -> bool:
    return len({json.dumps(config.get(name), sort_keys=True) for config in configs}) > 1


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _in_row(run: RunResult, label: str) -> RunResult:
    if len(label) > LONGEST:
        label = f"config {run.matrix.config_hash}"
    return replace(run, row=f"{run.row[:-1]}, {label})" if run.row.endswith(")") else f"{run.row} ({label})")
