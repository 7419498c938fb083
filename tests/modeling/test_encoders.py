"""Towers of transformers of every kind, from a folder: train, save, reload exactly, predict from raw input."""

import copy
import wave

import datasets
import numpy as np
import pytest
import torch
import transformers
from PIL import Image

from modeling_lfm import LfmConfig, LfmForMultimodalClassification, LfmProcessor
from modeling_lfm.data import prepare_dataset
from modeling_lfm.trainer import LfmTrainer, LfmTrainingArguments

from .towers import WORDS, make_tokenizer

SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
PICTURES = {**SMALL, "image_size": 32, "patch_size": 8}
D_MODEL = {"d_model": 32, "encoder_layers": 2, "decoder_layers": 1, "encoder_attention_heads": 2, "vocab_size": 40}
D_MODEL |= {"decoder_attention_heads": 2, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48}
SOUND = {**SMALL, "conv_dim": [16, 16], "conv_kernel": [10, 8], "conv_stride": [8, 8], "num_feat_extract_layers": 2}
SOUND |= {"num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 2, "vocab_size": 10}
CAPTIONS = {**SMALL, "vocab_size": 40, "max_position_embeddings": 16, "bos_token_id": 2, "eos_token_id": 3}
CLAP = {
    "text_config": {**SMALL, "vocab_size": 40},
    "audio_config": {
        "patch_embeds_hidden_size": 8,
        "hidden_size": 16,
        "depths": [1, 1],
        "num_attention_heads": [2, 2],
        "num_mel_bins": 64,
        "spec_size": 128,
        "window_size": 4,
        "num_classes": 4,
        "projection_dim": 16,
    },
    "projection_dim": 16,
}
SIGLIP_TEXT = {**CAPTIONS, "max_position_embeddings": 16, "projection_size": 32}
T5 = {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 2, "vocab_size": 40}
WHISPER = {**D_MODEL, "num_mel_bins": 80, "max_source_positions": 100, "pad_token_id": 0}
WHISPER |= {"bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}
# of each: class of the model, its configuration, type of input, what it pools by, and settings of its feature extractor
KINDS = {
    "bert": ("BertModel", {**SMALL, "vocab_size": 40}, "text", "cls"),
    "roberta": ("RobertaModel", {**SMALL, "vocab_size": 40, "pad_token_id": 0}, "text", "cls"),
    "gpt2": ("GPT2Model", {"n_embd": 32, "n_layer": 2, "n_head": 2, "vocab_size": 40}, "text", "last"),
    "llama": ("LlamaModel", {**SMALL, "vocab_size": 40, "num_key_value_heads": 2}, "text", "last"),
    "t5": ("T5Model", T5, "text", "mean"),
    "bart": ("BartModel", {**D_MODEL, "pad_token_id": 0}, "text", "mean"),
    "clip text": ("CLIPModel", {"text_config": CAPTIONS, "vision_config": PICTURES}, "text", "own"),
    "siglip text": ("SiglipModel", {"text_config": SIGLIP_TEXT, "vision_config": PICTURES}, "text", "own"),
    "vit": ("ViTModel", PICTURES, "image", "cls"),
    "dinov2": ("Dinov2Model", PICTURES, "image", "own"),
    "swin": (
        "SwinModel",
        {"embed_dim": 8, "depths": [1, 1], "num_heads": [1, 2], "image_size": 32, "patch_size": 4, "window_size": 4},
        "image",
        "own",
    ),
    "convnext": ("ConvNextModel", {"hidden_sizes": [8, 8, 16, 16], "depths": [1, 1, 1, 1]}, "image", "own"),
    "clip": ("CLIPModel", {"text_config": CAPTIONS, "vision_config": PICTURES}, "image", "own"),
    "siglip": ("SiglipModel", {"text_config": SIGLIP_TEXT, "vision_config": PICTURES}, "image", "own"),
    "videomae": ("VideoMAEModel", {**PICTURES, "num_frames": 4, "tubelet_size": 2}, "video", "mean"),
    "wav2vec2": ("Wav2Vec2Model", {**SOUND, "feat_extract_norm": "layer"}, "waveform", "mean"),
    "hubert": ("HubertModel", {**SOUND, "feat_extract_norm": "group"}, "waveform", "mean"),
    "wavlm": ("WavLMModel", SOUND, "waveform", "mean"),
    "whisper": ("WhisperModel", WHISPER, "waveform", "mean"),
    "ast": ("ASTModel", {**SMALL, "num_mel_bins": 32, "max_length": 64, "patch_size": 8}, "waveform", "own"),
    "clap": ("ClapModel", CLAP, "waveform", "own"),
    "clap fused": (
        "ClapModel",
        {**CLAP, "audio_config": {**CLAP["audio_config"], "enable_fusion": True}},
        "waveform",
        "own",
    ),
}
READERS = {
    "wav2vec2": ("Wav2Vec2FeatureExtractor", {"return_attention_mask": True}),
    "hubert": ("Wav2Vec2FeatureExtractor", {"sampling_rate": 8000}),
    "wavlm": ("Wav2Vec2FeatureExtractor", {}),
    "whisper": ("WhisperFeatureExtractor", {"chunk_length": 2}),
    "ast": ("ASTFeatureExtractor", {"num_mel_bins": 32, "max_length": 64}),
    "clap": ("ClapFeatureExtractor", {"max_length_s": 2, "truncation": "rand_trunc"}),
    "clap fused": ("ClapFeatureExtractor", {"max_length_s": 2}),
    "vit": (
        "ViTImageProcessor",
        {"size": {"height": 32, "width": 32}, "image_mean": [0.5] * 3, "image_std": [0.5] * 3},
    ),
    "siglip": (
        "SiglipImageProcessor",
        {"size": {"height": 32, "width": 32}, "image_mean": [0.4] * 3, "image_std": [0.3] * 3},
    ),
    "clip": (
        "CLIPImageProcessor",
        {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}, "image_mean": [0.48, 0.46, 0.41]},
    ),
    "videomae": ("VideoMAEImageProcessor", {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}),
}


def make_checkpoint(name, folder):
    """A folder as one fetches it: a model with random weights, and its tokenizer or processor."""
    torch.manual_seed(0)
    cls = getattr(transformers, KINDS[name][0])
    model = cls(cls.config_class(**KINDS[name][1])).eval()
    model.save_pretrained(folder)
    if KINDS[name][2] == "text":
        make_tokenizer(folder).save_pretrained(folder)
    if name in READERS:
        reader, settings = READERS[name]
        getattr(transformers, reader)(**settings).save_pretrained(folder)
    return model


def raw_samples(kind, folder):
    """Six raw inputs of two classes, as a reader of files has them, of different lengths."""
    generator, samples = np.random.default_rng(0), []
    for number in range(6):
        noise = generator.integers(0, 100, (40, 50, 3), dtype=np.uint8) + 100 * (number % 2)
        if kind == "text":
            samples.append(" ".join(generator.choice(WORDS[5:], 3 + number)))
        elif kind == "image":
            samples.append(str(folder / f"{number}.png"))
            Image.fromarray(noise.astype(np.uint8)).save(samples[-1])
        elif kind == "video":
            samples.append(str(folder / f"clip{number}"))
            (folder / f"clip{number}").mkdir()
            for frame in range(5):
                Image.fromarray(np.roll(noise.astype(np.uint8), frame, 0)).save(f"{samples[-1]}/{frame}.png")
        else:
            samples.append(str(folder / f"{number}.wav"))
            tone = np.sin(np.arange(6400 + 1600 * number) * (0.1 + 0.3 * (number % 2))) * 20000
            with wave.open(samples[-1], "wb") as file:
                file.setparams((1, 2, 16000, 0, "NONE", ""))
                file.writeframes(tone.astype("<i2").tobytes())
    return samples


PARTS = {"clip text": "text_model", "siglip text": "text_model", "clip": "vision_model", "siglip": "vision_model"}
PARTS |= {"clap": "audio_model", "clap fused": "audio_model", "t5": "encoder", "bart": "encoder", "whisper": "encoder"}
UNMASKED = ("siglip text", "hubert", "wavlm")  # the latter have group normalisation over time
UNUSED = (
    "masked_spec_embed",
    "mask_token",
    "k_proj.bias",
    "key.bias",
    "fusion_model",
    "mel_conv2d",
)  # in an encoder; no bias of keys has a gradient


def expected_vectors(name, whole, inputs):
    """What transformers' own model says, pooled sample by sample."""
    part = getattr(whole, PARTS[name]) if name in PARTS else whole
    given = {part.main_input_name: inputs.get("a_input_ids", inputs.get("a_values"))}
    mask = inputs.get("a_attention_mask")
    if mask is not None and name not in UNMASKED:
        given["attention_mask"] = mask
    if name.startswith("clap"):
        given["is_longer"] = torch.zeros(len(inputs["a_values"]), 1, dtype=torch.bool)
    output = part(**given)
    if KINDS[name][3] == "own":
        return output.pooler_output.flatten(1)
    vectors = []
    for place, states in enumerate(output.last_hidden_state):
        length = len(states) if mask is None else int(mask[place].sum())
        if KINDS[name][0].startswith(("Wav2Vec2", "Hubert", "WavLM")):
            for kernel, stride in ((10, 8), (8, 8)):
                length = (length - kernel) // stride + 1
        elif name == "whisper":
            length = -(-length // 2)
        pooled = {"cls": states[0], "last": states[length - 1], "mean": states[:length].mean(0)}
        vectors.append(pooled[KINDS[name][3]])
    return torch.stack(vectors)


@pytest.mark.parametrize("name", KINDS)
def test_from_a_folder_to_an_answer(name, tmp_path):
    """By its plain name alone: its weights, and what its own processor says; trained, saved, reloaded, asked."""
    kind = KINDS[name][2]
    whole = make_checkpoint(name, tmp_path / "tower")
    towers = {"a": {"tower": "transformers", "name": str(tmp_path / "tower")}}
    processor = LfmProcessor.from_towers({"a": {"type": kind}}, towers)
    config = LfmConfig(towers, hidden_size=8, id2label={0: "low", 1: "high"})
    processor.complete_towers(config.modalities)
    model = LfmForMultimodalClassification.from_towers(config)
    samples = raw_samples(kind, tmp_path)
    inputs = processor(a=samples)
    with torch.no_grad():
        vectors = model.eval().lfm.run_towers(**inputs)[0]
        torch.testing.assert_close(vectors, expected_vectors(name, whole, inputs), rtol=1e-4, atol=1e-5)
    raw = datasets.Dataset.from_dict({"a": samples, "label": ["low", "high"] * 3})
    data = prepare_dataset(datasets.DatasetDict(train=raw), processor)["train"]
    before = {key: value.clone() for key, value in model.state_dict().items()}
    args = LfmTrainingArguments(
        str(tmp_path / "run"), method="unimodal_1", max_steps=2, learning_rate=1e-2, report_to="none", use_cpu=True
    )
    trainer = LfmTrainer(model, args, data, processing_class=processor)
    trainer.train()
    left = [key for key, p in model.named_parameters() if p.requires_grad and p.equal(before[key])]
    assert [key for key in left if not any(part in key for part in UNUSED)] == []
    trainer.save_model()

    loaded = LfmForMultimodalClassification.from_pretrained(tmp_path / "run")
    assert all(torch.equal(value, loaded.state_dict()[key]) for key, value in model.state_dict().items())
    read = LfmProcessor.from_pretrained(tmp_path / "run")
    model.eval()
    with torch.no_grad():
        first, second = (copy.deepcopy(m)(**p(a=samples)).logits for m, p in ((model, processor), (loaded, read)))
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    assert not torch.allclose(first[0], first[1], atol=1e-6)
    pipeline = loaded.as_pipeline(read)
    answers = [pipeline({"a": sample}) for sample in samples[:2]]
    assert {answer["label"] for answer in answers} <= {"low", "high"}
    assert str(tmp_path) not in (tmp_path / "run" / "config.json").read_text()
