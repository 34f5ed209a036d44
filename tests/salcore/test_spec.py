"""The spec: what it accepts, what it refuses and in which words, and that nothing else ever comes out of it."""

from typing import get_args

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from salcore.errors import UserError
from salcore.members import plan
from salcore.spec import Spec, describe, parse

CONTRACT = """
name: fashion_small_cnn
data: {name: fashion_mnist, root: null, mirror: null, image_size: null, train_samples: null, validation_fraction: 0.2,
       eval_samples: 512, split_seed: 0}
model: {name: small_cnn, width: 16, depth: 2, weights: null}
ensemble: {members: 10, root_seed: 0, vary: [init, order, augment, model, masking], weights: null}
training: {epochs: 3, batch_size: 128, optimizer: adam, schedule: one_cycle, learning_rate: 0.01, precision: float32,
           threads: 1, objective: standard, guidance: {mask_fraction: 0.5, weight: 1.0}}
attribution:
  target: label
  dtype: float32
  methods:
    - gradient
    - {name: gradcam, as: gradcam_layer2, layer: layer2}
    - {name: smoothgrad, as: smoothgrad_ig, of: integrated_gradients, num_samples: 16, samples: 50}
cluster: {slots: auto, gpus_per_slot: auto}
tracking: {uri: null, experiment: null}
"""


def leaves(values, prefix=""):
    for key, value in values.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"


def test_every_key_of_the_contract_is_known_and_has_its_default():
    spec = parse(CONTRACT)
    defaults = Spec(name=spec.name)
    assert spec.ensemble == defaults.ensemble
    assert spec.training == defaults.training
    assert spec.cluster == defaults.cluster
    assert spec.tracking == defaults.tracking
    assert spec.data == defaults.data.model_copy(update={"name": "fashion_mnist"})
    assert spec.model.settings == {"width": 16, "depth": 2}
    assert (spec.attribution.target, spec.attribution.dtype) == ("label", "float32")


def test_a_method_is_a_name_or_a_mapping_whose_other_keys_are_settings():
    gradient, gradcam, smoothgrad = parse(CONTRACT).attribution.methods
    assert (gradient.name, gradient.folder, gradient.samples, gradient.settings) == ("gradient", "gradient", None, {})
    assert (gradcam.name, gradcam.folder, gradcam.settings) == ("gradcam", "gradcam_layer2", {"layer": "layer2"})
    assert (smoothgrad.folder, smoothgrad.samples) == ("smoothgrad_ig", 50)
    assert smoothgrad.settings == {"of": "integrated_gradients", "num_samples": 16}


@pytest.mark.parametrize(
    "text", [CONTRACT, "", "ensemble: {until: 0.1}", "attribution: {target: 3, methods: [gradient, {name: g, as: h}]}"]
)
def test_what_is_written_is_read_back_the_same(text):
    spec = parse(text)
    written = yaml.safe_dump(spec.to_dict())
    assert parse(written) == spec
    assert yaml.safe_dump(parse(written).to_dict()) == written


def test_every_default_is_written_out():
    written = set(leaves(parse("{search: {seed: 1}, parameters: {}, sallm: {}, ensemble: {until: 0.1}}").to_dict()))
    assert written == {key for key, *_ in describe()} - {"parameters", "sallm", "ensemble.until"}


def test_a_search_and_parameters_are_written_only_where_they_are_asked_for():
    assert set(Spec().to_dict()) == set(Spec.model_fields) - {"search", "parameters", "sallm"}


def test_every_leaf_is_described_with_default_and_meaning():
    def fields(model, prefix=""):
        for name, field in model.model_fields.items():
            kinds = [each for each in get_args(field.annotation) if each is not type(None)] or [field.annotation]
            section = len(kinds) == 1 and isinstance(kinds[0], type) and issubclass(kinds[0], BaseModel)
            if field.default is None or not section:
                yield f"{prefix}{name}"
            if section:
                yield from fields(kinds[0], f"{prefix}{name}.")

    rows = {key: (default, unit, meaning) for key, default, unit, meaning in describe()}
    assert list(rows) == list(fields(Spec))
    assert all(meaning for _, _, meaning in rows.values())
    assert rows["training.guidance.mask_fraction"][0] == "0.5"
    assert rows["training.epochs"][:2] == ("3", "epochs")
    assert rows["data.root"][0] == "null"
    assert rows["training.augment.flip"][0] == "false"
    assert rows["attribution.methods"][0] == "[gradient]"
    assert rows["ensemble.vary"][0] == "[init, order, augment, model, masking]"
    assert rows["ensemble.until.width"][0] == "(required where ensemble.until is given)"


