"""python -m yolop run | export | status | verify | publish | doctor"""

from __future__ import annotations

import argparse
import sys

from yolop import store
from yolop.run import doctor, runner
from yolop.specs import FORMATS, STUDIES, SpecError
from yolop.store import StoreError


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(prog="python -m yolop", description="A reproducible study of shrinking YOLOv5.")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, help_text in (
        ("run", "run the notebooks in order, computing what no record holds yet"),
        ("export", "write a trained model of a study for another runtime"),
        ("status", "say what is done, unfinished, damaged, stale"),
        ("verify", "recompute tables and claims from committed records and compare"),
        ("publish", "for maintainers: commit the records of the last run as evidence"),
        ("doctor", "check this machine and its packages"),
    ):
        command = commands.add_parser(name, help=help_text, description=help_text)
        if name != "doctor":
            default = "" if name == "verify" else "digits"
            shown = f"{', '.join(STUDIES)} (default: {default or 'all that are published'})"
            command.add_argument("study", nargs="?", default=default, help=shown)
        if name == "export":
            command.add_argument("--model", default="p-best", help="its label, as n or p-best (the default)")
            zeros = "of n with trained zeros instead: their share, one of the study's sparsities, e.g. 0.9"
            command.add_argument("--sparsity", type=float, default=0.0, help=zeros)
            command.add_argument("--seed", type=int, default=None, help="training seed (default: the study's first)")
            command.add_argument("--format", choices=FORMATS, default="onnx", help="default: onnx")
            command.add_argument("--out", default="export", metavar="FOLDER", help="where to (default: export/)")
        if name == "run":
            command.add_argument("--only", default="", metavar="02,04", help="numbers of the notebooks to run")
            changes = "change fields of the study, e.g. epochs=10 models=n,p dataset=my/data.yaml"
            command.add_argument("--set", nargs="+", action="extend", default=[], metavar="field=value", help=changes)
            where = "compute (fresh, the default) or only read the committed evidence"
            command.add_argument("--records", choices=("fresh", "committed"), default="fresh", help=where)
    return top


def main(arguments: list[str] | None = None) -> int:
    """Exit status: 0 good, 1 something failed or differs, 2 refused before anything had started."""
    args = parser().parse_args(arguments)
    try:
        if args.command == "run":
            runner.run(args.study, args.set, args.only, args.records)
        elif args.command == "export":
            runner.export(args.study, args.model, args.sparsity, args.seed, args.format, args.out)
        elif args.command == "verify":
            return 0 if runner.verify(args.study) else 1
        elif args.command == "doctor":
            return 0 if doctor.examine() else 1
        else:
            getattr(runner, args.command)(args.study)
    except SpecError as error:
        print(f"yolop: {error}", file=sys.stderr)
        return 2
    except (StoreError, runner.NotebookError) as error:
        print(f"yolop: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:  # between two notebooks, or before the first
        print("\nyolop: stopped: finished records are kept, start again to go on", file=sys.stderr)
        return 130
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        print(f"yolop: {place}{error.strerror or error}; {store.way_out(error.errno)}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # a letter that the user's encoding lacks stops no run
    status = main()
    try:
        sys.stdout.flush()
    except OSError:  # a full disk, or a reader who has seen enough; Python would say so at length
        sys.stdout, status = None, status or 1
    sys.exit(status)
