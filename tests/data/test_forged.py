"""Cards forged by someone who made the digests fit: the checks of the fields are all that stands there."""

import contextlib
import json

import pytest
from dataset_samples import written
from hypothesis import given, settings
from hypothesis import strategies as st

from perdure.core.errors import UsageError
from perdure.data.card import card_digest
from perdure.data.store import Dataset


def put(*path, value):
    """Sets a field of the card and makes its digest fit, as a careful forger would."""

    def change(card):
        inner = card
        for key in path[:-1]:
            inner = inner[key]
        inner[path[-1]] = value
        return card

    return change


CARD_REFUSED = {
    "newer format": (
        put("format", value=2),
        "has format 2; this perdure reads up to 1, so install a newer one",
    ),
    "older format": (put("format", value=0), "has format 0"),
    "format in words": (put("format", value="1"), "format is '1'"),
    "path traversal": (put("name", value="../../x"), r"name is '../../x'"),
    "zero byte": (put("name", value="a\0b"), r"name is 'a\\x00b'"),
    "terminal escape": (put("quality", value="\x1b]0;x"), "quality is"),
    "zero episodes": (put("episode_lengths", value=[]), "there are zero episodes"),
    "empty episode": (put("episode_lengths", value=[4, 0, 6]), "episode_lengths of episode 1 is 0"),
    "negative episode": (put("episode_lengths", value=[4, -1, 6]), "episode_lengths of episode 1 is -1"),
    "endless episode": (
        put("episode_lengths", value=[4, 10**300, 6]),
        "episode_lengths of episode 1 is 1000",
    ),
    "long episodes": (put("episode_lengths", value=[2**40, 1, 6]), "the card needs"),
    "other lengths": (put("episode_lengths", value=[5, 1, 6]), "the card needs"),
    "fewer episodes": (put("episode_lengths", value=[4, 7]), "returns has 3 entries for 2 episodes"),
    "shifted episodes": (put("episode_lengths", value=[5, 1, 5]), "True before the end|returns of episode"),
    "return in words": (put("returns", 0, value="1"), "returns of episode 0 is '1'"),
    "return too large": (put("returns", 0, value=10**400), "returns of episode 0"),
    "success": (put("success", 1, value=1), "success of episode 1 is 1; it must be true, false or null"),
    "goals": (put("goals", 1, value=["x"]), "goals of episode 1"),
    "seeds": (put("seeds", 1, value=0.5), "seeds of episode 1 is 0.5"),
    "noise": (put("behaviour", "noise", value=[1]), "behaviour.noise is"),
    "holdout range": (put("split", "holdout", value=[3]), "split.holdout is"),
    "holdout of all": (put("split", "holdout", value=[0, 1, 2]), "leave an episode for training"),
    "holdout order": (put("split", "holdout", value=[1, 0]), "must ascend"),
    "spec": (put("spec", "obs", "shape", value=["3"]), "spec.obs"),
    "absurd spec": (put("spec", "obs", "shape", value=[2**30]), "spec.obs"),
    "huge bound": (put("spec", "action", "high", value=[10**400, 1]), "card.json"),
    "bounds narrower than the data": (
        put("spec", "action", "high", value=[-0.999, 1.0]),
        "outside the bounds",
    ),
    "spec is no table": (put("spec", value=[]), "spec is"),
    "missing field": (
        lambda card: {k: card[k] for k in card if k != "licence"},
        "field 'licence' is missing",
    ),
    "unknown field": (put("colour", value=1), "field 'colour' is unknown"),
    "no table": (lambda card: [1], "no table of fields"),
    "digest of other arrays": (put("digest", value="sha256:" + "0" * 64), "has the digest"),
}


@pytest.mark.parametrize("case", CARD_REFUSED)
def test_forged_cards(tmp_path, case):
    change, pattern = CARD_REFUSED[case]
    written(tmp_path / "set")
    path = tmp_path / "set" / "card.json"
    card = change(json.loads(path.read_text()))
    if isinstance(card, dict):
        card["card_digest"] = card_digest(card)
    path.write_text(json.dumps(card))
    with pytest.raises(UsageError, match=pattern) as caught:
        Dataset.open(tmp_path / "set")
    assert str(caught.value).startswith(str(tmp_path / "set"))
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize(
    "text",
    [
        "",
        "nul",
        '{"a": NaN}',
        '{"a": 1e999}',
        '{"a": 1, "a": 2}',
        "[" * 10**5,
        '"\\ud800"',
        "\ufeff{}",
        "9" * 5000,
    ],
    ids=lambda text: text[:12],
)
def test_text_that_is_no_card(tmp_path, text):
    written(tmp_path / "set")
    (tmp_path / "set" / "card.json").write_text(text)
    with pytest.raises(UsageError, match=r"card\.json"):
        Dataset.open(tmp_path / "set")


@pytest.mark.parametrize("levels", [50, 300, 600, 900, 950, 990, 100_000])
def test_nested_cards(tmp_path, levels):
    """Between what the parser takes and what the digest takes there must be no gap."""
    written(tmp_path / "set")
    path = tmp_path / "set" / "card.json"
    path.write_text(path.read_text().replace('"MIT"', '"MIT", "nest": ' + "[" * levels + "]" * levels))
    with pytest.raises(UsageError, match=r"card\.json"):
        Dataset.open(tmp_path / "set")
    card = path.read_text().replace(', "nest": ', "").replace("[" * levels + "]" * levels, "")
    path.write_text(card.replace('"versions": {}', '"versions": {"x": ' + "[" * levels + "]" * levels + "}"))
    with pytest.raises(UsageError, match=r"card\.json"):
        Dataset.open(tmp_path / "set")


def test_an_edited_card_is_named_as_such(tmp_path):
    written(tmp_path / "set")
    path = tmp_path / "set" / "card.json"
    path.write_text(path.read_text().replace('"MIT"', '"GPL"'))
    with pytest.raises(UsageError, match=r"card\.json was damaged or edited"):
        Dataset.open(tmp_path / "set", verify=False)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_any_value_in_any_field_of_a_card(tmp_path_factory, data):
    """With a fitting digest, so that only the checks of the fields stand between a forger and the reader."""
    folder = tmp_path_factory.mktemp("forged") / "set"
    original = written(folder)
    card = json.loads((folder / "card.json").read_text())
    field = data.draw(st.sampled_from(sorted(card)))
    value = data.draw(json_values)
    inner = card[field]
    if isinstance(inner, dict) and data.draw(st.booleans()):
        inner[data.draw(st.sampled_from(sorted(inner)) if inner else st.just("x"))] = value
    elif isinstance(inner, list) and data.draw(st.booleans()):
        inner[data.draw(st.integers(0, len(inner) - 1))] = value
    else:
        card[field] = value
    with contextlib.suppress(ValueError):  # NaN has no digest; the reader refuses it
        card["card_digest"] = card_digest(card)
    (folder / "card.json").write_text(json.dumps(card))
    try:
        opened = Dataset.open(folder)
    except UsageError:
        return
    assert opened.digest == original.digest
    assert opened.lengths.tolist() == original.lengths.tolist()
