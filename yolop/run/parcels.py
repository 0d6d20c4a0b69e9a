"""Records and data sets as bytes, for machines that share no disk: packed, verified where they arrive, and kept whole."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

import yaml
from filelock import FileLock

from yolop.files import DamagedRecord, StoreError, write_atomically
from yolop.store import Record, read_computed, run_folder


@dataclass(frozen=True)
class Parcel:
    """A record's text and its files (name -> bytes), as one machine gives them to another."""

    record: str
    files: dict[str, bytes]


def pack(record: Record) -> Parcel:
    """A computed record with its files."""
    return Parcel(record.to_json(), {name: record.path(name).read_bytes() for name in record.files})


def accept(root: Path, run_id: str, parcel: Parcel) -> Record:
    """Keep a record that arrived, unless a whole one of its id is there already: the first one wins.

    Raises:
        DamagedRecord: it is no whole record of that id with its files.
    """
    record = Record.from_json(parcel.record)
    if record.run_id != run_id:
        raise DamagedRecord(f"asked for {run_id}, got {record.run_id}")
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in parcel.files.items()}
    if digests != record.files:
        wrong = sorted(dict(digests.items() ^ record.files.items()))
        raise DamagedRecord(f"{run_id}: {', '.join(wrong)} arrived damaged")
    folder = run_folder(root, run_id)
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(f".{run_id}.lock")):
        try:
            there = read_computed(root, run_id)
        except DamagedRecord:
            there = None
        if there is None:
            for name, data in parcel.files.items():
                write_atomically(folder / name, data)
            write_atomically(folder / "record.json", parcel.record)
    return read_computed(root, run_id)


def folder_files(data_yaml: Path) -> dict[str, bytes]:
    """A user's data set as name -> bytes: images and labels as they are, a list of each split, and a data.yaml that names them."""
    from yolop.data.folder import label_file, read

    dataset, found, config = read(data_yaml), {}, {}
    for split, part in dataset.splits.items():
        names = [Path(os.path.relpath(image, dataset.root)).as_posix() for image in part.images]
        if outside := [name for name in names if name.startswith("../")]:
            raise StoreError(
                f"{outside[0]} lies outside of {dataset.root}: move it into that folder, to send it to other machines"
            )
        for image, name in zip(part.images, names, strict=True):
            found[name] = image.read_bytes()
            label = label_file(image)
            if label.is_file():
                found[Path(os.path.relpath(label, dataset.root)).as_posix()] = label.read_bytes()
        config[split] = f"sent-{split}.txt"
        found[config[split]] = "".join(f"./{name}\n" for name in names).encode()
    return found | {"data.yaml": yaml.safe_dump(config | {"names": list(dataset.names)}).encode()}
