"""Model cards: what they say is what was measured, for every method and benchmark, and their code runs as written."""

import inspect
import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from markdown_it import MarkdownIt
from transformers import Trainer

from modeling_lfm import LfmConfig, LfmForMultimodalClassification, LfmProcessor
from modeling_lfm.data import list_benchmarks
from modeling_lfm.scripts.common.runs import describe_source
from modeling_lfm.scripts.common.settings import read_config
from modeling_lfm.trainer import LfmTrainer, LfmTrainingArguments
from modeling_lfm.trainer.cards.card import CARD, MARKER, save_card, write_model_card
from modeling_lfm.trainer.cards.facts import CardFacts, gather_from_folder, gather_from_trainer
from modeling_lfm.trainer.cards.record import RUN_RECORD, describe_arguments, read_record, write_record
from modeling_lfm.trainer.methods import METHODS
from tests.modeling.towers import make_tokenizer

from .cards import (
    check_card,
    make_processor,
    make_towers,
    python_blocks,
    read_table,
    run_blocks,
    save_model,
    write_examples,
)
from .toy import SMOOTH, method_settings, method_towers, toy_trainer

ROOT = Path(__file__).resolve().parent.parent.parent
TRIO = {"audio": "spectrogram", "image": "image", "text": "text"}
STREAMS = {"rgb": "video", "flow": "flow", "depth": "video"}
# Cards of models trained here, and what the models read.
REPOSITORY = {"av_mnist": {"audio": "spectrogram", "image": "image"}, "mvsa_single": {"image": "image", "text": "text"}}
TOKEN = "hf_" + "abcdefghijklmnopqrstuvwxyz"


def raw_samples(processor, size):
    """Prepared samples with labels 0 to 2, of sounds, pictures and words that tell them."""
    generator, samples = torch.Generator().manual_seed(0), []
    for index in range(size):
        label = index % 3
        batch = processor(
            audio=((0.1 + label) * torch.randn(3200, generator=generator)).numpy(),
            image=torch.randint(0, 80 * (label + 1), (32, 32), generator=generator, dtype=torch.uint8).numpy(),
            text=["the cat", "sat on", "on mat"][label],
            sampling_rate=8000,
        )
        samples.append({**{key: value[0] for key, value in batch.items()}, "labels": torch.tensor(label)})
    return samples


@pytest.fixture(scope="module")
def trainer(tmp_path_factory):
    """A trainer that has trained and saved a model of audio, image and text, measured on a test split."""
    folder = tmp_path_factory.mktemp("runs") / "trio"
    processor = make_processor(TRIO, folder.parent)
    samples = raw_samples(processor, 36)
    torch.manual_seed(0)
    config = LfmConfig(make_towers(TRIO), hidden_size=16, id2label={0: "a|b", 1: "`x`", 2: "c"})
    args = LfmTrainingArguments(
        str(folder),
        num_train_epochs=3,
        per_device_train_batch_size=8,
        learning_rate=2e-3,
        eval_strategy="epoch",
        save_strategy="epoch",
        save_total_limit=1,
        load_best_model_at_end=True,
        disable_tqdm=True,
        use_cpu=True,
        hub_token=TOKEN,
        method={"name": "lfm", "alpha_inner_samples": 8, "temperature": 0.1},
    )
    model = LfmForMultimodalClassification(config)
    trainer = LfmTrainer(model, args, samples[:24], samples[24:30], processing_class=processor)
    trainer.train()
    trainer.save_model()
    metrics = trainer.predict(samples[30:], metric_key_prefix="test").metrics
    trainer.save_metrics("test", metrics | trainer.measure_absence(samples[30:], "test"))
    trainer.save_state()
    return trainer


@pytest.fixture(scope="module")
def card(trainer):
    """Path of the card that the trainer wrote of itself."""
    trainer.create_model_card()
    return Path(trainer.args.output_dir) / CARD


