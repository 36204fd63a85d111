"""Damaged and hostile files: always one UsageError, never another exception, never a silent success."""

import hashlib
import json
import os
import random
import shutil
import subprocess
import sys

import numpy as np
import pytest
from dataset_samples import CONTINUOUS, IMAGES, written
from hypothesis import given, settings
from hypothesis import strategies as st

from perdure.core.errors import UsageError
from perdure.data.card import card_digest
from perdure.data.convert import cage, export_dataset
from perdure.data.store import Dataset, check

CASES = 150
"""Random damages per file; more with PERDURE_FUZZ."""
CASES = int(os.environ.get("PERDURE_FUZZ", CASES))


def damage(content: bytes, chance: random.Random) -> bytes:
    """One random damage: bit flip, byte swap, cut, append, zeroed page, repeated page."""
    data, place = bytearray(content), chance.randrange(len(content))
    kind = chance.choice(["flip", "flip", "flip", "swap", "cut", "append", "zero", "repeat"])
    if kind == "flip":
        data[place] ^= 1 << chance.randrange(8)
    elif kind == "swap":
        other = chance.randrange(len(content))
        data[place], data[other] = data[other], data[place]
    elif kind == "cut":
        del data[chance.choice([0, 7, 8, place]) :]
    elif kind == "append":
        data += chance.randbytes(chance.choice([1, 8, 4096]))
    elif kind == "zero":
        data[place : place + 4096] = bytes(len(data[place : place + 4096]))
    else:
        page = chance.choice([16, 64, 512])
        data[place : place + page] = (data[max(0, place - page) : place] * page)[
            : len(data[place : place + page])
        ]
    return bytes(data)


@pytest.mark.parametrize("spec", [CONTINUOUS, IMAGES])
@pytest.mark.parametrize("name", ["arrays.safetensors", "card.json"])
def test_no_damage_of_a_dataset_goes_unnoticed(tmp_path, name, spec):
    original = written(tmp_path / "set", spec)
    path = tmp_path / "set" / name
    content, chance = path.read_bytes(), random.Random(name)
    noticed = 0
    for _ in range(CASES):
        broken = damage(content, chance)
        path.write_bytes(broken)
        try:
            opened = Dataset.open(tmp_path / "set")
        except UsageError as problem:
            assert str(tmp_path / "set") in str(problem) and "\n" not in str(problem)
            assert check(tmp_path / "set") != []
            noticed += 1
        else:  # only what does not change a single value, such as a blank at the end of the card
            assert broken == content or (name == "card.json" and opened.card == original.card), broken
    assert noticed > CASES * 0.9


def test_every_truncated_length_is_refused(tmp_path):
    written(tmp_path / "set")
    path = tmp_path / "set" / "arrays.safetensors"
    content = path.read_bytes()
    for length in range(len(content)):
        path.write_bytes(content[:length])
        with pytest.raises(UsageError, match="arrays.safetensors"):
            Dataset.open(tmp_path / "set", verify=False)


def headed(header, body=None, length=None):
    """Replaces the header of the array file; `header` maps the parsed one to bytes or to what JSON takes."""

    def change(folder):
        path = folder / "arrays.safetensors"
        content = path.read_bytes()
        size = int.from_bytes(content[:8], "little")
        made = header(json.loads(content[8 : 8 + size]))
        text = made if isinstance(made, bytes) else json.dumps(made).encode()
        text += b" " * (-len(text) % 8)
        rest = content[8 + size :] if body is None else body
        path.write_bytes((len(text) if length is None else length).to_bytes(8, "little") + text + rest)

    return change


def entry(name, **fields):
    return lambda header: {**header, name: {**header[name], **fields}}


def replaced(make):
    """Puts something that is no plain file in the place of the array file."""

    def change(folder):
        path = folder / "arrays.safetensors"
        path.rename(folder / "aside")
        make(path)

    return change


