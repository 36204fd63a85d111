"""Diffusion: noise schedules, what a network predicts, the denoising loss and the samplers.

Time runs from 0 (data) to 1 (noise): x_t = alpha(t) x_0 + sigma(t) noise, with alpha^2 + sigma^2 = 1 (Song et al. 2021, arXiv
2011.13456). lambda(t) = log(alpha / sigma) is half the log of the signal-to-noise ratio. The samplers take any function of x and
t that predicts, so that a network, a guided pair of networks and an exact score are sampled by the same code.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, get_args

import torch
from torch import Generator, Tensor

from perdure.core.errors import UsageError

Prediction = Literal["noise", "data", "velocity"]
Predict = Callable[[Tensor, float], Tensor]
"""(B, D) at a time -> what the network predicts of it, (B, D)."""

EARLIEST = 1e-3
"""Where samplers stop, as in DPM-Solver (Lu et al. 2022, arXiv 2206.00927); earlier, x is the data."""


class Schedule(ABC):
    """How much of the data is left at a time; all numbers are Python floats, exact to double precision."""

    latest: float = 1.0
    """Where samplers start."""

    @abstractmethod
    def log_alpha(self, t: float) -> float:
        """Natural logarithm of alpha(t)."""

    @abstractmethod
    def time(self, log_snr: float) -> float:
        """The inverse of `log_snr`."""

    def alpha(self, t: float) -> float:
        return math.exp(self.log_alpha(t))

    def sigma(self, t: float) -> float:
        return math.sqrt(-math.expm1(2 * self.log_alpha(t)))

    def log_snr(self, t: float) -> float:
        """lambda(t) = log(alpha / sigma)."""
        return self.log_alpha(t) - 0.5 * math.log(-math.expm1(2 * self.log_alpha(t)))

    def coefficients(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """(alpha, sigma) at every time (B,), for training."""
        log_alpha = self.log_alphas(t.double())
        return log_alpha.exp().float(), (-torch.expm1(2 * log_alpha)).sqrt().float()

    @abstractmethod
    def log_alphas(self, t: Tensor) -> Tensor:
        """`log_alpha` of every time (B,) float64."""


@dataclass(frozen=True)
class Linear(Schedule):
    """Variance preserving, beta linear in time (Song et al. 2021, eq. 32)."""

    first: float = 0.1
    last: float = 20.0

    def log_alpha(self, t: float) -> float:
        return -0.25 * t * t * (self.last - self.first) - 0.5 * t * self.first

    def log_alphas(self, t: Tensor) -> Tensor:
        return -0.25 * t * t * (self.last - self.first) - 0.5 * t * self.first

    def time(self, log_snr: float) -> float:
        # softplus(-2 lambda) = -2 log alpha, and the positive root of the quadratic in t, in the form that loses no digits
        rest = 2 * (self.last - self.first) * _softplus(-2 * log_snr)
        return rest / ((math.sqrt(self.first**2 + rest) + self.first) * (self.last - self.first))


@dataclass(frozen=True)
class Cosine(Schedule):
    """Nichol and Dhariwal 2021 (arXiv 2102.09672), eq. 17, in continuous time."""

    offset: float = 0.008
    latest: float = 0.9946
    """Where DPM-Solver's code starts; alpha is 0 at 1."""

    def log_alpha(self, t: float) -> float:
        return math.log(math.cos(self._angle(t))) - math.log(math.cos(self._angle(0.0)))

    def log_alphas(self, t: Tensor) -> Tensor:
        return torch.cos((t + self.offset) / (1 + self.offset) * math.pi / 2).log() - math.log(math.cos(self._angle(0.0)))

    def _angle(self, t: float) -> float:
        return (t + self.offset) / (1 + self.offset) * math.pi / 2

    def time(self, log_snr: float) -> float:
        log_alpha = -0.5 * _softplus(-2 * log_snr)
        angle = math.acos(math.exp(log_alpha) * math.cos(self._angle(0.0)))
        return angle * 2 / math.pi * (1 + self.offset) - self.offset


