"""Initial match of a query in another frame: global correlation, tested by matching back and by its neighbours.

A query's descriptor is compared with every cell of a frame at once, so a track need not walk from the query's pixel.
Starts that match back to the query vote on a local affinity. Where enough neighbours in the query frame
agree, the query is looked for once more near the place they point to, and the votes are counted again. A start is
believed when it agrees with what its neighbours did; one that disagrees with a clear majority is lent theirs.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor
from torch.nn import functional

from vggsfm_cli.geometry.sampling import sample
from vggsfm_cli.tracking.features import STRIDE

SEARCH_AT_ONCE = 512
"""Descriptors compared with a frame together: their scores fit the processor's cache, and are not allocated anew."""


@dataclass(frozen=True, kw_only=True)
class StartConfig:
    """Settings of the search for starts."""

    way_back_px: float = 12.0  # largest distance from the query after matching back, network pixels
    min_similarity: float = 0.5  # cosine below this is no start at all
    temperature: float = 0.05  # of the soft maximum around the peak
    neighbours: int = 12  # how many neighbours vote on the local affinity
    affinity_px: float = 6.0  # network pixels by which a start may miss what its neighbours say
    min_support: float = 3.0  # neighbours that must agree
    guided_cells: int = 0  # how far around the neighbours' place the second look goes; 0 for no second look
    guided_spread: float = 1.0  # deviation, in cells, of the second look's trust in that place
    seed_px: float = 1.5  # a query within so many network pixels of a seed is that seed
    seed_cells: int = 3  # how far around the seeds' place to look
    seed_support: float = 1.0  # seeds that must agree on it, each counted by its probability
    seed_floor_px: float = 4.0  # by which seeds always may miss their local map, network pixels
    search_beyond: bool = False  # whether queries of which the seeds say nothing are looked for anywhere
    sure: float = 0.3  # probability from which a seed is believed without its neighbours


@dataclass(frozen=True, kw_only=True, eq=False)
class Starts:
    """Starts of Q queries of one frame in one other frame.

    Attributes:
        xy: network pixels.
        affinity: local map from offsets in the query frame to offsets in this frame, network pixels.
        similarity: cosine of the descriptors at the peak.
        support: share of the neighbours in the query frame whose starts agree with the affinity.
        way_back_px: distance between the query and the best match of its own match in the query frame, network pixels.
        believed: whether to refine this start at all.
    """

    xy: Float[Tensor, "Q 2"]
    affinity: Float[Tensor, "Q 2 2"]
    similarity: Float[Tensor, " Q"]
    support: Float[Tensor, " Q"]
    way_back_px: Float[Tensor, " Q"]
    believed: Bool[Tensor, " Q"]


