"""In which order frames start tracks, as VGGSfM v2 does it."""

import torch
from jaxtyping import Float
from torch import Tensor

FARTHEST = 100.0
"""Distance of frames that have nothing in common."""


def similarity(tokens: Float[Tensor, "S P D"]) -> Float[Tensor, "S S"]:
    """How much frames look alike, from DINOv2's patch tokens: mean product at equal patches.

    Each channel is normalised over the patches of its frame, as published, and not each patch over its channels.
    """
    unit = torch.nn.functional.normalize(tokens.double(), dim=1)  # a sum of some hundred thousand products
    return (torch.einsum("spd,tpd->st", unit, unit) / tokens.shape[1]).to(tokens.dtype)


def rank(alike: Float[Tensor, "S S"]) -> list[int]:
    """Frames in the order they should start tracks: that most like all others, then ever that least like the last."""
    distance = FARTHEST - alike
    alike = alike - torch.diag(alike.diagonal())
    return farthest_after_farthest(distance, int(alike.sum(1).argmax()))


def farthest_after_farthest(distance: Float[Tensor, "S S"], first: int) -> list[int]:
    """All frames from ``first`` on, each the one farthest from that before it among those that are left."""
    order, left = [first], torch.ones(len(distance), dtype=torch.bool, device=distance.device)
    left[first] = False
    while len(order) < len(distance):
        following = int(torch.where(left, distance[order[-1]], -torch.inf).argmax())
        order.append(following)
        left[following] = False
    return order


def middle_first(frames: int) -> list[int]:
    """Frames of a video: the middle, both ends, then the middles of what lies between, halves before quarters."""
    middle = (frames - 1) // 2
    order, spans = [middle, 0, frames - 1], [(0, middle), (middle, frames - 1)]
    while spans:
        start, end = spans.pop(0)
        middle = start + (end - start) // 2
        if start < middle < end:
            order.append(middle)
            spans += [(start, middle), (middle, end)]
    return list(dict.fromkeys(order))
