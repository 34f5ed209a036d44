"""Comprehensiveness and sufficiency against Eq. 5 and 6, text by text and word by word."""

import math
from fractions import Fraction

import pytest
import torch
from torch import nn

from salcore.faithfulness import comprehensiveness, sufficiency

SHARES = ("0.01", "0.05", "0.1", "0.2", "0.5")


def probabilities(model, words):
    """One text as the list of its words; of none, one vector of zeros."""
    stacked = torch.stack(words) if words else torch.zeros(1, 3, dtype=torch.float64)
    with torch.no_grad():
        return model(stacked[None])[0].softmax(0)


def by_hand(model, text, score, length, query, share, sufficient):
    words = [text[t] for t in range(length)]
    countable = list(range(query, length))
    full = probabilities(model, words)
    predicted = int(full.argmax())
    count = math.ceil(Fraction(share) * len(countable))
    rationale = set(sorted(countable, key=lambda t: -score[t])[:count])
    if sufficient:
        kept = [words[t] for t in range(length) if t < query or t in rationale]
    else:
        kept = [words[t] for t in range(length) if t not in rationale]
    return float(full[predicted] - probabilities(model, kept)[predicted])


@pytest.mark.parametrize("sufficient", [False, True])
@pytest.mark.parametrize("ranking", ["signed", "magnitude"])
@pytest.mark.parametrize("asked", [False, True])
def test_each_text_is_that_of_a_loop_over_its_words(fading, texts, sufficient, ranking, asked):
    inputs, maps, valid, query = texts
    query = query if asked else None
    measure = sufficiency if sufficient else comprehensiveness
    found = measure(fading, inputs, maps, valid=valid, query=query, ranking=ranking, batch_size=4)
    fading.eval()
    expected = [
        [
            by_hand(
                fading,
                inputs[sample],
                (maps[sample].abs() if ranking == "magnitude" else maps[sample]).tolist(),
                int(valid[sample].sum()),
                int(query[sample]) if asked else 0,
                share,
                sufficient,
            )
            for share in SHARES
        ]
        for sample in range(6)
    ]
    torch.testing.assert_close(found.values, torch.tensor(expected, dtype=torch.float64))
    assert found.aopc == pytest.approx(sum(map(sum, expected)) / 30)
    assert found.per_instance.tolist() == pytest.approx([sum(row) / 5 for row in expected])
    assert found.by_share == pytest.approx([sum(column) / 6 for column in zip(*expected, strict=True)])


def test_scores_by_embedding_dimension_are_summed(fading, texts):
    inputs, maps, valid, _ = texts
    spread = maps[..., None] * torch.tensor([2.0, -4.0, 3.0])  # sums to the map, its magnitudes do not
    pair = [comprehensiveness(fading, inputs, each, valid=valid).values for each in (maps, spread)]
    assert torch.equal(*pair)


def test_padding_changes_nothing_whatever_its_attribution(fading, texts):
    inputs, maps, valid, query = texts
    wider = [nn.functional.pad(each, (0, 0, 0, 4) if each.ndim == 3 else (0, 4)) for each in (inputs, maps)]
    wider[1][:, 9:] = 99
    more = nn.functional.pad(valid, (0, 4))
    for measure in (comprehensiveness, sufficiency):
        narrow = measure(fading, inputs, maps, valid=valid, query=query)
        torch.testing.assert_close(measure(fading, *wider, valid=more, query=query).values, narrow.values)


def test_the_rationale_is_the_top_share_rounded_up():
    class Length(nn.Module):
        def forward(self, inputs, valid=None):
            seen.append(valid.sum(1))
            return torch.zeros(len(inputs), 2)

    seen = []
    comprehensiveness(Length(), torch.ones(1, 100, 1), torch.rand(1, 100), shares=(0.01, 0.07, 0.101, 1.0))
    assert [int(each) for each in seen] == [100, 99, 93, 89, 1]  # and a text without words is one empty step


def test_words_are_deleted_and_not_zeroed(fading, texts):
    inputs, maps, valid, query = texts
    gone = comprehensiveness(fading, inputs, maps, valid=valid, query=query, shares=(0.5,))
    zeroed = comprehensiveness(fading, inputs, maps, valid=valid, query=query, shares=(0.5,), remove="zero")
    assert not torch.allclose(gone.values, zeroed.values)
    fading.eval()
    first = inputs[0].clone()
    first[maps[0].argsort(descending=True)[:5]] = 0
    full = fading(inputs[:1])[0].softmax(0)
    expected = full.max() - fading(first[None])[0].softmax(0)[full.argmax()]
    assert zeroed.values[0, 0].item() == pytest.approx(expected.item())


def test_a_text_of_its_query_alone_is_counted_out(fading, texts):
    inputs, maps, valid, _ = texts
    query = torch.tensor([0, 7, 1, 0, 9, 3])  # the second's and the fifth's are all there is
    found = comprehensiveness(fading, inputs, maps, valid=valid, query=query)
    assert found.values.isnan().all(1).tolist() == [False, True, False, False, True, False]
    assert found.aopc == pytest.approx(found.per_instance[~found.per_instance.isnan()].mean().item())


def test_the_one_word_that_counts_is_comprehensive_and_sufficient():
    class Any(nn.Module):
        """Class 1 where a word is there whose number is 1."""

        def forward(self, inputs, valid=None):
            there = (inputs[..., 0] == 1).any(1).double()
            return torch.stack([torch.full_like(there, 5), 10 * there], 1)

    inputs = torch.zeros(3, 20, 1, dtype=torch.float64)
    inputs[torch.arange(3), torch.tensor([0, 7, 19])] = 1
    p = torch.tensor([5.0, 10.0]).softmax(0)[1].item()
    right = comprehensiveness(Any(), inputs, inputs)
    q = torch.tensor([5.0, 0.0]).softmax(0)[1].item()
    assert right.aopc == pytest.approx(p - q)
    assert sufficiency(Any(), inputs, inputs).aopc == pytest.approx(0)
    assert sufficiency(Any(), inputs, -inputs).by_share == pytest.approx([p - q] * 5)
    chance = comprehensiveness(Any(), inputs, None, draws=200)
    expected = [(p - q) * count / 20 for count in (1, 1, 2, 4, 10)]
    assert chance.by_share == pytest.approx(expected, abs=0.06)


def test_random_rankings_are_seeded_and_free_of_the_batch_size(fading, texts):
    inputs, _, valid, query = texts

    def chance(**settings):
        return comprehensiveness(fading, inputs, None, valid=valid, query=query, **settings).values

    torch.testing.assert_close(chance(seed=4), chance(seed=4, batch_size=2))
    assert not torch.allclose(chance(seed=4), chance(seed=5))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shares": ()}, "^`shares`"),
        ({"shares": (0.0, 0.1)}, "^`shares`"),
        ({"shares": (10,)}, "^`shares`"),
        ({"remove": "mask"}, "^`remove`"),
        ({"attributions": torch.zeros(6, 8)}, "^`attributions`"),
        ({"query": torch.zeros(5, dtype=torch.int64)}, "^`query`"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(fading, texts, changes, message):
    arguments = {"model": fading, "inputs": texts[0], "attributions": texts[1], **changes}
    for measure in (comprehensiveness, sufficiency):
        with pytest.raises(ValueError, match=message):
            measure(**arguments)
