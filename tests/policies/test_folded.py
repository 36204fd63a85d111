"""Folded weights: the same outputs as `predict`, and the policy itself stays as it is."""

import pytest
import torch
from policy_samples import SPACES, opened, windows


@pytest.mark.parametrize("name", ["bc", "dt"])
@pytest.mark.parametrize("kind", SPACES)
def test_a_folded_policy_computes_what_predict_does(name, kind):
    policy = opened(name, SPACES[kind])
    batch = windows(policy, SPACES[kind])
    weights = {key: p * 0.5 for key, p in list(policy.shared().items())[::2]}
    before = policy(batch).output()
    folded = policy.folded(weights)
    assert torch.equal(folded(batch).output(), policy.predict(batch, weights).output())
    assert not torch.equal(folded(batch).output(), before)
    assert torch.equal(policy(batch).output(), before)
    own = dict(policy.named_parameters())
    assert {key for key, p in folded.named_parameters() if p is not own[key]} == set(weights)
    assert policy.folded(None) is policy and policy.folded({}) is policy
