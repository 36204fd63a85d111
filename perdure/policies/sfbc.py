"""sfbc: a diffusion model of what the data would do, and a critic that chooses among its samples.

Paper      Chen et al. 2023, "Offline RL via high-fidelity generative behavior modeling" (arXiv 2209.14548); choice among
           candidates as in the code released with CuGRO (Liu et al. 2024, arXiv 2404.10662)
Objective  behaviour: denoising of logged actions given the observation; critic: squared error to the return that in-sample
           planning finds, first that of the episode
Differs    the behaviour model is told the task by a learned vector (`told false` does not), and the critic has a head per task;
           the critic goes on after a planning sweep, where the released code starts it again, because earlier tasks' critic is
           in it; one learning rate; a sampler of second order with 15 evaluations (cpu profile 10, and half the candidates),
           where CuGRO takes 100 of another
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Generator, Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn import Parameter

from perdure.core.batch import Windows, places
from perdure.core.config import check_choices, not_negative, one_or_more, positive
from perdure.core.errors import UsageError
from perdure.core.policy import ActionDist, Carry, Stage, Weights
from perdure.core.spec import Box, Spec
from perdure.data.sampler import unscale_action
from perdure.nets.denoiser import Denoiser, Sampling, denoising_loss, random_times
from perdure.nets.diffusion import Grid, Linear, Sampler, SamplerName, perturbed
from perdure.nets.moving_average import MovingAverage
from perdure.nets.value import ValueNet
from perdure.policies.base import TaskPolicy
from perdure.policies.planning import discounted_returns, soft_value
from perdure.policies.selection import choose

TOLD = 16
"""Size of the vector that tells the behaviour model its task."""

STATES = 1024
"""Of the data in one part of a sweep."""

SMALLEST_DEVIATION = 0.1
"""Of returns, when they are standardised."""


@dataclass(frozen=True)
class SfBCConfig:
    """Behaviour by diffusion, choice by a critic."""

    normaliser: Literal["task", "first"] = "task"
    """`task`: each task's own observation statistics (uses the task id); `first`: those of the first such space."""
    width: int = 128
    """Of the outermost block of the denoiser; the inner ones have a half and a quarter."""
    critic_width: int = 256
    critic_layers: int = 2
    """Hidden layers."""
    discount: float = 0.99
    """Of returns."""
    behaviour_share: float = 0.25
    """Share of the updates that train the behaviour model; the critic's trainings share the others equally."""
    sweeps: int = 1
    """Of in-sample planning, each followed by a training of the critic."""
    planned: int = 16
    """Candidates per state of the data in a sweep."""
    planning_sharpness: float = 20.0
    """Of the softmax over their values (in standard deviations of the returns)."""
    candidates: int = 32
    """Per action when acting."""
    sharpness: float = 100.0
    """Of the softmax over their values when acting."""
    average: int = 4
    """Candidates whose mean is executed."""
    evaluations: int = 15
    """Of the denoiser per sample."""
    sampler: SamplerName = "dpm++"
    """dpm++, ddim, ddpm or dpm-3, as in docs/results/samplers.md."""
    grid: Grid = "log-snr"
    """Whether the sampler's steps are equal in log signal-to-noise or in time."""
    told: bool = True
    """Whether the behaviour model is told the task."""
    averaging: float = 0.0
    """Share of the new weights in each update of the behaviour model's average, which acts; 0: the weights themselves act."""
    critic_inputs: Literal["normalised", "raw"] = "normalised"
    """Observations that the critic reads."""
    frequency_scale: float = 1.0
    """Standard deviation of the frequencies of the denoiser's time (released code: 30)."""
    sampling: Sampling = "plain"
    """bf16: matrices in bfloat16; compiled: by torch.compile, which takes a minute first; both pay for large networks."""

    def __post_init__(self) -> None:
        check_choices(self, "policy")
        one_or_more(self, "policy", "width", "critic_width", "critic_layers", "planned", "candidates", "average", "evaluations")
        if self.width % 4 or self.sweeps < 0 or not 0 < self.behaviour_share < 1 or not 0 < self.discount <= 1:
            raise UsageError(f"policy.width is {self.width}, sweeps {self.sweeps}, behaviour_share {self.behaviour_share} and"
                             f" discount {self.discount}; give a width that 4 divides, sweeps not below 0, a share between 0 and"
                             " 1 and a discount above 0 and at most 1")
        if self.average > self.candidates:
            raise UsageError(f"policy.average is {self.average} and candidates {self.candidates}; average no more than there are")
        not_negative(self, "policy", "sharpness", "planning_sharpness")
        positive(self, "policy", "frequency_scale")
        if not 0 <= self.averaging <= 1:
            raise UsageError(f"policy.averaging is {self.averaging}; give a share from 0 to 1")