ARRAYS_REFUSED = {
    "header that asks for absurd memory": (headed(lambda h: h, length=2**62), "is cut short"),
    "header over its limit": (
        headed(lambda h: b"{" + b" " * 2**20 + b"}"),
        "header claims .* 1048576 is the most",
    ),
    "odd header": (headed(lambda h: b"{}", length=3), "multiple of 8"),
    "array that asks for absurd memory": (headed(entry("rewards", shape=[2**40])), "the card needs"),
    "negative shape": (headed(entry("rewards", shape=[-1])), "the card needs"),
    "shape of booleans": (headed(entry("observations", shape=[14, True])), "the card needs"),
    "other type": (headed(entry("rewards", dtype="I32")), "the card needs"),
    "no table": (headed(lambda h: b"[1, 2, 3]"), "no table of arrays"),
    "no entry": (headed(lambda h: {**h, "rewards": 3}), "the card needs"),
    "more arrays": (headed(lambda h: {**h, "x" * 90: h["rewards"]}), "disagree about the array 'xxx"),
    "fewer arrays": (
        headed(lambda h: {k: h[k] for k in h if k != "actions"}),
        "disagree about the array 'actions'",
    ),
    "the same name twice": (headed(lambda h: b'{"rewards": 1, "rewards": 2}'), "no valid JSON"),
    "nested": (headed(lambda h: b"[" * 100_000), "no valid JSON"),
    "not UTF-8": (headed(lambda h: b'{"\xff": 1}'), "no valid JSON"),
    "huge number": (headed(lambda h: b'{"a": ' + b"9" * 5000 + b"}"), "no valid JSON"),
    "overlap": (
        headed(lambda h: {**h, "rewards": {**h["rewards"], "data_offsets": [0, 44]}}),
        "overlap or leave a gap",
    ),
    "offsets that do not fit": (headed(entry("rewards", data_offsets=[0, 8])), "do not fit its shape"),
    "offsets that are no numbers": (headed(entry("rewards", data_offsets=["0", 8])), "two whole numbers"),
    "no data": (headed(lambda h: h, body=b""), "cut short or appended to"),
    "missing": (lambda folder: (folder / "arrays.safetensors").unlink(), "No such file"),
    "link": (replaced(lambda p: p.symlink_to("aside")), "must be a readable plain file"),
    "pipe": (replaced(os.mkfifo), "is no plain file"),
    "folder": (replaced(os.mkdir), "is no plain file"),
    "endless device": (replaced(lambda p: p.symlink_to("/dev/zero")), "must be a readable plain file"),
}


@pytest.mark.parametrize("case", ARRAYS_REFUSED)
def test_hostile_array_files(tmp_path, case):
    change, pattern = ARRAYS_REFUSED[case]
    written(tmp_path / "set")
    change(tmp_path / "set")
    with pytest.raises(UsageError, match=pattern) as caught:
        Dataset.open(tmp_path / "set", verify=False)
    assert str(caught.value).startswith(str(tmp_path / "set")) and len(str(caught.value)) < 600
    assert check(tmp_path / "set") == [str(caught.value)]


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
    "holdout of all": (put("split", "holdout", value=[0, 1, 2]), "leave at least one episode for training"),
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
    assert str(caught.value).startswith(str(tmp_path / "set")) and len(str(caught.value)) < 600


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
    with pytest.raises(UsageError, match="card.json"):
        Dataset.open(tmp_path / "set")


@pytest.mark.parametrize("levels", [50, 300, 600, 900, 950, 990, 100_000])
def test_nested_cards(tmp_path, levels):
    """Between what the parser takes and what the digest takes there must be no gap."""
    written(tmp_path / "set")
    path = tmp_path / "set" / "card.json"
    path.write_text(path.read_text().replace('"MIT"', '"MIT", "nest": ' + "[" * levels + "]" * levels))
    with pytest.raises(UsageError, match="card.json"):
        Dataset.open(tmp_path / "set")
    card = path.read_text().replace(', "nest": ', "").replace("[" * levels + "]" * levels, "")
    path.write_text(card.replace('"versions": {}', '"versions": {"x": ' + "[" * levels + "]" * levels + "}"))
    with pytest.raises(UsageError, match="card.json"):
        Dataset.open(tmp_path / "set")


def test_an_edited_card_is_named_as_such(tmp_path):
    written(tmp_path / "set")
    path = tmp_path / "set" / "card.json"
    path.write_text(path.read_text().replace('"MIT"', '"GPL"'))
    with pytest.raises(UsageError, match="card.json was damaged or edited"):
        Dataset.open(tmp_path / "set", verify=False)


