"""The search for starts: anywhere first, then once more where the neighbours point to."""

import dataclasses

import pytest
import torch
from torch.nn import functional

from vggsfm_cli.tracking import starts
from vggsfm_cli.tracking.features import STRIDE
from vggsfm_cli.tracking.starts import StartConfig, find_starts, look_near, nearest, peaks

HEIGHT, WIDTH = 24, 40
SHIFT = (3, 2)


def noise_map(seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return functional.normalize(torch.randn(32, HEIGHT, WIDTH, generator=generator), dim=0)


def moved_pair() -> tuple[torch.Tensor, torch.Tensor]:
    """A map, and the same moved right by three cells and down by two; what enters is new."""
    first, second = noise_map(0), noise_map(1)
    second[:, SHIFT[1] :, SHIFT[0] :] = first[:, : -SHIFT[1], : -SHIFT[0]]
    return first, second


def cell_centres() -> torch.Tensor:
    rows, columns = torch.meshgrid(torch.arange(4, 18), torch.arange(4, 32), indexing="ij")
    return (torch.stack([columns, rows], -1).reshape(-1, 2) + 0.5) * STRIDE


def test_looking_near_finds_the_cell_and_not_its_far_double():
    first, second = moved_pair()
    descriptor = first[:, 10, 12]
    second[:, 1, 1] = descriptor
    true = torch.tensor([[12 + SHIFT[0] + 0.5, 10 + SHIFT[1] + 0.5]]) * STRIDE
    config = StartConfig(guided_cells=2)
    for miss in (torch.tensor([[6.0, -9.0]]), torch.zeros(1, 2)):
        xy, similarity = look_near(true + miss, descriptor[None], second, config)
        assert (xy - true).norm() < 0.5
        assert similarity > 0.98


def test_looking_near_the_border_stays_finite_and_inside():
    _, second = moved_pair()
    predicted = torch.tensor([[-30.0, 5.0], [0.0, 0.0], [WIDTH * STRIDE + 30.0, HEIGHT * STRIDE + 30.0]])
    xy, similarity = look_near(predicted, second[:, :3, 0].T, second, StartConfig(guided_cells=2))
    assert torch.isfinite(xy).all() and torch.isfinite(similarity).all()


def test_the_second_look_finds_what_a_better_far_match_hid():
    """A fifth of the queries have a perfect double elsewhere; their neighbours know better."""
    first, second = moved_pair()
    xy = cell_centres()
    generator = torch.Generator().manual_seed(2)
    hidden = torch.randperm(len(xy), generator=generator)[: len(xy) // 5]
    truth = xy + torch.tensor(SHIFT) * STRIDE
    for q in hidden.tolist():
        column, row = (xy[q] / STRIDE).long().tolist()
        there = second[:, row + SHIFT[1], column + SHIFT[0]]
        double = torch.randint(WIDTH, (1,), generator=generator)
        second[:, 0, double] = first[:, row, column, None]
        second[:, row + SHIFT[1], column + SHIFT[0]] = functional.normalize(
            there + 0.1 * noise_map(3)[:, row, column], dim=0
        )
    neighbours = nearest(xy, 12)
    once = find_starts(xy, first, second, neighbours, StartConfig())
    twice = find_starts(xy, first, second, neighbours, StartConfig(guided_cells=2))
    for found in (once, twice):
        assert found.believed[hidden].float().mean() > 0.9
    error = [(found.xy - truth).norm(dim=-1) for found in (once, twice)]
    assert error[1][hidden].median() <= error[0][hidden].median()
    assert error[1].quantile(0.95) < 1.0
    assert twice.support.mean() > once.support.mean()


def test_neighbours_do_not_depend_on_the_order_of_equally_far_positions():
    xy = cell_centres()
    order = torch.randperm(len(xy), generator=torch.Generator().manual_seed(4))
    found, turned = nearest(xy, 5), nearest(xy[order], 5)
    assert torch.equal(xy[found][order], xy[order][turned])


def test_no_second_look_is_the_default():
    config = StartConfig()
    assert config.guided_cells == 0
    first, second = moved_pair()
    xy = cell_centres()
    one = find_starts(xy, first, second, nearest(xy, 12), config)
    two = find_starts(xy, first, second, nearest(xy, 12), dataclasses.replace(config, guided_spread=3.0))
    assert torch.equal(one.xy, two.xy)


def soft_peak(scores: torch.Tensor, row: int, column: int, temperature: float) -> torch.Tensor:
    """Mean position of the cells around one, by the softmax of their scores, cell by cell."""
    total, weights = torch.zeros(2), 0.0
    for r in range(max(row - 1, 0), min(row + 2, scores.shape[0])):
        for c in range(max(column - 1, 0), min(column + 2, scores.shape[1])):
            weight = float(torch.exp((scores[r, c] - scores[row, column]) / temperature))
            total += weight * torch.tensor([c + 0.5, r + 0.5])
            weights += weight
    return total / weights * STRIDE


@pytest.mark.parametrize("at_once", [1, 7, 512])
def test_peaks_are_those_of_the_whole_matrix(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(starts, "SEARCH_AT_ONCE", at_once)
    target = noise_map(5)
    corners = [(0, 0), (0, WIDTH - 1), (HEIGHT - 1, 0), (HEIGHT - 1, WIDTH - 1), (0, 7), (9, WIDTH - 1), (11, 0)]
    generator = torch.Generator().manual_seed(6)
    anywhere = functional.normalize(torch.randn(20, 32, generator=generator), dim=1)
    descriptors = torch.cat([target[:, [r for r, _ in corners], [c for _, c in corners]].T, anywhere])
    config = StartConfig()
    xy, similarity, cell = peaks(descriptors, target, config)
    scores = torch.einsum("qc,chw->qhw", descriptors, target)
    assert torch.equal(cell, scores.flatten(1).argmax(1))
    assert [divmod(int(c), WIDTH) for c in cell[: len(corners)]] == corners
    torch.testing.assert_close(similarity, scores.flatten(1).amax(1))
    expected = [soft_peak(s, *divmod(int(c), WIDTH), config.temperature) for s, c in zip(scores, cell, strict=True)]
    torch.testing.assert_close(xy, torch.stack(expected), atol=1e-3, rtol=0)


def test_equal_peaks_give_the_first_cell() -> None:
    target = noise_map(7)
    descriptor = target[:, 5, 30].clone()
    for row, column in ((2, 20), (2, 33), (5, 30)):
        target[:, row, column] = descriptor
    _, _, cell = peaks(descriptor[None], target, StartConfig())
    assert int(cell) == 2 * WIDTH + 20
