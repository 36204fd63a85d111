"""cugro: dual generative replay; a generator dreams observations of earlier tasks, the behaviour model what was done there.

Paper      Liu et al. 2024, "Continual Offline Reinforcement Learning via Diffusion-based Dual Generative Replay" (arXiv
           2404.10662)
Objective  behaviour model and state generator: denoising of new data and of dreams; critic: the policy's own regression on new
           data + penalty * squared distance to what the old critic said of the dreams
Keeps      the policy, the state generator, and per task a vector, scales of observations at 19 moments (152 bytes a channel),
           ranges, sketches of its data and times (1 to 2 KB); no row of any data, but the mean of at least ten says what all
           episodes begin with, if it is one state. Dreams are let go of when a task ends
Needs      the task id at test time; data of earlier tasks with `replay oracle`, a memory with `on_collapse coreset`
Differs    one set of dreams per task serves all parts; half of each batch is dreams, whatever the number of earlier tasks, and
           the updates do not grow with it; the behaviour model is told the task, the state generator when in an episode a state
           is (as t-DGR's, Yue et al. 2024, arXiv 2401.02576), on the scale of its task's data at that moment; of dreams, both
           learn what they said themselves before the task (Masip et al. 2023); both act and dream with averaged weights, low time
           frequencies and a second-order sampler; the penalty is a mean over tasks; tasks whose data come again are recognised
           and not dreamed; dreams that no longer look like the data stop the run.
           `compat`: as in the released code, but the critic's dreams keep the observations of the first set and draw actions
           anew, where the code draws both anew; updates take the place of epochs, all with one learning rate and clipped; sizes
           are those of the profile; dreams are clamped to the range of the data and 5 % more; the state generator is told a task
           by a learned vector, not a one-hot, and learns the last task too; actions are scaled by their bounds, not by the range
           of the data, and a channel that never changes becomes 0, not -1; in the penalty all earlier tasks share one batch
           equally, where the code gives each a whole one
Status     see docs/reproduction.md
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, cast

import torch
from torch import Generator, Tensor, nn

from perdure.continual.compat import set_released
from perdure.continual.dreams import MOST, Dreams, apart, as_windows, bare, halves, per_task, rows_of, some_of, times_of
from perdure.continual.episode_times import WAVES
from perdure.continual.noticing import Noticed
from perdure.continual.state_model import TOLD, StateModel, require_equal_vectors
from perdure.continual.teachers import Teachers
from perdure.core.batch import Windows, average, concatenate
from perdure.core.config import at_most, not_negative, positive
from perdure.core.errors import GuardError, UsageError
from perdure.core.method import Method, MethodConfig, Need, Phase, Step
from perdure.core.rng import keyed
from perdure.core.spec import Spec
from perdure.core.task import Task
from perdure.data.memory import ReplayMemory
from perdure.nets.diffusion import Grid, Sampler, SamplerName
from perdure.nets.state_nets import NETS, DiffusionNet, StateNet
from perdure.policies.sfbc import SfBC

AT_ONCE = 4096
"""Dreams of one part of the phase that makes them."""

PIECES = ("states", "noticed", "dreams", "teachers", "memory")
"""What grows with the tasks besides the policy."""

RELEASED: dict[str, Any] = {
    "dreams": 0, "balance": "equal", "budget": "growing", "scale": "range", "averaging": 0.0, "frequency_scale": 30.0,
    "sampler": "dpm-3", "evaluations": 100, "grid": "time", "penalty_over": "sum", "left_out": 0.0, "recognise": 0.0,
    "on_collapse": "go_on", "state_rate": 1.0, "timed": False, "distillation": False,
}  # fmt: skip
"""What `compat` sets."""

RELEASED_POLICY: dict[str, Any] = {"told": False, "frequency_scale": 30.0, "sampler": "dpm-3", "evaluations": 100, "grid": "time",
                                   "critic_inputs": "raw", "sweeps": 0, "averaging": 0.0, "candidates": 32}

OWN_POLICY: dict[str, Any] = {"averaging": 0.001, "sweeps": 0}
"""Options of the policy: of `compat`, and otherwise."""


@dataclass(frozen=True)
class CuGROConfig(MethodConfig):
    """Dual generative replay."""

    replay: Literal["diffusion", "vae", "gan", "oracle", "noise", "none"] = "diffusion"
    """What earlier tasks are replayed from: a generator of observations of this kind, oracle: their real data, noise: normal
    observations and uniform actions, none: nothing."""
    dreams: int = 10_000
    """Pairs per earlier task, and of all together four times as many at most; 0: as many as the new task has transitions."""
    distillation: bool = True
    """Of dreams, the denoisers learn what their former selves say at noisy ones, not the noise itself (Masip et al. 2023, arXiv
    2311.14028), so that no generation hands on the noise of its samples; of replay vae and gan the behaviour model alone does,
    of oracle, noise and none nothing."""
    balance: Literal["half", "equal"] = "half"
    """Of a batch of the generators: half of `batch` samples are dreams, or as many of every earlier task as of the new one."""
    budget: Literal["constant", "growing"] = "constant"
    """growing: the generators' updates grow with the number of tasks."""
    state_steps: int = 0
    """Updates of the state generator per task; 0: as many as of the behaviour model. An adversarial one's discriminator has five
    for each of them."""
    state_width: int = 0
    """Of a diffusion model's outermost block; the inner ones have a half and a quarter, the hidden layers of vae and gan twice as
    much. 0: the policy's width."""
    state_rate: float = 3.0
    """Learning rate of the diffusion generator over that of the policy."""
    timed: bool = True
    """The state generator is told when in an episode an observation is; otherwise it smears the few early ones."""
    scale: Literal["task", "first", "range"] = "task"
    """Of observations in the state generator: each task's own mean and deviation (those at that moment with `timed`), those of
    the first task for all, or each task's range becomes [-1, 1], in the policy too."""
    averaging: float = 0.001
    """Share of the new weights in each update of the state generator's average, after the first thousands, in which the average
    is of the last tenth; 0: none."""
    frequency_scale: float = 1.0
    """Standard deviation of the frequencies of its time (released code: 30)."""
    sampler: SamplerName = "dpm++"
    """Solver that draws observations."""
    evaluations: int = 15
    """Of the network per observation."""
    grid: Grid = "log-snr"
    """What the solver's steps are spaced equally in."""
    guidance: float = 0.0
    """How much the task is stressed when observations are drawn (the paper's future work); 0: not."""
    left_out: float = 0.1
    """Share of the rows in training whose task is left out, for guidance."""
    penalty: float = 1.0
    """Of the critic's distance to the old critic on dreams (lambda in the code)."""
    penalty_over: Literal["mean", "sum"] = "mean"
    """Whether that distance is a mean over earlier tasks or their sum."""
    recognise: float = 0.05
    """Largest distance, in standard deviations, at which data count as those of an earlier task come again; 0: never. It is that
    of two sketches (`continual/sketch.py`), which say where data lie: two sets of one direction of ant-dir are at 0.02 to 0.03,
    two directions 13 degrees apart at 0.09."""
    collapse: float = 0.2
    """Distance of dreamed from real pairs, in standard deviations, above which replay has collapsed; of sketches too, which a few
    lost states hardly move. Good dreams (cheetah-vel, swimmer-dir, metaworld5, toy) are at 0.02 to 0.08, dreams that are all the
    mean one at 0.23 or more, the data nearest to a task's at 0.22 or more."""
    on_collapse: Literal["stop", "coreset", "go_on"] = "stop"
    """stop: the run ends with exit code 3; coreset: a few real pairs of the task, kept for this, are replayed instead; go_on:
    nothing is judged."""
    coreset: int = 200
    """Pairs per task that `on_collapse coreset` keeps."""
    compat: bool = False
    """The reference mode: as in the released code, of the policy too."""

    def __post_init__(self) -> None:
        super().__post_init__()
        set_released(self, RELEASED)
        not_negative(self, "method", "dreams", "state_steps", "averaging", "penalty", "recognise", "guidance", "left_out")
        positive(self, "method", "coreset", "collapse", "state_rate", "frequency_scale", "evaluations")
        at_most(self, "method", MOST, "dreams", "coreset")
        at_most(self, "method", 1, "averaging")
        at_most(self, "method", 0.9, "left_out")
        if self.batch < 2:
            raise UsageError(f"method.batch is {self.batch}; give 2 or more, as half of it is dreams")
        if self.state_width < 0 or self.state_width % 4:
            raise UsageError(f"method.state_width is {self.state_width}; give 0 or a number above 0 that 4 divides")
        if self.guidance and (self.replay != "diffusion" or not self.left_out):
            raise UsageError(f"method.guidance is {self.guidance} with replay {self.replay} and left_out {self.left_out}"
                             f"{' (of compat)' if self.compat else ''}; it is of diffusion alone, and needs a share of rows whose"
                             " task was left out in training")
        if self.on_collapse == "coreset" and self.replay not in NETS:
            raise UsageError(f"method.on_collapse is coreset with replay {self.replay}; only diffusion, vae and gan can collapse")


