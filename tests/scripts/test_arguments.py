"""Settings: YAML, overrides, types, plugins, and errors that name the file and the key."""

import shlex
import sys
from dataclasses import dataclass, field

import pytest
import yaml
from transformers import HfArgumentParser

from modeling_lfm.scripts.common.settings import (
    CONFIGS,
    DataArguments,
    ModelArguments,
    SettingsParser,
    apply_overrides,
    list_configs,
    parse_command_line,
    parse_value,
    read_arguments,
    read_config,
)
from modeling_lfm.trainer import LfmTrainingArguments
from modeling_lfm.trainer.methods import METHODS


def build(settings, *classes):
    read = SettingsParser(classes).parse_dict(settings)
    return read if len(classes) > 1 else read[0]


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
    with pytest.raises(ValueError, match=r"--seed\.x: seed is 1, not a mapping"):
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
        "class_weights": ["1", "2.5"],
        "metrics": ["auroc"],
    }
    args = build(settings, LfmTrainingArguments)
    assert args.output_dir == "5"
    assert args.learning_rate == 1e-3
    assert args.eval_strategy == "no"
    assert args.method == {"name": "ogm", "alpha": 0.8}
    assert args.early_stopping_patience is None
    assert args.resume_from_checkpoint == "true"
    assert args.lr_scheduler_kwargs == {"a": 1}
    assert args.class_weights == [1, 2.5]
    assert args.metrics == ["auroc"]


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("lerning_rate", 1, "unknown setting 'lerning_rate'; did you mean 'learning_rate'"),
        ("zzzzzz", 1, "unknown setting 'zzzzzz'"),
        ("seed", "x", "seed='x' should be of type int"),
        ("seed", True, "seed=True should be of type int"),
        ("class_weights", ["1", "x"], "class_weights='x' should be of type float"),
        ("learning_rate", "fast", "learning_rate='fast' should be of type float"),
        ("bf16", "maybe", "bf16='maybe' should be of type bool"),
        ("method", "omg", "unknown method 'omg'.*'ogm'"),
        ("method", ["lfm", "ogm"], "method=.* should be of type dict or str"),
        ("method", {"alpha": "lerned"}, "method.alpha='lerned' is unknown"),
        ("method", {"name": "ogm", "alpha": "high"}, "method.alpha='high' should be of type float"),
        ("method", {"name": "ogm", "alpah": 1}, "'alpah'.*'alpha'"),
        ("alpha", 0.8, "unknown setting 'alpha'; did you mean --method.alpha"),
        ("alpha_holdout", 0.2, "unknown setting 'alpha_holdout'; did you mean 'holdout'"),
        ("eval_strategy", "sometimes", "eval_strategy.*sometimes.*epoch"),
    ],
)
def test_wrong_settings_are_errors_that_name_the_key(tmp_path, key, value, message):
    with pytest.raises(ValueError, match=message):
        build({"output_dir": str(tmp_path), key: value}, LfmTrainingArguments)


@dataclass
class Lists:
    numbers: list[int] = field(default_factory=list)
    shares: list[float] | str | None = None
    words: list[str] = field(default_factory=list)


def test_lists_hold_what_their_type_says():
    read, _ = read_arguments(
        ["--numbers", "3", "5", "--shares", "1", "2e-1", "--words", "7"],
        "",
        Lists,
        ModelArguments,
        start=lambda words, overrides: {"modalities": {"a": {}}},
    )
    assert read == Lists([3, 5], [1.0, 0.2], ["7"])
    assert build({"numbers": "3", "shares": "balanced"}, Lists) == Lists([3], "balanced")
    assert build({"output_dir": "x", "debug": ["underflow_overflow"]}, LfmTrainingArguments).debug
    for key, value in (("numbers", ["a"]), ("shares", [1, "a"]), ("numbers", [1.5])):
        with pytest.raises(ValueError, match=f"{key}=.* should be of type"):
            build({key: value}, Lists)


def test_a_setting_of_the_chosen_method_is_suggested_and_no_other(tmp_path):
    settings = {"output_dir": str(tmp_path), "method": "domfn"}
    with pytest.raises(ValueError, match=r"did you mean --method\.pretraining_epochs"):
        build({**settings, "pretraining_epochs": 0.3}, LfmTrainingArguments)
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
        read_arguments(["demo", "--seed", "1"], "", LfmTrainingArguments)


SHIPPED = [name for name in list_configs() if name != "table"]  # whose settings its columns complete


@pytest.mark.parametrize("name", SHIPPED)
def test_configs_that_come_along_are_valid(name, tmp_path):
    settings = {**read_config(name), "output_dir": str(tmp_path)}
    model, data, training = build(settings, ModelArguments, DataArguments, LfmTrainingArguments)
    assert set(model.modalities) <= set(data.processor)
    assert data.benchmark in ("table", name.removesuffix("_clip").removesuffix("_frozen"))
    assert set(data.columns) <= set(model.modalities)
    assert training.load_best_model_at_end, "the model is chosen on the validation split"


