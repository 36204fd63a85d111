"""The sizes at which one model per task has as many parameters in all as a finished run uses.

    python tools/match_size.py runs/panda3-v3/tsn/dt-bac49a12-seed0

Prints the options for `perdure run independent`: a narrower policy and, for `dt`, the units of its MLP that come nearest.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from perdure.core.config import build
from perdure.core.matrix import ScoreMatrix
from perdure.core.task import Stream
from perdure.data.access import Views
from perdure.policies import POLICIES
from perdure.run_config import find, load_config
from perdure.streams import load_stream

WITHIN = 0.02
"""Relative difference that counts as equal."""


def total(policy_class: Any, options: dict[str, Any], stream: Stream, views: Views) -> int:
    """Parameters of one policy per task."""
    count = 0
    for task, view in zip(stream.tasks, views.views, strict=True):
        policy = policy_class(build(policy_class.Config, options, "policy"))
        policy.add_task(task.index, task.spec, view.stats())
        count += sum(p.numel() for p in policy.parameters())
    return count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of a finished run, or of a kept one")
    arguments = parser.parse_args()
    config, footprint = load_config(arguments.run / "config.json"), ScoreMatrix.load(arguments.run / "scores.json").footprint
    wanted = footprint.get("used_parameters", footprint["parameters"])
    stream = load_stream(config.stream, **config.stream_options)
    views, policy_class = Views(stream), find(config.policy, POLICIES, "policy")
    multiple = config.policy_config.get("attention_heads", 1)

    def size(**changed: int) -> int:
        return total(policy_class, config.policy_config | changed, stream, views)

    width = max((w for w in range(multiple, config.policy_config["width"] + 1, multiple) if size(width=w) <= wanted),
                default=multiple)
    chosen = {"width": width}
    if "mlp_width" in config.policy_config:
        chosen["mlp_width"] = min(range(1, 8 * width), key=lambda units: abs(size(width=width, mlp_width=units) - wanted))
    elif abs(size(width=width + multiple) - wanted) < abs(size(width=width) - wanted):
        chosen = {"width": width + multiple}
    found = size(**chosen)
    print(f"{config.method} uses {wanted} parameters; independent has {found} ({found / wanted - 1:+.1%}) with "
          + " ".join(f"--policy.{name} {value}" for name, value in chosen.items()))
    if abs(found / wanted - 1) > WITHIN:
        raise SystemExit(f"no sizes come within {WITHIN:.0%}")


if __name__ == "__main__":
    main()