def test_numbers_are_those_that_were_measured(trainer, card):
    metadata, text = check_card(card), card.read_text(encoding="utf-8")
    measured = json.loads((card.parent / "test_results.json").read_text())
    (result,) = metadata["model-index"][0]["results"]
    assert metadata["model-index"][0]["name"] == "trio"
    assert result["dataset"]["split"] == "test"
    values = {metric["name"]: (metric["type"], metric["value"]) for metric in result["metrics"]}
    kinds = {"accuracy": ("accuracy", "accuracy"), "mAP": ("mean_average_precision", "map"), "macro F1": ("f1", "f1")}
    expected = {
        f"{title} ({whose})": (kind, round(measured[f"test_{prefix}{key}"], 4))
        for title, (kind, key) in kinds.items()
        for whose, prefix in {"fused": "", **{f"{name} alone": f"{name}_" for name in TRIO}}.items()
    }
    assert values == expected
    rows = read_table(text, "test, %")
    assert rows["**fused**"][:3] == [f"{100 * measured[f'test_{key}']:.1f}" for key in ("accuracy", "map", "f1")]
    assert rows["text alone"][0] == f"{100 * measured['test_text_accuracy']:.1f}"
    best = trainer.state.best_global_step
    kept = next(e for e in trainer.state.log_history if e["step"] == best and "eval_accuracy" in e)
    assert rows["image alone"][3] == f"{100 * kept['eval_image_accuracy']:.1f}"
    assert f"epoch {kept['epoch']:g} of 3, the best on the validation split by `loss`" in text
    assert f"minus that of the worst: {100 * measured['test_gap']:.1f} points" in text
    missing = read_table(text, "left out (test, %)")
    assert list(missing) == ["nothing", *TRIO]
    for name in TRIO:
        without = measured[f"test_without_{name}_accuracy"]
        lost = f"{100 * (measured['test_accuracy'] - without):.1f}"
        assert [missing[name][0], missing[name][3]] == [f"{100 * without:.1f}", lost]


def test_settings_versions_and_classes_are_those_of_the_run(trainer, card):
    text = card.read_text(encoding="utf-8")
    settings = read_table(text, "setting")
    assert settings["`per_device_train_batch_size`"] == ["8"]
    assert settings["`learning_rate`"] == ["0.002"]
    assert settings["`seed`"] == ["42"]
    assert settings["`method.alpha`"] == ["learned"]
    assert settings["`method.temperature`"] == ["0.1 (not the default)"]
    assert not {"`output_dir`", "`hub_token`", "`disable_tqdm`", "`use_cpu`"} & set(settings)
    assert read_table(text, "package")["torch"] == [torch.__version__.split("+")[0]]
    assert f"{trainer.model.num_parameters():,} parameters" in text
    assert "3 classes: `a|b`, `x`, `c`" in text
    train, held = len(trainer.train_dataset), len(trainer.holdout_dataset)
    assert f"samples: {train} to train, {held} held out for the method, 6 to validate" in text
    assert (card.parent / "gap.png").read_bytes()[:4] == b"\x89PNG"


def test_a_finished_folder_gives_the_same_card(card, tmp_path):
    written = write_model_card(card.parent, output=tmp_path / "elsewhere")
    assert written.read_text() == card.read_text()
    facts = gather_from_folder(card.parent)
    copy = tmp_path / "copy"
    shutil.copytree(card.parent, copy)
    for name in (RUN_RECORD, "trainer_state.json", "test_results.json"):  # as older runs and other programs leave it
        (copy / name).unlink()
    poor = write_model_card(copy)
    check_card(poor)
    assert "The settings of the training were not recorded." in poor.read_text()
    assert "Not measured." in poor.read_text()
    assert facts.parameters == gather_from_folder(copy).parameters
    with pytest.raises(FileNotFoundError, match=r"no config\.json"):
        write_model_card(tmp_path)
    (copy / "test_results.json").write_text("{")
    with pytest.raises(ValueError, match=r"test_results\.json is damaged"):
        write_model_card(copy)


