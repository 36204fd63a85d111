"""Checkpoints: folders of `meta.json` and safetensors files, whole or absent, digests checked on every open.

A generation is written into a staging folder, every file and the folder are fsynced, it is renamed, the parent is
fsynced, it is read back and verified, and only then are generations older than the one before it removed. Two
complete generations exist at all times; safetensors itself detects no flipped bit, so `meta.json` holds digests.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from perdure import __version__
from perdure.core.errors import GuardError, Unreadable, UsageError
from perdure.core.files import current_umask, json_bytes, read_json, sha256, sync_folder

FORMAT = 1
"""Version of the checkpoint and agent folders; raised when their content changes meaning."""

KEEP = 2
"""Generations kept at all times."""


def write_folder(folder: Path, meta: dict[str, Any], tensors: Mapping[str, Mapping[str, Tensor]]) -> None:
    """Write `folder` with `meta.json` and one `<name>.safetensors` per entry, so that it is whole or absent.

    Raises:
        GuardError: a tensor holds NaN or infinity; nothing is written.
        UsageError: the disk is full or the place is not writable; what was there before is untouched.
    """
    check_finite(tensors)
    staging = folder.with_name(f".{folder.name}.staging")
    try:
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir(parents=True)
        digests = {}
        for name, group in tensors.items():
            path = staging / f"{name}.safetensors"
            save_file({key: value.detach().cpu().contiguous() for key, value in group.items()}, path)
            digests[path.name] = sha256(path)
        content = {"format": FORMAT, "perdure": __version__, "digests": digests} | meta
        (staging / "meta.json").write_bytes(json_bytes(content | {"digest": own_digest(content)}))
        for path in staging.iterdir():
            os.chmod(path, 0o666 & ~current_umask())
            with open(path, "rb") as file:
                os.fsync(file.fileno())
        sync_folder(staging)
        if folder.exists():
            shutil.rmtree(folder)
        os.rename(staging, folder)
        sync_folder(folder.parent)
    except (OSError, SafetensorError) as problem:
        shutil.rmtree(staging, ignore_errors=True)
        free = shutil.disk_usage(folder.parent).free if folder.parent.exists() else 0
        raise UsageError(f"cannot write {folder} ({problem}); {free // 2**20} MB are free there: make room or choose another"
                         " --out, then repeat the command, finished work is kept") from None


def check_finite(tensors: Mapping[str, Mapping[str, Tensor]]) -> None:
    """Raises GuardError naming the first tensor with NaN or infinity."""
    for group in tensors.values():
        for name, value in group.items():
            if value.is_floating_point() and not bool(torch.isfinite(value).all()):
                raise GuardError(f"{name} holds NaN or infinity; nothing of it was saved: lower method.learning_rate or the"
                                 " method's strength; the last checkpoint is still good")


def own_digest(meta: dict[str, Any]) -> str:
    """Digest of a meta.json without its field `digest`; a flipped bit can leave valid JSON with another number in it."""
    rest = {name: value for name, value in meta.items() if name != "digest"}
    return "sha256:" + hashlib.sha256(json.dumps(rest, allow_nan=False).encode()).hexdigest()


def read_folder(folder: Path) -> tuple[dict[str, Any], dict[str, dict[str, Tensor]]]:
    """Meta and tensors of a folder that `write_folder` made, after checking format and digests.

    Raises:
        UsageError: missing, damaged, or of a newer format; names the file.
    """
    meta = read_json(folder / "meta.json")
    if not isinstance(meta, dict) or type(meta.get("format")) is not int or not isinstance(meta.get("digests"), dict):
        raise UsageError(f"{folder / 'meta.json'} is malformed; it needs 'format' and 'digests'")
    if meta["format"] > FORMAT:
        raise UsageError(f"{folder} has checkpoint format {meta['format']}, written by perdure {meta.get('perdure', '?')}; this"
                         f" perdure reads up to {FORMAT}: install a newer one")
    if meta.get("digest") != own_digest(meta):
        raise UsageError(f"{folder / 'meta.json'} is damaged (its digest differs); restore it from a copy or an earlier one")
    groups = {}
    for name, digest in meta["digests"].items():
        path = folder / name
        if Path(name).name != name or not name.endswith(".safetensors") or not path.is_file():
            raise UsageError(f"{path} is missing; restore the folder from a copy")
        try:
            if sha256(path) != digest:
                raise UsageError(f"{path} is damaged (its digest differs from meta.json); restore it from a copy or an earlier"
                                 " one")
            groups[path.stem] = load_file(path)
        except OSError as problem:
            raise Unreadable(f"{path} cannot be read ({problem.strerror}); check the path and its permissions") from None
        except SafetensorError as problem:
            raise UsageError(f"{path} is damaged ({problem}); restore it from a copy or an earlier one") from None
    return meta, groups


class Generations:
    """The numbered generations in a run's `resume/` folder."""

    def __init__(self, folder: Path):
        self.folder = folder

    def numbers(self) -> list[int]:
        """Generation numbers on disk, oldest first."""
        if not self.folder.is_dir():
            return []
        return sorted(int(path.name) for path in self.folder.iterdir() if path.name.isdigit())

    def write(self, meta: dict[str, Any], tensors: Mapping[str, Mapping[str, Tensor]]) -> int:
        """Write the next generation, verify it, remove all but the newest two; returns its number."""
        number = max(self.numbers(), default=0) + 1
        path = self.folder / f"{number:08d}"
        write_folder(path, {"generation": number} | meta, tensors)
        verify(path)
        for old in self.numbers()[:-KEEP]:
            shutil.rmtree(self.folder / f"{old:08d}")
        for damaged in self.folder.glob(".*.damaged"):
            shutil.rmtree(damaged, ignore_errors=True)
        return number

    def newest(self, complain: Any) -> tuple[dict[str, Any], dict[str, dict[str, Tensor]]] | None:
        """The newest generation that verifies, or None; each damaged one is named to `complain` and set aside, to be removed
        once a newer one is written.

        Raises:
            Unreadable: the system would not read a file, which is no proof of damage.
            UsageError: written by a newer version.
        """
        for stale in self.folder.glob(".*.staging") if self.folder.is_dir() else ():
            shutil.rmtree(stale, ignore_errors=True)
        for number in reversed(self.numbers()):
            path = self.folder / f"{number:08d}"
            try:
                return read_folder(path)
            except Unreadable:
                raise
            except UsageError as problem:
                if "checkpoint format" in str(problem):
                    raise
                older = "the checkpoint before it" if number != self.numbers()[0] else "the beginning: no earlier one is left"
                complain(f"{problem}; falling back to {older}")
                path.rename(self.folder / f".{path.name}.damaged")
        return None


def verify(folder: Path) -> None:
    """Raises UsageError unless every file of the folder has the digest that its meta.json states."""
    for name, digest in read_json(folder / "meta.json")["digests"].items():
        if sha256(folder / name) != digest:
            raise UsageError(f"{folder / name} was not written correctly; check the disk")
