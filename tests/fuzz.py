"""Damaged and malicious files through every reader: no traceback, no hang, no full memory.

    python tests/fuzz.py --mutations 100000 --jobs 2

Each mutation has a number, and equal numbers give equal files. A worker that takes over ten seconds for one, or two
gigabytes in all, is ended and the number is told. Models that still pass the gate go on through what commands do.
"""

import argparse
import dataclasses
import json
import logging
import mmap
import os
import random
import shutil
import struct
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from typer.testing import CliRunner

from example_model import example_model
from hostile import hostile
from pictured_model import pictured_model
from vggsfm_cli.checkpoints.convert import read_published
from vggsfm_cli.cli import report as report_command
from vggsfm_cli.cli.app import app
from vggsfm_cli.cli.failures import EXIT_CODES
from vggsfm_cli.cli.scene_options import settings
from vggsfm_cli.colmap.files import check_colmap, read_colmap, write_model
from vggsfm_cli.config_file import read_config, to_toml
from vggsfm_cli.errors import InputError, VGGSfMError
from vggsfm_cli.evaluation.truth import read_posed_images
from vggsfm_cli.export.targets import check_export
from vggsfm_cli.io.images import _read
from vggsfm_cli.io.intrinsics import read_intrinsics
from vggsfm_cli.io.masks import read_mask
from vggsfm_cli.io.sources import find_images
from vggsfm_cli.options import SceneOptions
from vggsfm_cli.report import image_rows, summarize
from vggsfm_cli.training.checkpoint import read_checkpoint, write_checkpoint
from vggsfm_cli.training.config import read_config as read_recipe
from vggsfm_cli.visualization import save_overview

HANG_S, MEMORY_BYTES = 10.0, 2 * 2**30
MOST_REFUSED = 40
"""Models in a row that may not pass the gate."""

NASTY_WORDS = ("nan", "inf", "-1", "0", "1e300", "-1e-300", "18446744073709551615", "x", "9" * 400, "")


@dataclass
class Reader:
    """Whole files by their names, and what reads them from a folder."""

    whole: dict[str, bytes]
    read: Callable[[Path], object]


