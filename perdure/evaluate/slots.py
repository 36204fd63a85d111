"""Environment slots of one process, and the messages in which commands and results cross to a worker process.

A slot holds one environment and runs one episode at a time. `Slots` steps them, in a worker or in the process
of the caller alike, and checks what they return, so a broken environment is named and never becomes a score.
`serve` is all that a worker process does. No torch: a worker starts in a fraction of a second and stays
small.

A message is two lengths, a JSON header and raw array bytes. Nothing is pickled, and a worker imports nothing
of the script that runs its parent, so scripts need no `if __name__ == "__main__"`.
"""

from __future__ import annotations

import dataclasses
import gc
import importlib
import json
import math
import os
import signal
import socket
import struct
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from perdure.core.errors import UsageError

LENGTHS = struct.Struct("<II")
"""Bytes of the JSON header, bytes of the arrays."""

UNKNOWN = 2
"""Success of an environment that does not report it, on the wire."""


class Reset(NamedTuple):
    """Command: start an episode in this slot."""

    seed: int
    goal: Sequence[float] | None
    episode: int
    """Position in the caller's list, named in messages."""


Command = Reset | np.ndarray | None
"""What a slot does in one call: start an episode, step with an action, or nothing."""


class Result(NamedTuple):
    """What a slot saw: observation (*O) float32 or uint8, and the step's outcome (zeros after a reset)."""

    obs: np.ndarray
    reward: float
    terminated: bool
    truncated: bool
    success: bool | None
    """None: the environment does not say."""


class EnvFault(Exception):
    """An environment raised, or returned something that is no observation or reward."""

    def __init__(self, slot: int, problem: str):
        super().__init__(problem)
        self.slot = slot
        self.problem = problem


# -- factories as JSON ------------------------------------------------------------------------------------


def describe(factory: Any) -> dict[str, Any]:
    """JSON from which a worker of this process makes the same factory; never read from a file.

    Raises:
        UsageError: the factory is not a dataclass of plain values that another process can import.
    """
    cls = type(factory)
    place = f"{cls.__module__}:{cls.__qualname__}"
    if not dataclasses.is_dataclass(factory):
        raise UsageError(
            f"environment factory {place} is not a dataclass; make it a frozen dataclass of plain values"
        )
    if cls.__module__ == "__main__" or "." in cls.__qualname__:
        raise UsageError(
            f"environment factory {place} cannot be imported by worker processes; define it at the top of a "
            "module, or set workers to 0"
        )
    description = {
        "factory": place,
        "arguments": {
            field.name: vars(factory)[field.name] for field in dataclasses.fields(factory) if field.init
        },
    }
    try:
        same = rebuild(json.loads(json.dumps(description, allow_nan=False))) == factory
    except (TypeError, ValueError):
        same = False
    if not same:
        raise UsageError(
            f"environment factory {factory!r} has fields that JSON cannot hold; use numbers, text and tuples"
        )
    return description


def rebuild(description: dict[str, Any]) -> Any:
    """The factory that `describe` described."""
    module, name = description["factory"].split(":")
    cls = vars(importlib.import_module(module))[name]
    return cls(**{field: _frozen(value) for field, value in description["arguments"].items()})


def _frozen(value: Any) -> Any:
    """JSON has only lists; a frozen dataclass holds tuples."""
    return tuple(_frozen(v) for v in value) if isinstance(value, list) else value


# -- messages ---------------------------------------------------------------------------------------------


def send(connection: socket.socket, header: dict[str, Any], arrays: Sequence[np.ndarray] = ()) -> None:
    """Send a JSON header (plain values) and arrays of any shape."""
    header = {**header, "arrays": [[array.dtype.str, array.shape] for array in arrays]}
    text = json.dumps(header).encode()
    size = sum(array.nbytes for array in arrays)
    connection.sendall(
        b"".join([LENGTHS.pack(len(text), size), text, *(array.tobytes() for array in arrays)])
    )