class SfBC(TaskPolicy):
    """Behaviour by diffusion, choice by a critic. Both act, so both are shared and protected."""

    Config = SfBCConfig
    context = 1
    staged = draws = per_task = True
    config: SfBCConfig
    PROFILES: dict[str, dict[str, dict[str, Any]]] = {
        "cpu": {
            "policy": {"candidates": 16, "evaluations": 10},
            "training": {"steps": 8000, "batch": 512, "learning_rate": 1e-3, "weight_decay": 0.0, "clip": 1.0},
        },
        "paper": {
            "policy": {"width": 512, "critic_width": 512, "critic_layers": 3},
            "training": {"steps": 200_000, "batch": 4096, "learning_rate": 4e-4, "weight_decay": 0.0, "clip": 1.0},
        },
    }

    def __init__(self, config: SfBCConfig):
        super().__init__(config)
        self.denoisers = nn.ModuleDict()
        self.told = nn.ParameterDict()
        self.critic = ValueNet(config.critic_width, config.critic_layers, nn.SiLU)
        self.averages = MovingAverage(config.averaging, warm_up=True)
        self.schedule = Linear()
        self.sampler = Sampler(config.sampler, config.evaluations, config.grid)
        self.kept: dict[str, int] = {}
        """Names and lengths of what a sweep keeps of the task that is learned."""

    def _open(self, task: int, spec: Spec) -> None:
        if not isinstance(spec.action, Box) or spec.obs.dtype == "uint8":
            raise UsageError(f"policy is 'sfbc', which reads vectors and acts in continuous spaces, but task {task + 1} has"
                             f" {spec.obs_key} and {spec.action_key}; choose bc or dt")
        super()._open(task, spec)
        width, spaces = self.config.width, spec.key
        if spaces not in self.denoisers:
            told = TOLD if self.config.told else 0
            self.denoisers[spaces] = Denoiser(spec.action.size, spec.obs.size + told, (width, width // 2, width // 4),
                                              self.config.frequency_scale, self.config.sampling)
        self.critic.add_task(task, spaces, spec.obs.size + spec.action.size)
        if self.config.told:
            self.told[f"task-{task}"] = Parameter(torch.randn(TOLD))
        self.averages.restart()
        self.register_buffer(f"value_scale_{task}", torch.tensor([0.0, 1.0]))

    def shared(self) -> dict[str, Parameter]:
        return {name: p for name, p in self.named_parameters() if not name.startswith(("told.", "critic.bank."))}

    def private(self, task: int) -> dict[str, Parameter]:
        head = self.critic.bank.heads[self.critic.bank.of_task[task]]
        name = self.critic.bank.of_task[task]
        told = {f"told.task-{task}": self.told[f"task-{task}"]} if self.config.told else {}
        return told | {f"critic.bank.heads.{name}.{part}": p for part, p in head.named_parameters()}

    # -- learning -------------------------------------------------------------------------------------------

    def stages(self) -> list[Stage]:
        share = (1 - self.config.behaviour_share) / (1 + self.config.sweeps)
        critic = Stage("critic", share, "critic_loss", follows=False)
        made = [Stage("behaviour", self.config.behaviour_share, "behaviour_loss"), critic]
        for i in range(self.config.sweeps):
            made += [Stage(f"plan {i + 1}", sweep=True), replace(critic, name=f"critic {i + 2}")]
        return made

    def behaviour_loss(self, batch: Windows, weights: Weights | None = None, teacher: Weights | None = None) -> Tensor:
        """(B,), of the noise in noisy logged actions; where `extra["taught"]` is true, of what the teacher says it is."""
        noise, t = torch.randn_like(batch.action[:, 0]), random_times(len(batch), self.schedule, batch.action.device)
        noisy, target = perturbed(batch.action[:, 0], noise, t, self.schedule), noise
        if teacher is not None and "taught" in batch.extra:
            with torch.no_grad():
                said = functional_call(self, dict(teacher), ("noise", batch, noisy, t))
            target = torch.where(batch.extra["taught"].unsqueeze(1), said, noise)
        return denoising_loss(functional_call(self, dict(weights or {}), ("noise", batch, noisy, t)), target)

    def critic_loss(self, batch: Windows, weights: Weights | None = None) -> Tensor:
        """(B,), of the standardised return after the logged action."""
        value = functional_call(self, dict(weights or {}), ("value", batch, batch.action[:, 0]))
        return (value - batch.extra["value"]).square()

    def forward(self, part: str, *inputs: Any) -> Tensor:  # type: ignore[override]
        """One of `noise`, `value` and `outputs`; so weights can stand in for those that it reads."""
        return getattr(self, part)(*inputs)

    def noise(self, batch: Windows, noisy: Tensor, t: Tensor) -> Tensor:
        """(B, A), the noise in noisy actions at times (B,)."""
        condition, spaces = self._condition(batch)
        return self.denoisers[spaces](noisy, t, self._with_task(condition, batch.task, batch.tasks))

    def value(self, batch: Windows, action: Tensor) -> Tensor:
        """(B,), the standardised return after actions (B, A)."""
        obs, spaces = self._read(batch.obs[:, 0], batch.task, batch.tasks), self.specs[batch.tasks[0]].key
        return self.critic(torch.cat([obs, action], 1), spaces, batch.task, batch.tasks)

    def _with_task(self, condition: Tensor, task: Tensor, tasks: tuple[int, ...]) -> Tensor:
        """(B, O) -> (B, C), what the behaviour model is told."""
        if not self.config.told:
            return condition
        told = torch.stack([self.told[f"task-{k}"] for k in tasks])
        return torch.cat([condition, told[places(task, tasks)]], 1)

    def _read(self, obs: Tensor, task: Tensor, tasks: tuple[int, ...]) -> Tensor:
        """(B, O), the observations as the critic reads them."""
        if self.config.critic_inputs == "raw":
            return obs
        return self._normalised(obs.unsqueeze(1), task, tasks).squeeze(1)

    def _condition(self, batch: Windows) -> tuple[Tensor, str]:
        """(B, O) normalised observations, and the name of the batch's spaces."""
        return self._normalised(batch.obs, batch.task, batch.tasks).squeeze(1), self.specs[batch.tasks[0]].key

    def annotate(self, view: Any) -> None:
        if "value" in view.sampler.derived:
            return
        task = view.task.index
        kept = f"planned_{task}"
        returns = self.get_buffer(kept) if kept in self.kept else discounted_returns(view.sampler, self.config.discount)
        trained = returns[view.sampler.starts["train"].step]
        deviation = trained.std(correction=min(1, len(trained) - 1))
        scale = torch.stack([trained.mean(), deviation.clamp_min(SMALLEST_DEVIATION)])
        self.get_buffer(f"value_scale_{task}").copy_(scale)
        view.sampler.derived["value"] = (returns - scale[0]) / scale[1]

    @torch.no_grad()
    def sweep(self, view: Any, part: int, weights: Weights | None = None) -> None:
        task, sampler = view.task.index, view.sampler
        swept = f"swept_{task}"
        if part == 0:
            self._keep(swept, torch.zeros_like(sampler.reward))
        steps = torch.arange(len(sampler.reward), device=sampler.reward.device).split(STATES)[part]
        acting, n = self.acting(weights), self.config.planned
        obs = sampler.windows_at(steps, 1).obs[:, 0]
        values = acting.candidates(obs, task, n, None)[1]
        mean, deviation = self.get_buffer(f"value_scale_{task}")
        self.get_buffer(swept)[steps] = mean + deviation * soft_value(values, self.config.planning_sharpness)
        if part == self.sweep_parts(view) - 1:
            self._keep(f"planned_{task}", discounted_returns(sampler, self.config.discount, self.get_buffer(swept)))
            self._drop(swept)
            del sampler.derived["value"]

    def sweep_parts(self, view: Any) -> int:
        return -(-len(view.sampler.reward) // STATES)

    def close_task(self, task: int) -> None:
        self._drop(f"planned_{task}")

    def _keep(self, name: str, values: Tensor) -> None:
        self.kept[name] = len(values)
        self.register_buffer(name, values)

    def _drop(self, name: str) -> None:
        if self.kept.pop(name, None) is not None:
            delattr(self, name)

    def fisher(self, batch: Windows, parameters: Mapping[str, Tensor], g: Generator) -> dict[str, Tensor]:
        """Of the denoising error of each sample, and of its value, which share no parameters."""
        action, task = batch.action[:, 0], batch.tasks[0]
        noise = torch.randn(action.shape, generator=g, device=action.device)
        t = torch.rand(len(batch), generator=g, device=action.device) * self.schedule.latest
        condition, _ = self._condition(batch)
        read = self._read(batch.obs[:, 0], batch.task, batch.tasks)
        rows = (condition, read, action, perturbed(action, noise, t, self.schedule), noise, t)

        def error(weights: Mapping[str, Tensor], *row: Tensor) -> Tensor:
            return functional_call(self, dict(weights), ("outputs", task, *row))

        gradients = vmap(grad(error), in_dims=(None, *[0] * len(rows)))({n: p.detach() for n, p in parameters.items()}, *rows)
        return {name: value.detach().square().mean(0) for name, value in gradients.items()}

    def outputs(self, task: int, condition: Tensor, read: Tensor, action: Tensor, noisy: Tensor, noise: Tensor,
                t: Tensor) -> Tensor:
        """Denoising error and value of one sample, added."""
        spaces, index = self.specs[task].key, torch.full((1,), task, device=condition.device)
        told = self._with_task(condition.unsqueeze(0), index, (task,))
        predicted = self.denoisers[spaces](noisy.unsqueeze(0), t.unsqueeze(0), told)
        value = self.critic(torch.cat([read, action]).unsqueeze(0), spaces, index, (task,))
        return denoising_loss(predicted, noise.unsqueeze(0)).sum() + value.sum()

    # -- acting ---------------------------------------------------------------------------------------------

    def acting(self, weights: Weights | None = None) -> SfBC:
        """This policy with what acts: `weights`, and for what they do not name the average, where there is one."""
        return self.folded({**self.averages.view(), **(weights or {})})

    def follow(self, weights: Weights | None = None) -> None:
        if self.config.averaging:
            self.averages.follow({name: (weights or {}).get(name, p) for name, p in self._behaviour().items()})

    def _behaviour(self) -> dict[str, Parameter]:
        """Parameters of the behaviour model."""
        return {name: p for name, p in self.named_parameters() if name.startswith(("denoisers.", "told."))}

    def behaviour_weights(self) -> dict[str, Tensor]:
        """Those with which the behaviour model acts."""
        return {**self._behaviour(), **self.averages.view()}

    @torch.no_grad()
    def candidates(self, obs: Tensor, task: int, count: int, g: Generator | None) -> tuple[Tensor, Tensor]:
        """Actions (n, count, A) that the data might show at observations (n, O), and the critic's values (n, count) of them."""
        spec = self.specs[task]
        spaces, n = spec.key, len(obs)
        index = torch.full((n,), task, dtype=torch.int64, device=obs.device)
        normal = self._normalised(obs.unsqueeze(1), index, (task,)).squeeze(1)
        condition = self._with_task(normal, index, (task,)).repeat_interleave(count, 0)
        noise = torch.randn((n * count, spec.action.size), generator=g, device=obs.device)
        predict = self.denoisers[spaces].prepared(condition, self.sampler.times(self.schedule), n * count)
        drawn = self.sampler.draw(predict, noise, self.schedule, g=g, limit=1.0)
        rows = torch.cat([self._read(obs, index, (task,)).repeat_interleave(count, 0), drawn], 1)
        values = self.critic(rows, spaces, index.repeat_interleave(count), (task,))
        return drawn.view(n, count, -1), values.view(n, count)

    def predict(self, batch: Windows, weights: Weights | None = None) -> ActionDist:
        """The action that is chosen with noise of a fixed seed, as the mean of a Gaussian."""
        acting, chosen = self.acting(weights), torch.zeros_like(batch.action)
        for task in batch.tasks:
            rows = batch.task == task
            if bool(rows.any()):
                actor = SfBCActor(acting, task)
                chosen[rows, 0] = actor.choose(batch.obs[rows, 0], torch.Generator(batch.obs.device).manual_seed(0))
        return ActionDist(mean=chosen, log_std=torch.zeros_like(chosen))

    def actor(self, task: int | None, weights: Weights | None = None) -> SfBCActor:
        return SfBCActor(self.acting(weights), self.tasks()[-1] if task is None else task)

    # -- saving ---------------------------------------------------------------------------------------------

    def architecture(self) -> dict[str, Any]:
        return super().architecture() | {"kept": dict(self.kept), **self.averages.architecture()}

    def rebuild(self, architecture: dict[str, Any]) -> None:
        super().rebuild(architecture)
        self.averages.rebuild(architecture)
        for name, length in architecture["kept"].items():
            self._keep(name, torch.zeros(int(length)))


class SfBCActor:
    """Draws candidates at every step; has no memory of the episode."""

    def __init__(self, policy: SfBC, task: int):
        self.policy, self.task = policy, task

    def start(self, n: int) -> Carry:
        return {}

    def choose(self, obs: Tensor, g: Generator) -> Tensor:
        """(n, A) in [-1, 1]."""
        config = self.policy.config
        actions, values = self.policy.candidates(obs, self.task, config.candidates, g)
        return choose(actions, values, sharpness=config.sharpness, average=config.average, g=g)

    @torch.no_grad()
    def act(self, obs: Tensor, carry: Carry, g: Generator, reward: Tensor | None = None) -> tuple[Tensor, Carry]:
        return unscale_action(self.choose(obs, g), self.policy.specs[self.task]), carry
