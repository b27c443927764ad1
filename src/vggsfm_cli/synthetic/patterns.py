"""Procedural pictures: their statistics matter more than what they show."""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

Maker = Callable[[int, int, torch.Generator], Tensor]


def draw(count: int, side: int, generator: torch.Generator) -> Float[Tensor, "T 3 side side"]:
    """``count`` pictures with values in [0, 1], of all kinds in turn."""
    kinds_of = (leaves, masonry, stone, planks, pebbles, panes, scratched, foliage, writing)
    more = (masonry, stone, leaves, foliage, scratched, planks, stone, pebbles, weave)
    makers: tuple[Maker, ...] = kinds_of + more
    parts, kinds = [], []
    for k, maker in enumerate(makers):
        mine = len(range(k, count, len(makers)))
        if mine:
            parts.append(maker(mine, side, generator))
            kinds += list(range(k, count, len(makers)))
    return torch.cat(parts)[torch.tensor(kinds).argsort()].clamp(0, 1)


def _uniform(generator: torch.Generator, low: int | float, high: int | float, *shape: int) -> Tensor:
    return low + (high - low) * torch.rand(shape, generator=generator)


def _grid(side: int) -> tuple[Tensor, Tensor]:
    """Positions x and y of the texel centres in [0, 1]."""
    axis = (torch.arange(side) + 0.5) / side
    return axis[None, :].expand(side, side), axis[:, None].expand(side, side)


def noise(
    count: int, side: int, generator: torch.Generator, roughness: Tensor, stretch: Tensor | None = None
) -> Float[Tensor, "T h w"]:
    """Periodic fractal noise, standard deviation 1 about 0.

    Args:
        count: of fields.
        side: of each.
        generator: of the random numbers.
        roughness: exponent of the amplitude spectrum, about -0.5 (fine) to -2 (clouds), one per field.
        stretch: how many times longer the noise is along x than along y, one per field.
    """
    spectrum = torch.fft.rfft2(torch.randn(count, side, side, generator=generator))
    fy = torch.fft.fftfreq(side, 1 / side)[:, None]
    fx = torch.fft.rfftfreq(side, 1 / side)[None, :]
    scale = torch.ones(count) if stretch is None else stretch
    frequency = ((fx * scale[:, None, None]) ** 2 + fy**2).sqrt()
    gain = torch.where(frequency > 0, frequency.clamp(min=1) ** roughness[:, None, None], torch.zeros(()))
    field = torch.fft.irfft2(spectrum * gain, s=(side, side))
    return field / field.std((-2, -1), keepdim=True).clamp(min=1e-9)


def palette(count: int, colors: int, generator: torch.Generator, saturation: float = 0.35) -> Float[Tensor, "T K 3"]:
    """Colours that go together: a hue with variations, between dark and bright."""
    # most surfaces are brown or grey, some green, a few blue
    common = torch.tensor([0.07, 0.07, 0.09, 0.11, 0.27, 0.58])[torch.randint(6, (count, 1), generator=generator)]
    common = common + 0.03 * torch.randn(count, 1, generator=generator)
    free = torch.rand(count, 1, generator=generator) < 0.12  # noqa: PLR2004
    hue = torch.where(free, _uniform(generator, 0, 1, count, 1), common)
    hue = hue + 0.04 * torch.randn(count, colors, generator=generator)
    odd = torch.rand(count, colors, generator=generator) < 0.08  # noqa: PLR2004
    hue = torch.where(odd, _uniform(generator, 0, 1, count, colors), hue)
    strength = _uniform(generator, 0, 1, count, 1) ** 2 * _uniform(generator, 0.3, 1.7, count, colors) * saturation
    value = _uniform(generator, 0.12, 0.95, count, colors)
    wheel = 0.5 + 0.5 * torch.cos(2 * math.pi * (hue[..., None] - torch.tensor([0.0, 1 / 3, 2 / 3])))
    return (value[..., None] * (1 - strength[..., None] + 2 * strength[..., None] * (wheel - 0.2))).clamp(0, 1)


