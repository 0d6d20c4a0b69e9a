"""Is everything that is committed what the committed records give? All notebooks run again, and every file is compared."""

from __future__ import annotations

from contextlib import suppress
from os.path import commonprefix

import nbformat

from yolop import files
from yolop.files import StoreError
from yolop.report import show
from yolop.run.notebooks import as_text
from yolop.run.publish import extra, made, unneeded
from yolop.settings import named_study


def verify(name: str = "") -> bool:
    """Run the notebooks on committed records into a temporary folder and compare with all that is committed.

    That is tables, figures, verdicts, manifest and page of `reports/<study>/`, the notebooks of the default study, and what the
    READMEs and the ledger say. Of one study, or of all that are published. Prints each file that differs, is missing or is one too
    many, and returns whether there is none.
    """
    if not name:
        wrong = [f"extra    {path.relative_to(files.ROOT)}: no report needs it" for path in unneeded()]
        print("\n".join(wrong), end="\n" if wrong else "")
        return all([*map(verify, show.published()), not wrong])
    named_study(name)
    if name not in show.published():
        raise StoreError(f"{name} was never published: there is nothing to verify")
    contents = made(name)
    wrong = [line for file, content in contents.items() if (line := _difference(file, content))]
    equal = len(contents) - len(wrong)
    wrong += [f"extra    {path.relative_to(files.ROOT).as_posix()}" for path in extra(name, contents)]
    print("\n".join([f"{name}:", *sorted(wrong), f"{equal} files equal"]))
    return not wrong


def _difference(file: str, expected: bytes) -> str:
    """How a committed file differs from what it should be; empty if it does not."""
    path = files.ROOT / file
    if not path.exists():
        return f"missing  {file}"
    found = path.read_bytes()
    if path.suffix == ".ipynb":  # JupyterLab adds metadata when it saves
        with suppress(ValueError, AttributeError):  # damaged: compared as it is
            found = as_text(nbformat.reads(found.decode(), as_version=4)).encode()
    if found == expected:
        return ""
    if path.suffix == ".jpg":
        return f"differs  {file}"
    texts = [[*text.decode(errors="replace").splitlines(), "<end>"] for text in (found, expected)]
    for number, lines in enumerate(zip(*texts, strict=False), start=1):
        if lines[0] != lines[1]:
            start = max(len(commonprefix(lines)) - 60, 0)  # of a long line the part that differs
            left, right = (repr("..." * (start > 0) + line[start : start + 200]) for line in lines)
            return f"differs  {file}: line {number} is {left}, the records give {right}"
    return f"differs  {file}: line ends differ"
