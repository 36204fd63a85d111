"""The doctor: every check is there and can be written as JSON, and what is broken is named with its repair."""

import json
import sys
import tomllib
from dataclasses import asdict
from pathlib import Path

import pytest

from perdure import doctor
from perdure.doctor import Check, demo_runs, examine, numbers, parsed, unmet
from perdure.video import backends


@pytest.fixture
def fakes(monkeypatch):
    """Installed packages by name; None: missing."""
    versions: dict[str, str | None] = {}
    real = doctor.installed
    monkeypatch.setattr(doctor, "installed", lambda name: versions[name] if name in versions else real(name))
    return versions


def test_the_tables_are_those_of_pyproject():
    project = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())["project"]
    assert list(doctor.CORE) == project["dependencies"]
    extras = {name: tuple(needs) for name, needs in project["optional-dependencies"].items() if name not in ("dev", "all")}
    assert extras == doctor.EXTRAS
    assert project["requires-python"] == ">={}.{},<{}.{}".format(*doctor.OLDEST, *doctor.FIRST_UNKNOWN)


def test_every_check_is_there_and_json():
    checks = examine()
    names = [check.name for check in checks]
    assert len(set(names)) == len(names)
    expected = {"python", "torch", "numpy", "pillow", "extra metaworld", "extra panda", "extra atari", "metaworld starts",
                "rendering", "cores", "memory", "data folder", "runs folder", "cache folder"}
    assert expected <= set(names)
    assert json.loads(json.dumps([asdict(check) for check in checks]))[0]["name"] == "python"
    for check in checks:
        assert check.detail
        assert bool(check.repair) is not check.ok, f"{check.name}: a repair where, and only where, something is wrong"
        assert "\n" not in check.detail + check.repair


def test_only_what_the_demo_needs_decides():
    assert demo_runs([Check("a", True, "x"), Check("b", False, "x", "y", needed=False)])
    assert not demo_runs([Check("a", True, "x"), Check("b", False, "x", "y")])
    assert doctor.extra("metaworld").needed
    assert not doctor.extra("atari").needed


@pytest.mark.parametrize(("version", "words"), [(None, "is not installed"), ("1.26.4", "has to be >=2.0"), ("2.0.0", "")])
def test_a_core_package(fakes, version, words):
    fakes["numpy"] = version
    check = doctor.package("numpy>=2.0")
    assert check.ok is (words == "")
    assert words in check.detail
    assert check.repair == ("pip install 'numpy>=2.0'" if words else "")


def test_a_newer_mujoco_than_metaworld_bears(fakes):
    fakes |= {"mujoco": "4.0.0", "metaworld": "3.1.1"}
    check = doctor.extra("metaworld")
    assert not check.ok
    assert "mujoco is 4.0.0 and has to be ==3.3.0" in check.detail
    assert "new environment" in check.repair
    fakes["mujoco"] = "3.3.7"
    assert doctor.extra("metaworld").repair == "pip install 'perdure[metaworld]'"
    assert doctor.extra("mujoco").ok


def test_panda_names_the_python_it_needs(fakes, monkeypatch):
    fakes["panda-gym"] = None
    monkeypatch.setattr(sys, "version_info", (3, 12, 1))
    assert "below 3.12" in doctor.extra("panda").repair
    monkeypatch.setattr(sys, "version_info", (3, 11, 9))
    assert doctor.extra("panda").repair == "pip install 'perdure[panda]'"


def test_a_missing_metaworld(fakes):
    fakes |= {"metaworld": None, "mujoco": None}
    for check in (doctor.metaworld_imports(), doctor.rendering(), doctor.extra("metaworld")):
        assert not check.ok
        assert check.repair == "pip install 'perdure[metaworld]'"


def test_python_of_another_age(monkeypatch):
    assert doctor.python().ok
    monkeypatch.setattr(sys, "version_info", (3, 14, 0))
    assert "3.13" in doctor.python().repair


@pytest.mark.parametrize(("found", "ok"), [
    ({"egl": "", "osmesa": "the library libOSMesa is missing"}, True),
    ({"egl": "crashed with signal 11", "osmesa": "gave no picture in time"}, False),
])  # fmt: skip
def test_one_backend_that_draws_is_enough(fakes, monkeypatch, found, ok):
    fakes["mujoco"] = "3.3.0"
    monkeypatch.setattr(doctor, "probe", lambda: found)
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    check = doctor.rendering()
    assert check.ok is ok
    assert all(problem in check.detail for problem in found.values())
    assert ok or "apt-get install" in check.repair


def test_a_probe_that_crashes_or_hangs(monkeypatch):
    monkeypatch.setattr(backends, "candidates", lambda: ("one", "two"))
    monkeypatch.setattr(backends, "SCENE", "import os\nos.environ['MUJOCO_GL'] == 'one' and os.kill(os.getpid(), 11)\n"
                                           "import time; time.sleep(30)")
    assert backends.probe(1.0) == {"one": "crashed with signal 11", "two": "gave no picture in time"}


def test_the_first_error_counts():
    errors = "Traceback\n  File x\nRuntimeError: no such display\n\nTraceback\nAttributeError: clearing up\n"
    assert backends.cause(errors) == "RuntimeError: no such display"
    assert backends.cause("") == "failed without a word"


def test_folders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PERDURE_DATA", str(tmp_path / "elsewhere" / "data"))
    monkeypatch.setenv("PERDURE_CACHE", str(tmp_path / "file" / "cache"))
    (tmp_path / "file").write_text("")
    data, runs, cache = doctor.folders()
    assert data.ok
    assert str(tmp_path / "elsewhere" / "data") in data.detail
    assert runs.ok
    assert not cache.ok
    assert "is a file" in cache.detail
    assert "PERDURE_CACHE" in cache.repair
    assert not (tmp_path / "elsewhere").exists(), "looking makes nothing"
    monkeypatch.setattr(doctor, "DEMO_DISK", 1e9)
    assert "make room" in doctor.folders()[0].repair
    monkeypatch.setattr(doctor.os, "access", lambda path, mode: False)
    assert "not writable" in doctor.folders()[1].detail


@pytest.mark.parametrize(("free", "ok"), [(8.0, True), (1.0, False), (None, True)])
def test_memory(monkeypatch, free, ok):
    monkeypatch.setattr(doctor, "_free_memory", lambda: free)
    assert doctor.memory().ok is ok


def test_requirements_are_understood():
    assert parsed("minari[hdf5,arrow]>=0.5.3") == ("minari", [(">=", "0.5.3")])
    assert parsed("panda-gym>=3.0.7; python_version < '3.12'") == ("panda-gym", [(">=", "3.0.7")])
    assert numbers("2.13.0+cpu") == (2, 13)
    assert numbers("2.14.0rc1") == (2, 14)
    assert unmet("no-such-package-of-perdure>=1") == "no-such-package-of-perdure is not installed"
    assert unmet("pytest>=1,<2").startswith("pytest is ")
