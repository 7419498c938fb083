"""The registry: what it refuses and by which words, and what every method says of itself."""

import re
from dataclasses import dataclass, fields, is_dataclass

import pytest

from modeling_lfm import LfmConfig
from modeling_lfm.fusions_lfm import FUSIONS
from modeling_lfm.trainer import LfmTrainingArguments
from modeling_lfm.trainer.methods import METHODS, Method, MethodSpec, list_methods, make_method, register
from modeling_lfm.trainer.methods.base import NoSettings

from ..toy import SMOOTH, method_towers, toy_model, toy_trainer

ROWS = {
    *("Unimodal-1", "Unimodal-2", "Unimodal-3", "Concat", "Affine", "Channel", "ML-LSTM", "Sum", "Weight", "ETMC"),
    *("MSES", "G-Blend", "OGM", "Greedy", "DOMFN", "MSLR", "PMR", "AGM", "MLA", "ReconBoost", "MMPareto", "LFM-LB"),
}
NAMES = sorted(METHODS)


def make_spec(name, **kwargs):
    return MethodSpec(name=name, title=name, paper="(baseline)", venue="-", formula="CE(F)", **kwargs)


def test_a_taken_name_is_refused():
    before = dict(METHODS)
    with pytest.raises(ValueError, match=r"'concat' exists already \(concat\.Concat\)"):

        @register
        class Another(Method):
            spec = make_spec("concat")

    assert before == METHODS


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("ogmm", r"unknown method 'ogmm'; did you mean 'ogm'"),
        ("g-blent", r"did you mean 'g_blend'\?"),
        ("zzz", r"unknown method 'zzz'; .*concat, .*unimodal_1, .*Affine"),
        ({"name": "ogm", "alhpa": 1.0}, r"ogm has no setting 'alhpa'; did you mean 'alpha'"),
        ({"alhpa": "constant"}, r"lfm has no setting 'alhpa'; did you mean 'alpha'"),
        ({"name": "sum", "alpha": 1.0}, r"sum has no setting 'alpha'; .*none"),
        ({"name": "ogm", "alpha": "much"}, r"method\.alpha='much' should be of type float"),
        ({"name": "ogm", "alpha": True}, r"method\.alpha=True should be of type float"),
        ({"name": "ogm", "noise": 1}, r"method\.noise=1 should be of type bool"),
        ({"name": "ogm", "last_epoch": 2.5}, r"method\.last_epoch=2\.5 should be of type int"),
        ({"name": "ogm", "last_epoch": True}, r"method\.last_epoch=True should be of type int"),
        ({"name": "g_blend", "weights": 3}, r"method\.weights=3 should be of type list"),
        ({"name": "mslr", "factors": [1, 2]}, r"method\.factors=\[1, 2\] should be of type dict"),
    ],
)
def test_what_is_wrong_is_named(given, message):
    with pytest.raises(ValueError, match=message):
        make_method(given)
    with pytest.raises(ValueError, match=message):
        LfmTrainingArguments(output_dir="unused", method=given, use_cpu=True)


def test_settings_are_read():
    assert make_method({}).spec.name == "lfm"
    method = make_method({"name": "ogm", "alpha": 1, "all_parameters": None})
    assert method.settings.alpha == 1.0
    assert isinstance(method.settings.alpha, float)
    assert method.settings.all_parameters is None
    assert make_method(method) is method
    given = {"name": "umt", "weight": 0.1}
    make_method(given)
    assert given == {"name": "umt", "weight": 0.1}
    assert isinstance(make_method("sum").settings, NoSettings)


def test_required_settings_and_tuples(monkeypatch):
    @dataclass(frozen=True)
    class Settings:
        sizes: tuple[int, ...]

    class Needy(Method):
        spec = make_spec("needy")

    Needy.Settings = Settings
    monkeypatch.setitem(METHODS, "needy", Needy)
    with pytest.raises(ValueError, match=r"needy needs the setting 'sizes': --method\.sizes"):
        make_method("needy")
    assert make_method({"name": "needy", "sizes": [1, 2]}).settings.sizes == (1, 2)


def test_lfm_comes_first_then_names_in_order():
    names = [spec.name for spec in list_methods()]
    assert names[0] == "lfm"
    assert names[1:] == sorted(names[1:])
    assert sorted(names) == NAMES
    assert len(set(names)) == len(names)


