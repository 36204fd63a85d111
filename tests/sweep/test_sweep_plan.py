"""What a sweep consists of, and what cannot be planned."""

from pathlib import Path

import pytest
from sweep_samples import small

from perdure.core.errors import UsageError
from perdure.sweep.plan import Axis, Space, plan


def test_every_combination_once_and_seed_by_seed():
    grid = [Axis("method", "strength", ("1", "2"), "ewc"), Axis("method", "clip", ("1", "1.0", "3"))]
    found = small("finetune ewc", seeds=(3, 1, 3), grid=grid)
    assert [run.config.seed for run in found] == [3] * 6 + [1] * 6  # clip 1 and 1.0 is the same run
    settings = [f"strength {strength}, clip {clip}" for strength in (1, 2) for clip in (1, 3)]
    assert [run.setting for run in found[:6]] == ["clip 1", "clip 3", *settings]
    assert len({run.folder for run in found}) == len({run.key for run in found}) == 12
    assert found[0].folder == found[0].config.default_folder
    assert small(root=Path("else"))[0].folder.parts[:3] == ("else", "toy", "finetune")
    assert found[3].name == "ewc (strength 1, clip 3) on toy, seed 3"


def test_without_policies_each_method_has_its_own():
    found = plan(Space(["er", "cugro"], ["toy"]))
    assert [(run.config.method, run.config.policy) for run in found] == [("er", "bc"), ("cugro", "sfbc")]
    with pytest.raises(UsageError, match="policy is 'bc', and cugro works with sfbc; leave the policy out"):
        plan(Space(["er", "cugro"], ["toy"], policies=["bc"]))


@pytest.mark.parametrize(("change", "fragments"), [
    ({"methods": ["finetune", "ewc"], "grid": [Axis("method", "strength", ("1",))]},
     ("finetune has no option method.strength", "ewc has it", "--grid ewc:method.strength=VALUE")),
    ({"methods": ["finetune", "ewc"], "fixed": {"method": {"strength": "1"}}}, ("finetune has no option method.strength",)),
    ({"grid": [Axis("method", "step", ("1",))]}, ("finetune has no option method.step", "did you mean 'steps'?")),
    ({"policies": ["bc", "dt"], "grid": [Axis("policy", "context", ("5",))]}, ("bc has no option policy.context", "dt:policy.")),
    ({"grid": [Axis("metod", "steps", ("1",))]}, ("the group 'metod'", "did you mean 'method'?")),
    ({"grid": [Axis("method", "steps", ("1", ""))]}, ("--grid method.steps has an empty value", "method.steps=1,10")),
    ({"grid": [Axis("method", "steps", ())]}, ("empty value",)),
    ({"grid": [Axis("method", "steps", ("1",), "ewx")]}, ("is for 'ewx'", "no method, policy or stream of this sweep")),
    ({"grid": [Axis("method", "steps", ("1", "many"))]}, ("method.steps is 'many'", "a whole number")),
    ({"grid": [Axis("method", "steps", ("1",)), Axis("method", "steps", ("2",), "finetune")]}, ("set the same field",)),
    ({"grid": [Axis("method", "steps", ("1",))], "fixed": {"method": {"steps": "3"}}}, ("set the same field", "leave one")),
    ({"methods": []}, ("--methods is empty",)),
    ({"seeds": []}, ("--seeds is empty",)),
    ({"methods": ["finetune", "packnat"]}, ("unknown method 'packnat'",)),
    ({"seeds": [-1]}, ("seed is -1",)),
])  # fmt: skip
def test_what_cannot_be_planned(change, fragments):
    with pytest.raises(UsageError) as caught:
        plan(Space(**{"methods": ["finetune"], "streams": ["toy"]} | change))
    for fragment in fragments:
        assert fragment in str(caught.value)


def test_a_folder_that_holds_something_else_is_refused_before_anything_starts(place):
    planned = small()[0]
    planned.folder.mkdir(parents=True)
    (planned.folder / ".config.json.x.tmp").touch()  # of a kill: no obstacle
    small()
    (planned.folder / "thesis.tex").touch()
    with pytest.raises(UsageError, match="is not empty and holds no run"):
        small()
