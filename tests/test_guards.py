"""Guards on the source itself: who imports whom, what no file may call, how long a file is, what a registry lists."""

import ast
import os
import re
import subprocess
import sys
from dataclasses import is_dataclass
from importlib import import_module
from pathlib import Path

import pytest

from perdure.benchmarks import STREAMS
from perdure.core.method import Method
from perdure.core.policy import Policy
from perdure.methods import METHODS
from perdure.policies import POLICIES
from perdure.run_config import find

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "perdure"
SOURCES = sorted(PACKAGE.rglob("*.py"))
EVERYTHING = [
    path for top in ("perdure", "tests", "tools", "examples") for path in sorted((ROOT / top).rglob("*.py"))
]

MAY_IMPORT = {
    "core": {"core"},
    "data": {"core", "data"},
    "nets": {"core", "nets"},
    "policies": {"core", "data", "nets", "policies"},
    "continual": {"core", "data", "nets", "policies", "continual"},
    "methods": {"core", "data", "nets", "policies", "continual"},
    "benchmarks": {"core", "data", "benchmarks"},
    "evaluate": {"core", "data", "evaluate"},
}
"""Layer -> layers that it may import; the packages above them (experiment, report, cli, ...) may import all of these."""

TORCH_FREE = (
    "perdure",
    "perdure.core.spec",
    "perdure.core.errors",
    "perdure.core.files",
    "perdure.core.task",
    "perdure.core.environment",
    "perdure.benchmarks.metaworld_env",
    "perdure.benchmarks.panda",
    "perdure.benchmarks.gym_env",
    "perdure.benchmarks.point_mass",
    "perdure.evaluate.workers",
    "perdure.evaluate.slots",
    "perdure.cli",
)

