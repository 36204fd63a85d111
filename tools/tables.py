"""The tables of docs/results: which runs each of them is made of."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from perdure.methods.cugro import OWN_POLICY
from perdure.methods.cugro import RELEASED as RELEASED_CUGRO
from perdure.run_config import RunConfig, resolve


@dataclass(frozen=True)
class Row:
    """Runs of one method on one stream."""

    method: str
    stream: str
    policy: str = "bc"
    seeds: tuple[int, ...] = (0,)
    options: dict[str, Any] = field(default_factory=dict)
    stream_options: dict[str, Any] = field(default_factory=dict)
    policy_options: dict[str, Any] = field(default_factory=dict)
    evaluation: dict[str, Any] = field(default_factory=dict)
    label: str | None = None

    def configs(self) -> list[RunConfig]:
        return [resolve(self.method, self.stream, policy=self.policy, seed=seed, method_options=self.options,
                        policy_options=self.policy_options, stream_options_=self.stream_options, evaluation=self.evaluation)
                for seed in self.seeds]


def rows(stream: str, methods: str, policy: str = "bc", seeds: int = 1) -> list[Row]:
    return [Row(method, stream, policy, tuple(range(seeds))) for method in methods.split()]


REPLAY = {"memory_bytes": 3_000_000}
"""For all tasks together, so that replay methods are compared at the same number of bytes (about 5 % of the data of cw10-v3)."""


AS_DREAMS = {"memory_bytes": 2_000_000}
"""What the state generator of cugro takes in an agent, for all tasks together."""


ENDS = {"episodes": 20, "shared": 10, "curve": 0}
"""Evaluation without learning curves, where every task is learned alone and an episode has a thousand steps."""

AS_LONG = {"steps": 20_000}
"""As many updates as td3bc and iql have."""


SFBC_ALONE: dict[str, Any] = {"options": {"steps": 13_000}, "behaviour_share": 3 / 13, "averaging": 0.001}
"""3,000 updates of the behaviour model, and 5,000 of each of its two trainings of a critic."""


def on_body(quality: str, policy: str, seeds: tuple[int, ...] = (0, 1, 2), label: str | None = None,
            options: dict[str, Any] | None = None, **policy_options: Any) -> Row:
    """One model per body, as in offline reinforcement learning of single tasks."""
    return Row("independent", "hopper-walker-cheetah-v5", policy, seeds, options or {},
               {"quality": quality, "episodes": 500}, policy_options, ENDS, label)


def on_bodies(quality: str) -> list[Row]:
    """Cloning has its own number of updates and that of policies with critics; iql at temperature 0 clones with iql's recipe."""
    return [
        on_body(quality, "bc"), on_body(quality, "bc", label="20,000 updates", options=AS_LONG),
        on_body(quality, "td3bc"), on_body(quality, "iql"), on_body(quality, "dt", (0,)),
        on_body(quality, "iql", (0,), "temperature 0", temperature=0.0),
        on_body(quality, "sfbc", (0,), **SFBC_ALONE),
    ]


def iql_varied() -> list[Row]:
    """One thing changed each: on walker2d `iql` is only level with the mean of its data."""
    changes: dict[str, float] = {"temperature": 1.0, "expectile": 0.8, "target_rate": 0.005}
    return [*(on_body("medium", "iql", (0,), f"{name.replace('_', ' ')} {value:g}", **{name: value})
              for name, value in changes.items()),
            on_body("medium", "iql", (0,), "40,000 updates", {"steps": 40_000})]


def in_order(order: str) -> list[Row]:
    """Two methods on a shuffled order of cw10-v3."""
    return [Row("packnet", "cw10-v3", stream_options={"order": order}),
            Row("er", "cw10-v3", options=REPLAY, stream_options={"order": order})]


RELEASED: dict[str, dict[str, Any]] = {"ewc": {"strength": 5000.0}, "mas": {"strength": 10.0}, "agem": {}, "perfect_memory": {}}
"""Strengths in the code released with CompoFormer, for the rows with `compat`."""


def routed(stream: str, policy: str, seeds: tuple[int, ...] = (0,), **options: Any) -> Row:
    """tsn_affinity with options that name the row."""
    label = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in options.items())
    return Row("tsn_affinity", stream, policy, seeds, options, label=label)


def small(stream: str, method: str, policy: str = "bc", seeds: tuple[int, ...] = (0,), **sizes: int) -> Row:
    """One model per task, of a size at which all together have as many parameters as a method uses (`tools/match_size.py`)."""
    return Row("independent", stream, policy, seeds, policy_options=sizes, label=f"as large as {method}")


