"""The records that flow between the stages."""

import dataclasses

import torch
from torch import Tensor
from worlds import WorldConfig, blank_images, make_world


class Numbered:
    """Files whose pixels tell which scene and frame they are of."""

    def grey(self, b: int, s: int) -> Tensor:
        return torch.full((2, 2), 10.0 * b + s)

    def color(self, b: int, s: int) -> Tensor:
        return self.grey(b, s).expand(3, 2, 2)


def test_one_scene_of_several_keeps_its_names_and_files() -> None:
    one = blank_images(make_world(WorldConfig(frames=3, points=20), 0))
    several = dataclasses.replace(
        one,
        **{
            name: getattr(one, name).repeat(2, *[1] * (getattr(one, name).dim() - 1))
            for name in ("pixels", "mask", "frame_valid", "stored_from_network", "stored_size")
        },
        priors=one.priors._map(lambda value: value.repeat(2, *[1] * (value.dim() - 1))),
        names=(("a", "b", "c"), ("d", "e", "f")),
        originals=Numbered(),
    )
    second = several.scene(1)
    assert second.names == (("d", "e", "f"),)
    assert second.originals is not None
    assert float(second.originals.grey(0, 2)[0, 0]) == 12
    assert second.originals.color(0, 1).shape == (3, 2, 2) and float(second.originals.color(0, 1).mean()) == 11
    assert several.scene(0).scene(0).names == (("a", "b", "c"),)
    assert float(several.scene(1).scene(0).originals.grey(0, 0)[0, 0]) == 10
