"""Embeddings against the golden values of VGGSfM v2 and against their definitions."""

import pytest
import torch

from goldens import golden
from v2_golden import check
from vggsfm_cli.geometry.sampling import sample
from vggsfm_cli.nn.embeddings import flow_embedding, grid_embedding, grid_embedding_at, harmonic_embedding


def test_embeddings_are_the_published_ones():
    known = golden("embeddings")
    for channels in (16, 64):
        check(flow_embedding(known["flow_in"], channels), "embeddings", f"flow_emb_C{channels}", 1e-5)
    check(grid_embedding(216, 31, 31)[:, :, :3], "embeddings", "pos_216_31x31_rows0_3", 1e-6)
    check(grid_embedding(664, 5, 7), "embeddings", "pos_664_h5_w7", 1e-6)
    check(grid_embedding(768, 24, 24)[:, :, 23], "embeddings", "pos_768_24x24_row23", 1e-6)
    check(harmonic_embedding(known["pose_in"]), "embeddings", "pose_harmonic", 1e-6)


def test_maps_are_read_as_published():
    """v2 counts from the centre of the first cell, this package from its corner."""
    known = golden("embeddings")
    check(sample(known["sample_feat_in"], known["sample_coords"] + 0.5), "embeddings", "sample_out", 1e-5)


def test_a_grid_is_read_between_its_cells_without_being_made():
    generator = torch.Generator().manual_seed(0)
    xy = torch.rand(2, 50, 2, generator=generator) * torch.tensor([20.0, 15.0]) - 3
    expected = sample(grid_embedding(24, 9, 14).expand(2, -1, -1, -1), xy + 0.5)
    torch.testing.assert_close(grid_embedding_at(xy, 24, 9, 14), expected, atol=1e-5, rtol=0)


def test_a_width_that_does_not_split_into_four_is_refused():
    with pytest.raises(ValueError, match="multiple of 4"):
        grid_embedding(6, 2, 2)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_embeddings_stay_precise_under_autocast(dtype):
    values = torch.linspace(-2, 2, 14).reshape(7, 2)
    expected = flow_embedding(values, 16), harmonic_embedding(values), grid_embedding_at(values, 16, 5, 5)
    with torch.autocast("cpu", dtype=dtype):
        found = flow_embedding(values, 16), harmonic_embedding(values), grid_embedding_at(values, 16, 5, 5)
    for under, without in zip(found, expected, strict=True):
        assert torch.equal(under, without)
