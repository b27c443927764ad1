"""Each learned stage against its classical counterpart, one at a time; writes benchmarks/ablation.{json,md}.

    make ablate                                            # everything; $VGGSFM_BENCH and $VGGSFM_TEXTURES set
    python benchmarks/ablate.py --only renders --cameras runs/cameras/export --points runs/points/export
    python benchmarks/ablate.py --only photographs --bags 3,5

Without --cameras, --points and --joint the stages of the bundled model are measured, as far as it has learned ones.
"""

import argparse
import dataclasses
import json
import os
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from ablation import renders
from ablation.bootstrap import difference, interval, median_ratio
from ablation.photographs import Bench, Variant, share_above
from ablation.tables import to_markdown
from pose_bench.methods import hash_of
from pose_bench.peers import common_bags
from pose_bench.peers import read as read_peers
from pose_bench.scenes import Item, choose, read_items
from safetensors.torch import load_file

from vggsfm_cli.camera_estimation.transformer import CameraTransformer, CameraTransformerConfig
from vggsfm_cli.checkpoints import load_model
from vggsfm_cli.checkpoints.files import save_model
from vggsfm_cli.model import VGGSfMConfig
from vggsfm_cli.threads import limit_cores, one_thread_each
from vggsfm_cli.training.config import read_config
from vggsfm_cli.training.tasks.joint import JointTask, JointTaskConfig
from vggsfm_cli.triangulation.transformer import TriangulationTransformer, TriangulationTransformerConfig

HERE = Path(__file__).parent
RUNS = HERE.parent / "runs"
MAPPING = ("bundle_adjustment", "camera_estimation", "geometry", "mapping", "triangulation")
"""Parts of the package that decide how tracks become cameras."""


