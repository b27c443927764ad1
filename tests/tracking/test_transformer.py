"""The judges: what they may look at, and what they must not depend on."""

import dataclasses

import pytest
import torch

from vggsfm_cli.tracking.evidence import CUES, Evidence, LogOddsConfig
from vggsfm_cli.tracking.transformer import TrackTransformerConfig

FRAMES, QUERIES, SIDE = 3, 20, 15


@pytest.fixture
def evidence() -> Evidence:
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    query = 200 * torch.rand(QUERIES, 2, generator=generator)
    turn = torch.eye(2) + 0.1 * normal(FRAMES, QUERIES, 2, 2)
    patches = torch.rand(FRAMES, QUERIES, 4, SIDE * SIDE, generator=generator)
    return Evidence(
        query=query,
        xy=query + 3 * normal(FRAMES, QUERIES, 2),
        affinity=turn,
        aligned=1.5 * turn,
        covariance=turn @ turn.mT * 0.02,
        cues=torch.rand(FRAMES, QUERIES, len(CUES), generator=generator),
        patches=patches,
        tried=torch.rand(FRAMES, QUERIES, generator=generator) > 0.3,
        scale=torch.full((FRAMES,), 1.5),
    )


def transformer():
    torch.manual_seed(1)
    return TrackTransformerConfig(width=16, heads=2, neighbours=5).build().eval()


def judges():
    return [LogOddsConfig().build(), transformer()]


def permute_queries(evidence: Evidence, order: torch.Tensor) -> Evidence:
    kept = {"scale": evidence.scale, "query": evidence.query[order]}
    rest = {
        item.name: getattr(evidence, item.name)[:, order]
        for item in dataclasses.fields(evidence)
        if item.name not in kept and getattr(evidence, item.name) is not None
    }
    return Evidence(**kept, **rest)


@pytest.mark.parametrize("judge", judges(), ids=["classical", "learned"])
def test_permuting_queries_or_frames_permutes_the_verdict(judge, evidence):
    verdict = judge(evidence)
    order = torch.randperm(QUERIES, generator=torch.Generator().manual_seed(2))
    moved = judge(permute_queries(evidence, order))
    turned = judge(evidence._map(lambda tensor: tensor.flip(0) if tensor.shape[0] == FRAMES else tensor))
    for name in ("logit", "move", "covariance"):
        before = getattr(verdict, name)
        torch.testing.assert_close(getattr(moved, name), before[:, order], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(getattr(turned, name), before.flip(0), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("judge", judges(), ids=["classical", "learned"])
def test_observations_that_were_not_tried_do_not_count(judge, evidence):
    spoiled = dataclasses.replace(
        evidence,
        patches=torch.where(evidence.tried[..., None, None], evidence.patches, 7.0),
        cues=torch.where(evidence.tried[..., None], evidence.cues, 3.0),
    )
    tried = evidence.tried
    torch.testing.assert_close(judge(spoiled).logit[tried], judge(evidence).logit[tried])


def test_exposure_of_the_other_photograph_does_not_count(evidence):
    brighter = evidence.patches.clone()
    brighter[:, :, 1::2] = 0.3 * brighter[:, :, 1::2] + 0.2
    # the constant that keeps flat patches quiet is all that is left of the change
    before, after = transformer()(evidence), transformer()(dataclasses.replace(evidence, patches=brighter))
    assert (before.logit - after.logit)[evidence.tried].abs().max() < 0.2 * before.logit[evidence.tried].abs().mean()


def test_covariance_is_positive_and_turns_with_the_patch(evidence):
    verdict = transformer()(evidence)
    assert (torch.linalg.eigvalsh(verdict.covariance) > 0).all()
    wider = dataclasses.replace(evidence, aligned=2 * evidence.aligned, covariance=4 * evidence.covariance)
    torch.testing.assert_close(transformer()(wider).covariance, 4 * verdict.covariance)
    torch.testing.assert_close(transformer()(wider).move, 2 * verdict.move)


def test_a_track_looks_at_its_other_frames_and_at_its_neighbours(evidence):
    """A frame, or a far neighbour of the track, changes and the verdict elsewhere follows."""
    judge = transformer()
    everywhere = dataclasses.replace(evidence, tried=torch.ones_like(evidence.tried))
    before = judge(everywhere).logit
    other_frame = everywhere.patches.clone()
    other_frame[2, 0] = other_frame[2, 0].flip(-1)
    assert (judge(dataclasses.replace(everywhere, patches=other_frame)).logit[0, 0] - before[0, 0]).abs() > 1e-6
    nearest = (evidence.query - evidence.query[0]).norm(dim=-1).argsort()[1]
    displaced = everywhere.xy.clone()
    displaced[0, nearest] += 50
    assert (judge(dataclasses.replace(everywhere, xy=displaced)).logit[0, 0] - before[0, 0]).abs() > 1e-6


@pytest.mark.parametrize("judge", judges(), ids=["classical", "learned"])
def test_nothing_tried_gives_a_finite_verdict_and_gradient(judge, evidence):
    patches = evidence.patches.clone().requires_grad_()
    nothing = dataclasses.replace(evidence, patches=patches, tried=torch.zeros_like(evidence.tried))
    verdict = judge(nothing)
    assert torch.isfinite(verdict.move).all() and torch.isfinite(verdict.covariance).all()
    one = judge(dataclasses.replace(evidence, patches=patches))
    if one.move.requires_grad:
        (one.move.sum() + one.covariance.sum() + one.logit.sum()).backward()
        assert torch.isfinite(patches.grad).all()


def test_log_odds_refuse_folded_patches(evidence):
    cues = evidence.cues.clone()
    cues[..., CUES.index("stretch_min")] = 1.0
    cues[..., CUES.index("stretch_max")] = 1.0
    cues[0, 0, CUES.index("stretch_max")] = 5.0
    verdict = LogOddsConfig().build()(dataclasses.replace(evidence, cues=cues))
    assert verdict.logit[0, 0] == -torch.inf
    assert torch.isfinite(verdict.logit).sum() == verdict.logit.numel() - 1


@torch.no_grad()
def test_pieces_change_nothing(evidence: Evidence) -> None:
    judge = transformer()
    whole = judge(evidence)
    looked = judge.look(evidence.patches.flatten(0, 1)).unflatten(0, (FRAMES, QUERIES))
    seen = dataclasses.replace(evidence, patches=None, looked=looked)
    for given, pairs in [(evidence, 1), (evidence, 7), (evidence, 45), (seen, 7)]:
        found = judge(given, pairs)
        for name in ("logit", "move", "covariance"):
            torch.testing.assert_close(getattr(found, name), getattr(whole, name), rtol=1e-5, atol=1e-6)
