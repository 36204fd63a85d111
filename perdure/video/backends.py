"""Which OpenGL can draw MuJoCo's scenes here. Imports neither torch nor mujoco.

MuJoCo reads `MUJOCO_GL` once, when it is first imported, and a graphics library that does not fit the machine
may crash the process or hang. So whoever draws does it in a child process, with one backend after the other.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from ctypes.util import find_library

VARIABLE = "MUJOCO_GL"

REPAIR = "on Debian or Ubuntu: apt-get install libegl1 libgl1 (or libosmesa6), then try again"
"""What makes a machine without GPU and display draw."""

SCENE = """
import mujoco
model = mujoco.MjModel.from_xml_string('<mujoco><worldbody><light pos="0 0 3"/><geom size=".2"/></worldbody></mujoco>')
data = mujoco.MjData(model)
mujoco.mj_forward(model, data)
renderer = mujoco.Renderer(model, 32, 32)
renderer.update_scene(data)
picture = renderer.render()
print("drawn" if picture.max() > 0 else "black", flush=True)
import os
os._exit(0)
"""
"""Draws a ball. Leaves at once, since some graphics libraries complain or crash when Python takes them down."""


LIBRARIES = {"egl": "EGL", "osmesa": "OSMesa"}
"""What each backend loads; without it the error it raises is about something else."""


def candidates() -> tuple[str, ...]:
    """Backends to try, in this order: the user's own setting alone, else what needs no display."""
    own = os.environ.get(VARIABLE)
    if own:
        return (own,)
    return ("cgl",) if sys.platform == "darwin" else ("egl", "osmesa")


def environment(backend: str) -> dict[str, str]:
    """Environment variables of a child that draws with `backend`."""
    kept = {name: value for name, value in os.environ.items() if name != "PYOPENGL_PLATFORM"}  # must fit; MuJoCo sets it
    return kept | {VARIABLE: backend}


def advice() -> str:
    """What to do where no backend draws."""
    own = os.environ.get(VARIABLE)
    if own:
        return f"unset {VARIABLE} (it is {own!r}), so that egl and osmesa are tried; if neither draws, {REPAIR}"
    return REPAIR


def probe(seconds: float = 8.0) -> dict[str, str]:
    """Let every candidate draw one small picture, at the same time; backend -> problem, empty where it draws."""
    children = {
        backend: subprocess.Popen(
            [sys.executable, "-c", SCENE], env=environment(backend), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True, process_group=0,
        )
        for backend in candidates()
    }  # fmt: skip
    end = time.monotonic() + seconds
    found = {backend: _outcome(child, max(0.1, end - time.monotonic())) for backend, child in children.items()}
    return {backend: problem and (missing(backend) or problem) for backend, problem in found.items()}


def missing(backend: str) -> str:
    """The library that a backend lacks, in words; empty if it is there."""
    library = LIBRARIES.get(backend)
    return f"the library lib{library} is missing" if library and not find_library(library) else ""


def _outcome(child: subprocess.Popen[str], seconds: float) -> str:
    try:
        out, errors = child.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        child.kill()
        child.communicate()
        return "gave no picture in time"
    if child.returncode < 0:
        return f"crashed with signal {-child.returncode}"
    if child.returncode > 0:
        return cause(errors)
    return "" if "drawn" in out else "draws black pictures"


def cause(errors: str) -> str:
    """The error that a traceback began with: those that follow are about clearing up."""
    lines = [line.strip() for line in errors.splitlines()]
    raised = [line for line in lines if line.partition(":")[0].endswith(("Error", "Exception"))]
    return (raised or lines or ["failed without a word"])[0][:160]
