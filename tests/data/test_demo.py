"""The built-in benchmark: seeded, disjoint, balanced, readable, and as hard on new voices as it is meant to be."""

import io
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from modeling_lfm import LfmProcessor
from modeling_lfm.data import list_benchmarks, load_benchmark
from modeling_lfm.data.benchmarks.demo import VOICE_RANGES, draw_images, draw_voices
from modeling_lfm.scripts.common.settings import read_config

SIZES = {"train": 1000, "validation": 200, "test": 400}


@pytest.fixture(scope="module")
def demo():
    return load_benchmark("demo")


@pytest.fixture(scope="module")
def three():
    return load_benchmark("demo", second_image=True)


@pytest.fixture(scope="module")
def tensors(demo):
    """Audio, images and labels of each split, through the processor."""
    processor = LfmProcessor(modalities=read_config("demo")["processor"])
    output = {}
    for split, rows in demo.items():
        batch = processor(audio=rows["audio"][:], image=rows["image"][:], return_tensors="np")
        output[split] = batch["audio_values"], batch["image_values"], np.array(rows["label"][:])
    return output


def accuracy(train, test):
    """Of a logistic regression on features and labels of `train`, on those of `test`."""
    classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=200, C=0.1))
    return classifier.fit(*train).score(*test)


def test_is_listed_and_has_its_sizes(demo):
    assert "demo" in list_benchmarks()
    assert {split: len(rows) for split, rows in demo.items()} == SIZES
    assert demo["train"].features["label"].names[:3] == ["zero", "one", "two"]


def test_classes_are_balanced(demo):
    for split, rows in demo.items():
        assert np.bincount(rows["label"][:], minlength=10).tolist() == [SIZES[split] // 10] * 10


def test_no_image_is_in_two_pairs(demo):
    # The name holds the number of the image in scikit-learn's set.
    names = [media["path"] for rows in demo.values() for media in rows["image"]]
    assert len(set(names)) == sum(SIZES.values())
    images = draw_images(seed=0)
    assert len(np.unique(np.concatenate(list(images.values())))) == sum(SIZES.values())


def test_same_seed_gives_the_same_bytes_in_the_cache_that_is_asked_for(three, tmp_path):
    again = load_benchmark("demo", cache_dir=str(tmp_path), split="test", second_image=True)
    assert Path(again.cache_files[0]["filename"]).is_relative_to(tmp_path)
    assert again.to_dict() == three["test"].to_dict()


def test_another_seed_gives_other_pairs(demo, three):
    other = load_benchmark("demo", split="validation", second_image=True, seed=1)
    assert other.remove_columns("second_image").features == demo["validation"].features
    assert three["validation"]["second_image"][:] != other["second_image"][:]
    shared = {m["path"] for m in other["image"]} & {m["path"] for m in demo["validation"]["image"]}
    assert len(shared) < 60  # 200 of 1,797 twice at random: 22
    assert {m["bytes"] for m in other["audio"]}.isdisjoint(m["bytes"] for m in demo["validation"]["audio"])


def test_media_are_wav_and_png(demo):
    for row in demo["train"].select(range(20)):
        wave = soundfile.SoundFile(io.BytesIO(row["audio"]["bytes"]))
        assert (wave.samplerate, wave.channels, wave.format, wave.subtype) == (8000, 1, "WAV", "PCM_16")
        samples = wave.read()
        assert 0.4 < len(samples) / 8000 < 0.7
        assert 0.25 < np.abs(samples).max() < 0.95
        image = Image.open(io.BytesIO(row["image"]["bytes"]))
        assert (image.format, image.mode, image.size) == ("PNG", "L", (16, 16))


def test_voices_of_test_are_outside_the_range_of_training():
    voices = draw_voices(seed=0)
    assert min(v.pitch for v in voices["test"]) > max(v.pitch for v in voices["train"])
    assert min(v.formant_scale for v in voices["test"]) > max(v.formant_scale for v in voices["train"])
    assert max(v.duration for v in voices["test"]) < min(v.duration for v in voices["train"])
    assert VOICE_RANGES["test"].noise == VOICE_RANGES["train"].noise


def test_processor_settings_standardise_the_training_split(tensors):
    audio, image, _ = tensors["train"]
    assert audio.shape[1:] == (1, 65, 31)
    assert image.shape[1:] == (1, 16, 16)
    for values in (audio, image):
        assert abs(values.mean()) < 0.05
        assert abs(values.std() - 1) < 0.05


def test_audio_is_learnt_but_does_not_carry_over_to_new_voices(tensors):
    # Mean over time and over thirds of it: the simplest features that hear a contour.
    features = {
        split: (np.stack([part.mean(-1) for part in np.array_split(audio[:, 0], 3, axis=-1)], 1), labels)
        for split, (audio, _, labels) in tensors.items()
    }
    features = {split: (values.reshape(len(values), -1), labels) for split, (values, labels) in features.items()}
    known = accuracy(features["train"], features["validation"])
    unknown = accuracy(features["train"], features["test"])
    assert known > 0.75
    assert 0.2 < unknown < known - 0.15


def test_images_are_equally_hard_in_all_splits(tensors):
    features = {split: (image.reshape(len(image), -1), labels) for split, (_, image, labels) in tensors.items()}
    known = accuracy(features["train"], features["validation"])
    unknown = accuracy(features["train"], features["test"])
    assert unknown > 0.6
    assert abs(known - unknown) < 0.08


def test_second_image_is_another_one_of_the_same_digit_and_split(demo, three):
    assert three["train"].column_names == ["audio", "image", "second_image", "label"]
    assert demo["train"].column_names == ["audio", "image", "label"]
    pixels = {}
    for split, rows in three.items():
        assert rows.remove_columns("second_image").to_dict() == demo[split].to_dict()
        first, second = ([media["path"] for media in rows[column]] for column in ("image", "second_image"))
        assert all(one != other for one, other in zip(first, second, strict=True))
        assert [int(name[0]) for name in second] == rows["label"][:]
        assert sorted(first) == sorted(second)  # each image once as either: splits share none
        if split == "train":
            pixels = dict(zip(first, (media["bytes"] for media in rows["image"]), strict=True))
            again = dict(zip(second, (media["bytes"] for media in rows["second_image"]), strict=True))
            assert all(pixels[name] != again[name] for name in pixels)  # noise of its own
    image = Image.open(io.BytesIO(three["test"][0]["second_image"]["bytes"]))
    assert (image.format, image.mode, image.size) == ("PNG", "L", (16, 16))


def test_both_images_are_as_noisy_as_asked():
    clean, noisy = (
        load_benchmark("demo", split="validation", image_noise=noise, second_image=True) for noise in (0.0, 0.1)
    )
    for column in ("image", "second_image"):
        grey = [
            np.stack([np.asarray(Image.open(io.BytesIO(media["bytes"])), dtype=float) for media in rows[column]])
            for rows in (clean, noisy)
        ]
        difference = (grey[1] - grey[0]) / 128  # grey values of one unit from paper to ink
        assert difference.std() == pytest.approx(0.1, rel=0.03)
        assert abs(difference.mean()) < 0.005
    noiseless = dict(zip((m["path"] for m in clean["image"]), (m["bytes"] for m in clean["image"]), strict=True))
    assert all(noiseless[media["path"]] == media["bytes"] for media in clean["second_image"])


@pytest.mark.parametrize(
    ("options", "message"),
    [({"image_noise": -1}, "image_noise"), ({"nois": 1}, "nois"), ({"second_image": "yes"}, "second_image")],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        load_benchmark("demo", **options)
