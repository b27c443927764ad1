"""From tracks and predicted cameras to a model, as VGGSfM v2 does it.

The best pair with one reference frame is adjusted, the other predicted poses are refined against its points, then all
tracks are triangulated and everything is adjusted, over and over with poses refined in between.

What differs from the published code, on purpose:

- A frame that does not see a point neither holds nor refutes it; there, filters and triangulation count all frames.
- The reference must see a track to be paired by it; there its own visibility is never looked at.
- Two frames make a model of tracks of two; there every track needs three.
- Frames share a camera, and its focal length is known, as ``images.priors`` says; there frames have a camera each, or
  all the same one, of which nothing is known.
- Frames that too few observations hold are taken out; there every frame with a sensible camera stays.
- Observations weigh the same, by visibility alone; there some stages also ask for the tracker's score, which there is
  that of other tracks.
- A model whose camera only rotated is refused; there it is written.
"""

import dataclasses
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from vggsfm_cli.bundle_adjustment.interface import BundleAdjuster
from vggsfm_cli.bundle_adjustment.problem import FreeParameters
from vggsfm_cli.colmap import estimators
from vggsfm_cli.colmap.estimators import RansacConfig
from vggsfm_cli.devices import MAPPING
from vggsfm_cli.errors import ReconstructionFailed
from vggsfm_cli.mapping.calibration import adjusted
from vggsfm_cli.mapping.output import figures, normalized, spanning, to_reconstruction
from vggsfm_cli.mapping.partial import Partial, TrackedScene
from vggsfm_cli.mapping.quality import ConfidenceConfig, ParallaxConfig, judge, parallax_px
from vggsfm_cli.mapping.rounds import RoundConfig, noise_px, without_weak_frames
from vggsfm_cli.recipes.interface import Mapped
from vggsfm_cli.recipes.v2.poses import PoseRefinementConfig, refine_poses, resect, sensible_frames
from vggsfm_cli.recipes.v2.triangulation import V2TriangulationConfig, pair_points, reprojection_filter, robust_points
from vggsfm_cli.scene import Cameras, ImageSet, Points, Progress, ProgressCallback, Tracks, silent
from vggsfm_cli.triangulation.ransac import RansacTriangulatorConfig


@dataclass(frozen=True, kw_only=True)
class V2MappingOptions:
    """Settings of the mapping, the published values; thresholds in network pixels."""

    min_visibility: float = 0.05
    epipolar_px: float = 4.0
    two_view: RansacConfig = field(default_factory=lambda: RansacConfig(min_trials=1000, max_trials=20_000))
    initial_angle_deg: float = 16.0  # of the first pair's points; halved until the pair has enough
    initial_points: int = 100  # that is enough, and
    initial_share: float = 0.25  # of the tracks that the reference sees
    triangulation: V2TriangulationConfig = field(default_factory=V2TriangulationConfig)
    last_pairs: int = 128  # hypotheses of a track in the last rounds
    reprojection_px: float = 4.0
    min_views: int = 3
    initial_poses: PoseRefinementConfig = field(default_factory=lambda: PoseRefinementConfig(min_matches=50))
    poses: PoseRefinementConfig = field(default_factory=lambda: PoseRefinementConfig(max_error_px=12.0))
    pose_rounds: int = 2  # poses refined, all triangulated and adjusted
    last_rounds: int = 1  # inliers chosen one by one, adjusted, over thresholds that halve down to 1
    count_invisible: bool = False  # let frames that do not see a point hold it, as the published code does
    min_points: int = 30
    min_frame_inliers: int = 15
    parallax: ParallaxConfig = field(default_factory=ParallaxConfig)


@torch.no_grad()
def reconstruct_as_v2(
    images: ImageSet,
    tracks: Tracks,
    cameras: Cameras,
    *,
    adjuster: BundleAdjuster,
    options: V2MappingOptions | None = None,
    reference: int = 0,
    seed: int = 0,
    progress: ProgressCallback = silent,
) -> Mapped:
    """The model of one scene (B = 1), without colours.

    Args:
        images: sizes, names and priors; pixels are not looked at.
        tracks: in stored pixels; their covariances are not used.
        cameras: as predicted.
        adjuster: solver of every step.
        options: settings.
        reference: frame that the first pair is made with.
        seed: of everything random.
        progress: told what is done.

    Returns:
        One model.

    Raises:
        ReconstructionFailed: a stage found too little to go on; the message names it and the counts.
    """
    mapper = V2Mapper(images, tracks, adjuster, options or V2MappingOptions(), reference, seed, progress)
    return mapper.finished(mapper.run(cameras, mapper.epipolar_inliers()))