def peaks(
    descriptors: Float[Tensor, "Q C"], target: Float[Tensor, "C h w"], config: StartConfig
) -> tuple[Float[Tensor, "Q 2"], Float[Tensor, " Q"], Int[Tensor, " Q"]]:
    """Best match of each descriptor anywhere in a frame.

    Returns:
        xy: network pixels, moved inside the cell by a soft maximum over the 3 x 3 neighbourhood.
        similarity: at the best cell.
        cell: index of the best cell.
    """
    height, width = target.shape[-2:]
    offsets = torch.arange(-1, 2, device=target.device)
    flat = target.flatten(1)
    found = []
    for piece in descriptors.split(SEARCH_AT_ONCE):
        scores = piece @ flat
        similarity, cell = _largest(scores.unflatten(1, (height, width)))
        rows = (cell[:, None, None] // width + offsets[:, None]).expand(-1, 3, 3).flatten(1)
        columns = (cell[:, None, None] % width + offsets).expand(-1, 3, 3).flatten(1)
        inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
        index = rows.clamp(0, height - 1) * width + columns.clamp(0, width - 1)
        window = scores.gather(1, index).masked_fill(~inside, -torch.inf)
        found.append((similarity, cell, window, torch.stack([columns, rows], -1)))
    similarity, cell, window, place = (torch.cat(part) for part in zip(*found, strict=True))
    weight = (window / config.temperature).softmax(-1)
    return (weight[..., None] * (place.to(target.dtype) + 0.5)).sum(1) * STRIDE, similarity, cell


def _largest(scores: Float[Tensor, "Q h w"]) -> tuple[Float[Tensor, " Q"], Int[Tensor, " Q"]]:
    """Largest score and its cell; row by row first, since a maximum without its index is much faster."""
    similarity, row = scores.amax(-1).max(-1)
    width = scores.shape[-1]
    column = scores.gather(1, row[:, None, None].expand(-1, 1, width))[:, 0].argmax(-1)
    return similarity, row * width + column


SeedPositions = tuple[Float[Tensor, "K 2"], Float[Tensor, "K 2"], Float[Tensor, " K"]]
"""Positions of the same points in the query frame and in another, network pixels, and their probability."""


def find_starts(
    xy: Float[Tensor, "Q 2"],
    query_map: Float[Tensor, "C h w"],
    target_map: Float[Tensor, "C h w"],
    neighbours: Int[Tensor, "Q k"],
    config: StartConfig,
    seeds: SeedPositions | None = None,
) -> Starts:
    """Start positions of the queries ``xy`` of one frame in another frame.

    Args:
        xy: network pixels in the query frame.
        query_map: descriptors of the query frame.
        target_map: descriptors of the other frame.
        neighbours: for each query, others near it in the query frame.
        config: settings.
        seeds: points known to be the same in both frames; None to search the whole frame instead.
    """
    descriptors = functional.normalize(sample(query_map[None], xy[None] / STRIDE)[0], dim=-1)
    if seeds is None:
        first = _search_everywhere(xy, descriptors, query_map, target_map, config)
    else:
        first = _search_near_seeds(xy, descriptors, query_map, target_map, seeds, config)
        if config.search_beyond:
            silent = ~first.trusted
            elsewhere = _search_everywhere(xy[silent], descriptors[silent], query_map, target_map, config)
            first = first.filled(silent, elsewhere)
    position, similarity, trusted = first.xy, first.similarity, first.trusted
    vote = local_affinity(xy, xy[neighbours], position[neighbours], trusted[neighbours], config)
    if config.guided_cells:
        guided = (vote.support >= config.min_support) & ~first.sure
        near, near_similarity = look_near(vote.predicted, descriptors, target_map, config)
        position = torch.where(guided[:, None], near, position)
        similarity = torch.where(guided, near_similarity, similarity)
        trusted = torch.where(guided, near_similarity > config.min_similarity, trusted)
        vote = local_affinity(xy, xy[neighbours], position[neighbours], trusted[neighbours], config)
    miss = (position - vote.predicted).norm(dim=-1)
    agrees = (miss < config.affinity_px) & (vote.support >= config.min_support)
    lent = ~agrees & ~first.sure & (vote.support >= 2 * config.min_support)
    return Starts(
        xy=torch.where(lent[:, None], vote.predicted, position),
        affinity=vote.affinity,
        similarity=similarity,
        support=vote.support / neighbours.shape[-1],
        way_back_px=first.way_back_px,
        believed=agrees | lent | first.sure,
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class _Search:
    """A place for each query before its neighbours are asked.

    Attributes:
        xy: network pixels.
        similarity: cosine of the descriptors there.
        way_back_px: distance between the query and the position that its match, searched in the query frame, leads to.
        trusted: whether it may vote.
        sure: whether it is believed whatever its neighbours say.
    """

    xy: Float[Tensor, "Q 2"]
    similarity: Float[Tensor, " Q"]
    way_back_px: Float[Tensor, " Q"]
    trusted: Bool[Tensor, " Q"]
    sure: Bool[Tensor, " Q"]

    def filled(self, where: Bool[Tensor, " Q"], other: "_Search") -> "_Search":
        """With what ``other`` found in the places that are chosen."""
        return _Search(
            xy=self.xy.index_put((where,), other.xy),
            similarity=self.similarity.index_put((where,), other.similarity),
            way_back_px=self.way_back_px.index_put((where,), other.way_back_px),
            trusted=self.trusted.index_put((where,), other.trusted),
            sure=self.sure.index_put((where,), other.sure),
        )


def _search_everywhere(
    xy: Float[Tensor, "Q 2"],
    descriptors: Float[Tensor, "Q C"],
    query_map: Float[Tensor, "C h w"],
    target_map: Float[Tensor, "C h w"],
    config: StartConfig,
) -> _Search:
    position, similarity, cell = peaks(descriptors, target_map, config)
    back, _, _ = peaks(target_map.flatten(1).T[cell], query_map, config)
    way_back = (back - xy).norm(dim=-1)
    return _Search(
        xy=position,
        similarity=similarity,
        way_back_px=way_back,
        trusted=(way_back < config.way_back_px) & (similarity > config.min_similarity),
        sure=torch.zeros_like(way_back, dtype=torch.bool),
    )


def _search_near_seeds(
    xy: Float[Tensor, "Q 2"],
    descriptors: Float[Tensor, "Q C"],
    query_map: Float[Tensor, "C h w"],
    target_map: Float[Tensor, "C h w"],
    seeds: SeedPositions,
    config: StartConfig,
) -> _Search:
    """Around where the seeds near each query say it went; a query that is a seed itself goes where the seed does."""
    here, there, probability = seeds
    distance, index = torch.cdist(xy, here).topk(min(config.neighbours, len(here)), largest=False)
    vote = local_affinity(xy, here[index], there[index], probability[index], config)
    own = distance[:, 0] < config.seed_px
    beside = (vote.affinity @ (xy - here[index[:, 0]])[..., None])[..., 0]
    centre = torch.where(own[:, None], there[index[:, 0]] + beside, vote.predicted)
    spread = torch.where(own, 0.5, (vote.deviation / STRIDE).clamp(0.5, config.seed_cells))
    near, similarity = look_near(centre, descriptors, target_map, config, config.seed_cells, spread)
    position = torch.where(own[:, None], centre, near)
    returned = functional.normalize(sample(target_map[None], position[None] / STRIDE)[0], dim=-1)
    back, _ = look_near(xy, returned, query_map, config, config.seed_cells, spread)
    way_back = (back - xy).norm(dim=-1)
    sure = own & (probability[index[:, 0]] > config.sure)
    return _Search(
        xy=position,
        similarity=similarity,
        way_back_px=way_back,
        trusted=sure
        | (
            (vote.support >= config.seed_support)
            & (similarity > config.min_similarity)
            & (way_back < config.way_back_px)
        ),
        sure=sure,
    )


def look_near(
    predicted: Float[Tensor, "Q 2"],
    descriptors: Float[Tensor, "Q C"],
    target: Float[Tensor, "C h w"],
    config: StartConfig,
    cells_around: int | None = None,
    spread: Float[Tensor, " Q"] | None = None,
) -> tuple[Float[Tensor, "Q 2"], Float[Tensor, " Q"]]:
    """Each descriptor's place among the cells around ``predicted``, by a soft maximum that trusts near cells more.

    Args:
        predicted: network pixels.
        descriptors: unit vectors.
        target: descriptors of the frame.
        config: its ``guided_cells`` and ``guided_spread`` count where the next two are None.
        cells_around: how far around the place to look.
        spread: deviation of each place, in cells.

    Returns:
        xy: network pixels.
        similarity: mean cosine under the weights of that soft maximum.
    """
    height, width = target.shape[-2:]
    around = config.guided_cells if cells_around is None else cells_around
    deviation = config.guided_spread if spread is None else spread[:, None]
    line = torch.arange(-around, around + 1, device=target.device)
    offsets = torch.stack(torch.meshgrid(line, line, indexing="xy"), -1).reshape(-1, 2)
    centre = predicted / STRIDE
    cells = centre.floor().long()[:, None] + offsets
    column, row = cells.unbind(-1)
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    index = row.clamp(0, height - 1) * width + column.clamp(0, width - 1)
    scores = (target.flatten(1).T[index] * descriptors[:, None]).sum(-1).masked_fill(~inside, -1.0)
    far = (cells + 0.5 - centre[:, None]).square().sum(-1) / deviation**2
    weight = (scores / config.temperature - 0.5 * far).softmax(-1)
    return ((weight[..., None] * (cells + 0.5)).sum(1) * STRIDE), (weight * scores).sum(-1)


def nearest(xy: Float[Tensor, "Q 2"], count: int) -> Int[Tensor, "Q k"]:
    """Indices of the ``count`` nearest other positions of each position, whatever order the positions come in.

    Key points lie on whole pixels, so many are equally far; a share of their coordinates settles who comes first.
    """
    distance = torch.cdist(xy, xy, compute_mode="donot_use_mm_for_euclid_dist")
    turn = (xy @ xy.new_tensor([0.7548777, 0.5698403])) % 1
    order = (distance + 1e-3 * turn).fill_diagonal_(torch.inf)
    return order.topk(min(count, max(len(xy) - 1, 1)), largest=False).indices


@dataclass(frozen=True, kw_only=True, eq=False)
class Vote:
    """What the points around each query say of it.

    Attributes:
        predicted: where they put the query, network pixels of the other frame.
        affinity: linear part of the map.
        support: sum of the weights of those that agree with it.
        deviation: of ``predicted``, by how far they miss the map and how they lie around the query, network pixels.
    """

    predicted: Float[Tensor, "Q 2"]
    affinity: Float[Tensor, "Q 2 2"]
    support: Float[Tensor, " Q"]
    deviation: Float[Tensor, " Q"]


def local_affinity(
    xy: Float[Tensor, "Q 2"],
    near: Float[Tensor, "Q k 2"],
    moved: Float[Tensor, "Q k 2"],
    trusted: Shaped[Tensor, "Q k"],
    config: StartConfig,
    rounds: int = 4,
) -> Vote:
    """Affine map around each query from what trusted points near it did, by reweighted least squares.

    A weak pull towards the identity keeps the map defined with few points.

    Args:
        xy: queries.
        near: positions of points around each of them, in the query frame.
        moved: positions of the same in the target frame.
        trusted: whether, or how far, each of them counts.
        config: settings.
        rounds: of reweighting.
    """
    offset = near - xy[:, None]
    scale = offset.square().sum(-1).mean(-1, keepdim=True).sqrt().clamp(min=1)
    design = torch.cat([offset / scale[..., None], torch.ones_like(offset[..., :1])], -1)
    weight = trusted.to(xy.dtype)
    # start of the reweighting: the displacement that most others are close to
    displacement = moved - near
    spread = torch.cdist(displacement, displacement)
    tolerance = 2 * config.affinity_px + 0.5 * scale[..., None]
    votes = (weight[:, None] * (spread < tolerance)).sum(-1) * weight
    chosen = votes.argmax(-1)
    reach = spread.gather(1, chosen[:, None, None].expand(-1, 1, spread.shape[-1])).squeeze(1)
    current = weight / (1 + (reach / tolerance[..., 0]).square())
    pull = torch.tensor([0.3, 0.3, 1e-4], dtype=xy.dtype, device=xy.device).diag()
    prior = torch.zeros(len(xy), 3, 2, dtype=xy.dtype, device=xy.device)
    prior[:, 0, 0] = scale[:, 0]
    prior[:, 1, 1] = scale[:, 0]
    error, normal = torch.zeros_like(current), pull.expand(len(xy), 3, 3)
    solution = prior
    for _ in range(rounds):
        weighted = design * current[..., None]
        normal = weighted.mT @ design + pull
        centre = (moved * current[..., None]).sum(1) / current.sum(1, keepdim=True).clamp(min=1e-6)
        prior[:, 2] = centre
        solution = torch.linalg.solve(normal, weighted.mT @ moved + pull @ prior)
        error = (design @ solution - moved).norm(dim=-1)
        current = weight / (1 + (error / config.affinity_px).square())
    variance = (current * error.square()).sum(-1) / current.sum(-1).clamp(min=1)
    intercept = torch.linalg.inv(normal)[:, 2, 2]
    return Vote(
        predicted=solution[:, 2],
        affinity=(solution[:, :2] / scale[..., None]).mT,
        support=(weight * (error < config.affinity_px)).sum(-1),
        deviation=(0.5 * (variance + config.seed_floor_px**2) * intercept.clamp(min=0)).sqrt(),
    )
