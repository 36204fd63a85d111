"""Small datasets, damaged ones, stream files and npz folders for the tests of the command line."""

import json

import numpy as np

from perdure.core.errors import UsageError
from perdure.core.spec import Box, Discrete, Spec
from perdure.data.card import card_digest
from perdure.data.store import write_dataset
from perdure.data.trajectory import Trajectory
from perdure.methods.finetune import Finetune

SPEC = Spec(Box((3,)), Box((1,), low=(-2.0,), high=(2.0,)))
"""The spaces of Pendulum-v1."""

SHORT = ("--method.steps", "8", "--method.batch", "8", "--evaluation.episodes", "2", "--evaluation.shared", "1",
         "--evaluation.curve", "1", "--workers", "0")  # fmt: skip
"""A run on the toy stream that takes a second."""


def dataset(folder, episodes=3, steps=5):
    """A sound dataset."""
    rng = np.random.default_rng(0)
    ends = np.arange(steps) == steps - 1
    rolled = [
        Trajectory(rng.normal(size=(steps + 1, 3)), rng.uniform(-1, 1, (steps, 1)), rng.normal(size=steps), ~ends & ends, ends)
        for _ in range(episodes)
    ]
    write_dataset(folder, rolled, name="sample", spec=SPEC, quality="expert", behaviour={"policy": "random"}, licence="MIT",
                  source="a test")  # fmt: skip
    return folder


def edit_card(folder, **changes):
    """Change fields of the card and sign it again, so that only the changed values are wrong."""
    path = folder / "card.json"
    card = json.loads(path.read_text()) | changes
    card["card_digest"] = card_digest(card)
    path.write_text(json.dumps(card))


def forge(folder, array, value):
    """Overwrite the first number of an array and sign the file again."""
    import hashlib

    path = folder / "arrays.safetensors"
    content = bytearray(path.read_bytes())
    length = int.from_bytes(content[:8], "little")
    start = 8 + length + json.loads(content[8 : 8 + length])[array]["data_offsets"][0]
    content[start : start + 4] = np.float32(value).tobytes()
    path.write_bytes(content)
    edit_card(folder, digest="sha256:" + hashlib.sha256(content).hexdigest())


def patch(path, change):
    """Replace the bytes of a file by `change(bytes)`."""
    path.write_bytes(change(path.read_bytes()))


def npz(folder, steps=6, **changes):
    """A folder with one npz episode, some of its arrays replaced."""
    rng = np.random.default_rng(1)
    arrays = {
        "observations": rng.normal(size=(steps, 3)), "next_observations": rng.normal(size=(steps, 3)),
        "actions": rng.uniform(-1, 1, (steps, 1)), "rewards": rng.normal(size=steps), "terminals": np.arange(steps) == steps - 1,
    }  # fmt: skip
    folder.mkdir()
    np.savez(folder / "ep0.npz", **(arrays | changes))
    return folder


def stream_file(place, tasks, head=""):
    """kitchen.toml with a [stream] table and the given [[task]] tables."""
    text = f"[stream]\nname = 'kitchen'\n{head}\n" + "".join(f"[[task]]\n{task}\n" for task in tasks)
    (place / "kitchen.toml").write_text(text)
    return "kitchen.toml"


class DiscreteOnly(Finetune):
    """A method that refuses continuous actions."""

    def phases(self, task, access):
        if not isinstance(task.spec.action, Discrete):
            raise UsageError("DiscreteOnly needs categorical actions")
        return super().phases(task, access)


def refused(perdure, place, argv, fragments):
    """The command ends with exit code 2 and one sentence that holds the fragments, and nothing is lost or written."""
    before = everything_below(place)
    code, out, err = perdure(*argv)
    assert code == 2, (out, err)
    assert len(err) == 1, err
    assert err[0].startswith("perdure: ")
    assert "Traceback" not in out + err[0]
    for fragment in fragments:
        assert fragment in err[0]
    after = everything_below(place)
    assert {name: after.get(name) for name in before} == before
    assert set(after) - set(before) <= {"mine/environment.json", "mine/metrics.jsonl", "mine/run.lock"}


def everything_below(place):
    """Relative paths and contents, without the cache of verified files."""
    files = [path for path in sorted(place.rglob("*")) if path.is_file() and "cache" not in path.parts]
    return {str(path.relative_to(place)): path.read_bytes() for path in files}