def test_arguments_of_transformers_are_understood(trainer, tmp_path):
    ours, theirs = (inspect.signature(cls.create_model_card).parameters for cls in (LfmTrainer, Trainer))
    assert list(ours) == list(theirs)
    trainer.create_model_card(
        language="en",
        license="cc-by-4.0",
        tags="mine",
        model_name="My model",
        finetuned_from="me/towers",
        tasks="audio-classification",
        dataset_tags=["me/data"],
        dataset="Mine",
        dataset_args="small",
    )
    path = Path(trainer.args.output_dir) / CARD
    metadata = check_card(path)
    trainer.create_model_card()
    assert metadata["language"] == ["en"]
    assert metadata["license"] == "cc-by-4.0"
    assert "mine" in metadata["tags"]
    assert metadata["base_model"] == ["me/towers"]
    assert (
        metadata["pipeline_tag"] == metadata["model-index"][0]["results"][0]["task"]["type"] == "audio-classification"
    )
    assert metadata["datasets"] == ["me/data"]
    assert metadata["model-index"][0]["results"][0]["dataset"] == {
        "name": "Mine (small)",
        "type": "me/data",
        "split": "test",
    }
    for wrong in ({"license": "Apache License"}, {"dataset_tags": "a/b/c"}, {"finetuned_from": "/a/b"}):
        with pytest.raises(ValueError, match=r"on the Hub|of the Hub"):
            trainer.create_model_card(**wrong)


def test_somebody_elses_readme_stays(card, tmp_path):
    (tmp_path / CARD).write_text("# Mine\n")
    write_model_card(card.parent, output=tmp_path)
    assert (tmp_path / CARD).read_text() == "# Mine\n"
    (tmp_path / CARD).write_text(f"{MARKER}\nold\n")
    write_model_card(card.parent, output=tmp_path)
    check_card(tmp_path / CARD)


@pytest.mark.parametrize("name", sorted(METHODS))
def test_card_of_every_method(name, tmp_path):
    trainer = toy_trainer(tmp_path, method_towers(name), method=method_settings(name))
    trainer.create_model_card()
    metadata, text = check_card(tmp_path / CARD), (tmp_path / CARD).read_text()
    spec = METHODS[name].spec
    assert metadata["tags"][:2] == ["lfm", "multimodal-classification"]
    assert set(trainer.model.config.modality_names) | {name} <= set(metadata["tags"])
    assert spec.formula in text
    assert text.count("```bibtex") == 1 + (spec.bibtex is not None and name != "lfm")
    assert spec.bibtex is None or spec.bibtex in text
    for key in vars(trainer.method.settings):
        assert f"| `method.{key}` |" in text
    trainer.model.save_pretrained(tmp_path)
    assert gather_from_folder(tmp_path).method == spec


@pytest.mark.parametrize("benchmark", sorted(set(list_benchmarks()) - {"table"}))
def test_card_of_every_benchmark(benchmark, tmp_path):
    settings = read_config(benchmark)
    kinds = {name: settings["processor"][name] for name in settings["modalities"]}
    tokenizer = make_tokenizer(tmp_path) if any(kind["type"] == "text" for kind in kinds.values()) else None
    facts = CardFacts(
        name=benchmark,
        config=LfmConfig(settings["modalities"], num_labels=3),
        processor=LfmProcessor(kinds, tokenizer=tokenizer),
        parameters=1234,
        metrics={"test": {"accuracy": 0.5, **{f"{name}_accuracy": 0.4 for name in kinds}}},
        record={"benchmark": benchmark, "columns": settings.get("columns", {}), "data": describe_source(benchmark)},
    )
    metadata, text = check_card(save_card(facts, tmp_path)), (tmp_path / CARD).read_text()
    assert metadata["model-index"][0]["results"][0]["dataset"]["type"] == benchmark
    types = {kind["type"] for kind in kinds.values()}
    video = types & {"video", "flow"}
    assert metadata["pipeline_tag"] == ("video-classification" if video else "image-classification")
    assert facts.record["data"]["licence"] in text
    assert facts.record["data"]["citation"] in text
    if benchmark == "nvgesture":  # flow is computed from the colour stream
        assert '{"rgb": "rgb.mp4", "flow": "rgb.mp4", "depth": "depth.mp4"}' in text


