"""Attention over sets, with and without masks, and the blocks that the learned stages share."""

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


class PackedAttention(nn.Module):
    """Multi-head attention without masks, its three input projections in one matrix: queries, keys, values.

    Args:
        width: of the tokens.
        heads: number of heads; divides ``width``.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.in_proj = nn.Linear(width, 3 * width)
        self.out_proj = nn.Linear(width, width)

    def forward(
        self, queries: Float[Tensor, "*b n D"], context: Float[Tensor, "*b m D"] | None = None
    ) -> Float[Tensor, "*b n D"]:
        """Attend to ``context``, or to the queries themselves."""
        width = queries.shape[-1]
        if context is None:
            q, k, v = self.in_proj(queries).chunk(3, -1)
        else:
            weight, bias = self.in_proj.weight, self.in_proj.bias
            q = functional.linear(queries, weight[:width], bias[:width])
            k, v = functional.linear(context, weight[width:], bias[width:]).chunk(2, -1)
        q, k, v = (self._split(part) for part in (q, k, v))
        found = functional.scaled_dot_product_attention(q, k, v)
        out: Tensor = self.out_proj(found.transpose(1, 2).reshape(queries.shape))
        return out

    def _split(self, tokens: Float[Tensor, "*b n D"]) -> Float[Tensor, "B H n d"]:
        """Heads apart, and one batch axis: the fused kernels take no more."""
        return tokens.reshape(-1, tokens.shape[-2], self.heads, tokens.shape[-1] // self.heads).transpose(1, 2)


class MLP(nn.Module):
    """Two linear layers with a GELU between them."""

    def __init__(self, width: int, hidden: int, out: int | None = None) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width if out is None else out)

    def forward(self, tokens: Float[Tensor, "*b D"]) -> Float[Tensor, "*b E"]:
        """Apply to each token alone."""
        out: Tensor = self.fc2(functional.gelu(self.fc1(tokens)))
        return out


def plain_norm(tokens: Float[Tensor, "*b D"]) -> Float[Tensor, "*b D"]:
    """Layer normalisation without parameters."""
    return functional.layer_norm(tokens, tokens.shape[-1:], eps=1e-6)


class SelfBlock(nn.Module):
    """Attention among tokens and two layers for each, as VGGSfM v2 was trained.

    Unlike in the usual block, the tokens are replaced by their normalised selves before the first residual sum.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attn = PackedAttention(width, heads)
        self.mlp = MLP(width, 4 * width)

    def forward(self, tokens: Float[Tensor, "*b n D"]) -> Float[Tensor, "*b n D"]:
        """Update all tokens."""
        tokens = plain_norm(tokens)
        tokens = tokens + self.attn(tokens)
        out: Tensor = tokens + self.mlp(plain_norm(tokens))
        return out


class CrossBlock(nn.Module):
    """Attention from tokens to a context and two layers for each token, as VGGSfM v2 was trained."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm_context = nn.LayerNorm(width)
        self.cross_attn = PackedAttention(width, heads)
        self.mlp = MLP(width, 4 * width)

    def forward(self, tokens: Float[Tensor, "*b n D"], context: Float[Tensor, "*b m D"]) -> Float[Tensor, "*b n D"]:
        """Update the tokens; the context stays as it is."""
        tokens = plain_norm(tokens)
        tokens = tokens + self.cross_attn(tokens, self.norm_context(context))
        out: Tensor = tokens + self.mlp(plain_norm(tokens))
        return out
