"""A method in a file of your own: the trunk is learned on the first task only, later tasks learn a head on it.

    python examples/own_method.py [FOLDER]
    PYTHONPATH=examples perdure run own_method:FrozenTrunk toy

The reference `module:Class` is all that is needed; nothing is registered. docs/adding_a_method.md explains every part.
"""

import sys
import tempfile
from pathlib import Path

import perdure
from perdure.core.batch import average
from perdure.core.method import Method, MethodConfig, Phase


class FrozenTrunk(Method):
    """One trunk, learned on the first task and then left alone; a head per task."""

    Config = MethodConfig

    def phases(self, task, access):
        def start():
            self.open_task(task, access)
            head = self.policy.private(task.index)
            self.optimizer("policy", head if task.index else head | self.policy.shared())

        def train(step):
            batch = access.current.windows(self.policy.context, self.config.batch, step)
            return {"fit": self.descend("policy", average(self.policy.loss, batch))}

        return [Phase("train", self.config.steps, train, begin=start)]


if __name__ == "__main__":
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp(prefix="perdure-"))
    result = perdure.run("own_method:FrozenTrunk", "toy", out=folder / "run", quiet=True, method_options={"steps": 200})
    print(f"{result.table()}\n\n{result.summary()}\nrun folder: {result.folder}")