def test_help_says_what_each_setting_means(capsys):
    with pytest.raises(SystemExit) as ended:
        read_arguments(["--help"], "usage: this\n  as it is", ModelArguments)
    text = capsys.readouterr().out
    assert ended.value.code == 0
    assert text.startswith("usage: this\n  as it is\n")
    assert "Ordered mapping" in text
    assert "--hidden_size" in text
    assert "512" in text


def test_the_parser_of_transformers_reads_the_same_settings(tmp_path):
    parser = HfArgumentParser((ModelArguments, DataArguments, LfmTrainingArguments))
    words = ["--benchmark", "demo", "--modalities", "{a: {tower: timm, name: resnet18}}", "--processor", "{a: {}}"]
    words += ["--output_dir", str(tmp_path), "--report_to", "none"]
    model, _, training = parser.parse_args_into_dataclasses([*words, "--method", "ogm"])
    assert model.modalities == {"a": {"tower": "timm", "name": "resnet18"}}
    assert training.method == "ogm"
    *_, training = parser.parse_args_into_dataclasses([*words, "--method", '{"name": "ogm", "alpha": 0.5}'])
    assert training.method == {"name": "ogm", "alpha": 0.5}


@pytest.mark.parametrize("name", SHIPPED)
def test_configs_that_come_along_read_the_same_everywhere(name, tmp_path):
    file = CONFIGS / f"{name}.yaml"
    settings = read_config(name)
    assert yaml.safe_load(file.read_text(encoding="utf-8")) == settings
    ours = build(settings | {"output_dir": str(tmp_path)}, ModelArguments, DataArguments, LfmTrainingArguments)
    plain = HfArgumentParser((ModelArguments, DataArguments, LfmTrainingArguments))
    for read, expected in zip(ours, plain.parse_dict(settings | {"output_dir": str(tmp_path)}), strict=True):
        assert vars(read).keys() == vars(expected).keys()
        for key, value in vars(expected).items():
            assert vars(read)[key] == value or str(vars(read)[key]) == str(value), key


BOMB = "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"a{n}: &a{n} [{','.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 10)
)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (BOMB.encode(), "aliases"),
        (BOMB.replace("[*", "{<<: [*").replace("]\n", "]}\n").encode(), r"broken\.yaml"),
        (b"a: &a [*a]", "line 1"),
        (b"a: 1\nb: {c: 1, c: 2}", "line 2.*'c'"),
        (b"benchmark: \xff\xfe", "UTF-8"),
        (b"[" * 5000, "too deep"),
        (b"a: !!python/object x", "line 1"),
        (b"a: 2020-13-45", "month"),
        (b"#" * 2**21, "bytes"),
        (b"", "mapping"),
        (b"1: 2", "mapping"),
    ],
)
def test_yaml_that_cannot_be_used_is_told_at_once(tmp_path, content, message):
    (tmp_path / "broken.yaml").write_bytes(content)
    with pytest.raises(ValueError, match=message) as error:
        read_config(str(tmp_path / "broken.yaml"))
    assert "broken.yaml" in str(error.value)


def test_several_values_where_one_is_expected_are_an_error(tmp_path):
    for key, value in (("seed", ["1", "2"]), ("label_names", {"a": 1}), ("seed", None), ("save_total_limit", "")):
        with pytest.raises(ValueError, match=key):
            build({"output_dir": str(tmp_path), key: value}, LfmTrainingArguments)
    args = build({"output_dir": str(tmp_path), "report_to": ["tensorboard", "trackio"]}, LfmTrainingArguments)
    assert args.report_to == ["tensorboard", "trackio"]


def test_report_to_what_is_not_installed_is_told_with_the_settings(tmp_path):
    with pytest.raises(ValueError, match="pip install comet_ml"):
        build({"output_dir": str(tmp_path), "report_to": "comet_ml"}, LfmTrainingArguments)


PLUGIN = """
from dataclasses import dataclass
from modeling_lfm.trainer.methods import Method, MethodSpec, register

@register
class Plain(Method):
    spec = MethodSpec("plain_of_a_plugin", title="Plain", paper="-", venue="-", formula="CE")
"""


def test_a_plugin_is_imported_before_settings_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "my_parts_of_a_test.py").write_text(PLUGIN)
    words = ["--plugin", str(tmp_path / "my_parts_of_a_test.py"), "--method", "plain_of_a_plugin"]
    try:
        args = read_arguments([*words, "--output_dir", str(tmp_path)], "", LfmTrainingArguments)
        assert args.method == "plain_of_a_plugin"
    finally:
        METHODS.pop("plain_of_a_plugin", None)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("nothing_here.py", None, "no such file"),
        ("fails_in_a_test.py", "x = 1\nraise KeyError('a')", "line 2.*KeyError"),
        ("ends_in_a_test.py", "raise SystemExit", "SystemExit"),
        ("no_python_in_a_test.py", "x = (", "SyntaxError"),
        ("json.py", "x = 1", "rename"),
    ],
)
def test_a_plugin_that_cannot_be_imported_is_named(tmp_path, monkeypatch, name, content, message):
    monkeypatch.setattr(sys, "path", list(sys.path))
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises((ValueError, FileNotFoundError), match=message) as error:
        read_arguments(["--plugin", str(tmp_path / name)], "", LfmTrainingArguments)
    assert name in str(error.value)
