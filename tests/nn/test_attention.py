"""Attention with masks against the formula written out."""

import torch

from vggsfm_cli.nn.attention import Attention


def test_masked_attention_is_the_softmax_over_what_is_kept():
    torch.manual_seed(0)
    layer = Attention(8, 2)
    queries, keys = torch.randn(3, 5, 8), torch.randn(3, 6, 8)
    keep = torch.rand(3, 6) > 0.4
    keep[2] = False
    found = layer(queries, keys, keep)
    q = layer.to_query(queries).reshape(3, 5, 2, 4)
    k, v = (part.reshape(3, 6, 2, 4) for part in layer.to_key_value(keys).chunk(2, -1))
    for b in range(2):
        for head in range(2):
            scores = q[b, :, head] @ k[b, keep[b], head].T / 2
            q[b, :, head] = scores.softmax(-1) @ v[b, keep[b], head]
    expected = layer.to_out(q.flatten(-2))
    torch.testing.assert_close(found[:2], expected[:2])
    assert (found[2] == 0).all()