class V2Mapper:
    """One run: the scene and the settings, so that the steps below need no long argument lists."""

    def __init__(
        self,
        images: ImageSet,
        tracks: Tracks,
        adjuster: BundleAdjuster,
        options: V2MappingOptions,
        reference: int,
        seed: int,
        progress: ProgressCallback = silent,
    ) -> None:
        self.options, self.adjuster, self.progress, self.reference = options, adjuster, progress, reference
        self.seed, self.generator = seed, torch.Generator().manual_seed(seed)
        images, tracks = images.to(MAPPING), tracks.to(MAPPING).detach()
        scale = images.pixel_scale.double()
        self.scene = TrackedScene(
            images=images,
            tracks=dataclasses.replace(
                tracks,
                xy=tracks.xy.double(),
                visibility=tracks.visibility.double(),
                covariance=scale.square()[..., None, None, None] * torch.eye(2).double().expand_as(tracks.covariance),
            ),
            triangulator=RansacTriangulatorConfig(min_visibility=options.min_visibility).build(),
            scale=scale,
        )
        self.frames = int(images.frame_valid.sum())
        self.min_views = min(options.min_views, max(self.frames, 2))

    @property
    def counted(self) -> Bool[Tensor, "1 S N"]:
        """Observations that may hold a point."""
        if not self.options.count_invisible:
            return self.scene.seen[None]
        return (self.scene.tracks.valid[:, None] & self.scene.images.frame_valid[..., None]).clone()

    def run(
        self, cameras: Cameras, epipolar: Bool[Tensor, "S N"], usable: Bool[Tensor, "S N"] | None = None
    ) -> Partial:
        """The model, in the world where the cameras span ``EXTENT``.

        Args:
            cameras: as predicted.
            epipolar: observations that agree with the epipolar geometry of their frame and the reference.
            usable: observations that triangulation may use; those that are seen if None.

        Raises:
            ReconstructionFailed: a stage found too little to go on.
        """
        usable = self.scene.seen if usable is None else usable
        model = self.initial_pair(_double(cameras, self.scene.images), epipolar)
        matches = epipolar & model.points.valid & self.scene.seen
        model = self.placed(model, matches)
        for done in range(self.options.pose_rounds + 1):
            self._tell("refinement", done)
            if done:
                model = self.reposed(model, last=done == self.options.pose_rounds)
            model = self.triangulated(model, usable)
        threshold = self.options.reprojection_px
        for done in range(self.options.last_rounds):
            self._tell("refinement", self.options.pose_rounds + 1 + done)
            model = self.last_round(model, usable, threshold)
            threshold = max(1.0, threshold // 2)
        return model

    def epipolar_inliers(self) -> Bool[Tensor, "S N"]:
        """Observations that agree with the fundamental matrix of their frame and the reference."""
        seen, xy, out = self.scene.seen, self.scene.tracks.xy[0], torch.zeros_like(self.scene.seen)
        ransac = dataclasses.replace(self.options.two_view, seed=self.seed)
        for s in range(len(seen)):
            if s == self.reference:
                continue
            both = (seen[s] & seen[self.reference]).nonzero().flatten()
            max_error_px = self.options.epipolar_px * float(self.scene.scale[0, [s, self.reference]].mean())
            one, two = (xy[frame, both].numpy() for frame in (self.reference, s))
            found = estimators.estimate_fundamental(one, two, max_error_px, ransac)
            if found is not None:
                out[s, both] = torch.from_numpy(found.inliers)
        return out

    def initial_pair(self, cameras: Cameras, epipolar: Bool[Tensor, "S N"]) -> Partial:
        """The frame that shares most points with the reference, both adjusted; all other cameras are as predicted."""
        options, seen = self.options, self.scene.seen
        paired = seen & epipolar & (seen[self.reference] | options.count_invisible)
        xyz, in_front, angle = pair_points(
            cameras.unproject(self.scene.tracks.xy)[0], cameras.cam_from_world[0], self.reference
        )
        threshold = options.initial_angle_deg
        enough = max(options.initial_points, options.initial_share * int(seen[self.reference].sum()))
        while True:
            held = paired & in_front & (angle >= threshold)
            held[self.reference] = False
            count, partner = (int(value) for value in held.sum(1).max(0))
            if count >= enough or threshold // 2 < 2:  # noqa: PLR2004
                break
            threshold //= 2
        if count < options.min_points:
            raise self._no_pair(paired, count, threshold)
        both = torch.zeros_like(seen)
        both[[self.reference, partner]] = held[partner]
        registered = torch.zeros_like(cameras.registered)
        registered[0, [self.reference, partner]] = True
        pair = Partial(
            cameras=dataclasses.replace(cameras, registered=registered),
            points=Points(xyz_world=xyz[partner][None], valid=held[partner][None]),
            inliers=both[None],
        )
        pair = self._adjusted(pair)
        valid, _ = self._filtered(pair, pair.inliers, options.reprojection_px, check_angle=False)
        self._tell("initial pair", 1, f"{int(valid.sum())} points")
        return dataclasses.replace(pair, points=dataclasses.replace(pair.points, valid=valid))

    def placed(self, pair: Partial, matches: Bool[Tensor, "S N"]) -> Partial:
        """All frames registered: those beside the pair refined against its points, or as predicted."""
        registered = self.scene.images.frame_valid.clone()
        others = matches & ~pair.cameras.registered[0, :, None]
        model = dataclasses.replace(pair, cameras=dataclasses.replace(pair.cameras, registered=registered))
        held = torch.zeros(len(pair.cameras.models), dtype=torch.bool)
        held[pair.cameras.camera_index[0, pair.frames]] = True
        found = refine_poses(self.scene, model, others, self.adjuster, self.options.initial_poses, held_cameras=held)
        return dataclasses.replace(model, cameras=found.cameras)

    def triangulated(self, model: Partial, usable: Bool[Tensor, "S N"]) -> Partial:
        """All tracks triangulated, everything adjusted, points filtered."""
        xyz, inliers = self._robust_points(model.cameras, usable, self.options.triangulation)
        enough = inliers.sum(0) >= self.min_views
        if int(enough.sum()) < self.options.min_points:
            raise self._too_few("Triangulation", int(enough.sum()))
        model = dataclasses.replace(
            model, points=Points(xyz_world=xyz[None], valid=enough[None]), inliers=(inliers & enough)[None]
        )
        model = spanning(self._adjusted(model))
        valid, _ = self._filtered(model, self.counted, self.options.reprojection_px, check_angle=False)
        return dataclasses.replace(model, points=dataclasses.replace(model.points, valid=valid))

    def reposed(self, model: Partial, *, last: bool) -> Partial:
        """Poses refined against the points; at last those that are still wrong are found anew."""
        matches = self.scene.seen & model.points.valid[0]
        found = refine_poses(self.scene, model, matches, self.adjuster, self.options.poses)
        cameras = resect(self.scene, model, found, matches, self.options.poses, self.seed) if last else found.cameras
        return dataclasses.replace(model, cameras=cameras)

    def last_round(self, model: Partial, usable: Bool[Tensor, "S N"], threshold: float) -> Partial:
        """Tracks triangulated again, their inliers chosen one by one, everything adjusted, and chosen again."""
        triangulation = dataclasses.replace(self.options.triangulation, max_pairs=self.options.last_pairs)
        xyz, _ = self._robust_points(model.cameras, usable, triangulation)
        xyz = torch.where(model.points.valid[..., None], model.points.xyz_world, xyz)
        points = Points(xyz_world=xyz, valid=xyz.isfinite().all(-1) & self.scene.tracks.valid)
        model = self._chosen(dataclasses.replace(model, points=points), threshold)
        return self._chosen(spanning(self._adjusted(model)), threshold)

    def _chosen(self, model: Partial, threshold: float) -> Partial:
        valid, inliers = self._filtered(model, self.counted, threshold, check_angle=True)
        valid = valid & (inliers.sum(1) >= self.min_views)
        if int(valid.sum()) < self.options.min_points:
            raise self._too_few("Refinement", int(valid.sum()))
        points = dataclasses.replace(model.points, valid=valid)
        return dataclasses.replace(model, points=points, inliers=inliers & valid[:, None])

    def finished(self, model: Partial) -> Mapped:
        """The model with the frames that its observations hold, and its report.

        Raises:
            ReconstructionFailed: fewer than two frames are left, or the camera only rotated.
        """
        good = sensible_frames(self.scene.images, model.cameras)[None]
        cameras = dataclasses.replace(model.cameras, registered=model.cameras.registered & good)
        model = dataclasses.replace(model, cameras=cameras, inliers=model.inliers & good[..., None])
        counts = model.inliers[0].sum(1).tolist()
        weak = RoundConfig(min_frame_inliers=self.options.min_frame_inliers, min_frame_ratio=0.0)
        model = without_weak_frames(self.scene, model, weak)
        model = dataclasses.replace(model, points=self._still_held(model))
        if len(model.frames) < 2 or int(model.points.valid.sum()) < self.options.min_points:  # noqa: PLR2004
            raise self._too_few("Refinement", int(model.points.valid.sum()))
        parallax = parallax_px(self.scene, model, self.options.parallax)
        noise = noise_px(self.scene, model)
        if not self.options.parallax.enough(parallax, noise):
            raise ReconstructionFailed(
                f"Refinement: {len(model.frames)} frames with {int(model.points.valid.sum())} points differ by a "
                f"rotation and {parallax:.2f} px, where positions are known to {noise:.2f} px.",
                "Depth cannot be seen: move sideways between the photographs.",
            )
        names = self.scene.images.names[0]
        unregistered = {
            names[s]: f"only {counts[s]} observations agree with the model"
            for s in self.scene.images.frame_valid[0].nonzero().flatten().tolist()
            if s not in model.frames
        }
        confidence = judge(self.scene, model, ConfidenceConfig()).as_dict()
        report = {**figures(model, "camera predictor", noise), **confidence}
        found = to_reconstruction(self.scene, normalized(model), report)
        return Mapped(models=[found], unregistered=unregistered)

    def _still_held(self, model: Partial) -> Points:
        return dataclasses.replace(model.points, valid=model.points.valid & (model.inliers.sum(1) >= 2))  # noqa: PLR2004

    def _adjusted(self, model: Partial) -> Partial:
        return adjusted(self.scene, model, self.adjuster, FreeParameters(), None)

    def _robust_points(
        self, cameras: Cameras, usable: Bool[Tensor, "S N"], config: V2TriangulationConfig
    ) -> tuple[Float[Tensor, "N 3"], Bool[Tensor, "S N"]]:
        config = dataclasses.replace(config, all_frames=self.options.count_invisible)
        frames = cameras.registered[0].nonzero().flatten()
        plane = cameras.unproject(self.scene.tracks.xy)[0, frames]
        xyz, found = robust_points(plane, cameras.cam_from_world[0, frames], usable[frames], config, self.generator)
        inliers = torch.zeros_like(usable)
        inliers[frames] = found
        return xyz, inliers

    def _filtered(
        self, model: Partial, counted: Bool[Tensor, "1 S N"], threshold: float, *, check_angle: bool
    ) -> tuple[Bool[Tensor, "1 N"], Bool[Tensor, "1 S N"]]:
        limit = threshold * self.scene.scale
        counted = counted & model.cameras.registered[..., None]
        config = self.options.triangulation
        return reprojection_filter(
            model.cameras, model.points, self.scene.tracks, counted, limit, config, check_angle=check_angle
        )

    def _no_pair(self, paired: Bool[Tensor, "S N"], count: int, angle_deg: float) -> ReconstructionFailed:
        name = self.scene.images.names[0][self.reference]
        seen = int(self.scene.seen[self.reference].sum())
        return ReconstructionFailed(
            f"Camera estimation: {name!r} sees {seen} tracks, shares at most {int(paired.sum(1).max())} with any of "
            f"{self.frames - 1} other images by their epipolar geometry, and {count} of them in front of both under "
            f"{angle_deg:g} degrees; {self.options.min_points} are needed.",
            "Take photographs with more overlap or texture, and move sideways between them.",
        )

    def _too_few(self, stage: str, count: int) -> ReconstructionFailed:
        return ReconstructionFailed(
            f"{stage}: {count} of {int(self.scene.tracks.valid.sum())} tracks through {self.frames} images agree with "
            f"a point; {self.options.min_points} are needed.",
            "Take photographs with more overlap or texture, and move sideways between them.",
        )

    def _tell(self, stage: str, done: int, detail: str = "") -> None:
        total = self.options.pose_rounds + self.options.last_rounds + 1 if stage == "refinement" else 1
        self.progress(Progress(stage=stage, done=done, total=total, detail=detail))


def _double(cameras: Cameras, images: ImageSet) -> Cameras:
    """Predicted cameras in double precision, known parameters in their place."""
    known = images.priors.known
    params = torch.where(known, images.priors.params.double(), cameras.params.cpu().double())
    return dataclasses.replace(
        cameras.to(MAPPING),
        cam_from_world=cameras.cam_from_world.cpu().double(),
        params=params,
        registered=images.frame_valid.clone(),
    )
