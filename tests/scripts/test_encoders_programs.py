"""Towers of transformers by the programs, from a table: a picture and a sound, each read as its tower wants it."""

import csv
import json

import pytest

from modeling_lfm import LfmForMultimodalClassification, LfmProcessor
from modeling_lfm.scripts import eval as evaluate
from modeling_lfm.scripts import predict, prepare_data, train
from modeling_lfm.trainer.cards.card import write_model_card
from tests.modeling.test_encoders import make_checkpoint, raw_samples


def test_a_table_of_pictures_and_sounds(tmp_path):
    pytest.importorskip("peft")
    for name, kind in (("siglip", "image"), ("wav2vec2", "waveform")):
        make_checkpoint(name, tmp_path / name)
        (tmp_path / kind).mkdir()
    rows = zip(*(raw_samples(kind, tmp_path / kind) for kind in ("image", "waveform")), strict=True)
    with open(tmp_path / "all.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["picture", "sound", "label", "split"])
        for number, (picture, sound) in enumerate(rows):
            for split in ("train", "validation", "test"):
                writer.writerow([picture, sound, "ab"[number % 2], split])
    towers = {"picture": {"tower": "transformers", "name": str(tmp_path / "siglip"), "lora": {"r": 2}}}
    towers["sound"] = {"tower": "transformers", "name": str(tmp_path / "wav2vec2"), "learning_rate": 1e-4, "frozen": 1}
    folder = tmp_path / "run"
    settings = {
        "benchmark": "table",
        "data_dir": str(tmp_path),
        "benchmark_options": {"train_file": "all.csv"},
        "modalities": towers,
        "processor": {"sound": {"duration": 0.5, "type": "waveform"}},
        "method": "concat",
        "num_train_epochs": 1,
        "hidden_size": 8,
        "use_cpu": True,
        "output_dir": str(folder),
    }
    (tmp_path / "run.yaml").write_text(json.dumps(settings))
    train.main([str(tmp_path / "run.yaml")])
    processor = LfmProcessor.from_pretrained(folder)
    assert processor.modalities["picture"]["mean"] == [0.4] * 3
    assert processor.modalities["sound"]["extractor"]["return_attention_mask"]
    model = LfmForMultimodalClassification.from_pretrained(folder)
    assert not any("lora" in key for key in model.state_dict())
    evaluate.main(["--checkpoint", str(folder), "--data_dir", str(tmp_path), "--use_cpu", "true"])
    predict.main(
        ["--checkpoint", str(folder), "--input_file", str(tmp_path / "all.csv"), "--output", str(tmp_path / "a")]
    )
    answers = [json.loads(line) for line in (tmp_path / "a").read_text().splitlines()]
    assert len(answers) == 18
    assert all(answer["label"] in "ab" for answer in answers)
    text = write_model_card(folder).read_text()
    assert "| siglip_vision_model, 2 layers | from pretrained weights, by adapters (LoRA), which are merged |" in text
    assert "from pretrained weights, not trained further up to layer 1 |" in text
    assert str(tmp_path) not in text


def test_a_prepared_folder_holds_waveforms(tmp_path):
    make_checkpoint("whisper", tmp_path / "tower")
    (tmp_path / "sounds").mkdir()
    lines = [f"{sound},{'ab'[n % 2]}" for n, sound in enumerate(raw_samples("waveform", tmp_path / "sounds"))]
    lines = [f"{line},{split}" for line in lines for split in ("train", "validation")]
    (tmp_path / "all.csv").write_text("\n".join(["sound,label,split", *lines]))
    tower, prepared = f"{{sound: {{tower: transformers, name: {tmp_path / 'tower'}}}}}", tmp_path / "prepared"
    common = ["--benchmark", "table", "--data_dir", str(tmp_path), "--benchmark_options.train_file", "all.csv"]
    prepare_data.main([*common, "--modalities", tower, "--output", str(prepared), "--num_proc", "1"])
    kind = LfmProcessor.from_pretrained(prepared / "processor").modalities["sound"]
    assert (kind["type"], kind["extractor"]["feature_extractor_type"]) == ("waveform", "WhisperFeatureExtractor")
    settings = {"benchmark": "table", "data_dir": str(prepared), "method": "unimodal_1", "num_train_epochs": 1}
    settings |= {"hidden_size": 8, "use_cpu": True, "output_dir": str(tmp_path / "run")}
    (tmp_path / "run.yaml").write_text(json.dumps(settings))
    with pytest.raises(ValueError, match=r"set modalities\.sound"):
        train.main([str(tmp_path / "run.yaml")])
    train.main([str(tmp_path / "run.yaml"), "--modalities", tower])
    assert LfmForMultimodalClassification.from_pretrained(tmp_path / "run").config.modality_names == ("sound",)