def picture(kind: str, folder: Path) -> bytes:
    pixels = np.random.default_rng(1).integers(0, 256, (36, 48, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "Acme"
    exif.get_ifd(0x8769)[0xA405] = 35
    options: dict[str, Any] = {".webp": {}, ".bmp": {}, ".avif": {}}.get(kind, {"exif": exif})
    Image.fromarray(pixels).save(folder / f"whole{kind}", **options)
    return (folder / f"whole{kind}").read_bytes()


def model_files(folder: Path, text: bool) -> dict[str, bytes]:
    model = example_model(3, 12)
    model = dataclasses.replace(model, names=tuple(name.replace(" ", "_") for name in model.names))
    write_model(model, folder / "whole", legacy=False, text=text)
    return {path.name: path.read_bytes() for path in sorted((folder / "whole").iterdir())}


def read_model(folder: Path) -> None:
    findings, kept = check_colmap(folder)
    json.dumps([summarize(kept), image_rows(kept)], allow_nan=False)
    if any(finding.severity == "error" for finding in findings):
        raise InputError("The model is damaged.")


def read_options(folder: Path) -> None:
    values = dict(read_config(folder / "config.toml", settings()))
    SceneOptions(**{name: Path(value) if name == "masks" else value for name, value in values.items()})


def read_pictures(folder: Path) -> None:
    """The damaged one; the others are as they were written before."""
    for path in folder.iterdir():
        found = _read(path, 64, None, False)
        if isinstance(found, str):
            raise InputError(found)
        assert np.isfinite(found.stored_from_network).all() and found.pixels.shape[0] <= 64


def readers(folder: Path) -> dict[str, Reader]:
    kinds = (".jpg", ".png", ".tif", ".webp", ".bmp", ".avif")
    pictures = {kind: picture(kind, folder) for kind in kinds}
    options = SceneOptions(seed=7, preset="fast", threads=2, masks=Path("größe"), intrinsics="1,2,3")
    toml = to_toml({key: value for key, value in options.as_dict().items() if value is not None}).encode()
    binary, text = model_files(folder / "b", False), model_files(folder / "t", True)
    known = [{"model": "PINHOLE", "params": [70, 71, 30, 20], "width": 60, "height": 40, "images": ["a*"]}]
    pose = {"R": np.eye(3).tolist(), "t": [0, 0, 1], "K": [[9, 0, 5], [0, 9, 5], [0, 0, 1]], "width": 9, "height": 9}
    truth = json.dumps({"images": {"a.jpg": pose, "b.jpg": pose}}).encode()
    torch.save({"a": torch.ones(3), "b": torch.zeros(2, 2)}, folder / "published.bin")
    write_checkpoint(folder / "last.pt", {"step": 1, "weights": {"a": torch.ones(4)}})
    recipe = b'name = "tiny"\nsteps = 40\nlearning_rate = 0.02\nvalidate_every = 10\n[task]\ntype = "tracks"\n'
    report = json.dumps({"models": [{"images": 3}], "options": {"images": "photos"}, "seconds": 1.0}).encode()
    listed = "\n".join(["a.jpg", "# a comment, größe", "b.jpg"]).encode()
    return {
        **{f"images, {kind}": Reader({f"x{kind}": data}, read_pictures) for kind, data in pictures.items()},
        "masks": Reader({"mask.png": pictures[".jpg"]}, lambda f: read_mask(f / "mask.png", (48, 36))),
        "config": Reader({"config.toml": toml}, read_options),
        "recipe": Reader({"recipe.toml": recipe}, lambda f: read_recipe(f / "recipe.toml")),
        "model, binary": Reader(binary, read_model),
        "model, text": Reader(text, read_model),
        "intrinsics, JSON": Reader(
            {"k.json": json.dumps(known).encode()}, lambda f: read_intrinsics(str(f / "k.json"), "PINHOLE")
        ),
        "intrinsics, binary": Reader(
            {name: binary[name] for name in ("cameras.bin", "images.bin")}, lambda f: read_intrinsics(str(f), "PINHOLE")
        ),
        "intrinsics, text": Reader(
            {name: text[name] for name in ("cameras.txt", "images.txt")}, lambda f: read_intrinsics(str(f), "PINHOLE")
        ),
        "list": Reader({"list.txt": listed, "a.jpg": b"a", "b.jpg": b"b"}, lambda f: find_images(f / "list.txt")),
        "truth": Reader({"gt.json": truth}, lambda f: read_posed_images(f / "gt.json")),
        "published weights": Reader(
            {"p.bin": (folder / "published.bin").read_bytes()}, lambda f: read_published(f / "p.bin")
        ),
        "checkpoint": Reader({"last.pt": (folder / "last.pt").read_bytes()}, lambda f: read_checkpoint(f / "last.pt")),
        "report": Reader({"report.json": report}, lambda f: report_command._report_of_run([f], True)),
        "record of an export": Reader(
            {"export.json": b'{"written_by": "vggsfm"}'}, lambda f: check_export(f, overwrite=True)
        ),
    }


def nasty_words(data: bytes, dice: random.Random) -> bytes:
    """A few words of a text replaced."""
    words = data.split(b" ")
    for _ in range(dice.randint(1, 3)):
        words[dice.randrange(len(words))] = dice.choice(NASTY_WORDS).encode()
    return b" ".join(words)


def mutated(reader: Reader, seed: int) -> dict[str, bytes]:
    """The files of a reader, one of them damaged."""
    dice = random.Random(seed)
    name = dice.choice(sorted(reader.whole))
    data = reader.whole[name]
    in_words = name.endswith((".txt", ".json", ".toml")) and dice.random() < 0.5
    return {**reader.whole, name: nasty_words(data, dice) if in_words else hostile(data, seed)}


COMMANDS = (
    ["inspect", "MODEL", "--check", "--json"],
    ["inspect", "MODEL", "--repair", "--out", "OUT"],
    ["report", "MODEL", "--images", "PHOTOS", "--out", "OUT", "-q"],
    ["adjust", "MODEL", "--out", "OUT", "--iterations", "3", "-q"],
    ["undistort", "MODEL", "--images", "PHOTOS", "--out", "OUT", "-q"],
    ["export", "MODEL", "--images", "PHOTOS", "--out", "OUT", "--target", "nerfstudio", "-q"],
    ["export", "MODEL", "--images", "PHOTOS", "--out", "OUT", "--target", "instant-ngp", "-q"],
    ["export", "MODEL", "--out", "OUT", "--target", "ply", "-q"],
    ["export", "MODEL", "--out", "OUT", "--target", "txt", "-q"],
    ["compare", "MODEL", "MODEL", "--json"],
)


def through_commands(model: Path, place: Path, photos: Path) -> None:
    """What passes the gate must do no harm behind it: a documented code, and nothing but OUT is touched."""
    with suppress(VGGSfMError):
        save_overview(read_colmap(model), place.parent / "overview.png")
    before = _listing(place.parent)
    for k, command in enumerate(COMMANDS):
        out = place / f"out{k}"
        told = {"MODEL": str(model), "OUT": str(out), "PHOTOS": str(photos)}
        ended = CliRunner().invoke(app, [told.get(word, word) for word in command])
        unexpected = ended.exception is not None and not isinstance(ended.exception, SystemExit)
        shown = f"{' '.join(command)}: {ended.exit_code} {ended.stderr} {ended.exception!r}"
        assert not unexpected and ended.exit_code in EXIT_CODES and ended.exit_code != 1, shown
        shutil.rmtree(out, ignore_errors=True)
        out.unlink(missing_ok=True)
        assert _listing(place.parent) == before, f"{' '.join(command)} left something behind"


def _listing(folder: Path) -> dict[str, tuple[int, int]]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path): (path.stat().st_size, path.stat().st_mtime_ns) for path in files}


