"""The one check of a dataset's values, used when writing, on the first open and by `perdure data check`."""

from collections.abc import Callable, Iterator, Mapping

import numpy as np

from perdure.core.spec import Box, Spec

CHUNK_VALUES = 2**22
"""Values looked at in one go: bounds the temporary memory at a few times 16 MB however large the dataset."""

Place = Callable[[int], str]
"""Names the episode and step of a row."""


def _chunks(array: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """(first row, rows) with the trailing axes flattened."""
    flat = array.reshape(len(array), -1)
    rows = max(1, CHUNK_VALUES // flat.shape[1])
    for start in range(0, len(flat), rows):
        yield start, flat[start : start + rows]


def _first(array: np.ndarray, bad: Callable[[np.ndarray], np.ndarray]) -> tuple[int, int, object] | None:
    """(row, column, value) of the first value for which `bad(rows)` is True."""
    for start, rows in _chunks(array):
        wrong = bad(rows)
        if wrong.any():
            row, column = np.unravel_index(int(np.argmax(wrong)), wrong.shape)
            return start + int(row), int(column), rows[row, column].item()
    return None


def _column(space: Box, column: int) -> str:
    return f"column {column} ({space.names[column]!r})" if space.names else f"column {column}"


def faults(spec: Spec, lengths: np.ndarray, arrays: Mapping[str, np.ndarray]) -> list[str]:
    """One phrase for each kind of wrong value in the arrays; empty when the data are sound.

    Args:
        spec: the spaces the data must fit.
        lengths: (E,) steps per episode; the shapes of `arrays` are known to agree with them.
        arrays: the five flat arrays of a dataset.
    """
    ends = np.cumsum(lengths)
    observation_ends = np.cumsum(lengths + 1)

    def place(row: int, of: np.ndarray = ends) -> str:
        episode = int(np.searchsorted(of, row, side="right"))
        step = row - int(of[episode - 1] if episode else 0)
        return f"episode {episode}, step {step}"

    found = []
    if spec.obs.dtype == "float32":
        hit = _first(arrays["observations"], lambda rows: ~np.isfinite(rows))
        if hit:
            row, column, value = hit
            found.append(
                f"observations, {place(row, observation_ends)}, {_column(spec.obs, column)} is {value}; "
                "every value must be finite, so repair or leave out the episode"
            )
    if isinstance(spec.action, Box):
        found += _action_faults(spec.action, arrays["actions"], place)
    else:
        n = spec.action.n
        hit = _first(arrays["actions"], lambda rows: (rows < 0) | (rows >= n))
        if hit:
            found.append(
                f"actions, {place(hit[0])} is {hit[2]}; the spec has the actions 0 to {n - 1}, so correct "
                "one of them"
            )
    hit = _first(arrays["rewards"], lambda rows: ~np.isfinite(rows))
    if hit:
        found.append(
            f"rewards, {place(hit[0])} is {hit[2]}; every value must be finite, so repair or leave out the "
            "episode"
        )
    return found + _flag_faults(ends, arrays, place)


def _action_faults(space: Box, actions: np.ndarray, place: Place) -> list[str]:
    # Bounds are rounded like the data: an action at the bound 0.1 is inside although float32(0.1) > 0.1.
    low, high = np.asarray(space.low, np.float32), np.asarray(space.high, np.float32)
    hit = _first(actions, lambda rows: ~np.isfinite(rows))
    if hit:
        row, column, value = hit
        return [
            f"actions, {place(row)}, {_column(space, column)} is {value}; "
            "every value must be finite, so repair or leave out the episode"
        ]
    hit = _first(actions, lambda rows: (rows < low) | (rows > high))
    if hit:
        row, column, value = hit
        return [
            f"actions, {place(row)}, {_column(space, column)} is {value:.9g}, outside the bounds "
            f"[{low[column]:.9g}, {high[column]:.9g}]; clip the actions or give the bounds they were made for"
        ]
    return []


def _flag_faults(ends: np.ndarray, arrays: Mapping[str, np.ndarray], place: Place) -> list[str]:
    found = []
    for name in ("terminated", "truncated"):
        flags = arrays[name].view(np.uint8)
        hit = _first(flags, lambda rows: rows > 1)
        if hit:
            found.append(
                f"{name}, {place(hit[0])} is the byte {hit[2]}; a flag is 0 or 1, so the file is damaged"
            )
        early = np.setdiff1d(np.flatnonzero(flags), ends - 1)
        if len(early):
            found.append(
                f"{name}, {place(int(early[0]))} is True before the end of its episode; "
                "split the episode there, or mark its last step only"
            )
    return found
