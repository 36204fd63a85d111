"""The options of each `perdure data` command."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from tyro.conf import arg

DATASET = Annotated[str, arg(metavar="DATASET", help_behavior_hint="")]
TEXT = Annotated[str, arg(metavar="TEXT", help_behavior_hint="")]
NUMBERS = Annotated[tuple[float, ...], arg(metavar="X ...", help_behavior_hint="")]


@dataclass(frozen=True)
class List:
    """List the datasets below the data folder (PERDURE_DATA, else ./data)."""

    json: bool = False
    """Print JSON."""


@dataclass(frozen=True)
class Info:
    """The card of a dataset in short, without reading its values."""

    dataset: DATASET
    """A folder, or a name below the data folder."""
    json: bool = False
    """Print JSON."""


@dataclass(frozen=True)
class Check:
    """Verify digest, shapes and every value of datasets, whether this machine did so before or not. Exit code 2 if anything
    is wrong."""

    datasets: Annotated[tuple[str, ...], arg(metavar="DATASET ...", help_behavior_hint="")]
    """Folders, or names below the data folder."""
    json: bool = False
    """Print JSON."""


@dataclass(frozen=True)
class Import:
    """Read foreign data in a limited child process (arrays only, nothing is executed) and write them as a dataset."""

    path: Annotated[str, arg(metavar="PATH", help_behavior_hint="")]
    """File or folder: Minari, D4RL-style HDF5, or .npz episodes."""
    name: Annotated[str, arg(metavar="NAME", help_behavior_hint="")]
    """Of the new dataset, below the data folder."""
    format: TEXT = ""
    """npz, d4rl_hdf5 or minari; recognised if left out."""
    quality: str = "imported"
    """A word for the behaviour, such as expert."""
    licence: str = "unknown"
    """Of the data."""
    source: TEXT = ""
    """Where the data come from, in words."""
    low: NUMBERS = ()
    """Lower action bounds, one per channel or one for all; default: the format's own, else taken from the data."""
    high: NUMBERS = ()
    """Upper action bounds."""
    actions: int = 0
    """Number of discrete actions; 0: the largest in the data plus one."""
    holdout: float = 0.1
    """Share of episodes kept out of training."""
    out: TEXT = ""
    """Folder to make instead of the one of that name."""


@dataclass(frozen=True)
class Export:
    """Write a dataset in a foreign format."""

    dataset: DATASET
    """A folder, or a name below the data folder."""
    path: Annotated[str, arg(metavar="PATH", help_behavior_hint="")]
    """New file or folder."""
    format: str = "minari"
    """npz, d4rl_hdf5 or minari."""


@dataclass(frozen=True)
class Card:
    """Everything about a dataset that one wants to see before learning from it: returns, success, levels, channels."""

    dataset: DATASET
    """A folder, or a name below the data folder."""
    json: bool = False
    """Print JSON."""