def work(names: list[str], mutations: int, commands: int, clock: Path) -> None:
    """Try the mutations of some readers; tell what was wrong, a JSON object a line."""
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as temporary, clock.open("r+b") as file, mmap.mmap(file.fileno(), 8) as now:
        folder = Path(temporary)
        for inner in ("b", "t", "photos", "model", "outs"):
            (folder / inner).mkdir()
        every = readers(folder)
        photographed = pictured_model(folder / "photos", names=("view_0.jpg", "view_1.jpg", "view_2.jpg"))
        photographed_files = {}
        for text in (False, True):
            write_model(photographed, folder / f"p{text}", legacy=False, text=text)
            photographed_files[text] = {p.name: p.read_bytes() for p in (folder / f"p{text}").iterdir()}
        for name in names:
            refused, passed, begun = 0, 0, time.perf_counter()
            now[:8] = bytes(8)
            shutil.rmtree(folder / "model")
            (folder / "model").mkdir()
            for file_name, data in every[name].whole.items():
                (folder / "model" / file_name).write_bytes(data)
            try:
                every[name].read(folder / "model")
            except BaseException:
                tell(name, -1, f"the whole files are refused: {traceback.format_exc()}")
            for seed in range(mutations):
                now[:8] = struct.pack("<Q", seed + 1)
                shutil.rmtree(folder / "model")
                (folder / "model").mkdir()
                for file_name, data in mutated(every[name], seed).items():
                    (folder / "model" / file_name).write_bytes(data)
                try:
                    every[name].read(folder / "model")
                except VGGSfMError as error:
                    refused += 1
                    if not error.message or "\n" in error.message:
                        tell(name, seed, f"message {error.message!r}")
                except BaseException:
                    tell(name, seed, traceback.format_exc())
                if name.startswith("model") and seed % (mutations // min(commands, mutations)) == 0:
                    whole = Reader(photographed_files[name.endswith("text")], every[name].read)
                    for k in range(seed, seed + MOST_REFUSED):  # the next one that passes the gate
                        for file_name, data in mutated(whole, k).items():
                            (folder / "model" / file_name).write_bytes(data)
                        with suppress(VGGSfMError):
                            read_colmap(folder / "model")
                            passed += 1
                            try:
                                through_commands(folder / "model", folder / "outs", folder / "photos")
                            except BaseException:
                                tell(name, k, traceback.format_exc())
                            break
            seconds = round(time.perf_counter() - begun, 1)
            line = {"reader": name, "tried": mutations, "refused": refused, "through_commands": passed, "s": seconds}
            print(json.dumps(line), flush=True)


def tell(reader: str, seed: int, what: str) -> None:
    print(json.dumps({"reader": reader, "seed": seed, "fault": what}), flush=True)


def watch(names: list[str], mutations: int, commands: int, folder: Path) -> "tuple[subprocess.Popen[str], Path]":
    """Start a worker for some readers."""
    clock = folder / f"clock{len(list(folder.iterdir()))}"
    clock.write_bytes(bytes(8))
    command = [sys.executable, __file__, "--work", *names, "--mutations", str(mutations)]
    command += ["--commands", str(commands), "--clock", str(clock)]
    path = os.pathsep.join([str(Path(__file__).parent), *(part for part in sys.path if part)])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    output = clock.with_suffix(".out").open("w+")
    return subprocess.Popen(command, stdout=output, text=True, env=environment), clock


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mutations", type=int, default=2000)
    parser.add_argument("--commands", type=int, default=4, help="damaged models that go through all commands")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--readers", nargs="*")
    parser.add_argument("--work", nargs="*")
    parser.add_argument("--clock", type=Path)
    chosen = parser.parse_args()
    if chosen.work is not None:
        work(chosen.work, chosen.mutations, chosen.commands, chosen.clock)
        return 0
    faults = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for inner in ("b", "t"):
            (folder / inner).mkdir()
        names = chosen.readers or list(readers(folder))
        (folder / "clocks").mkdir()
        shares = [share for k in range(chosen.jobs) if (share := names[k :: chosen.jobs])]
        running = [
            (*watch(share, chosen.mutations, chosen.commands, folder / "clocks"), [b"", time.monotonic()])
            for share in shares
        ]
        while any(process.poll() is None for process, _, _ in running):
            time.sleep(0.1)
            for process, clock, last in running:
                seed = clock.read_bytes()
                if seed != last[0] or seed == bytes(8):  # libraries are being imported
                    last[:] = [seed, time.monotonic()]
                pages = 0
                with suppress(OSError, IndexError):
                    pages = int(Path(f"/proc/{process.pid}/statm").read_text().split()[1])
                too_large = pages * os.sysconf("SC_PAGE_SIZE") > MEMORY_BYTES
                if process.poll() is None and (too_large or time.monotonic() - last[1] > HANG_S):
                    process.kill()
                    number = struct.unpack("<Q", seed)[0] - 1
                    faults.append({"seed": number, "fault": "over 2 GB" if too_large else f"over {HANG_S:.0f} s"})
        for process, clock, _ in running:
            for line in clock.with_suffix(".out").read_text().splitlines():
                print(line)
                entry = json.loads(line)
                faults += [entry] if "fault" in entry else []
            if process.returncode and not faults:
                faults.append({"fault": f"a worker ended with {process.returncode}"})
    for fault in faults:
        print(json.dumps(fault), file=sys.stderr)
    print(f"{len(faults)} faults")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