def receive(
    connection: socket.socket, patience: Callable[[], None] | None = None
) -> tuple[dict[str, Any], list[np.ndarray]]:
    """The next message. `patience` is called whenever the socket's timeout passes without news; it may raise.

    Raises:
        EOFError: the other side closed its end or is dead.
    """
    text_size, size = LENGTHS.unpack(_read(connection, LENGTHS.size, patience))
    header = json.loads(_read(connection, text_size, patience))
    data, arrays, start = _read(connection, size, patience), [], 0
    for dtype, shape in header["arrays"]:
        array = np.frombuffer(data, dtype, math.prod(shape), start).reshape(shape)
        arrays.append(array)
        start += array.nbytes
    return header, arrays


def _read(connection: socket.socket, size: int, patience: Callable[[], None] | None) -> bytearray:
    data = bytearray(size)
    view, filled = memoryview(data), 0
    while filled < size:
        try:
            count = connection.recv_into(view[filled:])
        except TimeoutError:
            if patience is None:
                raise
            patience()
            continue
        if count == 0:
            raise EOFError
        filled += count
    return data


# -- environments -----------------------------------------------------------------------------------------


class Slots:
    """The environments of one process, each made when its slot is first reset.

    An environment's `reset(seed=, options={"goal": ...})` and the actions must determine an episode.
    """

    def __init__(self, factory: Callable[[], Any]):
        self._factory = factory
        self._environments: dict[int, Any] = {}

    def run(self, slot: int, command: Reset | np.ndarray) -> Result:
        """Carry out one command.

        Raises:
            EnvFault: the environment raised or returned nonsense.
            UsageError: the environment cannot be made or reset as asked.
        """
        try:
            return self._reset(slot, command) if isinstance(command, Reset) else self._step(slot, command)
        except (EnvFault, UsageError):
            raise
        except Exception as problem:
            place = traceback.extract_tb(problem.__traceback__)[-1]
            text = " ".join(str(problem).split())[:300]
            raise EnvFault(
                slot, f"raised {type(problem).__name__}: {text} ({place.filename}:{place.lineno})"
            ) from None

    def _reset(self, slot: int, command: Reset) -> Result:
        if slot not in self._environments:
            self._environments[slot] = self._factory()
        goal = None if command.goal is None else list(command.goal)
        obs, _ = self._environments[slot].reset(seed=command.seed, options={"goal": goal})
        return Result(self._observation(slot, obs), 0.0, False, False, None)

    def _step(self, slot: int, action: np.ndarray) -> Result:
        chosen = int(action) if action.ndim == 0 else action
        obs, reward, terminated, truncated, info = self._environments[slot].step(chosen)
        reward = float(reward)
        if not math.isfinite(reward):
            raise EnvFault(slot, f"returned the reward {reward}")
        success = bool(info["success"]) if "success" in info else None
        return Result(self._observation(slot, obs), reward, bool(terminated), bool(truncated), success)

    def _observation(self, slot: int, obs: Any) -> np.ndarray:
        shape = self._environments[slot].observation_space.shape
        obs = np.asarray(obs)
        if obs.shape != shape:
            raise EnvFault(
                slot, f"returned an observation of shape {list(obs.shape)} where its space has {list(shape)}"
            )
        if obs.dtype == np.uint8:
            return obs
        obs = obs.astype(np.float32)
        if not np.isfinite(obs).all():
            raise EnvFault(slot, "returned an observation with NaN or infinity")
        return obs

    def close(self) -> None:
        """Close the environments; a slot's next reset makes a new one."""
        while self._environments:
            self._environments.popitem()[1].close()
        gc.collect()  # simulators refer to themselves; 30 of them are a gigabyte that would wait for Python to notice


# -- commands and results on the wire ---------------------------------------------------------------------


