"""How rows that begin alike are laid out as one."""

from __future__ import annotations

import torch

from nano_gpt.evaluation.sharing import Row, Tree, batches, grow, lay_out
from nano_gpt.model.attention import branch_mask

CAT = Row([1, 2, 3, 4, 9], 2)  # the cat | sat down
DOG = Row([1, 2, 3, 5, 6, 9], 3)


def test_the_layout_of_two_rows() -> None:
    (tree,) = grow([CAT, DOG])
    assert tree == Tree((CAT, DOG), shared=3)
    batch = lay_out([tree, Tree((Row([8, 9], 1),), shared=1)])
    assert batch.ids.tolist() == [[1, 2, 3, 4, 5, 6], [8, 0, 0, 0, 0, 0]]
    assert batch.positions.tolist() == [[0, 1, 2, 3, 3, 4], [0] * 6]
    assert batch.branches is not None and batch.branches.tolist() == [[0, 0, 0, 1, 2, 2], [0] * 6]
    assert batch.lengths.tolist() == [6, 1]
    # The first scored token of either row is predicted by what they share.
    assert batch.predicting.tolist() == [2, 3, 2, 4, 5, 6]
    assert batch.targets.tolist() == [4, 9, 5, 6, 9, 9]


def test_a_token_sees_what_is_shared_and_its_own_branch() -> None:
    (mask,) = branch_mask(torch.tensor([[0, 0, 1, 2, 2]]))
    assert mask[0].int().tolist() == [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [1, 1, 1, 0, 0],
        [1, 1, 0, 1, 0],
        [1, 1, 0, 1, 1],
    ]


def test_a_token_that_swallows_the_end_of_the_context_just_shares_less() -> None:
    """With GPT-2's vocabulary `a` and `aa` may be one token each: the context's ids are no longer all there."""
    merged = Row([1, 2, 7, 9], 2)
    assert list(grow([CAT, merged])) == [Tree((CAT, merged), shared=2)]


def test_rows_of_different_contexts_stay_apart() -> None:
    other = Row([4, 4, 4, 4], 1)
    assert list(grow([CAT, DOG, other, CAT])) == [
        Tree((CAT, DOG), 3), Tree((other,), 3), Tree((CAT,), 4)
    ]  # fmt: skip
    long = Row([1, *range(10, 30)], 19)  # one token in common, of twenty
    assert len(list(grow([CAT, long]))) == 2


def test_single_rows_need_no_mask() -> None:
    assert lay_out([Tree((CAT,), 4), Tree((Row([8, 9], 1),), 1)]).branches is None


def test_batches_hold_so_many_tokens() -> None:
    trees = [Tree((Row([0] * (length + 1), 1),), length) for length in (9, 5, 5, 4, 1)]
    assert [[tree.length for tree in batch] for batch in batches(trees, 10)] == [[9], [5, 5], [4, 1]]
    assert [len(batch) for batch in batches(trees, 1)] == [1] * 5