class CuGRO(Method):
    """Dual generative replay."""

    Config = CuGROConfig
    trains_staged = True
    works_with: ClassVar[tuple[str, ...]] = ("sfbc",)
    config: CuGROConfig

    def __init__(self, config: Any, policy: Any, seed: int):
        super().__init__(config, policy, seed)
        if not isinstance(self.policy, SfBC):
            raise UsageError(f"the policy is {type(self.policy).__name__}; cugro dreams what sfbc's behaviour model would do, so"
                             " use --policy sfbc")
        if config.scale == "range" and self.policy.config.normaliser == "first":
            raise UsageError("method.scale is range, of each task its own, and policy.normaliser first; use normaliser task")
        self.states = StateModel(self._net, config.scale, config.averaging, config.timed and config.replay in NETS)
        self.noticed = Noticed(seed)
        self.memory = ReplayMemory()
        self.resume = nn.ModuleDict({"dreams": Dreams(), "teachers": Teachers()})

    @classmethod
    def needs(cls, config: Any) -> frozenset[Need]:
        return frozenset({Need.TASK_ID} | ({Need.PAST_DATA} if config.replay == "oracle" else set())
                         | ({Need.MEMORY} if config.on_collapse == "coreset" else set()))

    @classmethod
    def check_spaces(cls, specs: Mapping[str, Spec]) -> None:
        require_equal_vectors("cugro", specs)

    @classmethod
    def policy_options(cls, config: Any) -> dict[str, Any]:
        return RELEASED_POLICY if config.compat else OWN_POLICY

    def _net(self, size: int) -> StateNet | None:
        config, width = self.config, self.config.state_width or cast(SfBC, self.policy).config.width
        waves = WAVES if config.timed else 0
        if config.replay == "diffusion":
            sampler = Sampler(config.sampler, config.evaluations, config.grid)
            return DiffusionNet(size, TOLD + waves, width, scale=config.frequency_scale, sampler=sampler,
                                left_out=config.left_out, guidance=config.guidance, stays=waves)
        return NETS[config.replay](size, TOLD + waves, 2 * width) if config.replay in NETS else None

    @property
    def dreams(self) -> Dreams:
        """What is replayed while the present task is learned."""
        return cast(Dreams, self.resume["dreams"])

    @property
    def teachers(self) -> Teachers:
        """The behaviour model and the diffusion generator as they were before the present task."""
        return cast(Teachers, self.resume["teachers"])

    # -- learning -------------------------------------------------------------------------------------------

    def phases(self, task: Task, access: Any) -> list[Phase]:
        config, view, policy = self.config, access.current, cast(SfBC, self.policy)
        grown = task.index + 1 if config.budget == "growing" else 1
        behaviour, *critics = policy.stages()

        def start() -> None:
            self.open_task(task, access)
            observations, _ = rows_of(view)
            with keyed(self.seed, "states", task.index):
                self.states.add_task(task.index, view.stats(), observations, times_of(view))
            self.states.to(observations.device)
            named = dict(policy.named_parameters())
            self.optimizer("behaviour", {n: p for n, p in named.items() if not n.startswith("critic.")})
            self.optimizer("critic", {n: p for n, p in named.items() if n.startswith("critic.")})
            rate = {"lr": config.learning_rate * config.state_rate} if config.replay == "diffusion" else {}
            for part, recipe in self.states.parts().items() if self._dreams_states else ():
                self.optimizer(f"states {part}", self.states.trained(part), **rate | recipe)

        def train_behaviour(step: Step, loss: Callable[..., Tensor]) -> Mapping[str, Tensor]:
            taught = {"teacher": teacher} if (teacher := self.teachers.of("behaviour")) else {}
            real = self.noticed.with_coreset(task.index)  # not those that come again: sketches hardly see what is done where
            values = {"fit": self.descend("behaviour", average(loss, self._mixed(view, step, real), **taught))}
            counts = {"coresets": len(real), "recognised": len(self.noticed.came_again(task.index))}
            return values | {name: torch.tensor(float(count)) for name, count in counts.items() if count}

        def train_states(step: Step) -> Mapping[str, Tensor]:
            real = self.noticed.with_coreset(task.index) + self.noticed.came_again(task.index)
            return self.states.learn(self.descend, self._mixed(view, step, real), step, teacher=self.teachers.of("states"))

        def train_critic(step: Step, loss: Callable[..., Tensor]) -> Mapping[str, Tensor]:
            fit = average(loss, view.windows(1, config.batch, step))
            if not self.dreams.tasks() or not config.penalty:
                return {"fit": self.descend("critic", fit)}
            old = self.dreams.draw(config.batch, step.generator("dreams", view.device))
            moved = (policy.value(old, old.action[:, 0]) - old.extra["kept"]).square().mean()
            share = config.penalty * (len(self.dreams.tasks()) if config.penalty_over == "sum" else 1)
            return {"fit": self.descend("critic", fit + share * moved), "moved": moved.detach()}

        longer = replace(behaviour, share=behaviour.share * grown)
        turns = NETS[config.replay].TURNS if self._dreams_states else 1
        updates = config.state_steps or max(1, round(behaviour.share * config.steps))
        return [
            Phase("dream", lambda: len(self._parts(task.index)), lambda step: self._dream(step, access), trains=False,
                  begin=lambda: self._begin(task, access), end=lambda: self._judge(task.index)),
            *self.stages([longer], lambda: policy, [view], start, train_behaviour, closes=False),
            Phase("states", updates * turns * grown, train_states, when=lambda: self._dreams_states, trains=False),
            Phase("dream again", lambda: len(self._parts(task.index)), self._redream,
                  when=lambda: config.compat and self._dreams_states, trains=False),
            *self.stages(critics, lambda: policy, [view], lambda: None, train_critic,
                         end=lambda: self._finish(task.index, access)),
        ]

    @property
    def _dreams_states(self) -> bool:
        """Whether a generator of observations is trained and drawn from."""
        return self.config.replay in NETS

    def open_task(self, task: Task, access: Any) -> None:
        super().open_task(task, access)
        if self.config.scale == "range":
            observations, _ = rows_of(access.current)
            low, high = observations.amin(0), observations.amax(0)
            width = torch.where(high > low, (high - low) / 2, torch.ones_like(low))
            stats = replace(access.current.stats(), mean=(low + high).cpu() / 2, std=width.cpu())
            cast(SfBC, self.policy).set_statistics(task.index, stats)

    def _mixed(self, view: Any, step: Step, real: list[int]) -> list[Windows]:
        """A batch of the generators: new pairs and dreams, apart where teachers speak of the dreams of all but `real` tasks."""
        parts = halves(view, self.dreams, self.config.batch, self.config.balance, step)
        return apart(parts, real) if self.teachers.copies else [concatenate([bare(part) for part in parts])]

    # -- dreams ---------------------------------------------------------------------------------------------

    def _begin(self, task: Task, access: Any) -> None:
        """Make room for dreams of every earlier task; those of a task whose data come again are read from the new data."""
        if self.config.replay == "none" or not self.policy.tasks():
            return
        observations, actions = rows_of(access.current)
        known = self.policy.tasks()
        count = per_task(self.config.dreams, len(known)) if self.config.dreams else len(observations)
        for earlier in known:
            self.dreams.open(earlier, count, task.spec)
        self.dreams.to(observations.device)
        if self.config.distillation and self._dreams_states:
            policy = cast(SfBC, self.policy)
            self.teachers.keep("behaviour", policy.behaviour_weights())
            if self.config.replay == "diffusion":
                self.teachers.keep("states", self.states.weights())
        asked = known if self._dreams_states and self.config.recognise else ()
        for earlier in self.noticed.again(asked, torch.cat([observations, actions], 1), self.config.recognise, task.index):
            self._fill(earlier, 0, *some_of(access.current, count, self.generator("repeated", task.index, earlier)))

    def _awake(self, task: int) -> list[int]:
        """Earlier tasks that are dreamed of while `task` is learned."""
        return [earlier for earlier in self.dreams.tasks() if self.noticed.repeated.get(earlier) != task]

    def _parts(self, task: int) -> list[tuple[int, int, int]]:
        """(earlier task, first row, rows) of every part of its dreams."""
        return self.dreams.parts(self._awake(task), AT_ONCE)

    def _dream(self, step: Step, access: Any) -> Mapping[str, Tensor]:
        """One part of the dreams of an earlier task; the last one says how far the worst dreams are from their data."""
        parts = self._parts(step.task)
        task, begin, n = parts[step.index]
        self._fill(task, begin, *self._replayed(task, n, step.generator("dream", self.dreams.of(task)[0].device), access))
        if step.index < len(parts) - 1:
            return {}
        return {"distance": torch.tensor([*self.noticed.distances(self.dreams, self._awake(step.task)).values()]).max()}

    def _replayed(self, task: int, n: int, g: Generator, access: Any) -> tuple[Tensor, Tensor, Tensor]:
        """Observations (n, O), actions (n, A) and steps of their episodes (n,) of an earlier task."""
        if self.config.replay == "oracle":
            return some_of(access.past()[task], n, g)
        if self.config.replay == "noise":
            noise = self.states.unscaled(torch.randn(n, self.states.size, generator=g, device=g.device), task)
            action = torch.rand(n, self.dreams.sets[task][1].action.size, generator=g, device=g.device) * 2 - 1
            return noise, action, torch.zeros(n, device=g.device)
        return self._made(task, n, g)

    def _made(self, task: int, n: int, g: Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Observations (n, O) of a task from the generator, what the behaviour model would do there (n, A), and when (n,)."""
        steps = self.states.steps(task, n, g)
        obs = self.states.draw(task, n, g, steps=steps)
        return obs, cast(SfBC, self.policy).acting().candidates(obs, task, 1, g)[0][:, 0], steps

    @torch.no_grad()
    def _fill(self, task: int, begin: int, obs: Tensor, action: Tensor, steps: Tensor) -> None:
        """Store pairs with what the critic says of them before it learns the new task."""
        index = torch.full((len(obs),), task, device=obs.device)
        windows = as_windows(obs, action, index, (task,), self.dreams.sets[task][1])
        self.dreams.put(task, begin, obs=obs, action=action, timestep=steps, value=cast(SfBC, self.policy).value(windows, action))

    @torch.no_grad()
    def _redream(self, step: Step) -> Mapping[str, Tensor]:
        """Draw the actions of one part anew, from the behaviour model as it is now."""
        task, begin, n = self._parts(step.task)[step.index]
        obs = self.dreams.of(task)[0][begin : begin + n]
        g = step.generator("dream", obs.device)
        action = cast(SfBC, self.policy).acting().candidates(obs, task, 1, g)[0][:, 0]
        self._fill(task, begin, obs, action, torch.zeros(n))
        return {}

    def _judge(self, task: int) -> None:
        """Compare what was dreamed with the sketches of what was real.

        Raises:
            GuardError: a task's dreams are further away than `collapse` and chance explain, and `on_collapse` is stop.
        """
        if not self._dreams_states or self.config.on_collapse == "go_on":
            return
        for earlier, distance, limit in self.noticed.lost(self.dreams, self._awake(task), self.config.collapse):
            if self.config.on_collapse == "stop":
                raise GuardError(f"replay collapsed: the dreams of task {earlier + 1} are {distance:.2f} standard deviations from"
                                 f" its data, more than {limit:.2f} (method.collapse, and chance of so few); the agent before is"
                                 " kept. Begin another run with more --method.state_steps, or with --method.on_collapse coreset,"
                                 " which keeps a few real pairs of every task")
            kept = self.memory.all(earlier)
            rows = torch.arange(self.dreams.sets[earlier][0], device=kept.obs.device) % len(kept)
            self._fill(earlier, 0, kept.obs[rows, 0], kept.action[rows, 0], kept.timestep[rows, 0])
            self.noticed.coresets.append([earlier, task])

    def _finish(self, task: int, access: Any) -> None:
        """Keep the sketch of a task's data, and let go of the dreams."""
        self.noticed.sketches.add(task, torch.cat(rows_of(access.current), 1))
        if self.config.on_collapse == "coreset":
            windows = access.current.windows(1, self.config.coreset, Step(self.seed, task, "coreset", 0))
            access.keep(self.memory, bare(windows))
        self.dreams.clear()
        self.teachers.clear()

    def dreamed(self, task: int, n: int, g: Generator) -> tuple[Tensor, Tensor] | None:
        return self._made(task, n, g)[:2] if self._dreams_states else None

    # -- saving ---------------------------------------------------------------------------------------------

    def memory_bytes(self) -> int:
        return self.memory.bytes()

    def unused_parameters(self) -> int:
        return super().unused_parameters() + sum(p.numel() for p in self.states.parameters())

    def architecture(self) -> dict[str, Any]:
        return super().architecture() | {name: getattr(self, name).architecture() for name in PIECES}

    def rebuild(self, architecture: dict[str, Any]) -> None:
        super().rebuild(architecture)
        for name in PIECES:
            getattr(self, name).rebuild(architecture[name])