def _shade(values: Float[Tensor, "T h w"], colors: Float[Tensor, "T K 3"]) -> Float[Tensor, "T 3 h w"]:
    """Colours along a ramp of the palette for values in [0, 1]."""
    count = colors.shape[1]
    position = values.clamp(0, 1) * (count - 1)
    low = position.floor().clamp(max=count - 2)
    part = (position - low).unsqueeze(1)
    index = low.long().flatten(1)[..., None].expand(-1, -1, 3)
    first, second = colors.gather(1, index), colors.gather(1, index + 1)
    shape = (len(values), *values.shape[1:], 3)
    return first.reshape(shape).permute(0, 3, 1, 2) * (1 - part) + second.reshape(shape).permute(0, 3, 1, 2) * part


def _pick(index: Tensor, colors: Tensor) -> Tensor:
    """The colour of each cell, by number."""
    flat = colors.gather(1, (index % colors.shape[1]).flatten(1)[..., None].expand(-1, -1, 3))
    return flat.reshape(len(index), *index.shape[1:], 3).permute(0, 3, 1, 2)


def _worn(picture: Tensor, generator: torch.Generator, amount: float = 0.12) -> Tensor:
    """Dirt in large patches and grain in small ones."""
    count, side = len(picture), picture.shape[-1]
    large = noise(count, side, generator, torch.full((count,), -1.6))[:, None]
    fine = noise(count, side, generator, _uniform(generator, -0.7, 0.0, count))[:, None]
    return picture * (1 + amount * large + 0.6 * amount * fine)


def stone(count: int, side: int, generator: torch.Generator) -> Float[Tensor, "T 3 h w"]:
    """Plaster, marble, rust, sand: fractal noise along a ramp of colours, some of it with veins."""
    field = noise(count, side, generator, _uniform(generator, -1.6, -0.6, count))
    veins = noise(count, side, generator, _uniform(generator, -1.8, -1.2, count)).abs()
    veined = (torch.rand(count, generator=generator) < 0.5)[:, None, None]  # noqa: PLR2004
    values = torch.where(veined, 0.6 + 0.15 * field - 0.5 * torch.exp(-8 * veins), 0.5 + 0.25 * field)
    return _worn(_shade(values, palette(count, 4, generator)), generator, 0.08)


def masonry(count: int, side: int, generator: torch.Generator) -> Float[Tensor, "T 3 h w"]:
    """Bricks and tiles in rows."""
    x, y = _grid(side)
    pictures = []
    for _ in range(count):
        rows = int(torch.randint(3, 15, (), generator=generator))
        columns = max(1, round(rows * float(_uniform(generator, 0.3, 1.0))))
        shift = 0.5 if torch.rand((), generator=generator) < 0.6 else 0.0  # noqa: PLR2004
        gap = float(_uniform(generator, 0.03, 0.12))
        row = (y * rows).floor()
        across = x * columns + shift * (row % 2) * (1 if rows % 2 == 0 else 0)
        column = across.floor() % columns
        u, v = across - across.floor(), y * rows - row
        edge = torch.minimum(torch.minimum(u, 1 - u) * rows / columns, torch.minimum(v, 1 - v))
        wobble = 0.02 * noise(1, side, generator, torch.tensor([-1.0]))[0]
        solid = ((edge + wobble - gap) * side / rows * 0.6).clamp(0, 1)
        tone = torch.rand(rows, columns, generator=generator)[row.long() % rows, column.long()]
        colors = palette(1, 5, generator)
        bright = 0.6 + 0.5 * tone
        face = _shade((0.25 + 0.5 * tone)[None], colors[:, :4])[0] * bright
        relief = 1 + 0.25 * ((v < 2 * gap).float() - (v > 1 - 2 * gap).float()) * solid
        pictures.append(face * relief * solid + colors[0, 4][:, None, None] * (1 - solid))
    return _worn(torch.stack(pictures), generator)


def planks(count: int, side: int, generator: torch.Generator) -> Float[Tensor, "T 3 h w"]:
    """Boards with grain along x."""
    _, y = _grid(side)
    grain = noise(count, side, generator, _uniform(generator, -1.3, -0.8, count), _uniform(generator, 8, 30, count))
    rings = torch.sin(_uniform(generator, 10, 60, count)[:, None, None] * (y + 0.06 * grain) * 2)
    boards = torch.randint(2, 9, (count,), generator=generator)[:, None, None]
    row = (y * boards).floor().long()
    tone = torch.rand(count, 9, generator=generator).gather(1, row.flatten(1)).reshape(row.shape)
    v = y * boards - row
    seam = (torch.minimum(v, 1 - v) / boards * side * 0.7).clamp(0, 1)
    values = 0.45 + 0.14 * grain + 0.12 * rings + 0.4 * (tone - 0.5)
    colors = palette(count, 4, generator).sort(1).values
    return _worn(_shade(values, colors) * (0.25 + 0.75 * seam)[:, None], generator, 0.06)


