"""Sentence vectors: those of built-in tasks ship, others need the encoder, and nothing stands in for a missing one."""

import sys

import pytest
import torch
from safetensors import safe_open

from perdure.benchmarks import continual_world, mujoco
from perdure.benchmarks.mujoco_tasks import FAMILIES
from perdure.core.errors import UsageError
from perdure.nets import sentences
from perdure.nets.sentences import ENCODER, KNOWN, SIZE, encoded, sentence_vector
from perdure.streams import load_stream


def test_built_in_descriptions_have_vectors_of_length_one_that_differ():
    vectors = torch.stack([sentence_vector(text) for text in continual_world.TEXTS.values()])
    assert vectors.shape == (len(continual_world.TEXTS), SIZE) and vectors.dtype == torch.float32
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(len(vectors)))
    near = vectors @ vectors.T - torch.eye(len(vectors))
    assert float(near.max()) < 0.999
    with safe_open(KNOWN, "pt") as file:
        assert file.metadata()["encoder"] == ENCODER


def test_the_bodies_have_vectors_too():
    vectors = torch.stack([sentence_vector(mujoco.text(family, task)) for family, tasks in FAMILIES.items() for task in tasks])
    assert float((vectors @ vectors.T - torch.eye(len(vectors))).max()) < 0.999


@pytest.mark.parametrize("name", ["toy", "toy-tune", "toy-spaces"])
def test_the_toys_have_vectors_too(name):
    for task in load_stream(name, say=lambda text: None, tasks=5).tasks:
        assert sentence_vector(task.text).shape == (SIZE,)


def test_a_task_in_other_words_is_near_to_itself():
    """What the encoder is for. It takes opening and closing for almost the same, and a disc on a table for no puck at all."""
    texts = continual_world.TEXTS
    names = [task for task in texts if not task.endswith(continual_world.AGAIN)]
    for task in ("window-close", "faucet-open"):
        again = sentence_vector(texts[task + continual_world.AGAIN])
        likeness = {name: float(again @ sentence_vector(texts[name])) for name in names}
        assert likeness[task] > 0.6 and likeness[task] >= sorted(likeness.values())[-2]


def test_an_unknown_sentence_without_an_encoder_is_an_error(monkeypatch):
    monkeypatch.setattr(sentences, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"'Juggle three clubs.' is none of the built-in tasks'.*perdure\[text\]"):
        sentence_vector("Juggle three clubs.")
    assert sentences.PACKAGE not in sys.modules


def test_what_ships_is_what_the_encoder_says():
    pytest.importorskip(sentences.PACKAGE)
    some = [continual_world.TEXTS[task] for task in ("hammer", "push-wall")]
    torch.testing.assert_close(encoded(some), torch.stack([sentence_vector(text) for text in some]), atol=1e-4, rtol=0)
