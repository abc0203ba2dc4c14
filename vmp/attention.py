"""The self-attention mixer: the control that the Mamba mixer is compared with."""

import math

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from vmp.config import ModelConfig


class SelfAttentionMixer(nn.Module):
    """Multi-head self-attention without biases, in the Mamba mixer's place.

        P^h = softmax(q^h k^hT / sqrt(width of a head))      out = out_proj concat_h P^h v^h

    With `directions` "forward" token i sees tokens j <= i only, else it sees all.

    Args:
        config: the model's configuration, with `mixer` "attention". Heads times head width is its
            `attention_inner`, which need not be M.

    Source: Vaswani et al., arXiv 1706.03762, equation 1.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.qkv = nn.Linear(config.d_model, 3 * config.attention_inner, bias=False)
        self.out_proj = nn.Linear(config.attention_inner, config.d_model, bias=False)
        with torch.no_grad():
            self.out_proj.weight /= math.sqrt(config.depth)

    def forward(self, hidden: Float[Tensor, "B L M"]) -> Float[Tensor, "B L M"]:
        """The mixer's output for a sequence of normalised tokens."""
        query, key, value = self.heads(hidden)
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=self._causal)
        return self.out_proj(rearrange(mixed, "b h l c -> b l (h c)"))

    def probabilities(self, hidden: Float[Tensor, "B L M"]) -> Float[Tensor, "B H L L"]:
        """P: row i of head h is the weights with which token i reads every token's value. Rows sum to 1."""
        query, key, _ = self.heads(hidden)
        logits = query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])
        if self._causal:
            later = torch.ones(logits.shape[-2:], dtype=torch.bool, device=logits.device).triu(1)
            logits = logits.masked_fill(later, -math.inf)
        return logits.softmax(-1)

    def values(self, hidden: Float[Tensor, "B L M"]) -> Float[Tensor, "B H L C"]:
        """v, the values that `probabilities` weigh."""
        return self.heads(hidden)[2]

    def heads(
        self, hidden: Float[Tensor, "B L M"]
    ) -> tuple[Float[Tensor, "B H L C"], Float[Tensor, "B H L C"], Float[Tensor, "B H L C"]]:
        """q, k and v of each head."""
        query, key, value = rearrange(
            self.qkv(hidden), "b l (three h c) -> three b h l c", three=3, h=self.config.num_heads
        )
        return query, key, value

    @property
    def _causal(self) -> bool:
        return self.config.directions == "forward"
