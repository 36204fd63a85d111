"""One episode in memory, and its exact conversion to the types a dataset stores."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from perdure.core.errors import UsageError
from perdure.core.spec import Box, Spec


@dataclass
class Trajectory:
    """One episode of T steps.

    Unlike many formats it keeps T+1 observations, so the last transition is whole, and it keeps `terminated`
    (the task ended) apart from `truncated` (the time limit, or the recording, ended).
    """

    observations: np.ndarray
    """(T+1, *F) float32 or uint8, in environment units: frames F, which are whole observations where nothing is stacked."""
    actions: np.ndarray
    """(T, A) float32 in environment units inside the bounds, or (T,) int64."""
    rewards: np.ndarray
    """(T,) float32: the reward after each action."""
    terminated: np.ndarray
    """(T,) bool; may be True at the last step only."""
    truncated: np.ndarray
    """(T,) bool; may be True at the last step only."""
    success: bool | None = None
    """None where the task has no notion of success."""
    goal: tuple[float, ...] | None = None
    seed: int | None = None
    level: float | None = None
    """Noise level of the behaviour policy in this episode."""
    info: dict[str, Any] = field(default_factory=dict)
    """For the producer's own use; not stored in a dataset."""

    @property
    def length(self) -> int:
        """Number of steps T."""
        return len(self.rewards)


def _refuse(episode: int, name: str, is_now: str, should_be: str) -> None:
    raise UsageError(f"episode {episode}, {name}: {is_now}; {should_be}")


def _typed(value: Any, name: str, episode: int, kinds: str, dtype: type, wanted: str) -> np.ndarray:
    """`value` as a C-ordered array of `dtype`; conversions by value, never a reinterpretation of bytes."""
    try:
        array = np.asarray(value)
    except ValueError:
        raise UsageError(
            f"episode {episode}, {name}: its rows have different lengths; make them equal"
        ) from None
    if array.dtype.kind not in kinds:
        _refuse(episode, name, f"the type is {array.dtype}", f"store {wanted}")
    with np.errstate(over="ignore"):  # too large for float32 becomes infinite and is refused as such
        return np.asarray(array, dtype=dtype, order="C")


def episode_arrays(trajectory: Trajectory, spec: Spec, episode: int) -> dict[str, np.ndarray]:
    """The five arrays of an episode in stored types, with every shape checked against `spec`.

    float64 is rounded to float32; integers are taken by value; images must be uint8 already and flags bool.

    Raises:
        UsageError: naming the episode, the array, what it is and what it should be; not for values.
    """
    if spec.obs.dtype == "uint8":
        observations = _typed(
            trajectory.observations, "observations", episode, "u", np.uint8, "images as uint8"
        )
        if np.asarray(trajectory.observations).dtype != np.uint8:
            _refuse(episode, "observations", "the integers are wider than 8 bits", "store images as uint8")
    else:
        observations = _typed(trajectory.observations, "observations", episode, "fiub", np.float32, "numbers")
    if isinstance(spec.action, Box):
        actions = _typed(trajectory.actions, "actions", episode, "fiu", np.float32, "numbers")
        step_shape = spec.action.shape
    else:
        actions = _typed(
            trajectory.actions, "actions", episode, "iu", np.int64, "the numbers of discrete actions"
        )
        step_shape = ()
    arrays = {
        "observations": observations,
        "actions": actions,
        "rewards": _typed(trajectory.rewards, "rewards", episode, "fiub", np.float32, "numbers"),
        "terminated": _typed(trajectory.terminated, "terminated", episode, "b", np.bool_, "bool"),
        "truncated": _typed(trajectory.truncated, "truncated", episode, "b", np.bool_, "bool"),
    }
    steps = len(arrays["rewards"]) if arrays["rewards"].ndim else 0
    if steps == 0:
        _refuse(
            episode, "rewards", "it has no steps", "give every episode at least one step, or leave it out"
        )
    expected = {
        "observations": (steps + 1, *spec.obs.stored.shape),
        "actions": (steps, *step_shape),
        "rewards": (steps,),
        "terminated": (steps,),
        "truncated": (steps,),
    }
    for name, shape in expected.items():
        if arrays[name].shape != shape:
            hint = (
                " (an episode keeps one observation more than it has steps)" if name == "observations" else ""
            )
            _refuse(
                episode,
                name,
                f"the shape is {arrays[name].shape}",
                f"{steps} rewards and the spec need {shape}{hint}",
            )
    return arrays
