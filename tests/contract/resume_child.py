"""Resumes the run folders that a JSON file lists, in a process of its own, and prints the digests of what they made."""

import json
import sys
from pathlib import Path

import torch
from tiny import execute, folder_digests

from perdure.run_config import load_config

torch.set_num_threads(1)


def resumed(folder: Path) -> dict[str, str]:
    execute(load_config(folder / "config.json"), folder)
    return folder_digests(folder)


print(json.dumps({folder: resumed(Path(folder)) for folder in json.loads(Path(sys.argv[1]).read_text())}))
