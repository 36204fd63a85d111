"""Logs: an append-only metrics.jsonl that is cut back on resume, and optional TensorBoard and W&B sinks."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from perdure.core.errors import UsageError
from perdure.core.files import writing

Sink = Literal["tensorboard", "wandb"]


class MetricsLog:
    """One JSON object per line: task, phase, step and values. Truncated to a checkpoint's offset on resume."""

    def __init__(self, path: Path, offset: int = 0):
        """Keep the first `offset` bytes of the file, cut at a whole line."""
        self.path = path
        path.touch()
        with open(path, "rb+") as file:
            kept = file.read(offset)
            file.truncate(len(kept[: kept.rfind(b"\n") + 1]))
        self.file = open(path, "ab")  # noqa: SIM115 - open for the whole run
        self.sinks: list[Any] = []

    @property
    def offset(self) -> int:
        """Bytes written so far; what a checkpoint stores."""
        with writing(self.path):
            self.file.flush()
        return self.file.tell()

    def write(self, task: int, phase: str, step: int, position: int, values: Mapping[str, float]) -> None:
        """Append one line; `position` is the step counted over the whole run, the axis of the sinks."""
        row = {"task": task, "phase": phase, "step": step} | {k: v if math.isfinite(v) else None for k, v in values.items()}
        with writing(self.path):
            self.file.write((json.dumps(row, allow_nan=False) + "\n").encode())
        for sink in self.sinks:
            sink.write(position, {f"{phase}/{name}": value for name, value in values.items()} | {"task": task})

    def close(self) -> None:
        with suppress(OSError):  # what matters was flushed by the checkpoint that counts on it
            self.file.close()
        for sink in self.sinks:
            sink.close()


class TensorBoardSink:
    """Scalars for `tensorboard --logdir`; steps after the resumed position are purged."""

    def __init__(self, folder: Path, position: int):
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise UsageError("log is 'tensorboard' but it is not installed: pip install 'perdure[tensorboard]'") from None

        self.writer = SummaryWriter(str(folder / "tensorboard"), purge_step=position or None)

    def write(self, position: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self.writer.add_scalar(name, value, position)

    def close(self) -> None:
        self.writer.close()


class WandbSink:
    """Weights & Biases, only when asked for; the run id follows from the folder, so that a resume continues the curve."""

    def __init__(self, folder: Path, position: int):
        try:
            import wandb
        except ImportError:
            raise UsageError("log is 'wandb' but W&B is not installed; pip install wandb, or use --log tensorboard") from None
        from perdure.core.config import digest

        self.run = wandb.init(project="perdure", id=digest(str(folder.resolve())), name=folder.name, resume="allow",
                              dir=str(folder))

    def write(self, position: int, values: Mapping[str, float]) -> None:
        self.run.log(dict(values), step=position)

    def close(self) -> None:
        self.run.finish()


def open_sinks(names: tuple[Sink, ...], folder: Path, position: int) -> list[Any]:
    """The sinks asked for."""
    makers = {"tensorboard": TensorBoardSink, "wandb": WandbSink}
    return [makers[name](folder, position) for name in names]
