"""The table of policies; a policy is imported when it is first used."""

POLICIES: dict[str, str] = {
    "bc": "perdure.policies.bc:BC",
    "dt": "perdure.policies.decision_transformer:DecisionTransformer",
    "td3bc": "perdure.policies.td3bc:TD3BC",
    "iql": "perdure.policies.iql:IQL",
    "sfbc": "perdure.policies.sfbc:SfBC",
}
"""Name on the command line -> `module:Class`."""
