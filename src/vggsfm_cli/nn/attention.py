"""Attention over sets with masks, and the block that the learned stages share."""

from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional


class Attention(nn.Module):
    """Multi-head attention from queries to a set of keys, some of which may be masked.

    Args:
        width: of the tokens.
        heads: number of heads; divides ``width``.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_query = nn.Linear(width, width)
        self.to_key_value = nn.Linear(width, 2 * width)
        self.to_out = nn.Linear(width, width)

    def forward(
        self, queries: Float[Tensor, "*b n D"], keys: Float[Tensor, "*b m D"], keep: Bool[Tensor, "*b m"]
    ) -> Float[Tensor, "*b n D"]:
        """Attend; a query whose keys are all masked receives zero."""
        q = self._split(self.to_query(queries))
        k, v = (self._split(part) for part in self.to_key_value(keys).chunk(2, -1))
        nothing = ~keep.any(-1, keepdim=True)
        mask = (keep | nothing)[..., None, None, :]
        found = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        out: Tensor = self.to_out(found.transpose(-2, -3).flatten(-2))
        return out * (~nothing[..., None]).to(out.dtype)

    def _split(self, tokens: Float[Tensor, "*b n D"]) -> Float[Tensor, "*b H n d"]:
        return tokens.unflatten(-1, (self.heads, -1)).transpose(-2, -3)


class Feedforward(nn.Sequential):
    """Two layers with a wide middle, behind a normalisation."""

    def __init__(self, width: int, factor: int = 2) -> None:
        super().__init__(
            nn.LayerNorm(width), nn.Linear(width, factor * width), nn.GELU(), nn.Linear(factor * width, width)
        )
