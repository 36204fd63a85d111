"""Small foreign files, and what the child process would answer to them."""

import json

import h5py
import numpy as np
import pytest

from perdure.core.errors import UsageError
from perdure.core.files import sha256
from perdure.data.convert import cage, caged
from perdure.data.convert.cage import Limits


def served(path, format, folder, **options):
    """What the child would answer, without starting one: (result, digest of the arrays) or a UsageError."""
    folder.mkdir()
    limits = Limits(memory_mb=300)
    request = {"format": format, "path": str(path), "folder": str(folder), "limits": vars(limits)}
    code = caged.serve({**request, "options": {"bounds": None, "n_actions": None, **options}})
    cage.outcome(code, path, folder, limits)
    return json.loads((folder / "result.json").read_text()), sha256(folder / "arrays.safetensors")


def refused(path, format, folder):
    with pytest.raises(UsageError) as caught:
        served(path, format, folder)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def save_episode(path, steps=5, **changes):
    rng = np.random.default_rng(steps)
    arrays = {
        "observations": rng.normal(size=(steps, 3)),
        "actions": rng.uniform(-1, 1, (steps, 2)),
        "rewards": rng.normal(size=(steps, 1)),
        "terminals": np.eye(1, steps, steps - 1)[0],
        **changes,
    }
    arrays = {key: value for key, value in arrays.items() if value is not None}
    np.savez(path, **arrays)
    return arrays


def save_d4rl(path, ends=(3, 7), total=10, **changes):
    rng = np.random.default_rng(0)
    terminals, timeouts = np.zeros((2, total), bool)
    terminals[ends[0]], timeouts[ends[1]] = True, True
    arrays = {
        "observations": rng.normal(size=(total, 3)).astype(np.float32),
        "actions": rng.uniform(-1, 1, (total, 2)).astype(np.float32),
        "rewards": rng.normal(size=total).astype(np.float32),
        "terminals": terminals,
        "timeouts": timeouts,
        **changes,
    }
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            if array is not None:
                file[name] = array
    return arrays
