"""Settings: YAML, overrides, types, and errors that name the key."""

import shlex

import pytest

from modeling_lfm.scripts.common.settings import (
    DataArguments,
    ModelArguments,
    apply_overrides,
    build,
    describe,
    list_configs,
    parse_command_line,
    parse_value,
    read_config,
    read_settings,
)
from modeling_lfm.trainer import LfmTrainingArguments


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("5", 5),
        ("1e-3", 1e-3),
        ("-2.5", -2.5),
        ("true", True),
        ("no", "no"),
        ("null", None),
        ("[1, 2e0]", [1, 2.0]),
        ("{a: 1}", {"a": 1}),
        ("resnet18", "resnet18"),
        ("[broken", "[broken"),
    ],
)
def test_words_are_read_as_yaml(text, value):
    assert parse_value(text) == value
    assert type(parse_value(text)) is type(value)


def test_command_line_is_split_into_words_and_settings():
    words, overrides = parse_command_line(
        ["a.yaml", "--seed", "1", "--do_predict", "--x=y=z", "--coefficients", "-1", "2", "--learning-rate", "1e-3"]
    )
    assert words == ["a.yaml"]
    assert overrides == {
        "seed": ["1"],
        "do_predict": [],
        "x": ["y=z"],
        "coefficients": ["-1", "2"],
        "learning_rate": ["1e-3"],
    }


def test_dots_reach_into_mappings():
    settings = {"modalities": {"audio": {"tower": "timm", "name": "resnet18"}}, "seed": 0}
    overrides = {"modalities.audio.name": ["resnet34"], "benchmark_options.audio_snr_db": ["5"], "seed": ["1"]}
    apply_overrides(settings, overrides)
    assert settings == {
        "modalities": {"audio": {"tower": "timm", "name": "resnet34"}},
        "benchmark_options": {"audio_snr_db": 5},
        "seed": "1",
    }
    with pytest.raises(ValueError, match=r"--seed\.x: seed is '1', not a mapping"):
        apply_overrides(settings, {"seed.x": ["1"]})


def test_an_override_changes_one_of_two_entries_that_share_a_yaml_anchor(tmp_path):
    (tmp_path / "a.yaml").write_text("modalities:\n  a: &tower {name: resnet18}\n  b: *tower\n")
    settings = read_config(str(tmp_path / "a.yaml"))
    apply_overrides(settings, {"modalities.a.name": ["resnet34"]})
    assert settings["modalities"] == {"a": {"name": "resnet34"}, "b": {"name": "resnet18"}}


def test_values_get_the_types_of_their_fields():
    settings = {
        "output_dir": "5",
        "learning_rate": "1e-3",
        "eval_strategy": "no",
        "num_train_epochs": "2",
        "method": "{name: ogm, alpha: 0.8}",
        "early_stopping_patience": "none",
        "resume_from_checkpoint": True,
        "lr_scheduler_kwargs": "{a: 1}",
    }
    (args,) = build(settings, LfmTrainingArguments)
    assert args.output_dir == "5"
    assert args.learning_rate == 1e-3
    assert args.eval_strategy == "no"
    assert args.method == {"name": "ogm", "alpha": 0.8}
    assert args.early_stopping_patience is None
    assert args.resume_from_checkpoint == "true"
    assert args.lr_scheduler_kwargs == {"a": 1}


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("lerning_rate", 1, "unknown setting 'lerning_rate'; did you mean 'learning_rate'"),
        ("zzzzzz", 1, "unknown setting 'zzzzzz'"),
        ("seed", "x", "--seed.*'x'"),
        ("seed", True, "--seed.*true"),
        ("learning_rate", "fast", "--learning_rate.*fast"),
        ("bf16", "maybe", "--bf16.*maybe"),
        ("method", "omg", "unknown method 'omg'.*'ogm'"),
        ("method", ["lfm", "ogm"], "method=.* should be of type dict or str"),
        ("method", {"alpha": "lerned"}, "method.alpha='lerned' is unknown"),
        ("method", {"name": "ogm", "alpha": "high"}, "method.alpha='high' should be of type float"),
        ("method", {"name": "ogm", "alpah": 1}, "'alpah'.*'alpha'"),
        ("alpha", 0.8, "unknown setting 'alpha'; did you mean --method.alpha"),
        ("alpha_holdout", 0.2, "unknown setting 'alpha_holdout'; did you mean 'holdout'"),
        ("eval_strategy", "sometimes", "--eval_strategy.*sometimes.*epoch"),
    ],
)
def test_wrong_settings_are_errors_that_name_the_key(tmp_path, key, value, message):
    with pytest.raises(ValueError, match=message):
        build({"output_dir": str(tmp_path), key: value}, LfmTrainingArguments)


