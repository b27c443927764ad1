"""The data types that flow between the stages.

Axes: ``B`` scenes, ``S`` frames, ``N`` tracks (track n is point n from tracker to adjustment), ``C`` physical cameras.

Two pixel frames exist. *Network pixels* live inside ``tracking`` only: upright, resized, padded. *Stored pixels* are
those of the file on disk, EXIF rotation not applied. Everything that leaves ``tracking`` is in stored pixels. Both have
a corner origin: the centre of the top-left pixel is at (0.5, 0.5). Booleans say what to keep.
"""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vggsfm_cli.devices import moved
from vggsfm_cli.geometry import camera as camera_models
from vggsfm_cli.geometry import pose

Record = TypeVar("Record", bound="TensorRecord")

VISIBLE = 0.5
"""Visibility above which an observation counts, wherever nothing else is said."""


class TensorRecord:
    """Base of the records: maps a function over the tensor fields (nested records included)."""

    def _map(self: Record, function: Callable[[Tensor], Tensor]) -> Record:
        changes: dict[str, Any] = {}
        for item in dataclasses.fields(self):  # type: ignore[arg-type]
            value = getattr(self, item.name)
            if isinstance(value, Tensor):
                changes[item.name] = function(value)
            elif isinstance(value, TensorRecord):
                changes[item.name] = value._map(function)
        return dataclasses.replace(self, **changes)  # type: ignore[type-var]

    def to(self: Record, device: torch.device | str) -> Record:
        """The same record with every tensor on ``device``, in single precision where that has no double precision."""
        return self._map(lambda tensor: moved(tensor, device))

    def detach(self: Record) -> Record:
        """The same record cut from the graph."""
        return self._map(lambda tensor: tensor.detach())

    def scene(self: Record, b: int) -> Record:
        """Scene ``b`` alone, with a batch axis of one."""
        return self._map(lambda tensor: tensor[b : b + 1])


@runtime_checkable
class Originals(Protocol):
    """Lazy access to the photographs at full resolution."""

    def grey(self, b: int, s: int) -> Float[Tensor, "H W"]:
        """Luminance in [0, 1] of a frame at its stored size, *stored* orientation."""
        ...

    def color(self, b: int, s: int) -> Float[Tensor, "3 H W"]:
        """RGB in [0, 1] of a frame at its stored size, *stored* orientation."""
        ...


@dataclass(frozen=True, kw_only=True, eq=False)
class CameraPriors(TensorRecord):
    """What is known about the physical cameras before any reconstruction.

    Attributes:
        camera_index: which of the C cameras took each frame.
        models: COLMAP model name of each camera.
        params: starting values in COLMAP's order, zero-padded to P.
        known: parameters that are held fixed.
        focal_spread: relative standard deviation of the focal length in ``params`` (0 = exact).
    """

    camera_index: Int[Tensor, "B S"]
    models: tuple[str, ...]
    params: Float[Tensor, "B C P"]
    known: Bool[Tensor, "B C P"]
    focal_spread: Float[Tensor, "B C"]


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageSet(TensorRecord):
    """Photographs of B scenes, ready for the network.

    Attributes:
        pixels: RGB in [0, 1], upright, resized so that the long side fits, padded at right and bottom.
        mask: True where usable (inside the photograph and the user's mask).
        frame_valid: False for padding frames.
        stored_from_network: affine map from network pixels to stored pixels.
        stored_size: width and height of each file.
        names: file names relative to the folder, one tuple of S names a scene.
        originals: full-resolution reader, or None when there are no files (then network pixels serve).
        priors: what is known about the cameras.
    """

    pixels: Float[Tensor, "B S 3 H W"]
    mask: Bool[Tensor, "B S H W"]
    frame_valid: Bool[Tensor, "B S"]
    stored_from_network: Float[Tensor, "B S 2 3"]
    stored_size: Int[Tensor, "B S 2"]
    names: tuple[tuple[str, ...], ...]
    originals: Originals | None
    priors: CameraPriors

    @property
    def pixel_scale(self) -> Float[Tensor, "B S"]:
        """Stored pixels per network pixel, frame by frame."""
        return torch.linalg.det(self.stored_from_network[..., :2]).abs().sqrt()

    def some(self, frames: Sequence[int]) -> "ImageSet":
        """Some frames of every scene, without the way to their files; all cameras stay."""
        index = torch.tensor(list(frames), dtype=torch.long, device=self.frame_valid.device)
        return ImageSet(
            pixels=self.pixels[:, index],
            mask=self.mask[:, index],
            frame_valid=self.frame_valid[:, index],
            stored_from_network=self.stored_from_network[:, index],
            stored_size=self.stored_size[:, index],
            names=tuple(tuple(scene[s] for s in frames) for scene in self.names),
            originals=None,
            priors=dataclasses.replace(self.priors, camera_index=self.priors.camera_index[:, index]),
        )

    def to_stored(self, xy: Float[Tensor, "B S *n 2"]) -> Float[Tensor, "B S *n 2"]:
        """Network pixels to stored pixels, differentiable."""
        return _affine(self.stored_from_network, xy)

    def to_network(self, xy: Float[Tensor, "B S *n 2"]) -> Float[Tensor, "B S *n 2"]:
        """Stored pixels to network pixels, differentiable."""
        linear = torch.linalg.inv(self.stored_from_network[..., :2])
        return _affine(torch.cat([linear, -linear @ self.stored_from_network[..., 2:]], -1), xy)