FORBIDDEN_MODULES = {"pickle", "cPickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}
FORBIDDEN_BUILTINS = {"eval", "exec", "compile", "__import__"}
FORBIDDEN_CALLS = {
    "torch.load",
    "torch.save",
    "os.system",
    "os.popen",
    "yaml.load",
    "yaml.unsafe_load",
    "numpy.load",
    "torch.hub.load",
}
FORBIDDEN_KEYWORDS = {"shell": True, "allow_pickle": True}


def name(path):
    return str(path.relative_to(ROOT))


def imports(tree):
    """Dotted names of all imported modules, also inside functions; `from a import b` gives a and a.b."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "imports are absolute"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def wrong_imports(path, tree):
    """Imports of a file of the package that its layer may not make."""
    parts = path.relative_to(PACKAGE).parts
    layer = parts[0] if len(parts) > 1 else ""
    own = {f"perdure.{'.'.join(parts)[:-3]}"}
    for module in imports(tree):
        words = module.split(".")
        if words[0] != "perdure":
            continue
        target = words[1] if len(words) > 1 and (PACKAGE / words[1]).is_dir() else ""
        if target == "cli" and layer != "cli" and name(path) != "perdure/__main__.py":
            yield f"imports {module}; nobody imports cli"
        elif layer in MAY_IMPORT and target and target not in MAY_IMPORT[layer] and module not in own:
            yield f"imports {module}; {layer} sees {', '.join(sorted(MAY_IMPORT[layer]))} only"
        elif layer in MAY_IMPORT and not target and module not in ("perdure", "perdure.__version__"):
            yield f"imports {module}; {layer} lies below it"


def wrong_calls(tree):
    """Calls and imports by which data could become code."""
    aliases = {
        alias.asname or alias.name: alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import)
        for alias in node.names
    }
    for module in imports(tree):
        if module.split(".")[0] in FORBIDDEN_MODULES:
            yield f"imports {module}"
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        function = node.func
        if isinstance(function, ast.Name) and function.id in FORBIDDEN_BUILTINS:
            yield f"calls {function.id}"
        dotted = ast.unparse(function)
        first, dot, rest = dotted.partition(".")
        full = aliases.get(first, first) + dot + rest
        quoted = {
            keyword.arg: keyword.value.value for keyword in node.keywords if isinstance(keyword.value, ast.Constant)
        }
        if full in FORBIDDEN_CALLS and not (full == "numpy.load" and quoted.get("allow_pickle") is False):
            yield f"calls {full}"
        for keyword in node.keywords:
            if keyword.arg in FORBIDDEN_KEYWORDS and not (
                isinstance(keyword.value, ast.Constant) and keyword.value.value is False
            ):
                yield f"passes {keyword.arg}={ast.unparse(keyword.value)}"


def tree_of(path):
    return ast.parse(path.read_text(), filename=str(path))


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_source_file(path):
    """Every file of the package: its layer's imports, no data that becomes code."""
    tree = tree_of(path)
    assert [*wrong_imports(path, tree), *wrong_calls(tree)] == []


@pytest.mark.parametrize(
    ("file", "line", "complaint"),
    [
        ("core/x.py", "from perdure.data.store import Dataset", "core sees core only"),
        ("core/x.py", "def f():\n    import perdure.nets.heads", "core sees core only"),
        ("methods/x.py", "from perdure.methods.er import ER", "methods sees"),
        ("methods/x.py", "from perdure.evaluate.rollout import rollout", "methods sees"),
        ("continual/x.py", "from perdure.methods import METHODS", "continual sees"),
        ("nets/x.py", "from perdure.data.sampler import Sampler", "nets sees core, nets only"),
        ("benchmarks/x.py", "from perdure.evaluate.workers import EnvPool", "benchmarks sees"),
        ("evaluate/x.py", "from perdure import benchmarks", "evaluate sees"),
        ("data/x.py", "from perdure.experiment import resolve", "data lies below it"),
        ("report/x.py", "from perdure.cli.parse import parse", "nobody imports cli"),
        ("experiment.py", "import perdure.cli", "nobody imports cli"),
        ("core/x.py", "from perdure import __version__", None),
        ("methods/x.py", "from perdure.continual.masks import MaskSet", None),
    ],
)
def test_the_import_guard_sees(file, line, complaint):
    found = list(wrong_imports(PACKAGE / file, ast.parse(line)))
    assert (not found) if complaint is None else any(complaint in text for text in found)


@pytest.mark.parametrize(
    ("line", "caught"),
    [
        ("import pickle", True),
        ("from cloudpickle import loads", True),
        ("import torch\ntorch.load(p)", True),
        ("import torch as t\nt.load(p)", True),
        ("eval(text)", True),
        ("exec(text)", True),
        ("subprocess.run(c, shell=True)", True),
        ("np.load(p, allow_pickle=True)", True),
        ("np.load(p, allow_pickle=flag)", True),
        ("import numpy as np\nnp.load(p)", True),
        ("import os\nos.system(c)", True),
        ("method.eval()", False),
        ("policy.eval()", False),
        ("re.compile(p)", False),
        ("np.load(p, allow_pickle=False)", False),
        ("import numpy as np\nnp.load(p, allow_pickle=False)", False),
        ("subprocess.run(c, shell=False)", False),
        ("torch.compile(m)", False),
    ],
)
def test_the_call_guard_sees(line, caught):
    assert bool(list(wrong_calls(ast.parse(line)))) == caught


@pytest.mark.parametrize("path", EVERYTHING, ids=name)
def test_file_is_short_explained_and_of_no_machine(path):
    text = path.read_text()
    assert len(text.splitlines()) < 400
    explained = ast.get_docstring(ast.parse(text)) or not text.strip() or "tests" in path.parts
    assert explained, "a file begins by saying what it is and why"
    assert not re.search(r"(?<!\w)/(work|root|tmp/pv)/", text), "no path of one machine"


def test_light_modules_do_not_import_torch():
    """Environment workers and the first word of the command line must not pay seconds for it."""
    program = f"""import sys
for name in {TORCH_FREE!r}:
    __import__(name)
    assert "torch" not in sys.modules, name
import perdure
assert perdure.Method.__module__ == "perdure.core.method" and "torch" in sys.modules"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_every_public_name_can_be_imported():
    import perdure

    for public in perdure.__all__:
        assert perdure.__dict__.get(public) is not None or perdure.__getattr__(public) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        perdure.__getattr__("nothing")


def files_of(layer, *without):
    return {path.stem for path in (PACKAGE / layer).glob("*.py")} - {"__init__", *without}


def test_methods_and_their_folder_agree():
    assert {target.split(":")[0].rpartition(".")[2] for target in METHODS.values()} == files_of("methods")
    assert len(set(METHODS.values())) == len(METHODS)
    for key in METHODS:
        method = find(key, METHODS, "method")
        assert issubclass(method, Method)
        assert is_dataclass(method.Config)
        assert method.schedule in ("sequential", "joint")
        assert isinstance(method.needs(method.Config()), frozenset)


def test_policies_and_their_folder_agree():
    parts = ("base", "actor_critic", "planning", "selection")
    assert {target.split(":")[0].rpartition(".")[2] for target in POLICIES.values()} == files_of("policies", *parts)
    for key in POLICIES:
        policy = find(key, POLICIES, "policy")
        assert issubclass(policy, Policy)
        assert is_dataclass(policy.Config)
        for profile in ("cpu", "paper"):
            assert {"policy", "training"} == set(policy.PROFILES[profile])
            policy.Config(**policy.PROFILES[profile]["policy"])


def test_streams_and_their_folder_agree():
    with_streams = {
        path.stem
        for path in (PACKAGE / "benchmarks").glob("*.py")
        if any(isinstance(node, ast.FunctionDef) and node.name == "stream" for node in tree_of(path).body)
    }
    assert {module.rpartition(".")[2] for module in STREAMS.values()} == with_streams - {
        "custom"
    }  # custom: streams of .toml files
    for module in map(import_module, set(STREAMS.values())):
        assert is_dataclass(module.Options)
        assert callable(module.stream)
        assert isinstance(module.SETTINGS, dict)
        assert isinstance(module.POLICY, dict)


def test_settings_name_options_that_exist():
    for module in map(import_module, set(STREAMS.values())):
        for (method, policy, profile), values in module.SETTINGS.items():
            assert profile in ("cpu", "paper")
            for each in METHODS if method == "*" else [method]:
                find(each, METHODS, "method").Config(**values)
            assert policy in POLICIES
        for (policy, profile), values in module.POLICY.items():
            assert profile in ("cpu", "paper")
            find(policy, POLICIES, "policy").Config(**values)


@pytest.mark.parametrize("key", list(METHODS))
def test_every_method_says_where_it_comes_from(key):
    text = import_module(METHODS[key].split(":")[0]).__doc__
    assert text.startswith(f"{key}: ")
    found = re.findall(r"^(Paper|Objective|Keeps|Needs|Differs|Status)\s+\S", text, re.MULTILINE)
    assert found == ["Paper", "Objective", "Keeps", "Needs", "Differs", "Status"]


def test_no_two_test_files_hide_each_other():
    """Test files of one name need packages around them, or pytest imports only one."""
    plain = [path.name for path in (ROOT / "tests").rglob("test_*.py") if not (path.parent / "__init__.py").exists()]
    assert sorted({one for one in plain if plain.count(one) > 1}) == []
