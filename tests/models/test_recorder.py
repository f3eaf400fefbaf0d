"""Attention that is written out to be seen gives what torch's own gives."""

import pytest
import torch
import torch.nn.functional as F

from iia.models.recorder import Recorder, by_heads

G = torch.Generator().manual_seed(0)
Q, K, V = (torch.randn(2, 4, 5, 6, generator=G, dtype=torch.float64) for _ in range(3))
MASK = torch.rand(5, 5, generator=G) < 0.7
MASK.fill_diagonal_(True)


@pytest.mark.parametrize("how", [{}, {"scale": 0.3}, {"is_causal": True}, {"attn_mask": MASK},
                                 {"attn_mask": torch.randn(2, 4, 5, 5, generator=G, dtype=torch.float64)}])
def test_fused_attention_is_written_out(how):
    seen = []
    wanted = F.scaled_dot_product_attention(Q, K, V, **how)
    with Recorder(lambda A: seen.append(A) or A):
        found = F.scaled_dot_product_attention(Q, K, V, **how)
    torch.testing.assert_close(found, wanted)
    matrix, = seen
    torch.testing.assert_close(matrix @ V, wanted)


def test_heads_that_share_their_keys():
    with Recorder(lambda A: A):
        found = F.scaled_dot_product_attention(Q, K[:, :2], V[:, :2], enable_gqa=True)
    keys, values = (own[:, :2].repeat_interleave(2, 1) for own in (K, V))
    torch.testing.assert_close(found, F.scaled_dot_product_attention(Q, keys, values))


def test_a_softmax_over_the_last_dimension_is_seen_and_replaced_and_another_is_not():
    seen = []
    with Recorder(lambda A: seen.append(A) or 2 * A):
        ways = (lambda: Q.softmax(-1), lambda: torch.softmax(Q, 3), lambda: F.softmax(input=Q, dim=-1),
                lambda: Q[0].softmax(-1))
        for found in (way() for way in ways):
            torch.testing.assert_close(found, 2 * seen[-1])
        Q.softmax(2), Q[0, 0].softmax(-1)
    assert len(seen) == 4


@pytest.mark.parametrize("shape, found", [
    ((2, 3, 5, 5), (2, 3, 5, 5)), ((6, 5, 5), (2, 3, 5, 5)), ((2, 5, 5), (2, 1, 5, 5)),
    ((5, 5, 5), None), ((8, 3, 5, 5), None), ((2, 3, 5, 4), None), ((2, 3, 4, 5), None)])
def test_matrices_between_all_tokens_of_each_of_two_pictures(shape, found):
    A = torch.rand(shape)
    matrix = by_heads(A, 2)
    assert (None if matrix is None else tuple(matrix.shape)) == found
    assert matrix is None or torch.equal(matrix.flatten(), A.flatten())
