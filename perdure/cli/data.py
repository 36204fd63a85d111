"""`perdure data`: list, inspect, check, import and export datasets."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from perdure.cli.data_options import Card, Check, Export, Import, Info, List
from perdure.cli.data_show import card_text, info, info_text, remarks
from perdure.cli.parse import asks_for_help, parse, print_help
from perdure.cli.show import columns, print_json
from perdure.core.errors import UsageError, nearest
from perdure.core.words import counted, size
from perdure.data.names import dataset_folder
from perdure.data.store import Dataset, check

DEPTH = 5
"""How deep below the data folder datasets are looked for."""


def main(argv: list[str]) -> int:
    if not argv or argv[0] in ("-h", "--help"):
        about = [[verb, " ".join(str(row[0].__doc__).split()).split(". ")[0].rstrip(".")] for verb, row in VERBS.items()]
        print("usage: perdure data COMMAND ...\n\n" + columns(about, indent="  "))
        print("\nexamples:\n" + "\n".join(f"  {example}" for _, _, example in VERBS.values()))
        return 0
    verb, *rest = argv
    if verb not in VERBS:
        raise UsageError(f"unknown command 'data {verb}'{nearest(verb, VERBS) or '; known: ' + ', '.join(VERBS)}")
    options, work, example = VERBS[verb]
    if asks_for_help(rest):
        return print_help(options, f"data {verb}", example)
    return work(parse(options, rest, f"data {verb}", example))


def folder_of(given: str) -> Path:
    """The dataset folder that a path or a name means."""
    path = Path(given)
    return path if path.is_dir() or given.startswith(("/", ".", "~")) else dataset_folder(given)


def _list(options: List) -> int:
    root = dataset_folder("x").parent
    folders = [card.parent for depth in range(1, DEPTH + 1) for card in sorted(root.glob("*/" * depth + "card.json"))]
    found = [_listed(folder) for folder in folders if not folder.name.startswith(".")]
    if options.json:
        print_json(found)
        return 0
    if not found:
        print(f"no datasets below {root}; collect some with: perdure collect cw3-v3")
        return 0
    rows = [[str(Path(d["folder"]).relative_to(root)), *_row(d)] for d in found]
    print(columns([["dataset", "quality", "episodes", "transitions", "size"], *rows]))
    return 0


def _listed(folder: Path) -> dict[str, Any]:
    """The facts of a dataset, or what is wrong with it."""
    try:
        return info(Dataset.open(folder, verify=False))
    except UsageError as problem:
        return {"folder": str(folder), "problem": str(problem)}


def _row(facts: dict[str, Any]) -> list[str]:
    if "problem" in facts:
        return ["damaged", "", "", "see `perdure data check`"]
    return [facts["quality"], str(facts["episodes"]), str(facts["transitions"]), size(facts["bytes"])]


def _info(options: Info) -> int:
    found = info(Dataset.open(folder_of(options.dataset), verify=False))
    if options.json:
        print_json(found)
    else:
        print(info_text(found))
    return 0


def _check(options: Check) -> int:
    if not options.datasets:
        raise UsageError(f"perdure data check needs a dataset; example: {VERBS['check'][2]}")
    found = {given: check(folder_of(given)) for given in options.datasets}
    if options.json:
        print_json([{"dataset": given, "sound": not findings, "findings": findings} for given, findings in found.items()])
    else:
        print(columns([[given, counted(len(several), "finding") if several else "sound"] for given, several in found.items()]))
    findings = [finding for several in found.values() for finding in several]
    if findings:
        more = f" (and {len(findings) - 1} more, see --json)" if len(findings) > 1 else ""
        raise UsageError(findings[0] + more)
    return 0


def _import(options: Import) -> int:
    from perdure.data.convert import import_dataset

    if bool(options.low) != bool(options.high):
        raise UsageError("--low and --high belong together; give both or none")
    data = import_dataset(
        options.path, options.out or dataset_folder(options.name), name=options.name, format=options.format or None,
        quality=options.quality, licence=options.licence, source=options.source or None,
        bounds=(options.low, options.high) if options.low else None, n_actions=options.actions or None, holdout=options.holdout,
    )  # fmt: skip
    print(info_text(info(data)))
    return 0


def _export(options: Export) -> int:
    from perdure.data.convert import export_dataset

    print(export_dataset(Dataset.open(folder_of(options.dataset)), options.path, options.format))
    return 0


def _card(options: Card) -> int:
    from perdure.data.report_card import describe

    data = Dataset.open(folder_of(options.dataset))
    found = describe(data) | remarks(data.card["behaviour"])
    if options.json:
        print_json(found)
    else:
        print(card_text(found))
    return 0


VERBS: dict[str, tuple[type, Callable[[Any], int], str]] = {
    "list": (List, _list, "perdure data list --json"),
    "info": (Info, _info, "perdure data info metaworld-v3/hammer/expert-100x200"),
    "check": (Check, _check, "perdure data check metaworld-v3/hammer/expert-100x200"),
    "import": (Import, _import, "perdure data import episodes/ kitchen/swing --low -2 --high 2"),
    "export": (Export, _export, "perdure data export metaworld-v3/hammer/expert-100x200 hammer.hdf5 --format d4rl_hdf5"),
    "card": (Card, _card, "perdure data card metaworld-v3/hammer/expert-100x200"),
}
"""Command -> (options, what does it, an example)."""