def composed(stream: str, seeds: tuple[int, ...] = (0,), stream_options: dict[str, Any] | None = None, **options: Any) -> Row:
    """compoformer with options that name the row; the default variant is named too."""
    named = {"variant": options.get("variant", "grow")} | options
    label = ", ".join(value if name == "variant" else f"{name} {value}" for name, value in named.items())
    return Row("compoformer", stream, "dt", seeds, options, stream_options or {}, label=label)


SHORT = {"episodes": 20, "shared": 10}
"""Evaluation where acting takes as long as training, or returns differ little between episodes."""

GO_ON: dict[str, Any] = {"on_collapse": "go_on"}
FIVE = (0, 1, 2, 3, 4)


def dreamed(stream: str, seeds: tuple[int, ...] = (0,), stream_options: dict[str, Any] | None = None,
            evaluation: dict[str, Any] | None = None, **options: Any) -> Row:
    """cugro with options that name the row; both generators and the policy take `evaluations` of the solver.

    No row stops where dreams collapse, so that what becomes of the tasks can be seen.
    """
    named = {name: value for name, value in (options | (stream_options or {})).items() if name != "compat"}
    label = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in named.items()) or None
    policy = {name: value for name, value in options.items() if name == "evaluations"}
    return Row("cugro", stream, "sfbc", seeds, options | GO_ON, stream_options or {}, policy, evaluation or SHORT, label)


LIKE_RELEASED: dict[str, Any] = {"candidates": 32, "critic_inputs": "raw", "averaging": 0.0, "frequency_scale": 30.0}
"""The policy of cugro's reference mode, but for the solver, which is slow there."""

OTHERWISE_RELEASED: dict[str, Any] = {name: value for name, value in RELEASED_CUGRO.items()
                                      if name not in ("sampler", "evaluations", "grid", "on_collapse")}
"""What `compat` sets of cugro itself, but for the solver."""


def untold(besides: str = "", policy: dict[str, Any] | None = None, **options: Any) -> Row:
    """cugro on cheetah-vel-v5 with a behaviour model that is not told the task, and what else of the reference mode `besides`
    names."""
    return replace(dreamed("cheetah-vel-v5", **options), policy_options={"told": False} | (policy or {}),
                   label=f"not told the task{besides and ', '}{besides}")


def with_sfbc(stream: str, methods: str, seeds: tuple[int, ...] = (0,), **options: Any) -> list[Row]:
    """Other methods on the same policy and protocol."""
    return [Row(method, stream, "sfbc", seeds, options, policy_options=OWN_POLICY, evaluation=SHORT)
            for method in methods.split()]


def published(stream: str) -> list[Row]:
    """One of CuGRO's sequences."""
    controls = [dreamed(stream, replay=replay) for replay in ("oracle", "none")]
    return [dreamed(stream), *controls, *with_sfbc(stream, "independent")]


def valued(policy: str, **policy_options: Any) -> list[Row]:
    """Methods on cheetah-vel-v5, with a policy that may learn from rewards.

    Every policy has the updates of cloning: those of iql stand at their end after a quarter of that. alpha is 0.1 as td3bc leaves
    an expert's data with more (docs/benchmarks/mujoco.md). No strength of ewc was tuned on such a stream, so there are two.
    """
    def row(method: str, label: str | None = None, **options: Any) -> Row:
        return Row(method, "cheetah-vel-v5", policy, options={"steps": 5000, **options}, policy_options=policy_options,
                   evaluation=SHORT, label=label)

    methods = ("independent", "finetune", "er", "ewc", "packnet", "joint")
    return [*map(row, methods), row("ewc", "strength 100", strength=100.0)]


ROLLOUTS = {"rollouts": True}
"""Of Meta-World streams: a method may try its policy in the simulator; the steps are counted."""

PUBLISHED, PADDED = {"variant": "published"}, {"layout": "compat"}
"""Of Panda streams: episodes that end with success; observations and actions padded to one size."""

LADDER = {"quality": "medium-replay"}
"""Of MuJoCo streams: data of which the critic has something to choose; of an expert's almost any action is good."""

PLAIN = {"distillation": False, "timed": False, "state_rate": 1.0}
"""Generators of `cugro` that learn dreams like data and are not told the time, at the learning rate of the policy."""