def test_cards_of_this_repository():
    named = {path.parent.name for path in (ROOT / "model_cards").glob("*/README.md")}
    assert named - {"results", "demo"} == set(REPOSITORY)  # the README runs what the card of demo says
    for name, types in REPOSITORY.items():
        metadata = check_card(ROOT / "model_cards" / name / CARD)
        assert {name, *types} <= set(metadata["tags"])


def test_code_runs_as_written(card, tmp_path):
    shutil.copytree(card.parent, tmp_path / "trio")
    cards, models = {card: TRIO}, {"streams": STREAMS, "alone": {"sound": "spectrogram"}, "labels": TRIO}
    for name, types in models.items():
        settings = {"problem_type": "multi_label_classification"} if name == "labels" else {}
        path = write_model_card(save_model(tmp_path / name, types, **settings))
        check_card(path)
        cards[path] = types
    for name, types in REPOSITORY.items():  # on untrained models that read the same
        path = ROOT / "model_cards" / name / CARD
        (repo_id,) = set(re.findall(r'(?:model=|from_pretrained\()"(.*?)"', path.read_text(encoding="utf-8")))
        save_model(tmp_path / repo_id, types)
        cards[path] = types
    check_code(cards, tmp_path)


def check_code(cards, folder):
    """Run all code of cards (`dict` from the path to the types of input) in `folder`, where their models lie."""
    codes = []
    for path, types in cards.items():
        text = path.read_text(encoding="utf-8")
        write_examples(text, folder)
        codes.append(python_blocks(text))
        assert len(codes[-1]) == 2 + (len(types) > 1)
    for types, text in zip(cards.values(), run_blocks(codes, folder), strict=True):
        lines, names = text.splitlines(), ["fused", *types]
        assert [line.split()[0] for line in lines[-len(names) :]] == names
        answers = 1 + (len(types) if len(types) > 1 else 0)
        assert len(lines) == answers + len(names)


EVIL = "<script>a(1)</script> <img src=x onerror=a(1)> [b](javascript:c) ![d](http://t.example/e) <javascript:f>"


def test_no_html_or_link_of_others_gets_into_a_card(tmp_path):
    evil, good = EVIL + " [g]: javascript:h `<b>`", "R&D, 3 < 4, betas [0.9, 0.99]"
    said = {"title": evil, "licence": evil, "citation": evil, "notes": [evil, good, "[g]: javascript:h"]}
    run = {"method": {"name": "lfm", "alpha": evil}, "training": {evil: evil, "metric_for_best_model": evil}}
    run |= {"hardware": evil, "date": evil, "environment": {evil: evil}, "pretrained": {"audio": evil}}
    record = {"data": said, "run": run, "benchmark": "own", "benchmark_options": {evil: evil}}
    write_record(tmp_path / "model", **record)
    towers = make_towers({"audio": "spectrogram", "image": "image"})
    config = LfmConfig(towers, hidden_size=16, id2label={0: evil, 1: "`" + evil, 2: "</code><b>"})
    facts = CardFacts(evil, config, None, 1, record=read_record(tmp_path / "model"))
    text = save_card(facts, tmp_path, base_model=["me/x"]).read_text()
    page = MarkdownIt("commonmark", {"html": True}).enable("table").render(text.partition(MARKER)[2])
    tags = set(re.findall(r"<(\w+)[^>]*>", page))
    assert tags <= {
        *("h1", "h2", "h3", "p", "ul", "li", "code", "pre", "em", "strong"),
        *("table", "thead", "tbody", "tr", "th", "td"),
    }
    assert "3 &lt; 4, betas [0.9, 0.99]" in page
    assert "R&amp;D" in page


