"""What the tests of compoformer learn with."""

import pytest
from related import lab_of

LONG = {"steps": 200, "batch": 32, "learning_rate": 0.01}
variants = pytest.mark.parametrize("variant", ["grow", "prune"])
policies = pytest.mark.parametrize("policy", ["bc", "dt"])


def lab(kinds, policy="bc", learn=True, **options):
    made = lab_of(kinds, policy, "compoformer", **(LONG | options))
    return made.learn() if learn else made


def modules(made):
    return made.method.composition.modules_of
