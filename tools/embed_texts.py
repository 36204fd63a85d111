"""Write the vectors of the built-in tasks' descriptions (perdure/nets/sentences.safetensors); needs the extra `text`.

    python tools/embed_texts.py
"""

from __future__ import annotations

from safetensors.torch import save

from perdure.benchmarks import atari, continual_world, mujoco, panda, toy
from perdure.benchmarks.mujoco_tasks import FAMILIES
from perdure.core.files import write_atomic
from perdure.nets.sentences import ENCODER, KNOWN, encoded, key


def built_in() -> list[str]:
    """The description of every built-in task."""
    moved = [toy.text_of(target) for name in ("toy", "toy-tune", "toy-spaces") for target in toy.targets(name, 100)]
    bodies = [mujoco.text(family, task) for family, tasks in FAMILIES.items() for task in tasks]
    return sorted({*continual_world.TEXTS.values(), *panda.TEXTS.values(), *atari.TEXTS.values(), *bodies, *moved})


def main() -> None:
    texts = built_in()
    vectors = {key(text): vector.contiguous() for text, vector in zip(texts, encoded(texts), strict=True)}
    write_atomic(KNOWN, save(vectors, {"encoder": ENCODER, "sentences": str(len(texts))}))
    print(f"{KNOWN}: {len(texts)} sentences")


if __name__ == "__main__":
    main()
