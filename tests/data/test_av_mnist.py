"""`av_mnist`: pairs, splits, corruptions and errors, on small files of the exact layout and on the real ones."""

import gzip
import io
import tracemalloc
import zlib

import numpy as np
import pytest
import soundfile
from PIL import Image

from modeling_lfm.data import load_benchmark
from modeling_lfm.data.benchmarks.av_mnist import STORED_RANGE, remove_components

from .media import make_av_mnist, tone, wav_bytes, write_idx


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_av_mnist(tmp_path_factory.mktemp("av") / "av_mnist")


def pixels_of(row):
    return np.asarray(Image.open(io.BytesIO(row["image"]["bytes"])))


def wave_of(row):
    return soundfile.read(io.BytesIO(row["audio"]["bytes"]), dtype="float32")[0]


def standardised(rows):
    """Stored corrupted images, back on the scale of standardised grey values."""
    low, high = STORED_RANGE
    return np.stack([pixels_of(row) for row in rows]) / 255 * (high - low) + low


def test_pairs_and_splits(folder):
    raw = load_benchmark("av_mnist", data_dir=folder, validation=0.25)
    assert {split: len(part) for split, part in raw.items()} == {"train": 75, "validation": 25, "test": 50}
    assert raw["train"].features["label"].names == [str(digit) for digit in range(10)]
    images = []
    for split, part in raw.items():
        for row in part:
            digit, speaker, _ = row["audio"]["path"].removesuffix(".wav").split("_")
            assert (speaker == "yweweler") == (split == "test")
            assert row["label"] == int(digit) == pixels_of(row)[0, 0]  # the pixel tells the image's digit
            assert row["audio"]["bytes"] == (folder / "fsdd" / row["audio"]["path"]).read_bytes()
            images.append(row["image"]["path"])
    assert len(set(images)) == len(images) == 150
    assert set(raw["validation"]["label"]) == set(range(10))


def test_seed_decides_pairs_and_validation(folder):
    def pairs(**options):
        raw = load_benchmark("av_mnist", data_dir=folder, **options)
        return {row["audio"]["path"]: row["image"]["path"] for split in raw.values() for row in split}, raw

    first, raw = pairs()
    again, _ = pairs(validation=0.2, test_speakers=["bob"])
    other, other_raw = pairs(seed=1)
    assert first == again, "an image stays with its recording, whatever the splits"
    assert first != other
    names = [{row["path"] for row in part["validation"]["audio"]} for part in (raw, other_raw)]
    assert names[0] != names[1]


def test_one_split_alone_equals_that_of_the_whole(folder):
    options = {"image_noise": 1.0, "image_pca_removed": 0.5, "audio_snr_db": 5.0}
    alone = load_benchmark("av_mnist", data_dir=folder, split="test", **options)
    assert alone[:] == load_benchmark("av_mnist", data_dir=folder, **options)["test"][:]


def test_image_noise(folder):
    clean, noisy, other_seed = (
        load_benchmark("av_mnist", data_dir=folder, split="train", image_noise=noise, seed=seed, validation=0)
        for noise, seed in ((1e-9, 0), (1.5, 0), (1.5, 1))
    )
    images = standardised(clean)
    assert images.mean() == pytest.approx(0, abs=0.02)
    assert images.std() == pytest.approx(1, abs=0.02)
    noise = standardised(noisy) - images
    assert noise.mean() == pytest.approx(0, abs=0.03)
    assert noise.std() == pytest.approx(1.5, abs=0.03)
    assert abs(np.corrcoef(noise[0].ravel(), noise[1].ravel())[0, 1]) < 0.2
    assert not np.array_equal(standardised(other_seed), standardised(noisy))


