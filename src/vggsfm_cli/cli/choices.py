"""Strings a user may choose from, kept apart from the code they name, which imports torch; a test compares both."""

from typing import Literal

CameraModel = Literal["SIMPLE_PINHOLE", "PINHOLE", "SIMPLE_RADIAL", "RADIAL", "OPENCV", "OPENCV_FISHEYE"]
CameraMode = Literal["auto", "single", "per-image"]
Device = Literal["auto", "cpu", "cuda"]
Precision = Literal["float32", "bfloat16", "float16"]
Preset = Literal["auto", "small", "fast", "v2"]
Keypoints = Literal["auto", "aliked", "sift", "xfeat", "grid"]
AutoChoice = Literal["auto", "yes", "no"]
ExportTarget = Literal["3dgs", "gsplat", "nerfstudio", "instant-ngp", "ply", "txt"]
