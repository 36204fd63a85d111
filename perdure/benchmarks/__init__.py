"""The table of streams; a benchmark file is imported when one of its streams is first used."""

STREAMS: dict[str, str] = {
    "toy": "perdure.benchmarks.toy",
    "toy-tune": "perdure.benchmarks.toy",
    "toy-spaces": "perdure.benchmarks.toy",
    "toy-discrete": "perdure.benchmarks.toy",
    "toy-pixels": "perdure.benchmarks.toy",
    "cw3-v3": "perdure.benchmarks.continual_world",
    "cw3b-v3": "perdure.benchmarks.continual_world",
    "cwtune-v3": "perdure.benchmarks.continual_world",
    "cw10-v3": "perdure.benchmarks.continual_world",
    "cw20-v3": "perdure.benchmarks.continual_world",
    "cwpairs-v3": "perdure.benchmarks.continual_world",
    "metaworld5-v3": "perdure.benchmarks.continual_world",
    "ocw10-v3": "perdure.benchmarks.offline_continual_world",
    "ocw20-v3": "perdure.benchmarks.offline_continual_world",
    "ocw10-mt50": "perdure.benchmarks.mt50",
    "panda3-v3": "perdure.benchmarks.panda",
    "atari5-v5": "perdure.benchmarks.atari",
    "cheetah-vel-v5": "perdure.benchmarks.mujoco",
    "swimmer-dir-v5": "perdure.benchmarks.mujoco",
    "walker-params-v5": "perdure.benchmarks.mujoco",
    "ant-dir-4-v5": "perdure.benchmarks.mujoco",
    "ant-dir-6-v5": "perdure.benchmarks.mujoco",
    "ant-dir-spread-v5": "perdure.benchmarks.mujoco",
    "hopper-walker-cheetah-v5": "perdure.benchmarks.mujoco",
}
"""Name on the command line -> module with `Options`, `SETTINGS`, `POLICY`, `outline(name, options)` and
`stream(name, options, say)`."""
