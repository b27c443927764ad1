"""A batch of 20 rendered scenes, two of them broken, that is killed half-way and started again: nothing is lost or done
twice.

    python benchmarks/batch.py --engine local     the command is killed with -9 when half of the scenes have ended
    python benchmarks/batch.py --engine ray       a worker of a local Ray cluster is killed with -9 while it works

``--scenes DIR`` keeps the rendered scenes for the next time. Ends with 1 and the reason if anything is wrong.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

VGGSFM = [sys.executable, "-m", "vggsfm_cli"]
SMALL = ["--long-side", "256", "--preset", "fast", "--query-points", "64", "--no-overview", "--device", "cpu"]
GOOD = 18
BROKEN = ("broken_files", "broken_one")


def render(folder: Path) -> None:
    """18 scenes of five small pictures, one of files that are no pictures, and one of a single picture."""
    if folder.is_dir():
        return
    what = ["--scenes", str(GOOD), "--frames", "5", "--size", "256", "--layout", "facade", "--device", "cpu", "-q"]
    subprocess.run([*VGGSFM, "synth", "--out", folder, *what], check=True)
    files, one = (folder / name for name in BROKEN)
    files.mkdir()
    for k in range(3):
        (files / f"{k}.png").write_text("no picture")
    one.mkdir()
    (one / "000.png").write_bytes((folder / "scene_000" / "images" / "000.png").read_bytes())


def start(scenes: Path, out: Path, engine: str) -> subprocess.Popen[str]:
    command = [*VGGSFM, "batch", str(scenes), "--out", str(out), "--jobs", "2", "--engine", engine, "--json", *SMALL]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def lines(out: Path) -> list[dict[str, Any]]:
    file = out / "results.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []


def wait_for(out: Path, count: int, process: subprocess.Popen[str]) -> None:
    while sum(line["status"] == "done" for line in lines(out)) < count:
        if process.poll() is not None:
            sys.exit(f"the batch ended early with {process.returncode}")
        time.sleep(0.1)


def descendants(pid: int) -> list[int]:
    parents = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
    found, pending = [], [pid]
    while pending:
        parent = pending.pop()
        children = [child for child, its in parents.items() if its == parent]
        found += children
        pending += children
    return found


def working_actor(process: subprocess.Popen[str]) -> int:
    """A Ray worker of this batch in the middle of a scene, by the title that Ray gives to its process."""
    while process.poll() is None:
        for pid in descendants(process.pid):
            try:
                title = Path(f"/proc/{pid}/cmdline").read_bytes()
            except OSError:
                continue
            if title.startswith(b"ray::ProcessWorker.run"):
                return pid
        time.sleep(0.05)
    sys.exit("the batch ended before a worker could be killed")


def run_local(scenes: Path, out: Path) -> tuple[dict[str, Any], int]:
    """Killed half-way, and started again."""
    first = start(scenes, out, "local")
    wait_for(out, GOOD // 2, first)
    workers = descendants(first.pid)
    first.send_signal(signal.SIGKILL)
    first.wait()
    left = [line["scene"] for line in lines(out)]
    print(f"killed with {len(left)} lines written and {len(workers)} processes below", file=sys.stderr)
    second = start(scenes, out, "local")
    printed, _ = second.communicate()
    print(
        f"left over of the killed batch: {[pid for pid in workers if Path(f'/proc/{pid}').exists()]}", file=sys.stderr
    )
    return json.loads(printed), second.returncode


def run_ray(scenes: Path, out: Path) -> tuple[dict[str, Any], int]:
    """A worker is killed while it works."""
    batch = start(scenes, out, "ray")
    wait_for(out, GOOD // 4, batch)
    pid = working_actor(batch)
    os.kill(pid, signal.SIGKILL)
    print(f"killed the worker {pid} with {len(lines(out))} lines written", file=sys.stderr)
    printed, _ = batch.communicate()
    return json.loads(printed), batch.returncode


def check(summary: dict[str, Any], code: int, out: Path, engine: str) -> dict[str, Any]:
    """What must hold at the end."""
    results = [folder for folder in out.glob("scene_*") if (folder / "0" / "cameras.bin").is_file()]
    done = Counter(line["scene"] for line in lines(out) if line["status"] == "done")
    attempts = Counter(line["attempt"] for line in lines(out))
    deaths = [line["scene"] for line in lines(out) if line["failure"] and line["failure"]["kind"] == "WorkerDied"]
    reports = {folder.name: json.loads((folder / "report.json").read_text())["batch"]["attempt"] for folder in results}
    logged = {line["scene"]: line["attempt"] for line in lines(out) if line["status"] == "done"}
    failed = [scene["scene"] for scene in summary["scenes"] if scene["status"] == "failed"]
    hidden = [path.name for path in out.iterdir() if path.name.startswith(".") and path.name != ".locks"]
    assert code == 4, f"exit code {code}"
    assert len(results) == summary["done"] == GOOD, f"{len(results)} results, {summary['done']} done"
    assert sorted(failed) == sorted(BROKEN), failed
    assert set(done.values()) == {1} and len(done) == GOOD, f"not once each: {done}"
    assert set(attempts.values()) == {1}, "a line was written twice"
    assert reports == logged, "a result is not of the attempt that the line tells of"
    assert engine == "local" or len(deaths) == 1, deaths
    return {"engine": engine, "results": len(results), "failed": failed, "deaths": deaths, "left_hidden": hidden}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", choices=("local", "ray"), default="local")
    parser.add_argument("--scenes", type=Path, help="folder of the rendered scenes; made if it is not there")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        scenes, out = options.scenes or Path(temporary, "scenes"), Path(temporary, "out")
        render(scenes)
        clock = time.perf_counter()
        summary, code = {"local": run_local, "ray": run_ray}[options.engine](scenes, out)
        found = check(summary, code, out, options.engine)
        print(json.dumps({**found, "kept": summary["kept"], "seconds": round(time.perf_counter() - clock, 1)}))


if __name__ == "__main__":
    main()