TABLES: dict[str, list[Row]] = {
    "cwtune-v3-ewc": [
        *(Row("ewc", "cwtune-v3", options={"strength": s}, label=f"strength {s:g}") for s in (0.001, 0.01, 0.1, 1.0, 10.0)),
        *rows("cwtune-v3", "independent finetune"),
    ],
    "cw3-v3": rows("cw3-v3", "independent finetune packnet er joint ewc", seeds=5),
    "cw3b-v3": rows("cw3b-v3", "independent finetune packnet er joint ewc", seeds=5),
    "cw10-v3": [
        *rows("cw10-v3", "independent finetune packnet joint l2 ewc mas", seeds=3),
        *(Row(method, "cw10-v3", seeds=(0, 1, 2), options=REPLAY) for method in ("er", "clonex")),
        *(Row(method, "cw10-v3", options=REPLAY) for method in ("der", "agem")),
        Row("tsn", "cw10-v3"),
        Row("tsn", "cw10-v3", options={"schedule": "equal_remaining"}, label="equal shares"),
        Row("tsn_affinity", "cw10-v3"),
        *(routed("cw10-v3", "bc", task_id=task_id) for task_id in ("inferred", "random")),
        routed("cw10-v3", "bc", router="random"),
        small("cw10-v3", "tsn", width=78),
        small("cw10-v3", "tsn_affinity", width=144),
        *rows("cw10-v3", "si rwalk vcl lwf lora pnn frozen_trunk perfect_memory scratch incremental_joint"),
        *(Row(method, "cw10-v3", options={"compat": True, **released}) for method, released in RELEASED.items()),
    ],
    "cw10-v3-order-1": in_order("1"),
    "cw10-v3-order-2": in_order("2"),
    "cw10-v3-order-3": in_order("3"),
    "cw10-v3-dt": [
        *rows("cw10-v3", "independent finetune lora joint tsn_affinity", policy="dt"),
        *rows("cw10-v3", "packnet", policy="dt", seeds=3),
        Row("er", "cw10-v3", "dt", options=REPLAY),
        composed("cw10-v3", (0, 1, 2)),
        composed("cw10-v3", (0, 1, 2), variant="prune"),
        *(composed("cw10-v3", attention=attention) for attention in ("uniform", "cosine", "ones")),
        composed("cw10-v3", stream_options=ROLLOUTS, reuse="rollout"),
        *(composed("cw10-v3", variant="prune", join=join) for join in ("sharing", "addition")),
        composed("cw10-v3", variant="prune", attention="uniform"),
    ],
    "cw10-v3-dt-order-1": [Row("packnet", "cw10-v3", "dt", stream_options={"order": "1"}),
                           composed("cw10-v3", stream_options={"order": "1"}, variant="prune")],
    "cw20-v3-dt": [
        *rows("cw20-v3", "independent packnet", policy="dt"),
        *(composed("cw20-v3", variant=variant) for variant in ("grow", "prune")),
    ],
    "cwpairs-v3-dt": [
        Row("independent", "cwpairs-v3", "dt"),
        composed("cwpairs-v3"),
        composed("cwpairs-v3", stream_options=ROLLOUTS, reuse="rollout"),
        replace(composed("cwpairs-v3", reuse="never", tolerance=0.3), label="grow, reuse never"),  # it has no part in that
        composed("cwpairs-v3", reuse="always"),
        composed("cwpairs-v3", meaning="data"),
    ],
    "panda3-v3-dt": [
        *rows("panda3-v3", "independent tsn finetune er packnet joint", "dt", seeds=3),
        Row("er", "panda3-v3", "dt", (0, 1, 2), {"memory_share": 1.0}, label="cumulative"),
        Row("tsn_affinity", "panda3-v3", "dt", (0, 1, 2)),
        *(routed("panda3-v3", "dt", (0, 1, 2), router=router) for router in ("latent", "hybrid")),
        *(routed("panda3-v3", "dt", router=router) for router in ("always", "never", "random")),
        routed("panda3-v3", "dt", task_id="inferred"),
        Row("tsn", "panda3-v3", "dt", options={"keep_ratio": 0.5}, label="keep ratio 0.5"),
        *rows("panda3-v3", "ewc perfect_memory", "dt"),
        small("panda3-v3", "tsn", "dt", (0, 1, 2), width=32, mlp_width=131),
        small("panda3-v3", "tsn_affinity", "dt", (0, 1, 2), width=36, mlp_width=166),
    ],
    "panda3-v3-padded-dt": [
        Row("independent", "panda3-v3", "dt", stream_options=PADDED),
        *(Row("tsn_affinity", "panda3-v3", "dt", options={"compat": True, "router": router}, stream_options=PADDED,
              label=f"router {router}") for router in ("action", "latent", "hybrid")),
        Row("tsn_replaykl", "panda3-v3", "dt", stream_options=PADDED),
        *(Row("tsn_affinity", "panda3-v3", "dt", options={"task_id": task_id}, stream_options=PADDED, label=f"task id {task_id}")
          for task_id in ("given", "inferred")),
    ],
    "panda3-v3-published-dt": [Row(method, "panda3-v3", "dt", stream_options=PUBLISHED)
                               for method in ("independent", "tsn_affinity")],
    "atari5-v5-dt": [Row(method, "atari5-v5", "dt", evaluation={"episodes": 10, "shared": 5, "curve": 0})
                     for method in ("independent", "tsn_affinity", "tsn", "finetune")],
    "hopper-walker-cheetah-v5": [*on_bodies("medium"), *iql_varied()],
    "hopper-walker-cheetah-v5-replay": [
        *on_bodies("medium-replay"),
        on_body("medium-replay", "sfbc", (0,), "32 candidates, 15 evaluations", candidates=32, evaluations=15, **SFBC_ALONE),
    ],
    "cheetah-vel-v5": [*valued("bc"), *valued("td3bc", alpha=0.1), *valued("iql")],
    "swimmer-dir-v5": [
        Row("independent", "swimmer-dir-v5", evaluation=SHORT),
        *with_sfbc("swimmer-dir-v5", "independent"),
        *(replace(row, label="any action", policy_options=OWN_POLICY | {"candidates": 1, "average": 1})
          for row in with_sfbc("swimmer-dir-v5", "independent")),
    ],
    "cheetah-vel-v5-dreams": [
        dreamed("cheetah-vel-v5", FIVE),
        *(dreamed("cheetah-vel-v5", FIVE, replay=replay) for replay in ("oracle", "none", "noise")),
        *(dreamed("cheetah-vel-v5", replay=replay) for replay in ("vae", "gan")),
        *with_sfbc("cheetah-vel-v5", "independent", FIVE),
        *with_sfbc("cheetah-vel-v5", "er", **AS_DREAMS),
        *with_sfbc("cheetah-vel-v5", "ewc joint"),
        *(replace(row, label=f"strength {row.options['strength']:g}") for strength in (0.01, 0.0001)
          for row in with_sfbc("cheetah-vel-v5", "ewc", strength=strength)),
        *(Row(method, "cheetah-vel-v5", evaluation=SHORT) for method in ("dgr", "tdgr", "cril", "independent")),
    ],
    "swimmer-dir-v5-dreams": published("swimmer-dir-v5"),
    "walker-params-v5-dreams": published("walker-params-v5"),
    "metaworld5-v3-dreams": [
        *published("metaworld5-v3"), dreamed("metaworld5-v3", **PLAIN), dreamed("metaworld5-v3", timed=False),
        dreamed("metaworld5-v3", distillation=False),
    ],
    "ant-dir-4-v5-dreams": [dreamed("ant-dir-4-v5"), *with_sfbc("ant-dir-4-v5", "er", **AS_DREAMS),
                            *with_sfbc("ant-dir-4-v5", "independent joint")],
    "cheetah-vel-v5-dreams-ablations": [
        dreamed("cheetah-vel-v5"), *with_sfbc("cheetah-vel-v5", "independent"),
        dreamed("cheetah-vel-v5", guidance=1.0), dreamed("cheetah-vel-v5", evaluations=5), dreamed("cheetah-vel-v5", dreams=2000),
        dreamed("cheetah-vel-v5", **PLAIN), dreamed("cheetah-vel-v5", compat=True),
        untold(), untold("range as scale", scale="range"), untold("raw inputs of the critic", {"critic_inputs": "raw"}),
        untold("32 candidates", {"candidates": 32}),
        untold("policy of the reference mode", LIKE_RELEASED),
        untold("policy of the reference mode, range as scale", LIKE_RELEASED, scale="range"),
        untold("policy of the reference mode, range as scale, generator of the paper", LIKE_RELEASED, scale="range", **PLAIN),
        untold("all of the reference mode but its solver", LIKE_RELEASED, **OTHERWISE_RELEASED),
    ],
    "cheetah-vel-v5-dreams-penalty": [
        Row("independent", "cheetah-vel-v5", "sfbc", stream_options=LADDER, policy_options=OWN_POLICY, evaluation=SHORT,
            label="quality medium-replay"),
        *(dreamed("cheetah-vel-v5", stream_options=LADDER, penalty=penalty) for penalty in (1.0, 0.0, 10.0)),
    ],
    "cw3-v3-dt": rows("cw3-v3", "independent finetune packnet er", policy="dt"),
}


BASELINES = {
    **{table: "cugro" for table in TABLES if "-dreams" in table},
    **{table: "independent (bc)" for table in TABLES if table.startswith("hopper") or table == "swimmer-dir-v5"},
    "cheetah-vel-v5": "finetune (bc)",
    "cheetah-vel-v5-dreams-penalty": "cugro (penalty 1.0, quality medium-replay)",
}
"""Table -> the row that the others are compared with, where it is not `finetune`."""
