"""kill -9 at random moments of ``vggsfm reconstruct``: is the old or the new model whole, every time?

    python benchmarks/kill.py --kills 50

A run takes seconds: four small pictures of the example scene. Half of the kills come at any moment of a run, half while
it writes; half of them with an old model in place. What stands at the place is compared byte by byte with what whole
runs give, before anything repairs it.
"""

import argparse
import hashlib
import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from PIL import Image

EXAMPLE = Path(__file__).parents[1] / "examples" / "reading_corner" / "images"
FILES = ("0/cameras.bin", "0/images.bin", "0/points3D.bin", "0/rigs.bin", "0/frames.bin", "config.toml", "overview.png")
OPTIONS = ["--long-side", "256", "--preset", "fast", "--query-points", "200", "--threads", "1", "-q"]


def pictures(folder: Path) -> Path:
    folder.mkdir()
    for path in sorted(EXAMPLE.glob("*.jpg"))[6:10]:
        Image.open(path).resize((400, 300)).save(folder / path.name)
    return folder


def start(images: Path, out: Path, seed: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "vggsfm_cli", "reconstruct", str(images), "--out", str(out), "--overwrite"]
    return subprocess.Popen([*command, "--seed", str(seed), *OPTIONS])


def digest(out: Path) -> str:
    """Of all that a run writes; report.json holds times and is only read."""
    json.loads((out / "report.json").read_text())
    hashed = hashlib.sha256()
    for name in FILES:
        hashed.update((out / name).read_bytes())
    return hashed.hexdigest()


def standing(out: Path, whole: dict[str, str]) -> str:
    """Which whole result stands there: "old", "new" or "nothing". Anything else is an error."""
    if not out.exists():
        return "nothing"
    return whole[digest(out)]


def unfinished(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if path.name.endswith(".unfinished")}


def wait_for_writing(run: subprocess.Popen[bytes], folder: Path, before: set[str]) -> float:
    """Until a run begins to write, or ends; when that was."""
    while run.poll() is None and unfinished(folder) <= before:
        time.sleep(0.001)
    return time.perf_counter()


def kill(run: subprocess.Popen[bytes], folder: Path, before: set[str], wait: float, writing: bool) -> str:
    """Kill a run so many seconds after its start, or after it began to write; what it was doing."""
    begun = time.perf_counter()
    if writing:
        wait_for_writing(run, folder, before)
    time.sleep(wait)
    doing = "computing" if unfinished(folder) <= before else "writing"
    doing = "done" if run.poll() is not None else doing
    run.kill()
    run.wait()
    print(f"after {time.perf_counter() - begun:5.1f} s, {doing}", end=": ", flush=True)
    return doing


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    dice, counts = random.Random(options.seed), Counter[str]()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        images, out = pictures(folder / "photos"), folder / "sparse"
        whole, kept = {}, {}
        for seed, name in ((0, "old"), (1, "new")):
            begun, run = time.perf_counter(), start(images, out, seed)
            wrote = wait_for_writing(run, folder, set())
            if run.wait() != 0:
                raise SystemExit("A run that nobody killed failed.")
            seconds, writes = time.perf_counter() - begun, time.perf_counter() - wrote
            whole[digest(out)], kept[name] = name, shutil.copytree(out, folder / "kept" / name)
        assert len(whole) == 2, "two seeds gave one result"
        print(f"a whole run takes {seconds:.1f} s, from its first file to its end {writes:.1f} s")
        for k in range(options.kills):
            with_old, writing, before = k % 2 == 0, k % 4 < 2, unfinished(folder)
            shutil.rmtree(out, ignore_errors=True)
            if with_old:
                shutil.copytree(kept["old"], out)
            doing = kill(
                start(images, out, 1), folder, before, dice.uniform(0, writes if writing else seconds), writing
            )
            found = standing(out, whole)
            print(f"{'with' if with_old else 'without'} an old model: {found}")
            assert found in (("old", "new") if with_old else ("nothing", "new")), found
            counts[f"{doing}, {'with' if with_old else 'without'} an old model: {found}"] += 1
        if start(images, out, 1).wait() != 0:
            raise SystemExit("The run after the last kill failed.")
        left = sorted(path.name for path in folder.iterdir())
        assert left == ["kept", "photos", "sparse"] and standing(out, whole) == "new", left
    print(f"\n{options.kills} kills, each left a complete result; the next start removed all temporary files:")
    for name, count in sorted(counts.items()):
        print(f"{count:4d}  killed while {name}")


if __name__ == "__main__":
    main()
