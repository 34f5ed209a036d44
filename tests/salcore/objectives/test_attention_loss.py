"""The attention loss: closed forms, what does not count, and the easy wrong versions."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional

from salcore.objectives.attention import attention_loss, attention_rows, taught
from salcore.spec import AttentionSpec

DIVERGENCES = ["kl", "mse", "cosine"]


def softmax_rows(*shape, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=dtype).softmax(-1)


def every(samples, steps):
    return torch.ones(samples, steps, dtype=torch.bool)


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_it_is_zero_exactly_where_attention_is_the_scaled_explanation(divergence):
    binary = torch.tensor([[0.0, 1.0, 1.0, 0.0], [1.0, 0.0, 0.0, 0.0]], dtype=torch.float64)
    equal = (binary / binary.sum(1, keepdim=True))[:, None]
    assert attention_loss(equal, binary, every(2, 4), divergence=divergence).item() == pytest.approx(0, abs=1e-12)
    assert attention_loss(equal.flip(2), binary, every(2, 4), divergence=divergence).item() > 0.1


def test_closed_forms_of_one_row():
    attention, explanation = torch.tensor([[[0.5, 0.25, 0.25]]]), torch.tensor([[1.0, 1.0, 0.0]])
    counted = every(1, 3)
    kl = 0.5 * math.log(0.5 / 0.5) + 0.5 * math.log(0.5 / 0.25)
    assert attention_loss(attention, explanation, counted).item() == pytest.approx(kl)
    assert attention_loss(attention, explanation, counted, divergence="mse").item() == pytest.approx(0.0 + 2 * 0.0625)
    cosine = 1 - 0.75 / (math.sqrt(0.375) * math.sqrt(2))
    assert attention_loss(attention, explanation, counted, divergence="cosine").item() == pytest.approx(cosine)


def test_kl_is_torch_s():
    attention, explanation = softmax_rows(3, 1, 6), softmax_rows(3, 6, seed=1)
    expected = functional.kl_div(attention[:, 0].log(), explanation, reduction="batchmean")
    torch.testing.assert_close(attention_loss(attention, explanation, every(3, 6)), expected)


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_padding_and_special_tokens_do_not_count(divergence):
    attention, explanation = softmax_rows(2, 3, 5), softmax_rows(2, 5, seed=1)
    counted = torch.tensor([[False, True, True, True, False]] * 2)
    found = attention_loss(attention, explanation, counted, divergence=divergence)
    short = attention_loss(attention[..., 1:4], explanation[:, 1:4], every(2, 3), divergence=divergence)
    torch.testing.assert_close(found, short)
    loud = explanation.masked_fill(~counted, 99.0)
    torch.testing.assert_close(found, attention_loss(attention, loud, counted, divergence=divergence))


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_gradients_are_those_of_finite_differences(divergence):
    scores = torch.randn(2, 2, 4, generator=torch.Generator().manual_seed(3), dtype=torch.float64, requires_grad=True)
    explanation = torch.tensor([[0.0, 1.0, 1.0, 0.0], [0.0, 0.0, 3.0, 1.0]], dtype=torch.float64)
    counted = torch.tensor([[True, True, True, False], [True] * 4])
    assert torch.autograd.gradcheck(
        lambda given: attention_loss(given.softmax(-1), explanation, counted, divergence=divergence), scores
    )


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_an_explanation_of_nothing_asks_for_nothing(divergence):
    scores = torch.zeros(2, 1, 3, requires_grad=True)
    counted = torch.tensor([[True, True, False], [False, False, False]])
    loss = attention_loss(scores.softmax(-1), torch.tensor([[0.0, 0.0, 1.0]] * 2), counted, divergence=divergence)
    loss.backward()
    assert loss.item() == 0
    assert (scores.grad == 0).all()


def test_scaling_an_explanation_changes_nothing():
    attention, explanation = softmax_rows(2, 2, 4), softmax_rows(2, 4, seed=1)
    for divergence in DIVERGENCES:
        found = [attention_loss(attention, scale * explanation, every(2, 4), divergence=divergence) for scale in (1, 7)]
        torch.testing.assert_close(*found)


def test_rows_are_over_keys_and_of_the_class_token():
    attention = softmax_rows(2, 3, 4, 4)
    rows = attention_rows([attention * 0, attention], every(2, 4))
    torch.testing.assert_close(rows, attention[:, :, 0].mean(1, keepdim=True))
    torch.testing.assert_close(rows.sum(-1), torch.ones(2, 1, dtype=torch.float64))
    assert not torch.allclose(rows, attention[..., 0].mean(1, keepdim=True)), "keys, not queries"


def test_mean_rows_leave_out_queries_that_do_not_count():
    attention = softmax_rows(1, 2, 4, 4)
    counted = torch.tensor([[False, True, True, False]])
    rows = attention_rows([attention], counted, query="mean", heads="each")
    torch.testing.assert_close(rows, attention[:, :, 1:3].mean(2))


def test_layers_and_heads_are_chosen_by_number_layer_by_layer():
    attentions = [softmax_rows(2, 3, 4, 4, seed=seed) for seed in range(3)]
    each = attention_rows(attentions, every(2, 4), layers="all", heads="each")
    assert each.shape == (2, 9, 4)
    some = attention_rows(attentions, every(2, 4), layers=(2, 0), heads=(1,))
    torch.testing.assert_close(some, torch.stack([attentions[2][:, 1, 0], attentions[0][:, 1, 0]], 1))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: attention_rows([], every(1, 2)), "the network returns none"),
        (lambda: attention_rows([torch.ones(1, 1, 2, 3)], every(1, 2)), r"expected \(N, H, T, T\)"),
        (lambda: attention_rows([torch.ones(1, 1, 2, 2)], every(1, 2), layers=(1,)), "`layers`: expected numbers"),
        (lambda: attention_rows([torch.ones(1, 1, 2, 2)], every(1, 2), heads=(4,)), "`heads`: expected numbers"),
        (lambda: attention_rows([torch.ones(1, 1, 2, 2)], every(1, 2), layers="first"), "`layers`: .* got 'first'"),
        (lambda: attention_rows([torch.ones(1, 1, 2, 2)], every(1, 2), heads="mea"), "`heads`: .* got 'mea'"),
        (lambda: attention_rows([torch.ones(1, 1, 2, 2)], every(1, 2), query="clas"), "one of class, mean, got 'clas'"),
        (lambda: attention_loss(torch.ones(1, 2), torch.ones(1, 2), every(1, 2)), "`attention`: expected rows"),
        (lambda: attention_loss(torch.ones(1, 1, 2), torch.ones(1, 3), every(1, 2)), "`explanation`: expected"),
        (lambda: attention_loss(torch.ones(1, 1, 2), -torch.ones(1, 2), every(1, 2)), "0 or more"),
        (
            lambda: attention_loss(torch.ones(1, 1, 2), torch.ones(1, 2), every(1, 2), divergence="l1"),
            "one of kl, mse, cosine, got 'l1'",
        ),
    ],
)
def test_what_does_not_fit_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


class Stub(nn.Module):
    """A language model that says what it is told to."""

    def __init__(self, logits, attention):
        super().__init__()
        self.told = logits, (attention,)

    def attended(self, inputs, valid=None):
        return self.told


@pytest.mark.parametrize("labels", [[0, 2, 1], [0, -1, 1], [-1, -1, -1]])
def test_the_task_is_the_mean_over_labelled_texts_and_attention_over_all(labels):
    generator = torch.Generator().manual_seed(5)
    logits = torch.randn(3, 3, generator=generator, dtype=torch.float64)
    attention, explanation = softmax_rows(3, 2, 4, 4), softmax_rows(3, 4, seed=1)
    given = torch.zeros(3, 4, dtype=torch.long), torch.tensor(labels), explanation, every(3, 4)
    found = taught(Stub(logits, attention), *given, valid=None, attention=AttentionSpec(weight=0.7))
    known = [row for row in range(3) if labels[row] >= 0]
    task = -sum(logits[row].log_softmax(0)[labels[row]] for row in known) / max(1, len(known))
    distance = attention_loss(attention[:, :, 0].mean(1, keepdim=True), explanation, every(3, 4))
    torch.testing.assert_close(found, torch.as_tensor(task, dtype=torch.float64) + 0.7 * distance)
