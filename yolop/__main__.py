"""python -m yolop run | status | verify | doctor | publish | site | time | export | prune"""

from __future__ import annotations

import argparse
import os
import pkgutil
import sys
from dataclasses import Field, fields

from yolop.files import NotebookError, StoreError, way_out
from yolop.settings import COSTS, DEFAULT, STUDIES, Study
from yolop.specs import METHODS, SpecError
from yolop.speed_specs import FORMATS

WHICH = "network set model seed sparsity channels-removed imgsz dataset"  # the arguments of run.chosen:chosen
COMMANDS = {  # what it does, the function that does it, and the options that it takes, in order
    "run": (
        "run the notebooks in order, computing what no record holds yet", "run.runner:run",
        "study set only records jobs cluster plan",
    ),
    "status": ("say what of each notebook is computed, committed, missing", "run.status:status", "study set"),
    "verify": ("run the notebooks on committed records and compare with all that is committed", "run.verify:verify", "published"),
    "doctor": ("check this machine and its packages", "run.doctor:examine", ""),
    "publish": ("for maintainers: commit the records of the last run as evidence", "run.publish:publish", "study"),
    "site": ("write the reports and executed notebooks of all published studies as static pages", "run.site:site", "folder"),
    "time": ("time a network in every runtime that this machine has", "run.one:time", f"threads {WHICH}"),
    "export": ("write a network for another runtime", "run.export:export", f"format out {WHICH}"),
    "prune": ("prune a network, score it, and write it for here and for YOLOv5", "run.one:prune", f"ratio method out {WHICH}"),
}  # fmt: skip
NAMES = ", ".join(STUDIES)
OPTIONS = {
    "study": {"nargs": "?", "default": DEFAULT, "help": f"{NAMES} (default: {DEFAULT})"},
    "published": {"nargs": "?", "default": "", "metavar": "study", "help": f"{NAMES} (default: all that are published)"},
    "--set": {
        "nargs": "+", "action": "extend", "default": [], "metavar": "setting=value",
        "help": "change settings of the study, e.g. epochs=10 models=n,p dataset=my/data.yaml",
    },
    "--only": {"default": "", "metavar": "02,04", "help": "numbers of the notebooks to run"},
    "--records": {
        "choices": ("fresh", "committed"), "default": "fresh",
        "help": "compute (fresh, the default) or only read the committed evidence",
    },
    "--jobs": {
        "default": "auto", "metavar": "N",
        "help": "compute N records side by side (default auto: one on each core, one thread each, as far as memory allows); "
        "1: one after another, with all cores",
    },
    "--cluster": {
        "default": "", "metavar": "ADDRESS",
        "help": "compute on the workers of this Dask scheduler (docs/cluster.md), or local: on one that is started here",
    },
    "--plan": {"action": "store_true", "help": "only print what there is to compute, and how long it takes"},
    "network": {
        "nargs": "?", "default": DEFAULT,
        "help": f"a .pt of YOLOv5, a .safetensors, the name of a report, or a study: {NAMES} (default: {DEFAULT})",
    },
    "--model": {"help": "of a study: its label, such as n or p-best (the default), its name in reports, or its run id"},
    "--imgsz": {"type": int, "help": "px (default: the study's, or the file's, else 320)"},
    "--dataset": {"default": "", "metavar": "data.yaml", "help": "for mAP and 8 bits (default: the study's)"},
    "--threads": {"type": int, "help": "of each runtime (default: one for each core)"},
    "--ratio": {"type": float, "required": True, "help": "share of each convolution, e.g. 0.3"},
    "--method": {
        "default": METHODS[0], "help": f"{', '.join(METHODS)}, or channels, which makes a smaller network (default: {METHODS[0]})",
    },
    "--seed": {"type": int, "help": "training seed (default: the study's first)"},
    "--format": {"choices": FORMATS, "default": "onnx", "help": "default: onnx"},
    "--out": {"default": "export", "metavar": "FOLDER", "help": "where to (default: export/)"},
    "folder": {"nargs": "?", "default": "site", "help": "where to (default: site/)"},
    "--sparsity": {"type": float, "default": 0.0, "help": "n with this share of trained zeros instead, e.g. 0.9"},
    "--channels-removed": {"type": float, "default": 0.0, "help": "n without this share of its channels instead, e.g. 0.5"},
}  # fmt: skip


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(prog="python -m yolop", description="A reproducible study of shrinking YOLOv5.")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    listed = "\n".join(map(_described, (item for item in fields(Study) if "meaning" in item.metadata)))
    costs = "\n".join(f"  {name:16} {text}" for name, text in COSTS.items())
    for name, (purpose, _, options) in COMMANDS.items():
        epilog = f"studies, and what they cost on two cores:\n{costs}\n\nsettings:\n{listed}" if "set" in options.split() else None
        command = commands.add_parser(
            name, help=purpose, description=purpose, epilog=epilog, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        for option in options.split():
            flag = option if option in OPTIONS else f"--{option}"
            command.add_argument(flag, **OPTIONS[flag])
    return top


def _described(setting: Field) -> str:
    """Its name, meaning, range and default; studies have values of their own."""
    default = setting.default
    text = ",".join(map(str, default)) if isinstance(default, tuple) else str(default).lower()
    return f"  {setting.name:16} {setting.metadata['meaning']}: {setting.metadata['allowed']} (default: {text or 'none'})"


def main(arguments: list[str] | None = None) -> int:
    """Exit status: 0 good, 1 something failed or differs, 2 refused before anything had started."""
    if not (sys.argv[1:] if arguments is None else arguments):
        parser().print_help()
        return 0
    args = vars(parser().parse_args(arguments))
    _, function, options = COMMANDS[args["command"]]
    try:
        from yolop import quiet  # here, where an error of it is reported like any other

        if not quiet.writable(os.path.expanduser("~")):  # Jupyter keeps its connections there
            os.environ["HOME"] = str(quiet.PRIVATE)
        values = [args[option.replace("-", "_")] for option in options.split()]
        return 1 if pkgutil.resolve_name(f"yolop.{function}")(*values) is False else 0
    except (SpecError, StoreError, NotebookError) as error:
        print(f"yolop: {error}", file=sys.stderr)
        return 2 if isinstance(error, SpecError) else 1
    except KeyboardInterrupt:  # between two notebooks, or before the first
        print("\nyolop: stopped: finished records are kept, start again to go on", file=sys.stderr)
        return 130
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        print(f"yolop: {place}{error.strerror or error}; {way_out(error.errno)}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # a letter that the user's encoding lacks stops no run
    status = main()
    try:
        sys.stdout.flush()
    except OSError:  # a full disk, or a reader who has seen enough; Python would say so at length
        sys.stdout, status = None, status or 1
    sys.exit(status)