@pytest.mark.parametrize(
    ("text", "key", "hint"),
    [
        ("trainig: {}", "trainig", "did you mean training?"),
        ("training: {epoch: 3}", "training.epoch", "did you mean epochs?"),
        ("training: {guidance: {mask_fracton: 0.5}}", "training.guidance.mask_fracton", "did you mean mask_fraction?"),
        ("mask_fraction: 0.5", "mask_fraction", "did you mean training.guidance.mask_fraction?"),
        ("data: {epochs: 3}", "data.epochs", "did you mean training.epochs?"),
        ("cluster: {qqqq: 3}", "cluster.qqqq", "one of slots, gpus_per_slot, attempts"),
    ],
)
def test_an_unknown_key_is_refused_with_the_nearest_known_one(text, key, hint):
    with pytest.raises(UserError) as refused:
        parse(text)
    assert refused.value.key == key
    assert hint in str(refused.value)


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("ensemble.members=0", "ensemble.members"),
        ("ensemble.members=2.0", "ensemble.members"),
        ("ensemble.members='4'", "ensemble.members"),
        ("ensemble.members=true", "ensemble.members"),
        ("ensemble.vary=[inti]", "ensemble.vary.0"),
        ("ensemble.vary=init", "ensemble.vary"),
        ("ensemble.weights=[]", "ensemble.weights"),
        ("training.guidance.mask_fraction=1.5", "training.guidance.mask_fraction"),
        ("training.guidance.mask_fraction=-0.1", "training.guidance.mask_fraction"),
        ("training.guidance=0.5", "training.guidance"),
        ("training.epochs=-1", "training.epochs"),
        ("training.epochs=null", "training.epochs"),
        ("training.learning_rate=0", "training.learning_rate"),
        ("training.learning_rate=.nan", "training.learning_rate"),
        ("training.learning_rate=.inf", "training.learning_rate"),
        ("training.optimizer=adamm", "training.optimizer"),
        ("training.precision=float16", "training.precision"),
        ("training.augment.flip=1", "training.augment.flip"),
        ("data.validation_fraction=1", "data.validation_fraction"),
        ("data.eval_samples=0", "data.eval_samples"),
        ("data=3", "data"),
        ("attribution.target=-1", "attribution.target"),
        ("attribution.target=mine", "attribution.target"),
        ("attribution.methods=gradient", "attribution.methods"),
        ("attribution.methods=[]", "attribution.methods"),
        ("attribution.methods=[{samples: 3}]", "attribution.methods.0.name"),
        ("attribution.methods=[gradient, {name: gradcam, samples: 0}]", "attribution.methods.1.samples"),
        ("attribution.methods=[{name: gradcam, as: ../x}]", "attribution.methods.0.as"),
        ("cluster.slots=0", "cluster.slots"),
        ("cluster.slots=many", "cluster.slots"),
        ("cluster.gpus_per_slot=-1", "cluster.gpus_per_slot"),
        ("cluster.gpus_per_slot=1.5", "cluster.gpus_per_slot"),
        ("name=a/b", "name"),
        ("name=''", "name"),
    ],
)
def test_a_wrong_value_is_refused_in_one_line_that_names_its_key(override, key):
    with pytest.raises(UserError) as refused:
        parse("", [override])
    assert refused.value.key == key
    message = str(refused.value)
    assert message.startswith(f"{key}: expected ")
    assert "\n" not in message


@pytest.mark.parametrize(
    "overrides",
    [["held_out=evaluation"], ["held_out=evaluation", "independent=evaluation"], ["independent=validation"]],
)
def test_two_splits_of_parameters_are_different_ones(overrides):
    with pytest.raises(UserError, match=r"expected another split than parameters\.held_out") as refused:
        parse("", [f"parameters.{override}" for override in overrides])
    assert refused.value.key == "parameters.independent"
    turned = parse("", ["parameters.held_out=evaluation", "parameters.independent=validation"]).parameters
    assert (turned.held_out, turned.independent) == ("evaluation", "validation")


@pytest.mark.parametrize("gpus", ["0", "0.25", "1", "2", "2.0", "auto"])
def test_gpus_of_a_slot_are_a_fraction_or_a_whole_number(gpus):
    assert str(parse("", [f"cluster.gpus_per_slot={gpus}"]).cluster.gpus_per_slot) in {gpus, f"{gpus}.0"}


