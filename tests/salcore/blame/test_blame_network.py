"""Numbers of filters: defaults are cut to what a network has, and more than there are is refused."""

import json

import pytest

from salcore.blame.network import completed
from salcore.data import load
from salcore.errors import UserError
from salcore.spec import parse

SPEC = "{data: {name: digits, train_samples: 100}, model: {name: small_cnn, width: 8}, parameters: {OWN}}"


@pytest.fixture
def complete():
    def make(own="", *overrides):
        spec = parse(SPEC.replace("OWN", own), overrides)
        return completed(spec, load(spec.data))

    return make


def test_defaults_are_cut_to_the_filters_that_there_are(complete):
    parameters = complete().parameters
    assert (parameters.pruned, parameters.tuned, parameters.boosted) == ((1, 2, 5, 10), (1, 2, 5, 10), 10)
    small = complete("", "model.width=2").parameters
    assert (small.pruned, small.boosted) == ((1, 2), 3)


def test_the_method_boosts_as_many_filters_as_the_experiment(complete):
    spec = complete("boosted: 4", "attribution.methods=[gradient, input_space_saliency]")
    assert [method.settings for method in spec.attribution.methods] == [{}, {"filters": 4}]
    own = complete("", "attribution.methods=[{name: input_space_saliency, filters: 2}]")
    assert own.attribution.methods[0].settings == {"filters": 2}


def test_what_is_written_out_is_not_cut_again(complete):
    spec = complete()
    again = completed(parse(json.dumps(spec.to_dict())), load(spec.data))
    assert again.parameters == spec.parameters


@pytest.mark.parametrize(
    ("own", "message"),
    [
        ("pruned: [1, 17]", "parameters.pruned: expected at most the 16 filters of small_cnn, got 17"),
        ("tuned: 17", "parameters.tuned: expected at most the 16 filters of small_cnn, got 17"),
        ("boosted: 16", "parameters.boosted: expected fewer than the 16 filters of small_cnn, got 16"),
    ],
)
def test_more_filters_than_there_are_are_refused(complete, own, message):
    with pytest.raises(UserError) as refused:
        complete(own)
    assert str(refused.value) == message


def test_a_network_without_filters_is_refused(complete):
    with pytest.raises(UserError, match=r"model\.name: expected a network whose filters can be read"):
        complete("", "model={name: lstm}", "data={name: 'synthetic:middle', train_samples: 20, eval_samples: 5}")
