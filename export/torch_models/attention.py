"""What some tokens of a pair read of all of them, in one layer of a BERT."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional
from transformers.models.bert.modeling_bert import BertSelfAttention


def attend(attention: BertSelfAttention, rows: Tensor, hidden: Tensor, mask: Tensor | None) -> Tensor:
    """Let some tokens attend to all of their pair, without dropout (Vaswani et al. 2017, eq. 1).

    transformers' own forward knows one set of tokens alone, those that attend and are attended to.

    Args:
        attention: whose projections are taken.
        rows: the tokens that attend, float [pairs, rows, width].
        hidden: all tokens, float [pairs, tokens, width].
        mask: what is added to the scores, broadcast to float [pairs, heads, rows, tokens]; None for nothing.

    Returns:
        The heads' outputs side by side, float [pairs, rows, heads * head size].
    """

    def heads(values: Tensor) -> Tensor:
        return values.view(values.shape[0], values.shape[1], attention.num_attention_heads, -1).transpose(1, 2)

    query, key, value = heads(attention.query(rows)), heads(attention.key(hidden)), heads(attention.value(hidden))
    context = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    return context.transpose(1, 2).flatten(2)