def test_overrides_are_yaml_and_the_last_one_stands():
    spec = parse(
        "training: {epochs: 1}",
        [
            *("training.epochs=7", "data.train_samples=null", "training.augment.flip=yes", "model.pooling=average"),
            *("ensemble.vary=[init, order]", "attribution.methods=[gradient, {name: gradcam, as: cam}]"),
            *("training.learning_rate=0.5", "training.learning_rate=1.0e-3", "tracking.uri=http://a?b=c"),
        ],
    )
    assert (spec.training.epochs, spec.training.augment.flip, spec.training.learning_rate) == (7, True, 1e-3)
    assert spec.ensemble.vary == ("init", "order")
    assert [method.folder for method in spec.attribution.methods] == ["gradient", "cam"]
    assert spec.model.settings == {"pooling": "average"}
    assert spec.tracking.uri == "http://a?b=c"


@pytest.mark.parametrize(
    ("text", "override"),
    [("", "epochs"), ("", "=3"), ("training: 3", "training.epochs=3"), ("", "training.epochs=[")],
)
def test_an_override_that_is_none_is_refused(text, override):
    with pytest.raises(UserError):
        parse(text, [override])


@pytest.mark.parametrize("text", ["[]", "[1, 2]", "3", "0", "false", "name", "a: [", "a: b: c", "\0"])
def test_what_is_no_mapping_is_refused(text):
    with pytest.raises(UserError, match=r"^spec: expected"):
        parse(text)


def test_an_empty_file_is_the_spec_of_all_defaults():
    assert parse("") == parse("# nothing\n") == Spec()


def test_fingerprints_of_a_resolved_spec_are_passed_over():
    assert parse("fingerprints: {member: abc}\nname: x") == parse("name: x")


def test_a_bare_name_stands_for_a_part():
    spec = parse("model: resnet18", ["data=folder:/some/where"])
    assert (spec.data.name, spec.data.eval_samples) == ("folder:/some/where", 512)
    assert (spec.model.name, spec.model.settings) == ("resnet18", {})


@pytest.mark.parametrize("entry", ["gradient", "{name: gradcam, as: gradient}"])
def test_folders_of_methods_are_unique(entry):
    with pytest.raises(UserError, match="'gradient'") as refused:
        parse("", [f"attribution.methods=[gradient, {entry}]"])
    assert refused.value.key == "attribution.methods"
    assert len(parse("", ["attribution.methods=[gradient, {name: gradient, as: other}]"]).attribution.methods) == 2


def test_weight_files_say_how_many_members_there_are():
    assert parse("", ["ensemble.weights=[a, b, c]"]).ensemble.members == 3
    assert parse("", ["ensemble.weights=[a, b, c]", "ensemble.members=3"]).ensemble.weights == ("a", "b", "c")
    with pytest.raises(UserError, match="as many files in weights as members") as refused:
        parse("", ["ensemble.weights=[a, b, c]", "ensemble.members=4"])
    assert refused.value.key == "ensemble"


@pytest.mark.parametrize(
    "overrides",
    [
        ["ensemble.until=0.1"],
        ["ensemble.until={width: 0.1}"],
        ["ensemble.until.width=0.1"],
        ["ensemble.until=3", "ensemble.until.width=0.1"],
    ],
)
def test_a_bare_number_is_the_width_of_until(overrides):
    until = parse("ensemble: {until: null}", overrides).ensemble.until
    assert (until.width, until.method, until.first, until.step) == (0.1, None, 5, 2)
    assert parse("ensemble: {until: 0.1}", ["ensemble.until.first=3"]).ensemble.until.first == 3
    assert parse("", ["ensemble.until.first=3", "ensemble.until=0.1"]).ensemble.until.first == 3
    assert parse("").ensemble.until is None


@pytest.mark.parametrize(
    ("value", "key", "words"),
    [
        ("0", "ensemble.until.width", "greater than 0"),
        ("-0.1", "ensemble.until.width", "greater than 0"),
        (".inf", "ensemble.until.width", "finite"),
        ("true", "ensemble.until", "a width, or a mapping {width, method, first, step}"),
        ("narrow", "ensemble.until", "a width, or a mapping"),
        ("{first: 3}", "ensemble.until.width", "a value"),
        ("{width: 0.1, first: 2}", "ensemble.until.first", "a jackknife needs 3"),
        ("{width: 0.1, step: 0}", "ensemble.until.step", "greater than or equal to 1"),
        ("{widht: 0.1}", "ensemble.until.widht", "did you mean width?"),
        ("{width: 0.1, first: 11}", "ensemble.until", "ensemble.members, the most that are trained, to be 11"),
    ],
)
def test_an_until_that_cannot_be_is_refused(value, key, words):
    with pytest.raises(UserError) as refused:
        parse("", [f"ensemble.until={value}"])
    assert refused.value.key == key
    assert words in str(refused.value)