def send_commands(connection: socket.socket, commands: dict[int, Reset | np.ndarray]) -> None:
    """Commands of one worker's slots: resets in the header, the other slots' actions as one array (k,
    ...)."""
    resets = {slot: command for slot, command in commands.items() if isinstance(command, Reset)}
    steps = {slot: command for slot, command in commands.items() if not isinstance(command, Reset)}
    header = {
        "reset": [
            [slot, r.seed, None if r.goal is None else [float(x) for x in r.goal]]
            for slot, r in resets.items()
        ],
        "step": list(steps),
    }
    send(connection, header, [np.stack(list(steps.values()))] if steps else [])


def _received_commands(header: dict[str, Any], arrays: list[np.ndarray]) -> dict[int, Reset | np.ndarray]:
    commands: dict[int, Reset | np.ndarray] = {
        slot: Reset(seed, goal, -1) for slot, seed, goal in header["reset"]
    }
    if header["step"]:
        commands.update(zip(header["step"], list(arrays[0]), strict=True))
    return commands


def _send_results(connection: socket.socket, results: dict[int, Result]) -> None:
    flags = [
        (r.terminated, r.truncated, UNKNOWN if r.success is None else int(r.success))
        for r in results.values()
    ]
    arrays = [
        np.stack([r.obs for r in results.values()]),
        np.array([r.reward for r in results.values()], dtype=np.float64),
        np.array(flags, dtype=np.uint8),
    ]
    send(connection, {"slots": list(results)}, arrays)


def received_results(header: dict[str, Any], arrays: list[np.ndarray]) -> dict[int, Result]:
    """Results by slot.

    Raises:
        EnvFault, UsageError: what the worker met instead.
    """
    if "usage" in header:
        raise UsageError(header["usage"])
    if "fault" in header:
        raise EnvFault(header["slot"], header["fault"])
    observations, rewards, flags = arrays
    return {
        slot: Result(obs, reward, bool(end), bool(cut), None if success == UNKNOWN else bool(success))
        for slot, obs, reward, (end, cut, success) in zip(
            header["slots"], observations, rewards.tolist(), flags.tolist(), strict=True
        )
    }


# -- the worker process -----------------------------------------------------------------------------------


def serve(handle: int, parent: int) -> None:
    """Run commands from the socket with descriptor `handle` until process `parent` closes its end or dies.

    The first message names a factory; a later one that does exchanges all environments for those of another.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole terminal; only the parent decides
    threading.Thread(target=_outlive_nobody, args=(parent,), daemon=True).start()
    connection = socket.socket(fileno=handle)
    try:
        description, _ = receive(connection)
        slots = _opened(connection, description)
        while slots is not None:
            header, arrays = receive(connection)
            if "factory" in header:
                slots.close()
                slots = _opened(connection, header)
            else:
                _answer(connection, slots, _received_commands(header, arrays))
    except (EOFError, OSError):
        pass  # the parent is gone or has no more work
    sys.stderr.flush()
    os._exit(0)  # an environment's own threads must not keep an orphan alive


def _outlive_nobody(parent: int) -> None:
    """End this process soon after its parent, also when an environment hangs and no message is read."""
    while os.getppid() == parent:
        time.sleep(1.0)
    os._exit(0)


def _opened(connection: socket.socket, description: dict[str, Any]) -> Slots | None:
    try:
        slots = Slots(rebuild(description))
    except Exception as problem:
        send(connection, {"usage": f"a worker process cannot import {description['factory']} ({problem})"})
        return None
    send(connection, {"ready": True})
    return slots


def _answer(connection: socket.socket, slots: Slots, commands: dict[int, Reset | np.ndarray]) -> None:
    try:
        results = {slot: slots.run(slot, command) for slot, command in commands.items()}
    except UsageError as problem:
        send(connection, {"usage": str(problem)})
    except EnvFault as fault:
        send(connection, {"slot": fault.slot, "fault": fault.problem})
    else:
        _send_results(connection, results)
