"""Train the behaviour policies of the MuJoCo streams with PPO; needs `pip install stable-baselines3` and the extra mujoco.

    python tools/train_behaviour.py cheetah-vel            # one training, on one core; a family, or a body of `bodies`
    python tools/train_behaviour.py hopper --minutes 30    # with another time cap

Writes the checkpoints to perdure/benchmarks/behaviours/<training>.safetensors and what they reach into card.json. A network is
told what is asked for, after its observation; the datasets that are recorded with it are not. Every checkpoint is measured in the
environments of the stream, acting with its own noise as it does in the data, on episodes that neither data nor scores use.

The scores in REQUIRED were written down before anything was trained. `medium` is the first checkpoint that reaches its score,
`expert` the best one. Where a score is missed, the level is called by the return that it reaches instead.
"""

from __future__ import annotations

import argparse
import math
import time
from dataclasses import dataclass, replace
from typing import Any

import gymnasium
import numpy as np
from safetensors.numpy import save
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from perdure.benchmarks import mujoco_env
from perdure.benchmarks.behaviour import CARD, FOLDER, LIMIT, Network, player
from perdure.benchmarks.mujoco_env import OBSERVED, MujocoFactory
from perdure.benchmarks.mujoco_tasks import FAMILIES, VELOCITIES
from perdure.core.files import read_json, write_atomic, write_json


@dataclass(frozen=True)
class Training:
    """What is trained, and what it must reach."""

    family: str
    medium: float
    """Mean return over the tasks that the level `medium` must reach, in environment units."""
    expert: float
    steps: int
    """Environment steps at most."""
    gamma: float = 0.99
    tasks: tuple[str, ...] = ()
    """Empty: all of the family."""

    @property
    def names(self) -> tuple[str, ...]:
        return self.tasks or tuple(FAMILIES[self.family])


REQUIRED: dict[str, Training] = {
    "cheetah-vel": Training("cheetah-vel", -100.0, -45.0, 2_000_000),
    "swimmer-dir": Training("swimmer-dir", 20.0, 40.0, 2_000_000, gamma=0.999),
    "walker-params": Training("walker-params", 250.0, 400.0, 3_000_000),
    "ant-dir": Training("ant-dir", 250.0, 450.0, 4_000_000),
    "hopper": Training("bodies", 1200.0, 2500.0, 3_000_000, tasks=("hopper",)),
    "walker2d": Training("bodies", 1500.0, 3000.0, 4_000_000, tasks=("walker2d",)),
    "halfcheetah": Training("bodies", 2000.0, 4000.0, 4_000_000, tasks=("halfcheetah",)),
}

ENVIRONMENTS, ROLLOUT, BATCH, EPOCHS, RATE = 16, 256, 512, 10, 3e-4
UNITS = [128, 128]
"""Of both networks' hidden layers."""

CHECKPOINTS = 12
MEASURED = 20
"""Episodes per task and checkpoint."""

FIRST_MEASURED = 1_000_000
"""Number of the first of these episodes."""


class Conditioned(gymnasium.Env):
    """All tasks of a training in turn by chance, with what is asked for at the end of the observation; directions and velocities
    are drawn from their whole range."""

    def __init__(self, training: Training, seed: int):
        self.envs = [MujocoFactory(training.family, name)() for name in training.names]
        self.rng, self.family = np.random.default_rng(seed), training.family
        self.env = self.envs[0]
        size = self.env.observation_space.shape[0] + len(self.env.task.aim)
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (size,), np.float32)
        self.action_space = self.env.action_space

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        self.env = self.envs[int(self.rng.integers(len(self.envs)))]
        if self.family.endswith("-dir"):
            angle = self.rng.uniform(0, 2 * math.pi)
            self.env.task = replace(self.env.task, aim=(math.cos(angle), math.sin(angle)))
        if self.family == "cheetah-vel":
            self.env.task = replace(self.env.task, aim=(self.rng.uniform(0, 1.1 * max(VELOCITIES)),))
        obs, info = self.env.reset(seed=int(self.rng.integers(2**31)))
        return self._told(obs), info

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        obs, *rest = self.env.step(action)
        return self._told(obs), *rest

    def _told(self, obs: np.ndarray) -> np.ndarray:
        return np.concatenate([obs, self.env.task.aim]).astype(np.float32)


def exported(model: PPO, normalised: VecNormalize) -> dict[str, np.ndarray]:
    """The acting network as arrays of `behaviour.Network`."""
    layers = [module for module in [*model.policy.mlp_extractor.policy_net, model.policy.action_net] if hasattr(module, "weight")]
    arrays = {"mean": normalised.obs_rms.mean, "std": np.sqrt(normalised.obs_rms.var + normalised.epsilon),
              "log_std": model.policy.log_std.detach().numpy()}
    for i, layer in enumerate(layers):
        arrays |= {f"weight_{i}": layer.weight.detach().numpy().T, f"bias_{i}": layer.bias.detach().numpy()}
    return {name: np.ascontiguousarray(value, np.float32) for name, value in arrays.items()}