def test_specs_are_frozen():
    spec = Spec()
    for part, name in [(spec, "name"), (spec.training, "epochs"), (spec.training.guidance, "weight")]:
        with pytest.raises(ValidationError):
            setattr(part, name, 1)
    with pytest.raises(ValidationError):
        spec.model.width = 3


KEYS = [key for key, *_ in describe()]
SECTIONS = ["data", "model", "ensemble", "training", "attribution", "cluster", "tracking", "training.guidance"]
ODD = [
    *("2020-13-45", "2020-01-01", "0x_", "0b_", "!!int x", "!!bool maybe", "!!float x", "!!timestamp x", "9" * 5000),
    *("&a [*a]", "*a", "{[1]: 2}", "!!set {1}", '"\\ud800"', "1e999", "1.0e+999", "1" + "0" * 400, "!!binary '?'"),
    *("{? : }", "<<: 3", "{1: 2}", "null", "~", ".nan", "-.inf", "'", "{name: {name: 1}}", "1:61:3", "\0", "[" * 500),
    *("{name: x, w: .nan}", "{name: x, w: !!binary gA==}", "{name: x, w: !!set {1}}", "{name: x, w: {1: 2}}"),
    *("{name: x, w: 2020-01-01}", "[{name: x, w: 2020-01-01}]", "{name: x, w: &a [*a]}", "{name: x, settings: 3}"),
    *("!!python/name:os", "{name: x, w: !!omap [a: 1]}", "{name: x, as_: 1}", "[[[[]]]]", "[{name: x, 1: 2}]"),
]


def parsed(text, overrides=()):
    """The spec, or None where the user is told in one line what to mend."""
    try:
        return parse(text, overrides)
    except UserError as error:
        if "\n" in str(error):
            raise AssertionError(f"more than one line: {error}") from error
        return None


@pytest.mark.parametrize("value", ODD)
def test_odd_yaml_is_the_users_mistake_or_is_written_and_read_back(value):
    for key in [*KEYS, *SECTIONS]:
        spec = parsed("", [f"{key}={value}"])
        assert spec is None or parse(yaml.safe_dump(spec.to_dict())) == spec, key
    parsed(value)


WORDS = st.sampled_from([*sorted({part for key in KEYS for part in key.split(".")}), "as", "fingerprints", "oops"])
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3) | WORDS
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(WORDS, inner, max_size=2), max_leaves=4
)
TEXTS = VALUES.map(lambda value: yaml.safe_dump(value, allow_unicode=True)) | st.text(max_size=8)
KEY = st.sampled_from([*KEYS, *SECTIONS]) | st.lists(WORDS, max_size=3).map(".".join) | st.text(max_size=4)


@given(text=TEXTS, overrides=st.lists(st.tuples(KEY, TEXTS).map("=".join), max_size=2))
@settings(max_examples=500, deadline=None, suppress_health_check=list(HealthCheck), database=None)
def test_anything_ends_in_a_spec_or_in_the_users_mistake(text, overrides):
    spec = parsed(text, overrides)
    assert spec is None or parse(yaml.safe_dump(spec.to_dict())) == spec


def test_files_to_start_from_are_one_per_member_and_no_finished_networks():
    assert parse("", ["ensemble.start=[a, b]"]).ensemble.members == 2
    with pytest.raises(UserError, match="as many files in start as members"):
        parse("", ["ensemble.start=[a, b]", "ensemble.members=3"])
    with pytest.raises(UserError, match=r"ensemble\.start or ensemble\.weights"):
        parse("", ["ensemble.start=[a, b]", "ensemble.weights=[a, b]"])


def test_a_language_model_brings_its_tokenizer():
    assert parse("model: 'transformers:bert'").data.tokenizer == "wordpiece"
    assert parse("model: 'transformers:bert-base-uncased'").data.tokenizer == "bert-base-uncased"
    assert parse("model: 'transformers:me/mine'").data.tokenizer == "me/mine"
    assert parse("{model: 'transformers:bert', data: {tokenizer: x}}").data.tokenizer == "x"
    assert parse("model: bilstm").data.tokenizer is None


def test_members_without_a_part_in_explanations_keep_their_fingerprints():
    """Fixed numbers: a run directory of an earlier version stays that run."""
    digests = [member.fingerprint[:8] for member in plan(parse("ensemble: {members: 2}"), "0" * 64)]
    assert digests == ["b25feef3", "418db8d2"]