def test_folders_that_are_no_datasets(tmp_path):
    written(tmp_path / "hammer")
    with pytest.raises(UsageError, match="did you mean 'hammer'"):
        Dataset.open(tmp_path / "hamer")
    with pytest.raises(UsageError, match="no dataset folder"):
        Dataset.open(tmp_path / "hammer" / "card.json")
    with pytest.raises(UsageError, match=r"'a.x00b' is no dataset folder"):
        Dataset.open("a\0b")
    (tmp_path / "hammer" / "card.json").rename(tmp_path / "card.json")
    (tmp_path / "hammer" / "card.json").symlink_to(tmp_path / "card.json")
    with pytest.raises(UsageError, match="is a link"):
        Dataset.open(tmp_path / "hammer")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=150, deadline=None)
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
    try:
        card["card_digest"] = card_digest(card)
    except ValueError:
        pass  # NaN has no digest; the reader refuses it
    (folder / "card.json").write_text(json.dumps(card))
    try:
        opened = Dataset.open(folder)
    except UsageError:
        return
    assert opened.digest == original.digest and opened.lengths.tolist() == original.lengths.tolist()


BATCH = """
import hashlib, json, os, sys
import h5py, numpy
from perdure.data.convert import caged
import perdure.data.convert.npz, perdure.data.convert.d4rl_hdf5
from perdure.data.convert.cage import Limits
limits = Limits(memory_mb=2048, seconds=20)
for line in sys.stdin:
    request = json.loads(line)
    child = os.fork()
    if child == 0:
        code = 99
        try:
            caged.restrict(limits)
            code = caged.serve(request)
        finally:
            os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    print(code, flush=True)
"""


@pytest.mark.parametrize("format", ["npz", "d4rl_hdf5"])
def test_no_damage_of_a_foreign_file_goes_unnoticed(tmp_path, format):
    """The child's code on damaged exports, forked from one process so that each case takes milliseconds.

    HDF5 itself detects no damage; our exports carry checksums per chunk and a digest, tested here.
    """
    dataset = written(tmp_path / "set", lengths=(40, 30))
    path = export_dataset(dataset, tmp_path / ("out" if format == "npz" else "out.hdf5"), format)
    victims = sorted(path.iterdir()) if path.is_dir() else [path]
    contents, chance = [victim.read_bytes() for victim in victims], random.Random(format)
    child = subprocess.Popen(
        [sys.executable, "-P", "-c", BATCH],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=cage.child_environment(),
        text=True,
    )
    options = {"bounds": None, "n_actions": None}
    codes: dict[int, int] = {}
    for case in range(CASES):
        which = case % len(victims)
        victims[which].write_bytes(damage(contents[which], chance))
        folder = tmp_path / f"work{case}"
        folder.mkdir()
        request = {"format": format, "path": str(path), "folder": str(folder), "options": options}
        child.stdin.write(json.dumps({**request, "limits": {"memory_mb": 2048, "seconds": 20}}) + "\n")
        child.stdin.flush()
        code = int(child.stdout.readline())
        codes[code] = codes.get(code, 0) + 1
        assert code in (0, cage.EXIT_REFUSED, cage.EXIT_MEMORY) or code < 0, f"case {case}: code {code}"
        if code == 0:
            stored = (folder / "arrays.safetensors").read_bytes()
            assert "sha256:" + hashlib.sha256(stored).hexdigest() == dataset.digest, (
                f"case {case} was believed"
            )
        elif code == cage.EXIT_REFUSED:
            sentence = json.loads((folder / "refusal.json").read_text())
            assert str(path) in sentence and "\n" not in sentence and len(sentence) < 700
        shutil.rmtree(folder)
        victims[which].write_bytes(contents[which])
    child.stdin.close()
    child.wait(timeout=30)
    assert codes.get(cage.EXIT_REFUSED, 0) > CASES / 4, codes


def test_wrong_shapes_between_card_and_arrays_are_refused(tmp_path):
    """Two sound datasets whose files were mixed up."""
    written(tmp_path / "one")
    written(tmp_path / "two", lengths=(4, 1, 7))
    written(tmp_path / "three", CONTINUOUS, name="other")
    content = np.frombuffer((tmp_path / "three" / "arrays.safetensors").read_bytes(), np.uint8).copy()
    content[-40] ^= 8
    shutil.copy(tmp_path / "two" / "arrays.safetensors", tmp_path / "one" / "arrays.safetensors")
    with pytest.raises(UsageError, match="the card needs"):
        Dataset.open(tmp_path / "one", verify=False)
    (tmp_path / "one" / "arrays.safetensors").write_bytes(content.tobytes())
    with pytest.raises(UsageError, match="has the digest"):
        Dataset.open(tmp_path / "one")