class Discrete(Schedule):
    """N steps with betas of their own (Ho et al. 2020, arXiv 2006.11239); log alpha is linear between them.

    Step n is time n / N.
    """

    def __init__(self, betas: Sequence[float]):
        """Raises UsageError where a beta is not between 0 and 1."""
        if not betas or not all(0 < beta < 1 for beta in betas):
            raise UsageError("the betas of a discrete noise schedule are not all between 0 and 1; give one per step")
        self.logs = [0.0]
        for beta in betas:
            self.logs.append(self.logs[-1] + 0.5 * math.log1p(-beta))

    @classmethod
    def ddpm(cls, steps: int = 1000) -> Discrete:
        """Betas linear from 1e-4 to 0.02, as Ho et al. use them for 1,000 steps; for fewer they are larger in proportion."""
        return cls([min(0.999, 1000 / steps * (1e-4 + (0.02 - 1e-4) * n / max(1, steps - 1))) for n in range(steps)])

    @property
    def steps(self) -> int:
        return len(self.logs) - 1

    def log_alpha(self, t: float) -> float:
        place = t * self.steps
        before = min(int(place), self.steps - 1)
        return self.logs[before] + (place - before) * (self.logs[before + 1] - self.logs[before])

    def log_alphas(self, t: Tensor) -> Tensor:
        place = t * self.steps
        before = place.long().clamp_max(self.steps - 1)
        logs = torch.tensor(self.logs, dtype=torch.float64, device=t.device)
        return logs[before] + (place - before) * (logs[before + 1] - logs[before])

    def time(self, log_snr: float) -> float:
        wanted = -0.5 * _softplus(-2 * log_snr)
        after = min(max(1, bisect_left([-log for log in self.logs], -wanted)), self.steps)
        low, high = self.logs[after - 1], self.logs[after]
        return (after - 1 + (wanted - low) / (high - low)) / self.steps


def _softplus(x: float) -> float:
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))


# -- what is predicted ----------------------------------------------------------------------------------------


def perturbed(data: Tensor, noise: Tensor, t: Tensor, schedule: Schedule) -> Tensor:
    """x_t (B, D) of data (B, D) at times (B,)."""
    alpha, sigma = schedule.coefficients(t)
    return alpha.unsqueeze(1) * data + sigma.unsqueeze(1) * noise


def wanted(data: Tensor, noise: Tensor, t: Tensor, schedule: Schedule, prediction: Prediction) -> Tensor:
    """(B, D), what a network should predict of x_t; velocity is alpha noise - sigma data (Salimans and Ho, arXiv 2202.00512)."""
    if prediction == "noise":
        return noise
    if prediction == "data":
        return data
    alpha, sigma = schedule.coefficients(t)
    return alpha.unsqueeze(1) * noise - sigma.unsqueeze(1) * data


def data_of(predicted: Tensor, x: Tensor, t: float, schedule: Schedule, prediction: Prediction) -> Tensor:
    """(B, D), the data that a prediction at x_t means."""
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    if prediction == "noise":
        return (x - sigma * predicted) / alpha
    return predicted if prediction == "data" else alpha * x - sigma * predicted


def noise_of(predicted: Tensor, x: Tensor, t: float, schedule: Schedule, prediction: Prediction) -> Tensor:
    """(B, D), the noise that a prediction at x_t means."""
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    if prediction == "data":
        return (x - alpha * predicted) / sigma
    return predicted if prediction == "noise" else sigma * x + alpha * predicted


# -- sampling -------------------------------------------------------------------------------------------------

SamplerName = Literal["dpm++", "ddim", "ddpm", "dpm-3"]
Grid = Literal["log-snr", "time"]


