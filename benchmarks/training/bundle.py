"""Put trained parts together into the bundled model.

    python benchmarks/training/bundle.py runs/encoder/export runs/tracks/export --out weights/small
    python benchmarks/training/bundle.py --from weights/small runs/cameras/export --out weights/small

A part is a folder with a ``.safetensors`` file whose names are the model's own; of a name that several bring, the last
counts. What no part brings keeps XFeat's published weights (the encoder) or its geometric counterpart (the judge of the
tracks, the camera transformer, the triangulation transformer). The context of the tracks has LighterGlue's published
weights. ``--from`` names a finished model whose parts are kept.

The encoder is the mean of its trained weights and XFeat's, where its training started: what was learned for wide angles
stays, and little is lost at narrow ones (Wortsman et al., "Robust fine-tuning of zero-shot models", CVPR 2022).
"""

import argparse
import sys
from pathlib import Path

from safetensors.torch import load_file

from vggsfm_cli.camera_estimation.preliminary import PreliminaryCamerasConfig
from vggsfm_cli.camera_estimation.transformer import CameraTransformerConfig
from vggsfm_cli.checkpoints import load_model
from vggsfm_cli.checkpoints.files import save_model
from vggsfm_cli.checkpoints.lightglue import lighterglue_state
from vggsfm_cli.model import VGGSfMConfig
from vggsfm_cli.tracking.context import ContextConfig
from vggsfm_cli.tracking.starts import StartConfig
from vggsfm_cli.tracking.tracker import CoarseToFineTrackerConfig
from vggsfm_cli.tracking.transformer import TrackTransformerConfig
from vggsfm_cli.triangulation.ransac import RansacTriangulatorConfig
from vggsfm_cli.triangulation.transformer import TriangulationTransformerConfig

START = StartConfig(guided_cells=2)
"""The search that the track transformer was trained behind: see ``tracks.toml``."""


def main() -> None:
    """Read the parts, build, check that every parameter was brought, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="+", type=Path)
    parser.add_argument("--from", type=Path, dest="base", help="a finished model")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--encoder-share", type=float, default=0.5, help="of the trained weights in the mean")
    parser.add_argument("--name", default="small")
    options = parser.parse_args()
    before = load_model(str(options.base)) if options.base else None
    state = before.state_dict() if before else {}
    kept = set(state)
    for folder in options.parts:
        files = sorted(folder.glob("*.safetensors"))
        if not files:
            sys.exit(f"{folder} holds no .safetensors file.")
        for file in files:
            brought = load_file(file)
            state |= brought
            kept -= brought.keys()

    def has(prefix: str) -> bool:
        return any(name.startswith(prefix) for name in state)

    judged = CoarseToFineTrackerConfig(start=START, judge=TrackTransformerConfig(), context=ContextConfig())
    model = VGGSfMConfig(
        name=options.name,
        tracker=judged if has("tracker.judge.") else CoarseToFineTrackerConfig(context=ContextConfig()),
        camera_estimator=CameraTransformerConfig() if has("camera_estimator.") else PreliminaryCamerasConfig(),
        triangulator=TriangulationTransformerConfig() if has("triangulator.") else RansacTriangulatorConfig(),
    ).build()
    published = load_model("classical").state_dict()
    for name in (published.keys() & state.keys()) - kept:
        if published[name].is_floating_point():
            state[name] = published[name].lerp(state[name], options.encoder_share)
    context = {f"tracker.context.network.{name}": value for name, value in lighterglue_state().items()}
    full = {**published, **context, **state}
    model.load_state_dict(full, strict=True)
    save_model(model, options.out)
    size = (options.out / "model.safetensors").stat().st_size
    print(f"{options.out}: {sum(p.numel() for p in model.parameters()):,} parameters, {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
