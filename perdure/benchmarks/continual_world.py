"""Continual World on Meta-World v3: task orders, task texts, citations.

Continual World: Wolczyk et al. 2021, arXiv 2105.10919 (order of the ten tasks, 200-step episodes, an episode
succeeds when any of its steps did). It used Meta-World v1; scores on v1, v2 and v3 are not comparable, so the
version is part of every stream name here. Imports no torch and no simulator.
"""

CW10 = (
    "hammer",
    "push-wall",
    "faucet-close",
    "push-back",
    "stick-pull",
    "handle-press-side",
    "push",
    "shelf-place",
    "window-close",
    "peg-unplug-side",
)
"""Order of Continual World."""

CW20 = CW10 + CW10
"""The ten tasks twice, as in Continual World."""

CW3 = ("hammer", "faucet-close", "handle-press-side")
"""A selected triple: chosen beforehand because one model per task reaches 1.0 and finetuning forgets."""

CW3B = ("push-wall", "push", "shelf-place")
"""An unselected triple: by rule, whatever any learner makes of them, the first three tasks of CW10 that are
not in CW3 and that the scripted policy solves within 200 steps for at least 90 % of the goals (push-back and
stick-pull fall short)."""

CWTUNE = ("reach", "drawer-open", "button-press-topdown")
"""For choosing hyperparameters: three tasks outside CW10 and METAWORLD5 that the scripted policies solve."""

METAWORLD5 = ("coffee-button", "drawer-close", "plate-slide-back", "window-close", "window-open")
"""Five tasks of methods that learn several small tasks jointly; shares window-close with CW10."""

TASKS = tuple(dict.fromkeys(CW10 + METAWORLD5 + CWTUNE))
"""Every task with frozen goals and a measured noise ladder."""

TEXTS = {
    "button-press-topdown": "Press the button from above.",
    "coffee-button": "Push the button of the coffee machine.",
    "drawer-close": "Push the drawer until it is closed.",
    "drawer-open": "Pull the drawer open by its handle.",
    "faucet-close": "Turn the faucet handle until it is closed.",
    "hammer": "Pick up the hammer and drive the nail into the wall.",
    "handle-press-side": "Press the handle down from its side.",
    "peg-unplug-side": "Pull the peg out of the socket sideways.",
    "plate-slide-back": "Slide the plate out of the goal towards the robot.",
    "push": "Push the puck to the target.",
    "push-back": "Pull the block back towards the robot onto the target.",
    "push-wall": "Push the puck around the wall to the target.",
    "reach": "Move the hand to the target.",
    "shelf-place": "Lift the block and place it on the shelf.",
    "stick-pull": "Take the stick, hook it into the mug's handle and pull the mug to the target.",
    "window-close": "Slide the window shut.",
    "window-open": "Slide the window open.",
}
"""One sentence per task, in the project's own words; for agents that read text."""

CITATION = (
    "Wolczyk, Zajac, Pascanu, Kucinski, Milos: Continual World: A Robotic Benchmark For Continual "
    "Reinforcement Learning. NeurIPS 2021, arXiv 2105.10919. "
    "Yu, Quillen, He, Julian, Hausman, Finn, Levine: Meta-World: A Benchmark and Evaluation for Multi-Task and "
    "Meta Reinforcement Learning. CoRL 2019, arXiv 1910.10897."
)

LICENCE = "MIT (Meta-World); data made by its scripted policies"

# stream(name, ...) belongs here: it turns a task order above into a core.task.Stream, with MetaWorldFactory
# as the environment of a task and metaworld_env.goals(task) as its frozen goals.