class Save(BaseCallback):
    """Keeps the network at times that double towards the beginning, and ends the training when its time is up."""

    def __init__(self, steps: int, minutes: float):
        super().__init__()
        self.at = [round(steps * (i / CHECKPOINTS) ** 2) for i in range(1, CHECKPOINTS + 1)]
        self.end = time.monotonic() + 60 * minutes
        self.kept: dict[str, dict[str, np.ndarray]] = {}

    def _on_step(self) -> bool:
        if self.at and self.num_timesteps >= self.at[0]:
            self.at.pop(0)
            self._keep()
            recent = [episode["r"] for episode in self.model.ep_info_buffer]
            print(f"{self.num_timesteps} steps, recent return {np.mean(recent):.1f}", flush=True)
        return time.monotonic() < self.end

    def _on_training_end(self) -> None:
        self._keep()

    def _keep(self) -> None:
        self.kept[f"steps-{self.num_timesteps}"] = exported(self.model, self.training_env)


def mean_return(network: Network | None, factory: MujocoFactory) -> float:
    """Over the episodes kept for measuring; None acts at random."""
    env, total = factory(), 0.0
    act = player(network, factory.what.aim, env, OBSERVED[factory.what.body]) if network else None
    for i in range(MEASURED):
        rng = np.random.default_rng(i)
        obs, _ = env.reset(options={"goal": [FIRST_MEASURED + i]})
        ended = False
        while not ended:
            action = act(obs) if act else rng.uniform(-1, 1, env.action_space.shape)
            obs, reward, terminated, truncated, _ = env.step(action)
            total, ended = total + reward, terminated or truncated
    return total / MEASURED


def measured(training: Training, network: Network | None) -> dict[str, float]:
    """Task -> mean return."""
    return {name: round(mean_return(network, MujocoFactory(training.family, name)), 2) for name in training.names}


def levels(training: Training, checkpoints: dict[str, Any]) -> dict[str, str]:
    """medium and expert, or the returns that stand in for them -> checkpoint."""
    means = {name: facts["mean"] for name, facts in checkpoints.items()}
    best = max(means, key=lambda name: means[name])
    others = [name for name in means if name != best]
    enough = [name for name in others if means[name] >= training.medium]
    middle = enough[0] if enough else min(others, key=lambda name: abs(means[name] - training.medium))
    return {"medium" if enough else f"return{means[middle]:.0f}": middle,
            "expert" if means[best] >= training.expert else f"return{means[best]:.0f}": best}  # fmt: skip


def train(name: str, seed: int, minutes: float) -> None:
    """One training, with its file and its part of the card."""
    training = REQUIRED[name]
    venv = DummyVecEnv([lambda i=i: gymnasium.wrappers.RecordEpisodeStatistics(Conditioned(training, 1000 * seed + i))
                        for i in range(ENVIRONMENTS)])
    normalised = VecNormalize(venv, gamma=training.gamma, clip_obs=LIMIT, clip_reward=LIMIT)
    model = PPO("MlpPolicy", normalised, learning_rate=RATE, n_steps=ROLLOUT, batch_size=BATCH, n_epochs=EPOCHS,
                gamma=training.gamma, policy_kwargs={"net_arch": UNITS, "log_std_init": -0.5}, seed=seed, device="cpu")
    begin = time.monotonic()
    save_them = Save(training.steps, minutes)
    model.learn(training.steps, callback=save_them)
    spent = (time.monotonic() - begin) / 60
    checkpoints = {}
    for checkpoint, arrays in save_them.kept.items():
        scores = measured(training, Network(arrays))
        checkpoints[checkpoint] = {"mean": round(float(np.mean(list(scores.values()))), 2), "tasks": scores}
        print(f"{name} {checkpoint}: {checkpoints[checkpoint]}", flush=True)
    FOLDER.mkdir(exist_ok=True)
    arrays = {f"{checkpoint}.{part}": value for checkpoint, parts in save_them.kept.items() for part, value in parts.items()}
    write_atomic(FOLDER / f"{name}.safetensors", save(arrays))
    card = read_json(CARD) if CARD.exists() else {"trainings": {}}
    card["trainings"][name] = {
        "algorithm": "PPO (Schulman et al. 2017, arXiv 1707.06347), stable-baselines3", "seed": seed, "minutes": round(spent, 1),
        "minutes_allowed": minutes, "required": {"medium": training.medium, "expert": training.expert},
        "random": measured(training, None), "levels": levels(training, checkpoints), "checkpoints": checkpoints,
        "versions": mujoco_env.versions(),
    }  # fmt: skip
    write_json(CARD, card)
    print(f"{name}: {card['trainings'][name]['levels']} after {spent:.1f} minutes")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trainings", nargs="+", choices=list(REQUIRED))
    parser.add_argument("--minutes", type=float, default=25.0, help="time cap per training")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    for name in arguments.trainings:
        train(name, arguments.seed, arguments.minutes)


if __name__ == "__main__":
    main()
