"""How rows that begin alike are laid out as one."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from nano_gpt.evaluation.sharing import Row, Tree, batches, grow, lay_out
from nano_gpt.model.attention import tree_mask

CAT = Row([1, 2, 3, 4, 9], 2)  # the cat | sat down
DOG = Row([1, 2, 3, 5, 6, 9], 3)
OTHER = Row([8, 9], 1)


def tree_of(*rows: Row, longest: int = 100) -> Tree:
    (tree,) = grow(rows, longest)
    return tree


def test_the_layout_of_two_rows() -> None:
    batch = lay_out([tree_of(CAT, DOG), tree_of(OTHER)])
    assert batch.ids.tolist() == [[1, 2, 3, 4, 5, 6], [8, 0, 0, 0, 0, 0]]
    assert batch.positions.tolist() == [[0, 1, 2, 3, 3, 4], [0] * 6]
    assert batch.ends is not None and batch.ends.tolist() == [[6, 6, 6, 4, 6, 6], [1, 6, 6, 6, 6, 6]]
    assert batch.lengths.tolist() == [6, 1]
    # The first scored token of either row is predicted by what they share.
    assert batch.predicting.tolist() == [2, 3, 4, 5, 6]
    assert batch.targets.tolist() == [4, 9, 5, 6, 9, 9]
    assert batch.predicted_by.tolist() == [0, 1, 0, 2, 3, 4]


def test_two_rows_share_more_than_all_do() -> None:
    tree = tree_of(CAT, DOG, Row([1, 2, 3, 5, 7, 9], 3))
    assert tree.ids == [1, 2, 3, 4, 5, 6, 7]
    assert tree.positions == [0, 1, 2, 3, 3, 4, 4]
    assert tree.ends == [7, 7, 7, 4, 7, 6, 7]


def test_a_token_sees_what_it_continues() -> None:
    (mask,) = tree_mask(torch.tensor([[6, 6, 3, 6, 5, 6]]))
    assert mask[0].int().tolist() == [
        [1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0],
        [1, 1, 0, 1, 0, 0],
        [1, 1, 0, 1, 1, 0],
        [1, 1, 0, 1, 0, 1],
    ]


IDS = st.lists(st.integers(0, 2), min_size=2, max_size=12)


@given(st.lists(IDS, min_size=1, max_size=12), st.integers(1, 40), st.data())
def test_every_scored_token_is_predicted_from_what_its_row_has_before_it(
    texts: list[list[int]], longest: int, data: st.DataObject
) -> None:
    rows = [Row(ids, data.draw(st.integers(1, len(ids) - 1))) for ids in sorted(texts)]
    trees = list(grow(rows, longest))
    batch = lay_out(trees)
    T = batch.ids.size(1)
    mask = torch.ones(len(trees), T, T).tril().bool() if batch.ends is None else tree_mask(batch.ends)[:, 0]
    before = [row.ids[:place] for row in rows for place in range(len(row.ids) - row.scored, len(row.ids))]
    after = [target for row in rows for target in row.ids[-row.scored :]]
    seen = [(place // T, mask[place // T, place % T]) for place in batch.predicting[batch.predicted_by].tolist()]
    assert [batch.ids[tree, places].tolist() for tree, places in seen] == before
    assert all(batch.positions[tree, places].tolist() == [*range(int(places.sum()))] for tree, places in seen)
    assert batch.targets.tolist() == after
    assert mask.any(dim=2).all()  # a row of a mask that shows nothing makes NaN, what fills up included
    assert [number for tree in trees for number in tree.rows] == [*range(len(rows))]
    assert all(len(tree) <= longest or len(tree.rows) == 1 for tree in trees)


def test_a_token_that_swallows_the_end_of_the_context_just_shares_less() -> None:
    """With GPT-2's vocabulary `a` and `aa` may be one token each: the context's ids are no longer all there."""
    assert tree_of(CAT, Row([1, 2, 7, 9], 2)).ids == [1, 2, 3, 4, 7]


def test_rows_of_different_contexts_stay_apart() -> None:
    other = Row([4, 4, 4, 4], 1)
    assert [tree.rows for tree in grow([CAT, DOG, other, CAT], 100)] == [[0, 1], [2], [3]]
    long = Row([1, *range(10, 30)], 19)  # one token in common, of twenty
    assert len(list(grow([CAT, long], 100))) == 2


def test_trees_are_not_longer_than_asked() -> None:
    assert [len(tree) for tree in grow([CAT, DOG], 6)] == [6]
    assert [len(tree) for tree in grow([CAT, DOG], 5)] == [4, 5]
    assert [len(tree) for tree in grow([CAT, CAT, DOG], 1)] == [4, 4, 5]


def test_single_rows_need_no_mask() -> None:
    assert lay_out([tree_of(CAT), tree_of(OTHER)]).ends is None
    assert lay_out([tree_of(CAT, CAT)]).ends is None


def test_batches_hold_so_many_tokens() -> None:
    trees = [tree_of(Row([0] * (length + 1), 1)) for length in (9, 5, 5, 4, 1)]
    assert [[len(tree) for tree in batch] for batch in batches(trees, 10)] == [[9], [5, 5], [4, 1]]
    assert [len(batch) for batch in batches(trees, 1)] == [1] * 5