def _cells(count: int, side: int, generator: torch.Generator, cells: int) -> tuple[Tensor, Tensor, Tensor]:
    """Distance to the nearest and the second seed of a jittered grid, and the number of the nearest, periodic."""
    x, y = _grid(side)
    jitter = torch.rand(count, cells, cells, 2, generator=generator)
    first = torch.full((count, side, side), 9.0)
    second, owner = first.clone(), torch.zeros(count, side, side, dtype=torch.long)
    column, row = (x * cells).floor().long(), (y * cells).floor().long()
    for dy in (-1, 0, 1):
        for dx in (-1, 0, 1):
            r, c = row + dy, column + dx
            seed = jitter[:, r % cells, c % cells]
            away = ((seed[..., 0] + c - x * cells) ** 2 + (seed[..., 1] + r - y * cells) ** 2).sqrt()
            number = ((r % cells) * cells + c % cells).expand_as(owner)
            nearer = away < first
            second = torch.where(nearer, first, torch.minimum(second, away))
            owner = torch.where(nearer, number, owner)
            first = torch.where(nearer, away, first)
    return first, second, owner


def pebbles(count: int, side: int, generator: torch.Generator) -> Float[Tensor, "T 3 h w"]:
    """Pebbles, cracked earth, scales: cells with rounded faces and dark joints."""
    pictures = []
    for _ in range(count):
        cells = int(torch.randint(4, 22, (), generator=generator))
        first, second, owner = _cells(1, side, generator, cells)
        joint = ((second - first) * float(_uniform(generator, 3, 9))).clamp(0, 1)
        tone = torch.rand(1, cells * cells, generator=generator)
        colors = _pick(
            torch.randint(5, (1, cells * cells), generator=generator).gather(1, owner.flatten(1)).reshape(owner.shape),
            palette(1, 5, generator),
        )
        bright = 0.6 + 0.5 * tone.gather(1, owner.flatten(1)).reshape(owner.shape)
        pictures.append(colors * (bright * joint * (1.1 - 0.4 * first))[:, None])
    return _worn(torch.cat(pictures), generator)


def leaves(count: int, side: int, generator: torch.Generator, layers: int = 260) -> Float[Tensor, "T 3 h w"]:
    """Ellipses, leaves and rectangles of many sizes that lie on one another (the dead-leaves model)."""
    x, y = _grid(side)
    picture = palette(count, 1, generator)[:, 0, :, None, None].expand(-1, -1, side, side).clone()
    colors = palette(count, layers, generator, 0.4)
    grain = noise(count, side, generator, torch.full((count,), -0.8))
    smallest = 3.0 / side
    for k in range(layers):
        # radii by a power law: many small ones, and all scales on the last layers
        radius = smallest * (0.18 / smallest) ** (_uniform(generator, 0, 1, count) ** (1.2 if k < layers / 2 else 2.0))
        center = torch.rand(count, 2, generator=generator)
        turn, aspect = _uniform(generator, 0, math.pi, count), _uniform(generator, 0.25, 1.0, count)
        dx = x - center[:, 0, None, None]
        dy = y - center[:, 1, None, None]
        dx, dy = dx - dx.round(), dy - dy.round()
        c, s = turn.cos()[:, None, None], turn.sin()[:, None, None]
        a = (c * dx + s * dy).abs() / radius[:, None, None]
        b = (c * dy - s * dx).abs() / (radius * aspect)[:, None, None]
        kind = k % 3
        inside = 1 - (a * a + b * b if kind == 0 else torch.maximum(a, b) if kind == 1 else a + b.sqrt())
        cover = (inside * (radius * side)[:, None, None] * 0.7).clamp(0, 1)[:, None]
        light = 0.85 + 0.25 * (dy / radius[:, None, None]).clamp(-1, 1) + 0.12 * grain
        picture = picture + cover * (colors[:, k, :, None, None] * light[:, None] - picture)
    return _worn(picture, generator, 0.05)


