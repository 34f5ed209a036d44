"""What every measure that asks a network keeps to, and what the package can do without."""

import pytest
import torch

from salcore.faithfulness import MEASURES
from salcore.faithfulness.named import Subject, check_name
from tests.salcore.models.test_light_imports import BLOCKED, run

NETWORK = [name for name, measure in MEASURES.items() if measure.asks_network]


@pytest.fixture
def case(noisy, images, fading, texts):
    """A function from a measure's name to a model, its subject and maps."""

    def make(name):
        if MEASURES[name].needs == "text":
            inputs, maps, valid, query = texts
            labels = torch.arange(6) % 3
            return fading, Subject(kind="text", inputs=inputs, labels=labels, valid=valid, query=query), maps
        return noisy, Subject(kind="images", inputs=images[0], labels=images[1]), images[2]

    return make


@pytest.mark.parametrize("name", NETWORK)
def test_the_model_is_left_in_its_mode_with_its_weights_and_flags_and_is_evaluated(case, name):
    model, subject, maps = case(name)
    model.train()
    next(model.parameters()).requires_grad_(False)
    flags = [each.requires_grad for each in model.parameters()]
    state = {key: value.clone() for key, value in model.state_dict().items()}
    twice = [MEASURES[name].value(MEASURES[name].of(model, subject, maps)) for _ in range(2)]
    assert twice[0] == twice[1]  # dropout would tell
    assert all(module.training for module in model.modules())
    assert [each.requires_grad for each in model.parameters()] == flags
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    model.eval()
    assert MEASURES[name].value(MEASURES[name].of(model, subject, maps)) == twice[0]
    model.train()
    with pytest.raises(ValueError, match=r"^`attributions`"):
        MEASURES[name].of(model, subject, maps[..., :-1])
    handle = model.register_forward_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        MEASURES[name].of(model, subject, maps)
    handle.remove()
    assert all(module.training for module in model.modules())


@pytest.mark.parametrize("maps_given", [True, False])
@pytest.mark.parametrize("name", NETWORK)
def test_neither_batches_nor_global_draws_nor_precision_change_it(case, name, maps_given):
    model, subject, maps = case(name)
    maps = maps if maps_given else None

    def value(**settings):
        return MEASURES[name].value(MEASURES[name].of(model, subject, maps, **settings))

    torch.manual_seed(0)
    before = torch.random.get_rng_state()
    first = value(seed=3)
    assert torch.equal(before, torch.random.get_rng_state())
    torch.manual_seed(1)
    assert value(seed=3, batch_size=2) == pytest.approx(first, abs=1e-12)
    model.float()  # inputs follow the model
    assert value(seed=3) == pytest.approx(first, abs=0.05)


@pytest.mark.parametrize("name", NETWORK)
def test_the_callers_tensors_stay_and_no_gradient_is_recorded(case, name):
    model, subject, maps = case(name)
    subject.inputs.requires_grad_()
    before = subject.inputs.detach().clone(), maps.clone()
    result = MEASURES[name].of(model, subject, maps)
    assert torch.equal(subject.inputs, before[0])
    assert torch.equal(maps, before[1])
    found = getattr(result, "probability", getattr(result, "values", torch.zeros(())))
    assert not found.requires_grad


def test_a_measure_that_samples_cannot_have_is_refused_by_name(case):
    _, subject, _ = case("deletion")
    for name in ("comprehensiveness", "sufficiency", "aup", "aur_above_random", "beauty"):
        with pytest.raises(ValueError, match=f"^`name`: expected .*got '{name}'"):
            check_name(name, subject)
    with pytest.raises(ValueError, match=r"^`method`"):
        check_name("spread", subject, random=True)


WORK = """
import torch
from salcore.faithfulness import accuracy_drop, comprehensiveness, gradient_spread, precision_recall_areas
model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(9, 2))
x = torch.rand(2, 1, 3, 3)
accuracy_drop(model, x, torch.tensor([0, 1]), x)
comprehensiveness(model, torch.rand(2, 3, 3), None, remove="zero", draws=1)
precision_recall_areas(x[:, 0], x[:, 0] > 0.5)
gradient_spread(x)
"""


def test_measures_run_where_no_heavy_package_can_be_imported():
    finished = run(BLOCKED + WORK)
    assert finished.returncode == 0, finished.stderr