def test_a_setting_of_the_chosen_method_is_suggested_and_no_other(tmp_path):
    settings = {"output_dir": str(tmp_path), "method": "concat"}
    with pytest.raises(ValueError, match=r"did you mean --method\.label_smoothing"):
        build({**settings, "label_smoothing": 0.3}, LfmTrainingArguments)
    with pytest.raises(ValueError, match="unknown setting 'alpha_rule'") as error:
        build({**settings, "alpha_rule": "raw"}, LfmTrainingArguments)
    assert "method" not in str(error.value)


@pytest.mark.parametrize(
    ("given", "words", "method"),
    [
        ({}, "--method ogm --method.alpha 0.8", {"name": "ogm", "alpha": 0.8}),
        ({}, "--method.alpha 0.8 --method ogm", {"name": "ogm", "alpha": 0.8}),
        (
            {"method": {"name": "ogm", "noise": False}},
            "--method.alpha 0.3",
            {"name": "ogm", "noise": False, "alpha": 0.3},
        ),
        ({"method": "ogm"}, "--method.alpha 0.3", {"name": "ogm", "alpha": 0.3}),
        ({"method": {"alpha": "linear"}}, "--method ogm", "ogm"),
        ({"method": {"alpha": "linear"}}, "--method ogm --method.noise false", {"name": "ogm", "noise": False}),
        ({}, "--method.alpha heuristic", {"alpha": "heuristic"}),
        (
            {},
            "--method.noise false --method '{name: ogm, alpha: 1}'",
            {"name": "ogm", "alpha": 1, "noise": False},
        ),
        ({}, "--method.polynomial_coefficients 1 2 3e-1 0", {"polynomial_coefficients": [1, 2, 0.3, 0]}),
    ],
)
def test_the_method_and_its_settings_come_together(given, words, method):
    _, overrides = parse_command_line(shlex.split(words))
    apply_overrides(given, overrides)
    assert given == {"method": method}


def test_missing_setting_is_an_error():
    with pytest.raises(ValueError, match="'benchmark' is missing"):
        build({"processor": {"a": {}}}, DataArguments)


def test_config_errors_name_the_file_and_line(tmp_path):
    with pytest.raises(FileNotFoundError, match="nothing"):
        read_config(str(tmp_path / "nothing.yaml"))
    broken = tmp_path / "broken.yaml"
    broken.write_text("a: 1\nb: [1,\n")
    with pytest.raises(ValueError, match=r"broken\.yaml, line 3: not YAML"):
        read_config(str(broken))
    broken.write_text("- a\n- b\n")
    with pytest.raises(ValueError, match=r"broken\.yaml must be a mapping"):
        read_config(str(broken))


def test_words_that_are_not_settings_are_an_error():
    with pytest.raises(ValueError, match="demo is not a setting"):
        read_settings(["demo", "--seed", "1"])


@pytest.mark.parametrize("name", list_configs())
def test_configs_that_come_along_are_valid(name, tmp_path):
    settings = {**read_config(name), "output_dir": str(tmp_path)}
    model, data, training = build(settings, ModelArguments, DataArguments, LfmTrainingArguments)
    assert set(model.modalities) <= set(data.processor)
    assert data.benchmark == name.removesuffix("_clip")
    assert set(data.columns) <= set(model.modalities)
    assert training.load_best_model_at_end, "the model is chosen on the validation split"


def test_help_says_what_each_setting_means():
    text = describe(ModelArguments)
    assert "(required) Ordered mapping" in text
    assert "--hidden_size" in text
    assert "512" in text
