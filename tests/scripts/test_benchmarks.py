"""The programs on the layouts of the other benchmarks: small copies made here, and the real files where they are."""

import json

import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import PreTrainedTokenizerFast

from modeling_lfm.scripts import eval as eval_program
from modeling_lfm.scripts import predict as predict_program
from modeling_lfm.scripts import train as train_program
from modeling_lfm.scripts.common.console import run

from ..data.media import make_av_mnist, make_mvsa

QUICK = ["--num_train_epochs", "1", "--hidden_size", "8", "--use_cpu", "--disable_tqdm"]
BERT = {
    "model_type": "bert",
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "vocab_size": 10,
}


def evaluate(tmp_path, *argv):
    eval_program.main(["--output", str(tmp_path / "metrics.json"), "--use_cpu", *map(str, argv)])
    return json.loads((tmp_path / "metrics.json").read_text())


@pytest.fixture
def tokenizer(tmp_path):
    """Folder of a tokenizer of a few words."""
    words = ["[PAD]", "[UNK]", "tweet", "is", "negative", "neutral", "positive"]
    model = Tokenizer(WordLevel({word: number for number, word in enumerate(words)}, unk_token="[UNK]"))
    model.pre_tokenizer = Whitespace()
    fast = PreTrainedTokenizerFast(tokenizer_object=model, pad_token="[PAD]", unk_token="[UNK]")
    fast.save_pretrained(tmp_path / "tokenizer")
    return tmp_path / "tokenizer"


def test_options_of_the_training_are_remembered_and_can_be_overridden(tmp_path, capsys):
    data, checkpoint = make_av_mnist(tmp_path / "files"), tmp_path / "run"
    argv = ["av_mnist", "--data_dir", str(data), "--output_dir", str(checkpoint), *QUICK, "--max_train_samples", "60"]
    train_program.main([*argv, "--benchmark_options", "{audio_snr_db: 20, test_speakers: [ann]}", "--do_predict"])
    trained = json.loads((checkpoint / "test_results.json").read_text())
    words = ("--checkpoint", checkpoint, "--data_dir", data)
    again = evaluate(tmp_path, *words)
    assert again["samples"] == 50
    for key in ("accuracy", "loss", "audio_map", "image_f1", "gap"):
        assert again[key] == pytest.approx(trained[f"test_{key}"], abs=1e-5)
    assert evaluate(tmp_path, *words, "--benchmark_options.audio_snr_db", -10)["loss"] != again["loss"]
    # The folder of a stranger, with the recordings of the test speaker alone.
    only = make_av_mnist(tmp_path / "only", speakers=("ann",))
    assert evaluate(tmp_path, "--checkpoint", checkpoint, "--data_dir", only)["samples"] == 50
    with pytest.raises(SystemExit):
        run(lambda: evaluate(tmp_path, "--checkpoint", checkpoint, "--data_dir", only, "--split", "train"))
    assert "no samples for the split 'train'" in capsys.readouterr().err


def test_pictures_and_text_train_evaluate_and_predict(tmp_path, tokenizer, capsys):
    data, checkpoint = make_mvsa(tmp_path / "files"), tmp_path / "run"
    text = {"tower": "transformers", "config": BERT, "pooling": "mean"}
    argv = ["mvsa_single", "--data_dir", str(data), "--output_dir", str(checkpoint), *QUICK]
    argv += ["--modalities.text", json.dumps(text), "--processor.image.size", "[32, 32]", "--holdout", "0.2"]
    train_program.main([*argv, "--tokenizer", str(tokenizer)])
    metrics = evaluate(tmp_path, "--checkpoint", checkpoint, "--data_dir", data)
    assert metrics["samples"] == 14
    assert 0 <= metrics["text_accuracy"] <= 1
    inputs = [f"image={data / 'data' / '1.jpg'}", f"text=@{data / 'data' / '1.txt'}"]
    capsys.readouterr()
    predict_program.main(["--checkpoint", str(checkpoint), "--input", *inputs])
    from_file = json.loads(capsys.readouterr().out)
    inputs[1] = "text=tweet 1 is negative \u2764"
    predict_program.main(["--checkpoint", str(checkpoint), "--input", *inputs])
    assert json.loads(capsys.readouterr().out) == from_file
    assert sorted(entry["label"] for entry in from_file["probabilities"]) == ["negative", "neutral", "positive"]
    with pytest.raises(SystemExit):
        run(lambda: train_program.main([*argv, "--tokenizer", str(tmp_path / "nowhere")]))
    assert "holds checkpoints of an earlier run" in capsys.readouterr().err
    argv[argv.index(str(checkpoint))] = str(tmp_path / "other")
    with pytest.raises(SystemExit):
        run(lambda: train_program.main([*argv, "--tokenizer", str(tmp_path / "nowhere")]))
    assert f"no tokenizer at {tmp_path / 'nowhere'}" in capsys.readouterr().err
