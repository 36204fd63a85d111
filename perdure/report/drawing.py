"""What all figures of a report share: colours, and a picture with its words."""

from __future__ import annotations

import re
import zlib
from dataclasses import dataclass

from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from perdure.report.collect import Group

INK, QUIET, GRID, ABSENT = "#1f2933", "#66727f", "#e4e8ec", "#eceff2"

HEAT = LinearSegmentedColormap.from_list("perdure", ["#f7fafc", "#c9dceb", "#7fb0d3", "#3d7fb1", "#174a7c"])
"""Light to dark in one hue: order survives greyscale printing."""


@dataclass(frozen=True)
class Picture:
    """A figure with a file name, a caption and what it shows in words for readers who cannot see it."""

    name: str
    figure: Figure
    caption: str
    alt: str


def seeds_of(group: Group) -> str:
    return "1 seed" if len(group.runs) == 1 else f"{len(group.runs)} seeds"


def file_name(name: str) -> str:
    """A name for a file: letters, digits, dash and underscore only; two rows never share one."""
    clean = re.sub("[^A-Za-z0-9_-]+", "-", name)[:60].strip("-")
    return clean if clean == name else f"{clean}-{zlib.crc32(name.encode()):08x}"