def test_leading_components_are_removed(folder):
    rng = np.random.default_rng(0)
    fitted = rng.normal(size=(200, 3)) * [10, 3, 1] + 5
    left = remove_components(fitted, fitted, 0.75)
    _, values, directions = np.linalg.svd(fitted - fitted.mean(0), full_matrices=False)
    assert values[0] ** 2 / (values**2).sum() > 0.75, "one component holds the share"
    np.testing.assert_allclose(left @ directions[0], 0, atol=1e-8)
    np.testing.assert_allclose(left @ directions[1], (fitted - fitted.mean(0)) @ directions[1], atol=1e-8)

    plain, removed = (
        load_benchmark(
            "av_mnist", data_dir=folder, split="train", image_noise=1e-9, image_pca_removed=share, validation=0
        )
        for share in (0.0, 0.5)
    )
    before, after = (standardised(part).reshape(len(part), -1).astype(float) for part in (plain, removed))
    assert after.std() == pytest.approx(1, abs=0.02)
    spectra = [np.linalg.svd(part - part.mean(0), compute_uv=False) ** 2 for part in (before, after)]
    gone = int(np.searchsorted(np.cumsum(spectra[0]) / spectra[0].sum(), 0.5)) + 1
    shares = spectra[1] / spectra[1].sum()
    assert shares[: len(before) - 1 - gone].sum() > 0.995, "as many directions as were removed are empty"


def test_audio_noise(folder):
    clean, noisy = (load_benchmark("av_mnist", data_dir=folder, split="test", audio_snr_db=snr) for snr in (None, 5.0))
    ratios = []
    for before, after in zip(clean, noisy, strict=True):
        signal, noise = wave_of(before), wave_of(after) - wave_of(before)
        ratios.append(10 * np.log10(np.mean(signal**2) / np.mean(noise**2)))
    assert np.mean(ratios) == pytest.approx(5.0, abs=0.2)


def test_standard_names_of_mnist_and_no_validation(tmp_path):
    folder = make_av_mnist(tmp_path / "av_mnist", recordings=1)
    for kind in ("images-idx3", "labels-idx1"):
        (folder / "mnist" / f"{kind}-ubyte.gz").rename(folder / "mnist" / f"train-{kind}-ubyte.gz")
    raw = load_benchmark("av_mnist", data_dir=folder, validation=0)
    assert set(raw) == {"train", "test"}
    with pytest.raises(ValueError, match="no samples for the split 'validation'; it has train, test"):
        load_benchmark("av_mnist", data_dir=folder, validation=0, split="validation")
    everyone = load_benchmark("av_mnist", data_dir=folder, test_speakers=["ann", "bob", "yweweler"])
    assert set(everyone) == {"test"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"test_speakers": ["eve"]}, r"test_speakers names \['eve'\]; the speakers in .* are ann, bob, yweweler"),
        ({"test_speakers": "ann,bob"}, "test_speakers"),
        ({"validation": 1.5}, "validation=1.5 must be at least 0 and below 1"),
        ({"validation": 0.999}, "100 of 100 samples cannot be set aside"),
        ({"image_pca_removed": -0.1}, "image_pca_removed=-0.1"),
        ({"image_noise": -1}, "image_noise=-1"),
    ],
)
def test_wrong_options(folder, options, message):
    with pytest.raises(ValueError, match=message):
        load_benchmark("av_mnist", data_dir=folder, **options)


def damage_images(folder):
    path = folder / "mnist" / "images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-100])


def damage_header(folder):
    (folder / "mnist" / "images-idx3-ubyte.gz").write_bytes(gzip.compress(b"nothing of the kind"))


def shorten(folder):
    path = folder / "mnist" / "labels-idx1-ubyte.gz"
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes())[:-1]))