def _affine(matrix: Float[Tensor, "B S 2 3"], xy: Float[Tensor, "B S *n 2"]) -> Float[Tensor, "B S *n 2"]:
    flat = xy.reshape(*xy.shape[:2], -1, 2)
    moved = flat @ matrix[..., :2].mT.to(xy.dtype) + matrix[..., None, :, 2].to(xy.dtype)
    return moved.reshape(xy.shape)


@dataclass(frozen=True, kw_only=True, eq=False)
class Queries(TensorRecord):
    """Where tracks start: one frame and one network pixel position each; query frames may differ."""

    frame: Int[Tensor, "B Q"]
    xy: Float[Tensor, "B Q 2"]
    valid: Bool[Tensor, "B Q"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Tracks(TensorRecord):
    """Scene points followed through all frames, in stored pixels.

    Attributes:
        xy: position in every frame, finite everywhere, meaningless where not visible.
        visibility: probability in [0, 1] that the point is seen there.
        covariance: of ``xy``, in squared stored pixels; its inverse weights the residual.
        features: one descriptor a frame, or None.
        query_frame: the frame the track started in.
        valid: False for padding and merged tracks.
    """

    xy: Float[Tensor, "B S N 2"]
    visibility: Float[Tensor, "B S N"]
    covariance: Float[Tensor, "B S N 2 2"]
    features: Float[Tensor, "B S N C"] | None = None
    query_frame: Int[Tensor, "B N"]
    valid: Bool[Tensor, "B N"]

    def some(self, index: Int[Tensor, " n"]) -> "Tracks":
        """Some of the tracks, the same of every scene, without their features."""
        return Tracks(
            xy=self.xy[:, :, index],
            visibility=self.visibility[:, :, index],
            covariance=self.covariance[:, :, index],
            query_frame=self.query_frame[:, index],
            valid=self.valid[:, index],
        )

    def visible(self, threshold: float = VISIBLE) -> Bool[Tensor, "B S N"]:
        """Observations that count: visibility above ``threshold`` of a valid track."""
        return (self.visibility > threshold) & self.valid[:, None]


@dataclass(frozen=True, kw_only=True, eq=False)
class Cameras(TensorRecord):
    """Poses of the frames and parameters of the physical cameras.

    Attributes:
        cam_from_world: rigid transforms, OpenCV axes.
        models: COLMAP model name of each of the C cameras.
        params: in COLMAP's order, zero-padded to P; pixels are stored pixels.
        camera_index: which camera took each frame.
        registered: frames whose pose is known.
    """

    cam_from_world: Float[Tensor, "B S 3 4"]
    models: tuple[str, ...]
    params: Float[Tensor, "B C P"]
    camera_index: Int[Tensor, "B S"]
    registered: Bool[Tensor, "B S"]

    @property
    def frame_params(self) -> Float[Tensor, "B S P"]:
        """The parameters of each frame's camera."""
        index = self.camera_index[..., None].expand(-1, -1, self.params.shape[-1])
        return self.params.gather(1, index)

    @property
    def centers(self) -> Float[Tensor, "B S 3"]:
        """Camera centres in world coordinates."""
        return pose.center(self.cam_from_world)

    def project(self, xyz_world: Float[Tensor, "B N 3"]) -> tuple[Float[Tensor, "B S N 2"], Bool[Tensor, "B S N"]]:
        """Project world points into every frame.

        Returns:
            xy: stored pixels; finite everywhere, meaningless where ``in_front`` is False.
            in_front: depth above ``camera.MIN_DEPTH``.
        """
        xyz_cam = pose.transform(self.cam_from_world[:, :, None], xyz_world[:, None])
        params = self.frame_params[:, :, None].to(xyz_cam.dtype)
        return self._by_model(lambda model, sl: camera_models.project(model, params[sl], xyz_cam[sl]), xyz_cam.shape)

    def unproject(self, xy: Float[Tensor, "B S N 2"]) -> Float[Tensor, "B S N 2"]:
        """Undistorted positions on the z = 1 plane of each camera."""
        params = self.frame_params[:, :, None].to(xy.dtype)
        out = torch.zeros_like(xy)
        for model in set(self.models):
            chosen = self._frames_of(model)
            if bool(chosen.any()):
                out = out.index_put((chosen,), camera_models.unproject(model, params[chosen], xy[chosen]))
        return out

    def _frames_of(self, model: str) -> Bool[Tensor, "B S"]:
        is_model = torch.tensor([name == model for name in self.models], device=self.camera_index.device)
        return is_model[self.camera_index]

    def _by_model(self, function: Callable[[str, Tensor], tuple[Tensor, Tensor]], shape: torch.Size) -> Any:
        xy = self.cam_from_world.new_zeros(*shape[:-1], 2)
        in_front = torch.zeros(shape[:-1], dtype=torch.bool, device=xy.device)
        for model in set(self.models):
            chosen = self._frames_of(model)
            if bool(chosen.any()):
                xy_model, in_front_model = function(model, chosen)
                xy = xy.to(xy_model.dtype).index_put((chosen,), xy_model)
                in_front = in_front.index_put((chosen,), in_front_model)
        return xy, in_front


@dataclass(frozen=True, kw_only=True, eq=False)
class Points(TensorRecord):
    """3D points, one per track."""

    xyz_world: Float[Tensor, "B N 3"]
    valid: Bool[Tensor, "B N"]
    color: Float[Tensor, "B N 3"] | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Reconstruction:
    """One connected model, sparse: what is written to files.

    Frames and points are those of this model only; every frame is registered.

    Attributes:
        cameras: with a batch axis of one; S frames of this model, C cameras they use.
        names: file name of each frame.
        sizes: stored width and height of each frame.
        xyz_world, color, error_px: per point; mean reprojection error in stored pixels.
        frame, point, xy: the observations: frame index, point index, stored pixels.
        report: figures for ``report.json``.
    """

    cameras: Cameras
    names: tuple[str, ...]
    sizes: Int[Tensor, "S 2"]
    xyz_world: Float[Tensor, "N 3"]
    color: Float[Tensor, "N 3"]
    error_px: Float[Tensor, " N"]
    frame: Int[Tensor, " M"]
    point: Int[Tensor, " M"]
    xy: Float[Tensor, "M 2"]
    report: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Progress:
    """One typed event of a running reconstruction: stage name, steps done and in all, and a word on it."""

    stage: str
    done: int
    total: int
    detail: str = ""


ProgressCallback = Callable[[Progress], None]


def silent(event: Progress) -> None:
    """The callback that draws nothing."""