def test_a_record_of_a_wrong_type_names_file_and_key(tmp_path):
    good = {
        "benchmark": None,
        "benchmark_options": {"a": [1]},
        "data": {"title": "x", "majority": {"test": 0.5}},
        "own": 1,
    }
    write_record(tmp_path, **good)
    assert read_record(tmp_path) == good
    for key, wrong in {
        "benchmark": 5,
        "columns": ["audio"],
        "data.title": ["x"],
        "data.notes": "one",
        "data.notes[1]": ["one", 2],
        "data.samples.train": {"train": "many"},
        "data.majority.test": {"test": True},
        "run": [],
        "run.method": "lfm",
        "run.pretrained.text": {"text": {}},
        "run.processes": "two",
    }.items():
        first, *rest = key.partition("[")[0].split(".")
        entry = {first: {rest[0]: wrong} if rest else wrong}
        (tmp_path / RUN_RECORD).write_text(json.dumps(entry))
        with pytest.raises(ValueError, match=re.escape(f"{RUN_RECORD}: {key} is ")):
            read_record(tmp_path)
    for damaged in ("{", "[]", "[" * 100_000):
        (tmp_path / RUN_RECORD).write_text(damaged)
        with pytest.raises(ValueError, match=RUN_RECORD):
            read_record(tmp_path)


def test_arguments_that_matter_are_recorded(tmp_path):
    args = LfmTrainingArguments(
        str(tmp_path),
        use_cpu=True,
        optim="sgd",
        optim_args="momentum=0.9",
        max_steps=7,
        weight_decay=0,
        hub_token=TOKEN,
    )
    told = describe_arguments(args)
    assert told.pop("optim_args") == "momentum=0.9"
    assert told == {
        "per_device_train_batch_size": 8,
        "max_steps": 7,
        "learning_rate": 5e-5,
        "lr_scheduler_type": "linear",
        "optim": "sgd",
        "weight_decay": 0,
        "gradient_accumulation_steps": 1,
        "max_grad_norm": 1.0,
        "seed": 42,
    }


def test_what_is_no_better_than_guessing_is_said(trainer, tmp_path):
    facts = gather_from_trainer(trainer)
    facts.metrics = {"test": {"accuracy": 0.7, "audio_accuracy": 0.61, "image_accuracy": 0.7, "text_accuracy": 0.6}}
    facts.record["data"] = {"majority": {"test": 0.6, "validation": 0.5}}
    path = save_card(facts, tmp_path)
    text = path.read_text()
    assert read_table(text, "test, %")["always the most frequent class"][0] == "60.0"
    assert "Alone, audio and text are hardly better than always the most frequent class." in text
    facts.record["data"] = {}
    assert "most frequent class" not in save_card(facts, tmp_path).read_text()


def test_towers_that_were_fetched_become_base_models(tmp_path):
    trainer = toy_trainer(tmp_path, SMOOTH)
    trainer.model.pretrained_towers = {
        "vit": {"tower": "timm", "name": "resnet18", "checkpoint": None},
        "text": {"tower": "transformers", "name": str(tmp_path), "checkpoint": None},
    }
    facts = gather_from_trainer(trainer)
    assert facts.base_models == ["timm/resnet18.a1_in1k"]
    path = save_card(facts, tmp_path / "card")
    assert check_card(path)["base_model"] == ["timm/resnet18.a1_in1k"]
    towers = read_table(path.read_text(), "modality")
    assert towers["vit"][2] == "from `timm/resnet18.a1_in1k`"
    path = save_card(facts, tmp_path / "card", base_model="me/bert")
    assert read_table(path.read_text(), "modality")["text"][2] == "from `me/bert`"