def foliage(count: int, side: int, generator: torch.Generator) -> Float[Tensor, "T 3 h w"]:
    """Grass and leaves: thin blades that lie on one another, the lower ones in the dark, over soil."""
    x, y = _grid(side)
    blades = 420
    green = torch.tensor([0.24, 0.2, 0.13, 0.3])[torch.randint(4, (count, 1), generator=generator)]
    hue = green + 0.03 * torch.randn(count, blades, generator=generator)
    wheel = 0.5 + 0.5 * torch.cos(2 * math.pi * (hue[..., None] - torch.tensor([0.0, 1 / 3, 2 / 3])))
    strength = _uniform(generator, 0.2, 0.7, count, 1, 1)
    picture = 0.25 * palette(count, 1, generator)[:, 0, :, None, None].expand(-1, -1, side, side)
    picture = _worn(picture, generator, 0.2)
    length, slim = _uniform(generator, 0.03, 0.12, count), _uniform(generator, 0.06, 0.4, count)
    heading, wild = _uniform(generator, 0, math.pi, count), _uniform(generator, 0.2, 1.6, count)
    for k in range(blades):
        center = torch.rand(count, 2, 1, 1, generator=generator)
        turn = (heading + wild * torch.randn(count, generator=generator))[:, None, None]
        half = (length * _uniform(generator, 0.5, 1.4, count))[:, None, None]
        dx, dy = x - center[:, 0], y - center[:, 1]
        dx, dy = dx - dx.round(), dy - dy.round()
        along, away = dx * turn.cos() + dy * turn.sin(), dy * turn.cos() - dx * turn.sin()
        width = half * slim[:, None, None] * (1 - (along / half).square()).clamp(min=0)
        cover = ((width - away.abs()) * side * 0.8).clamp(0, 1)
        light = (0.25 + 0.75 * k / blades) * (0.85 + 0.3 * (away > 0)) * _uniform(generator, 0.6, 1.1, count, 1, 1)
        color = (1 - strength + strength * wheel[:, k : k + 1])[:, 0, :, None, None]
        picture = picture + cover[:, None] * (color * light[:, None] - picture)
    return picture