def test_a_row_of_the_table_has_one_method():
    rows = [spec.row for spec in list_methods() if spec.row is not None]
    assert len(rows) == len(set(rows))
    assert set(rows) <= ROWS


@pytest.mark.parametrize("name", NAMES)
def test_each_method_tells_all_of_itself(name):
    cls = METHODS[name]
    spec = cls.spec
    assert spec.name == name
    for key in ("title", "paper", "venue", "formula", "extra_passes"):
        assert getattr(spec, key).strip() == getattr(spec, key) != "", key
    assert (spec.venue == "-") == spec.paper.startswith("(") == (spec.bibtex is None)
    assert "\n" not in spec.formula
    assert spec.fusions is None or (spec.fusions and set(spec.fusions) <= set(FUSIONS))
    assert 1 <= spec.min_modalities <= (spec.max_modalities or 99)
    assert cls.__doc__ not in (None, Method.__doc__)
    settings = cls.Settings
    assert is_dataclass(settings)
    assert settings.__dataclass_params__.frozen
    assert not settings.__doc__.startswith(f"{settings.__name__}(")  # what dataclass writes where nobody wrote
    for field in fields(settings):
        assert field.name in settings.__doc__, field.name
    assert isinstance(make_method(name).settings, settings)


@pytest.mark.parametrize("name", [name for name in NAMES if METHODS[name].spec.bibtex])
def test_each_method_can_be_cited(name):
    spec = METHODS[name].spec
    kind, key, body = re.fullmatch(r"@(\w+)\{(\w+),\n(.*)\n\}\n", spec.bibtex, flags=re.DOTALL).groups()
    entry = {
        field: " ".join(value.split()) for field, value in re.findall(r"  (\w+)=\{(.*?)\}(?:,\n|$)", body, re.DOTALL)
    }
    where = {"inproceedings": "booktitle", "article": "journal"}[kind]
    assert entry.keys() >= {"title", "author", "year", where}
    assert entry["title"] == spec.paper
    assert entry["year"] in spec.venue
    authors = entry["author"].split(" and ")
    assert all(re.fullmatch(r"[^,]+, [^,]+", author) for author in authors), authors
    assert key.startswith(authors[0].split(",")[0].split()[-1].lower() + entry["year"]), key


def test_keys_of_citations_differ():
    keys = [spec.bibtex.split(",")[0] for spec in list_methods() if spec.bibtex]
    assert len(set(keys)) == len(keys) == 19


@pytest.mark.parametrize("name", NAMES)
def test_each_method_can_train_what_it_asks_for(name):
    method = make_method(name)
    method.check(LfmConfig(**method.config_settings(method_towers(name)), num_labels=4))


@pytest.mark.parametrize("name", NAMES)
def test_each_method_names_what_it_cannot_train(name):
    method = make_method(name)
    settings, spec = method.config_settings(method_towers(name)), method.spec
    heads = spec.unimodal_heads
    message = rf"{name} needs LfmConfig\(unimodal_heads={heads}\), .* has unimodal_heads={not heads}"
    cases = {message: {"unimodal_heads": not heads}}
    if spec.fusions is not None:
        wrong = next(fusion for fusion in FUSIONS if fusion not in spec.fusions)
        message = f"{name} trains models of fusion {' or '.join(spec.fusions)}, not {wrong}"
        cases[message] = {"fusion": wrong, "fusion_args": {}}
    if spec.min_modalities > 1:
        one = dict(list(settings["modalities"].items())[:1])
        cases[rf"{name} takes .* modalities, and this model has 1 \({next(iter(one))}\)"] = {"modalities": one}
    if not spec.multi_label:
        problem = {"problem_type": "multi_label_classification"}
        cases[f"{name} is defined for single-label problems only"] = problem
    for message, change in cases.items():
        with pytest.raises(ValueError, match=message):
            method.check(LfmConfig(**{**settings, **change}))


def test_the_trainer_checks(tmp_path):
    trainer = toy_trainer(tmp_path, SMOOTH, method="sum", size=8)
    with pytest.raises(ValueError, match="concat trains models of fusion concat, not sum"):
        type(trainer)(toy_model(SMOOTH, fusion="sum"), trainer.args, trainer.given[0], method=make_method("concat"))