def main() -> None:
    """Measure what is asked for, keep the rest of an earlier file, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=("renders", "joint", "photographs"), action="append")
    parser.add_argument("--cameras", type=Path, help="export of the camera transformer's training")
    parser.add_argument("--points", type=Path, help="export of the triangulation transformer's training")
    parser.add_argument("--joint", type=Path, help="export of the joint training")
    parser.add_argument("--stagewise", type=Path, help="export of the same training, stage by stage")
    parser.add_argument("--scenes", type=int, default=40, help="rendered scenes of each size")
    parser.add_argument("--bags", default="3,5", help="sizes of the sets of photographs")
    parser.add_argument("--max-per-scene", type=int, default=5, help="sets of each size and scene")
    parser.add_argument("--ways", action="append", help="of mapping photographs, by name; the others stay as they are")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=HERE / "ablation.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    limit_cores(options.threads)
    wanted = options.only or ["renders", "joint", "photographs"]
    document: dict[str, Any] = json.loads(options.out.read_text()) if options.out.is_file() else {}
    document["machine"] = {"cores": os.cpu_count(), "processor": platform.processor() or platform.machine()}
    with one_thread_each():
        if "renders" in wanted:
            document["renders"] = on_renders(options)
        if "joint" in wanted:
            document["joint"] = of_joint(options)
        if "photographs" in wanted:
            found = on_photographs(options)
            before = document.get("photographs", {}) if options.ways else {}
            document["photographs"] = {size: {**before.get(size, {}), **ways} for size, ways in found.items()}
    options.out.write_text(json.dumps(document, indent=1) + "\n")
    options.out.with_suffix(".md").write_text(to_markdown(document))


def stage(folder: Path | None, prefix: str, module: torch.nn.Module) -> torch.nn.Module:
    """A stage with the weights of an export, or of the bundled model."""
    files = (
        sorted(folder.glob("*.safetensors"))
        if folder is not None
        else [HERE.parent / "weights/small/model.safetensors"]
    )
    state = {name: value for file in files for name, value in load_file(file).items()}
    mine = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    module.load_state_dict(mine, strict=True)
    return module.eval().requires_grad_(False)


def on_renders(options: argparse.Namespace) -> dict[str, Any]:
    """Cameras of 3, 5 and 10 frames, and points, of scenes and textures that training did not see."""
    recipe = read_config(HERE / "training/cameras.toml")
    task: Any = recipe.task
    cameras = stage(options.cameras, "camera_estimator.", CameraTransformerConfig().build())
    points = stage(options.points, "triangulator.", TriangulationTransformerConfig().build())
    assert isinstance(cameras, CameraTransformer) and isinstance(points, TriangulationTransformer)
    found: dict[str, Any] = {"cameras": {}, "points": {}}
    for size in (3, 5, 10):
        pool = task.pool
        if size > pool.scene.frames:
            pool = dataclasses.replace(pool, scene=dataclasses.replace(pool.scene, frames=size))
        chosen = renders.samples(pool, RUNS, recipe.seed, size, options.scenes)
        areas = renders.cameras(cameras, chosen, 10)
        found["cameras"][size] = {
            name: {
                "AUC@10": interval(values),
                "against preliminary": difference(values, areas["preliminary"]),
                "against Gauss-Newton": difference(values, areas[renders.GAUSS_NEWTON]),
            }
            for name, values in areas.items()
        }
        print(size, {name: round(sum(v) / len(v), 1) for name, v in areas.items()}, flush=True)
        errors = renders.points(points, chosen, 4.0)
        weighted = errors["inliers, weighted by covariance"]
        found["points"][size] = {
            name: {**renders.summary(values), "ratio of medians": median_ratio(values, weighted)}
            for name, values in errors.items()
        }
        print(size, {name: renders.summary(v) for name, v in errors.items()}, flush=True)
    return found


def of_joint(options: argparse.Namespace) -> dict[str, Any]:
    """Errors of adjusted cameras and points after learning together, and stage by stage, at equal cost."""
    recipe = read_config(HERE / "training/joint.toml")
    task = recipe.task
    assert isinstance(task, JointTaskConfig)
    found: dict[str, dict[str, list[Any]]] = {}
    for name, folder in (("stage by stage", options.stagewise), ("together", options.joint)):
        built: JointTask = task.build(recipe.seed, torch.device("cpu"))
        if folder is None:
            raise SystemExit("--joint and --stagewise name the exports that are compared.")
        built._read(tuple(str(file) for file in sorted(folder.glob("*.safetensors"))))
        built.module.eval()
        kept: dict[str, list[Any]] = {"degrees": [], "points": [], "AUC@5": []}
        for variant in task.variants:
            for number in range(options.scenes):
                scene = built._validation.scenes[number].of_frames(built._validation.frames(number, variant))
                angles, points = built.measure(scene, built._validation(number, variant))
                kept["degrees"].append(angles.tolist())
                kept["points"].append((100 * points).tolist())
                kept["AUC@5"].append(100 * float((1 - angles / 5).clamp(min=0).mean()))
        found[name] = kept
    base, other = found["stage by stage"], found["together"]
    both = [i for i in range(len(base["points"])) if base["points"][i] and other["points"][i]]
    medians = {name: {k: _median(kept[k]) for k in ("degrees", "points")} for name, kept in found.items()}
    return {
        "medians": medians,
        "degrees": median_ratio(other["degrees"], base["degrees"]),
        "points": median_ratio([other["points"][i] for i in both], [base["points"][i] for i in both]),
        "AUC@5": {name: interval(kept["AUC@5"]) for name, kept in found.items()},
        "AUC@5 difference": difference(other["AUC@5"], base["AUC@5"]),
    }


def _median(values: Sequence[Sequence[float]]) -> float:
    return float(torch.tensor([value for scene in values for value in scene]).median())


def on_photographs(options: argparse.Namespace) -> dict[str, Any]:
    """The dev bags, mapped in every way."""
    bench = Path(os.environ["VGGSFM_BENCH"])
    folder = RUNS / "ablate"
    learned, together = folder / "learned", folder / "together"
    _assemble(learned, [options.cameras, options.points])
    models: dict[str, str] = {"learned": str(learned)}
    if options.joint is not None:
        _assemble(together, [options.joint])
        models["together"] = str(together)
    package = HERE.parent / "src/vggsfm_cli"
    tracking = hash_of(package / "tracking", HERE.parent / "weights/small")
    mapping = hash_of(*(package / room for room in MAPPING), *(Path(model) for model in models.values()))
    measured = Bench(folder, tracking, tracking + mapping)
    stages = models["learned"]
    variants = [
        Variant(name=BASE),
        Variant(name="classical tracker", tracker="classical"),
        Variant(name="covariances not used", weighted=False),
        Variant(name=PRELIMINARY, origins="estimator"),
        Variant(name="camera transformer as the only start", origins="estimator", stages=stages, cameras=True),
        Variant(name="camera transformer as a further start", origins="both", stages=stages, cameras=True),
        Variant(name="triangulation transformer", stages=stages, points=True),
    ]
    if "together" in models:
        variants.append(Variant(name="tracker of the joint training", tracker=models["together"]))
    common = common_bags(read_peers())
    found: dict[str, Any] = {}
    for size in options.bags.split(","):
        items = [
            item
            for item in choose(read_items(bench), None, [size])
            if (item.scene, item.size, item.number) in common and item.number < options.max_per_scene
        ]
        found[size] = _rows(measured, items, variants, options.ways)
    return found


BASE, PRELIMINARY = "all classical, learned tracker", "preliminary cameras as the only start"


def _rows(bench: Bench, items: list[Item], variants: list[Variant], ways: list[str] | None) -> dict[str, Any]:
    if ways:
        variants = [variant for variant in variants if variant.name in (BASE, PRELIMINARY, *ways)]
    rows: dict[str, list[dict[str, Any]]] = {variant.name: [] for variant in variants}
    for item in items:
        for variant in variants:
            rows[variant.name].append(bench.measure(item, variant))
        print(item.scene, item.bag, {name: row[-1]["AUC@5"] for name, row in rows.items()}, flush=True)
    base = [row["AUC@5"] for row in rows[BASE]]
    preliminary = [row["AUC@5"] for row in rows[PRELIMINARY]]
    return {
        name: {
            "bags": len(of),
            "AUC@5": interval([row["AUC@5"] for row in of]),
            "above 50 %": share_above(of, 50),
            "difference": difference([row["AUC@5"] for row in of], base),
            "against preliminary": difference([row["AUC@5"] for row in of], preliminary),
        }
        for name, of in rows.items()
    }


def _assemble(folder: Path, parts: list[Path | None]) -> None:
    """A model folder with the bundled tracker, and what the exports bring."""
    bundled = load_model("small")
    state = bundled.state_dict()
    for part in parts:
        for file in sorted(part.glob("*.safetensors")) if part is not None else []:
            state |= load_file(file)
    config = VGGSfMConfig(
        name=folder.name,
        tracker=bundled.config.tracker,
        camera_estimator=CameraTransformerConfig(),
        triangulator=TriangulationTransformerConfig(),
    )
    model = config.build()
    model.load_state_dict(state, strict=True)
    save_model(model, folder)


if __name__ == "__main__":
    main()