@dataclass(frozen=True)
class Sampler:
    """How samples are drawn, and with how many evaluations of the network."""

    name: SamplerName = "dpm++"
    """dpm++: DPM-Solver++(2M), second order with memory (Lu et al. 2022, arXiv 2211.01095); ddim: first order (Song et al. 2020,
    arXiv 2010.02502); ddpm: with fresh noise at every step (Ho et al. 2020); dpm-3: third-order single steps (Lu et al. 2022,
    arXiv 2206.00927), as SfBC and CuGRO use them with 100 evaluations and equal times."""
    evaluations: int = 15
    grid: Grid = "log-snr"
    """Whether steps are equal in log signal-to-noise or in time."""

    def __post_init__(self) -> None:
        if self.name not in get_args(SamplerName) or self.grid not in get_args(Grid):
            names, grids = ", ".join(get_args(SamplerName)), " or ".join(get_args(Grid))
            raise UsageError(f"sampler is {self.name!r} on the grid {self.grid!r}; use one of {names}, on {grids}")
        if type(self.evaluations) is not int or self.evaluations < 1:
            raise UsageError(f"sampler.evaluations is {self.evaluations!r}; give 1 or more")

    def times(self, schedule: Schedule) -> list[float]:
        """The times at which the network is evaluated, in order."""
        if self.name == "dpm-3":
            return [t for s, e, order in self._singles(schedule) for t in _inner(schedule, s, e, order)]
        return self._points(schedule)[:-1]

    def _points(self, schedule: Schedule) -> list[float]:
        """evaluations + 1 times from noise to data."""
        n, first, last = self.evaluations, schedule.latest, EARLIEST
        if self.grid == "time":
            return [first + (last - first) * i / n for i in range(n + 1)]
        a, b = schedule.log_snr(first), schedule.log_snr(last)
        return [first, *(schedule.time(a + (b - a) * i / n) for i in range(1, n)), last]

    def _singles(self, schedule: Schedule) -> list[tuple[float, float, int]]:
        """(from, to, order) of the single steps, of order 3 as far as possible, whose orders add up to the evaluations."""
        threes, rest = divmod(self.evaluations, 3)
        orders = [3] * threes + [rest] if rest else [3] * (threes - 1) + [2, 1]
        points, place, found = self._points(schedule), 0, []
        for order in orders:
            found.append((points[place], points[place + order], order))
            place += order
        return found

    @torch.no_grad()
    def draw(self, predict: Predict, noise: Tensor, schedule: Schedule, prediction: Prediction = "noise",
             g: Generator | None = None, limit: float | None = None) -> Tensor:
        """(B, D) samples.

        Args:
            predict: the network; it is evaluated at `times`, once each.
            noise: (B, D) standard normal, where sampling starts.
            g: randomness of `ddpm`.
            limit: samples are clipped to [-limit, limit]; None leaves them.
        """
        if self.name == "dpm-3":
            x = self._third_order(predict, noise, schedule, prediction)
        elif self.name == "dpm++":
            x = self._multistep(predict, noise, schedule, prediction)
        else:
            x = self._first_order(predict, noise, schedule, prediction, g)
        return x if limit is None else x.clamp(-limit, limit)

    def _multistep(self, predict: Predict, x: Tensor, schedule: Schedule, prediction: Prediction) -> Tensor:
        points, before, last_step = self._points(schedule), None, 0.0
        for t, s in pairwise(points):
            data = data_of(predict(x, t), x, t, schedule, prediction)
            step = schedule.log_snr(s) - schedule.log_snr(t)
            best = data if before is None else data + (data - before) * (step / last_step / 2)
            x = schedule.sigma(s) / schedule.sigma(t) * x - schedule.alpha(s) * math.expm1(-step) * best
            before, last_step = data, step
        return x

    def _first_order(self, predict: Predict, x: Tensor, schedule: Schedule, prediction: Prediction,
                     g: Generator | None) -> Tensor:
        points = self._points(schedule)
        for t, s in pairwise(points):
            predicted = predict(x, t)
            data = data_of(predicted, x, t, schedule, prediction)
            alpha, sigma = schedule.alpha(s), schedule.sigma(s)
            if self.name == "ddim":
                x = alpha * data + sigma * noise_of(predicted, x, t, schedule, prediction)
                continue
            kept = schedule.alpha(t) / alpha
            added = (1 - kept**2) / schedule.sigma(t) ** 2
            x = kept * sigma**2 / schedule.sigma(t) ** 2 * x + alpha * added * data
            if s != points[-1]:
                fresh = torch.randn(x.shape, generator=g, device=x.device, dtype=x.dtype)
                x = x + math.sqrt(added) * sigma * fresh
        return x

    def _third_order(self, predict: Predict, x: Tensor, schedule: Schedule, prediction: Prediction) -> Tensor:
        for start, end, order in self._singles(schedule):
            x = _single_step(predict, x, start, end, order, schedule, prediction)
        return x


def _inner(schedule: Schedule, start: float, end: float, order: int) -> list[float]:
    """Times of the evaluations within one single step, equally far from each other in log signal-to-noise."""
    a, b = schedule.log_snr(start), schedule.log_snr(end)
    return [start, *(schedule.time(a + (b - a) * i / order) for i in range(1, order))]


def _single_step(predict: Predict, x: Tensor, start: float, end: float, order: int, schedule: Schedule,
                 prediction: Prediction) -> Tensor:
    """DPM-Solver-1, -2 or -3 (Lu et al. 2022, arXiv 2206.00927, eq. 3.7, algorithms 1 and 2)."""
    times = _inner(schedule, start, end, order)
    h = schedule.log_snr(end) - schedule.log_snr(start)

    def noise(x: Tensor, t: float) -> Tensor:
        return noise_of(predict(x, t), x, t, schedule, prediction)

    def moved(to: float, share: float, first: Tensor) -> Tensor:
        """x at `to`, which lies `share` of the step away, by the first-order formula."""
        return schedule.alpha(to) / schedule.alpha(start) * x - schedule.sigma(to) * math.expm1(share * h) * first

    first = noise(x, start)
    if order == 1:
        return moved(end, 1.0, first)
    if order == 2:
        middle = noise(moved(times[1], 0.5, first), times[1])
        return moved(end, 1.0, first) - schedule.sigma(end) * math.expm1(h) * (middle - first)
    second = noise(moved(times[1], 1 / 3, first), times[1])
    curved = math.expm1(2 / 3 * h) / (2 / 3 * h) - 1
    later = moved(times[2], 2 / 3, first) - 2 * schedule.sigma(times[2]) * curved * (second - first)
    third = noise(later, times[2])
    return moved(end, 1.0, first) - 1.5 * schedule.sigma(end) * (math.expm1(h) / h - 1) * (third - first)