def writing(count: int, side: int, generator: torch.Generator) -> Float[Tensor, "T 3 h w"]:
    """Lines of signs that no one can read, on paper or board, some with a picture beside them."""
    pictures = []
    for _ in range(count):
        lines = int(torch.randint(5, 24, (), generator=generator))
        signs = int(lines * float(_uniform(generator, 1.0, 1.8)))
        alphabet = (torch.rand(24, 1, 5, 4, generator=generator) < 0.55).float()  # noqa: PLR2004
        alphabet = functional.pad(alphabet, (0, 1, 0, 2))
        which = torch.randint(24, (lines, signs), generator=generator)
        gap = torch.rand(lines, signs, generator=generator) < 0.18  # noqa: PLR2004
        length = torch.randint(signs // 2, signs + 1, (lines, 1), generator=generator)
        text = alphabet[which][:, :, 0] * (~gap & (torch.arange(signs) < length))[..., None, None]
        page = text.permute(0, 2, 1, 3).reshape(1, 1, lines * 7, signs * 5)
        ink = functional.interpolate(page, (side, side), mode="bilinear", antialias=True)[0, 0]
        colors = palette(1, 2, generator, 0.5)[0]
        paper = colors[0] if (colors[0] - colors[1]).abs().mean() > 0.25 else 1 - 0.3 * colors[1]  # noqa: PLR2004
        picture = paper[:, None, None] * (1 - ink) + colors[1][:, None, None] * ink
        if torch.rand((), generator=generator) < 0.6:  # noqa: PLR2004
            half, rest = side // 2, side - side // 2
            inset = leaves(1, half, generator, 60)[0]
            top, left = (int(v) for v in torch.randint(0, rest, (2,), generator=generator))
            picture[:, top : top + half, left : left + half] = inset
        pictures.append(picture)
    return _worn(torch.stack(pictures), generator, 0.06)


def panes(count: int, side: int, generator: torch.Generator) -> Float[Tensor, "T 3 h w"]:
    """One window or door: a frame, bars, and panes with blurred reflections."""
    x, y = _grid(side)
    pictures = []
    for _ in range(count):
        columns, rows = (int(v) for v in torch.randint(1, 4, (2,), generator=generator))
        rim, bar = float(_uniform(generator, 0.03, 0.1)), float(_uniform(generator, 0.01, 0.04))
        u, v = (x - rim) / (1 - 2 * rim) * columns, (y - rim) / (1 - 2 * rim) * rows
        edge_u = (u - u.round()).abs() * (1 - 2 * rim) / columns
        edge_v = (v - v.round()).abs() * (1 - 2 * rim) / rows
        outside = torch.maximum((x - 0.5).abs(), (y - 0.5).abs()) > 0.5 - rim
        wood = (outside | (torch.minimum(edge_u, edge_v) < bar)).float()
        wood = functional.avg_pool2d(wood[None, None], 3, 1, 1)[0]
        sky = noise(1, side, generator, torch.tensor([-1.7]))[0]
        curtain = (x - 0.5).abs() > float(_uniform(generator, 0.2, 0.6))
        folds = 0.5 + 0.12 * torch.sin(x * float(_uniform(generator, 60, 160)))
        colors = palette(1, 4, generator)
        glass = _shade((0.25 + 0.35 * (1 - y) + 0.15 * sky)[None], colors[:, :3].sort(1).values)[0] * 0.6
        cloth = (0.4 + 0.6 * torch.rand(3, generator=generator))[:, None, None] * folds
        glass = torch.where(curtain, cloth, glass)
        light = 0.7 + 0.3 * (edge_u < bar * 0.5).float()
        pictures.append(glass * (1 - wood) + colors[0, 3][:, None, None] * wood * light)
    return _worn(torch.stack(pictures), generator, 0.05)


def weave(count: int, side: int, generator: torch.Generator) -> Float[Tensor, "T 3 h w"]:
    """Cloth: stripes and checks of many widths with threads."""
    x, y = _grid(side)
    pictures = []
    for _ in range(count):
        bands = int(torch.randint(3, 16, (), generator=generator))
        colors = palette(1, 5, generator, 0.6)
        warp = torch.randint(5, (bands,), generator=generator)
        weft = warp if torch.rand((), generator=generator) < 0.5 else torch.randint(5, (bands,), generator=generator)  # noqa: PLR2004
        edges = torch.rand(bands, generator=generator).cumsum(0)
        edges = edges / edges[-1]
        across = colors[0][warp[torch.searchsorted(edges, x.contiguous()).clamp(max=bands - 1)]]
        along = colors[0][weft[torch.searchsorted(edges, y.contiguous()).clamp(max=bands - 1)]]
        threads = float(_uniform(generator, 20, 60))
        over = 0.5 + 0.5 * torch.sin(2 * math.pi * threads * (x + y)).sign()
        sheen = 1 + 0.12 * torch.sin(2 * math.pi * threads * (x - y))
        pictures.append((across * over[..., None] + along * (1 - over[..., None])).permute(2, 0, 1) * sheen)
    return _worn(torch.stack(pictures), generator, 0.1)


def scratched(count: int, side: int, generator: torch.Generator) -> Float[Tensor, "T 3 h w"]:
    """Metal, paint and asphalt with scratches, spots and stains."""
    x, y = _grid(side)
    base = noise(count, side, generator, _uniform(generator, -1.2, -0.3, count))
    colors = palette(count, 4, generator)
    picture = _shade(0.5 + 0.12 * base, colors)
    for _ in range(40):
        start = torch.rand(count, 2, 1, 1, generator=generator)
        turn = _uniform(generator, 0, 2 * math.pi, count, 1, 1)
        length = _uniform(generator, 0.02, 0.4, count, 1, 1)
        dx, dy = x - start[:, 0], y - start[:, 1]
        dx, dy = dx - dx.round(), dy - dy.round()
        along = (dx * turn.cos() + dy * turn.sin()).clamp(min=torch.zeros(()), max=length)
        away = ((dx - along * turn.cos()) ** 2 + (dy - along * turn.sin()) ** 2).sqrt() * side
        width = _uniform(generator, 0.3, 1.6, count, 1, 1)
        tone = _uniform(generator, -0.5, 0.5, count, 1, 1)
        picture = picture + (tone * (1.2 + width - away).clamp(0, 1))[:, None]
    spots, _, owner = _cells(count, side, generator, 14)
    size = torch.rand(count, 196, generator=generator).gather(1, owner.flatten(1)).reshape(owner.shape) ** 3 * 0.5
    picture = picture * (1 - 0.5 * ((size - spots) * side / 14).clamp(0, 1))[:, None]
    return _worn(picture, generator, 0.08)
