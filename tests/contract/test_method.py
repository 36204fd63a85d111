"""The contract suite: every method with both policies, and one method made as a user would make it."""

from pathlib import Path

import pytest
from tiny import config

from contract import checks
from perdure.core.method import Method
from perdure.methods import METHODS
from perdure.run_config import find

OWN = "contract.own_method:Own"
STAGED = ("finetune", "joint", "independent", "er", "ewc", "packnet")
"""Methods that train policies with critics or in stages."""

PAIRS = [*((method, policy) for method in [*METHODS, OWN]
           for policy in find(method, METHODS, "method").works_with or ("bc", "dt")),
         *((method, policy) for method in STAGED for policy in ("td3bc", "iql", "sfbc"))]
RUNS = [
    *((method, policy, "toy") for method, policy in PAIRS if method not in STAGED or policy in ("bc", "dt")),
    ("er", "td3bc", "toy"), ("packnet", "td3bc", "toy"), ("independent", "iql", "toy"), ("ewc", "iql", "toy"),
    ("finetune", "sfbc", "toy"), ("packnet", "sfbc", "toy"), ("er", "sfbc", "toy"), ("joint", "sfbc", "toy"),
    ("ewc", "bc", "toy-spaces"), ("er", "dt", "toy-spaces"), ("vcl", "bc", "toy-spaces"), ("rwalk", "bc", "toy-spaces"),
    ("lora", "dt", "toy-spaces"), ("pnn", "bc", "toy-spaces"), ("packnet", "bc", "toy-discrete"), ("er", "bc", "toy-pixels"),
]  # fmt: skip

SWEPT = ("finetune", "sfbc", "toy")
"""The run that has too much data for one part of a planning sweep, so that it can be cut between two."""

EQUAL_SPACES = ("compoformer",)
"""Methods that refuse tasks of different spaces."""

VECTORS = ("cugro", "dgr", "tdgr", "cril")
"""Methods that refuse all but equal spaces of vectors and continuous actions."""

pytestmark = pytest.mark.timeout(1200)
"""The first test waits for the runs of all."""

every_pair = pytest.mark.parametrize(("method", "policy"), PAIRS)
every_run = pytest.mark.parametrize("case", RUNS, ids="-".join)


def settings_of(case):
    """Small enough for a run in a third of a second; evaluation takes most of it, so one method alone has a curve."""
    method, policy, stream = case
    sizes = {"steps": 3, "batch": 4} if stream == "toy-pixels" else {}
    sizes |= {"episodes": 60} if case == SWEPT else {}
    return config(
        method,
        policy,
        stream,
        tasks=3 if policy == "bc" else 2,
        evaluation={"curve": int(method == "packnet")},
        **sizes,
    )


@pytest.fixture(scope="session")
def records(request, tmp_path_factory):
    """An uninterrupted run of every case that the session asks for, with its copies resumed in one new process."""
    work = tmp_path_factory.mktemp("contract")
    wanted = {
        item.callspec.params["case"]
        for item in request.session.items
        if "records" in getattr(item, "fixturenames", ())
    }
    made = {
        case: checks.record(settings_of(case), work / "-".join(case).replace(":", "-")) for case in sorted(wanted)
    }
    snapshots = [folder for record in made.values() for folder in record.snapshots.values()]
    return made, checks.resume_all(snapshots, work)


@every_run
def test_resumes_exactly(case, records):
    checks.resumes_exactly(records[0][case], records[1])


@pytest.mark.parametrize("case", [case for case in RUNS if case[1] == "sfbc"], ids="-".join)
def test_a_policy_of_many_phases_is_cut_in_each(case):
    updates = checks.updates_of(settings_of(case))
    cut = checks.moments(settings_of(case))
    assert {phase for _, phase, _ in cut} == {phase for _, phase in updates}
    assert "before end" in cut.values()
    sweeps = [(task, place) for task, phase, place in cut if "plan" in phase]
    assert sweeps or case[0] == "cugro", "it plans nothing"
    assert case != SWEPT or sweeps == [(1, 1)], "between two parts of a sweep"


@every_run
def test_repeats_exactly(case, records, tmp_path):
    checks.repeats_exactly(records[0][case], tmp_path / "run")


@every_run
def test_evaluation_changes_nothing(case, records, tmp_path):
    checks.evaluation_changes_nothing(records[0][case], tmp_path / "run")


@every_run
def test_other_phases_change_nothing(case, records):
    checks.other_phases_change_nothing(settings_of(case), records[0][case].weights)


@every_run
def test_agents_act_alone(case, records, tmp_path):
    checks.agents_act_alone(records[0][case], tmp_path / "elsewhere")


@every_run
def test_footprint_fits_files(case, records):
    checks.footprint_fits_files(records[0][case])


@pytest.mark.parametrize(("method", "policy"), [pair for pair in PAIRS if pair[1] not in ("td3bc", "sfbc")])
def test_loss_falls(method, policy):
    """But of policies whose updates have different losses; tests/policies has what these learn."""
    checks.loss_falls(method, policy)


@every_pair
@pytest.mark.parametrize("stream", ["toy", "toy-spaces", "toy-discrete"])
def test_learns_and_acts(method, policy, stream):
    if method in EQUAL_SPACES and stream == "toy-spaces":
        stream = "toy-pixels"
    if method in VECTORS or (policy in ("td3bc", "iql", "sfbc") and stream == "toy-discrete"):
        stream = "toy"
    checks.learns_and_acts(config(method, policy, stream))


@pytest.mark.parametrize(("method", "policy"), [("finetune", "dt"), ("ewc", "bc"), ("packnet", "dt")])
def test_learns_and_acts_on_images(method, policy):
    checks.learns_and_acts(config(method, policy, "toy-pixels", tasks=2, steps=2, batch=4))


@every_pair
def test_phases_change_nothing(method, policy):
    checks.phases_change_nothing(config(method, policy))


@every_pair
def test_undeclared_access_raises(method, policy):
    checks.undeclared_access_raises(config(method, policy, tasks=2, steps=4))


@every_pair
def test_architecture_survives_json(method, policy):
    checks.architecture_survives_json(config(method, policy))


def test_every_check_is_used():
    text = Path(__file__).read_text()
    named = [
        name
        for name, value in vars(checks).items()
        if callable(value) and getattr(value, "__module__", "") == checks.__name__
    ]
    used = {"Record", "_Snapshots", "moments", "observations", "fits", "load_agent", "thorough"}
    assert not [name for name in named if f"checks.{name}(" not in text and name not in used]


def test_a_method_without_phases_says_so():
    with pytest.raises(NotImplementedError, match="Method defines no phases"):
        Method(None, lambda: None, 0).phases(None, None)
