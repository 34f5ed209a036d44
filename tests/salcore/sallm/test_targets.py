"""From maps to what attention is taught, by hand on texts of a few tokens."""

import pytest
import torch

from salcore.explanations import targets
from salcore.spec import AttentionSpec

# [CLS] a b ##b c [SEP] padding
WORD_OF = torch.tensor([[-1, 0, 1, 1, 2, -1, -1]])
MAPS = torch.tensor([[9.0, -3.0, 1.0, 1.5, 2.0, 9.0, 9.0]])


def taught(maps=MAPS, word_of=WORD_OF, draws=(), **settings):
    return targets(maps, word_of, AttentionSpec(**settings), draws)[0].tolist()


def test_special_tokens_and_padding_have_nothing_however_great_their_value():
    assert taught(binary=None) == [0, 3, 1, 1.5, 2, 0, 0]


def test_positive_leaves_out_what_speaks_against_the_class():
    assert taught(binary=None, sign="positive") == [0, 0, 1, 1.5, 2, 0, 0]


def test_top_marks_a_share_of_the_tokens_that_count_rounded_up():
    assert taught(top=0.25) == [0, 1, 0, 0, 0, 0, 0]
    assert taught(top=0.26) == [0, 1, 0, 0, 1, 0, 0]  # of 4 tokens, not of 7
    assert taught(top=1.0) == [0, 1, 1, 1, 1, 0, 0]


def test_threshold_is_a_share_of_the_greatest_that_counts():
    assert taught(binary="threshold", threshold=0.5) == [0, 1, 0, 1, 1, 0, 0]
    assert taught(binary="threshold", threshold=0.7) == [0, 1, 0, 0, 0, 0, 0]


def test_whole_words_have_the_sum_over_their_pieces_and_count_as_one():
    assert taught(binary=None, words=True) == [0, 3, 2.5, 2.5, 2, 0, 0]
    assert taught(words=True, top=0.5) == [0, 1, 1, 1, 0, 0, 0]  # 2 of 3 words
    opposed = torch.tensor([[0.0, 0.1, -2.0, 2.0, 0.2, 0.0, 0.0]])
    assert taught(opposed, words=True, top=0.3) == [0, 0, 0, 0, 1, 0, 0]  # signed before magnitudes


def test_a_text_without_any_value_marks_nothing():
    assert taught(torch.zeros(1, 7), top=0.5) == [0] * 7
    assert taught(torch.zeros(1, 7), binary="threshold") == [0] * 7


def test_a_map_that_is_not_finite_asks_for_nothing_and_spares_the_others():
    maps = torch.cat([MAPS, MAPS])
    maps[0, 2] = torch.nan
    found = targets(maps, WORD_OF.repeat(2, 1), AttentionSpec(top=0.25))
    assert found[0].sum() == 0
    assert found[1].tolist() == [0, 1, 0, 0, 0, 0, 0]
    maps[0, 2], maps[0, 0] = 1.0, torch.inf  # of a token that does not count
    assert targets(maps, WORD_OF.repeat(2, 1), AttentionSpec(top=0.25))[0].sum() == 1


def test_shuffled_values_are_the_same_on_other_tokens_that_count():
    word_of = torch.tensor([[-1, *range(30), -1, -1]])
    maps = torch.arange(33.0)[None]
    plain = torch.tensor(taught(maps, word_of, binary=None))
    first, again, other = (
        torch.tensor(taught(maps, word_of, draws=(seed,), binary=None, shuffled=True)) for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert not torch.equal(first, plain)
    assert torch.equal(first.sort().values, plain.sort().values)
    assert first[[0, 31, 32]].sum() == 0


def test_maps_of_another_shape_are_named():
    with pytest.raises(ValueError, match="`maps`"):
        targets(MAPS[:, :3], WORD_OF, AttentionSpec())