def wrong_label(folder):
    labels = np.repeat(np.arange(10), 20)
    labels[7] = 11
    write_idx(folder / "mnist" / "labels-idx1-ubyte.gz", labels)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (damage_images, r"images-idx3-ubyte\.gz is not a whole gzip file"),
        (damage_header, r"images-idx3-ubyte\.gz is not an idx file"),
        (shorten, r"labels-idx1-ubyte\.gz announces 200 values but holds 199"),
        (wrong_label, "holds the label 11"),
        (lambda f: write_idx(f / "mnist" / "labels-idx1-ubyte.gz", np.zeros(5)), "200 images but 5 labels"),
        (lambda f: write_idx(f / "mnist" / "labels-idx1-ubyte.gz", np.zeros(200)), "0 images of the digit 1"),
        (lambda f: (f / "fsdd" / "3_ann_0.wav").write_bytes(b""), r"3_ann_0\.wav is empty"),
        (lambda f: (f / "fsdd" / "3_ann_0.wav").write_bytes(b"noise"), r"3_ann_0\.wav cannot be read as audio"),
        (lambda f: (f / "fsdd" / "10_ann_0.wav").write_bytes(wav_bytes(tone(99))), r"10_ann_0\.wav is not named"),
    ],
)
def test_damaged_files_are_named(tmp_path, damage, message):
    folder = make_av_mnist(tmp_path / "av_mnist", recordings=1)
    damage(folder)
    with pytest.raises(ValueError, match=message):
        load_benchmark("av_mnist", data_dir=folder, validation=0)


def test_missing_files_are_named(tmp_path):
    folder = make_av_mnist(tmp_path / "av_mnist", recordings=1)
    (folder / "mnist" / "labels-idx1-ubyte.gz").unlink()
    with pytest.raises(FileNotFoundError, match=r"neither labels-idx1-ubyte\.gz nor .* data_dir must hold"):
        load_benchmark("av_mnist", data_dir=folder)
    for wav in (folder / "fsdd").glob("*.wav"):
        wav.unlink()
    with pytest.raises(FileNotFoundError, match="no recordings in"):
        load_benchmark("av_mnist", data_dir=folder)


def test_real_files(data_dir):
    folder = data_dir / "av_mnist"
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}")
    raw = load_benchmark("av_mnist", data_dir=folder, image_pca_removed=0.75, image_noise=1.0)
    assert {split: len(part) for split, part in raw.items()} == {"train": 1800, "validation": 200, "test": 500}
    assert {row["path"].split("_")[1] for row in raw["test"]["audio"]} == {"yweweler"}
    assert np.bincount(raw["train"]["label"]).tolist() == [180] * 10
    values = standardised(raw["train"].select(range(0, 1800, 5)))
    assert values.std() == pytest.approx(np.sqrt(2), rel=0.02), "as strong a noise as the image"
    stored = np.stack([pixels_of(row) for row in raw["train"].select(range(0, 1800, 5))])
    assert np.isin(stored, (0, 255)).mean() < 1e-3, "the stored range cuts hardly anything"


def test_a_gzip_bomb_is_not_unpacked(tmp_path):
    """What the header announces bounds what is unpacked, and is bounded itself."""
    folder = make_av_mnist(tmp_path / "av_mnist", recordings=1)
    path = folder / "mnist" / "labels-idx1-ubyte.gz"
    packed = zlib.compressobj(9, wbits=31)
    zeros = bytes(2**24)
    bomb = packed.compress(bytes([0, 0, 8, 1, 0, 0, 0, 9])) + b"".join(packed.compress(zeros) for _ in range(8))
    path.write_bytes(bomb + packed.flush())
    tracemalloc.start()
    with pytest.raises(ValueError, match=r"labels-idx1-ubyte\.gz announces 9 values but holds more"):
        load_benchmark("av_mnist", data_dir=folder)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**24, "of the 128 MiB that it would unpack to"
    path.write_bytes(gzip.compress(bytes([0, 0, 8, 1, 255, 255, 255, 255])))
    with pytest.raises(ValueError, match=r"labels-idx1-ubyte\.gz announces 4,294,967,295 values"):
        load_benchmark("av_mnist", data_dir=folder)
