"""`av_mnist`: handwritten digits (MNIST) paired by class with spoken ones (Free Spoken Digit Dataset).

The pairing is what MultiBench (NeurIPS 2021) calls AV-MNIST. Speakers of the test split are not heard in training.
Its corruptions make one modality strong and the other weak, so that training alone neglects the weak one.
"""

import gzip
import io
import math
import re
import zlib
from dataclasses import dataclass

import numpy as np
from scipy.io import wavfile

from modeling_lfm.audio_lfm import load_audio

from ..benchmark import Benchmark, BenchmarkConfig, check_share, png_bytes, split_entries

IMAGE_FILES = ("images-idx3-ubyte.gz", "train-images-idx3-ubyte.gz")
LABEL_FILES = ("labels-idx1-ubyte.gz", "train-labels-idx1-ubyte.gz")
SPEAKERS = {"george", "jackson", "lucas", "nicolas", "theo", "yweweler"}  # of the Free Spoken Digit Dataset
MAX_VALUES = 2**28  # of an idx file; the 60,000 pictures of MNIST have 47 million
WAV_NAME = re.compile(r"(\d)_([^_]+)_(\d+)\.wav")
# Corrupted images are stored in 8 bits: this range of standardised grey values becomes 0 to 255.
STORED_RANGE = (-6.0, 9.0)


@dataclass
class AvMnistConfig(BenchmarkConfig):
    """Options of `av_mnist`.

    Args:
        test_speakers: their recordings are the test split.
        validation: share of the other recordings, stratified by digit.
        image_pca_removed: share of the images' variance that is taken out, leading principal components first
            (fitted on the training images), in [0, 1).
        image_noise: standard deviation of Gaussian noise, in units of the images' own: they are standardised first
            (zero mean and unit variance over all pixels of the training images, after the removal).
        audio_snr_db: white noise is added to each recording at this signal-to-noise ratio, in dB.
    """

    test_speakers: tuple[str, ...] = ("yweweler",)
    validation: float = 0.1
    image_pca_removed: float = 0.0
    image_noise: float = 0.0
    audio_snr_db: float | None = None

    def __post_init__(self):
        super().__post_init__()
        check_share("validation", self.validation)
        check_share("image_pca_removed", self.image_pca_removed)
        if not self.image_noise >= 0:
            raise ValueError(f"image_noise={self.image_noise} must be 0 or more.")


class AvMnist(Benchmark):
    """Handwritten digits paired by class with spoken ones; its options corrupt either."""

    BUILDER_CONFIG_CLASS = AvMnistConfig
    modalities = {"audio": "audio", "image": "image"}
    class_names = [str(digit) for digit in range(10)]
    summary = "MNIST digits paired with recordings of the Free Spoken Digit Dataset (CC BY-SA 4.0) by class."

    def plan(self):
        config = self.config
        wavs = self._recordings()
        # A folder may hold some speakers only, such as those to train on; a name that nobody has is a slip.
        unknown = sorted(set(config.test_speakers) - {speaker for _, _, speaker in wavs} - SPEAKERS)
        if unknown:
            known = ", ".join(sorted({speaker for _, _, speaker in wavs}))
            raise ValueError(f"test_speakers names {unknown}; the speakers in {self.data_dir} are {known}.")
        images, labels = self._read_mnist()
        chosen = self._pair(wavs, labels)
        entries = [
            {"wav": name, "image": image, "label": digit} for (name, digit, _), image in zip(wavs, chosen, strict=True)
        ]
        tested = [speaker in config.test_speakers for _, _, speaker in wavs]
        heard, test = ([e for e, of_test in zip(entries, tested, strict=True) if of_test == side] for side in (0, 1))
        train, validation = heard, []
        if heard:
            train, validation = split_entries(heard, config.validation, config.seed)
        self._images, self._standardised = images, self._corrupt(images, [e["image"] for e in train])
        return {"train": train, "validation": validation, "test": test}

    def _recordings(self):
        """(file name, digit, speaker) of each recording, in order."""
        folder, found = self.data_dir / "fsdd", []
        for path in self.files:
            place, _, name = path.rpartition("/")
            if place != "fsdd" or not name.endswith(".wav"):
                continue
            match = WAV_NAME.fullmatch(name)
            if match is None:
                raise ValueError(
                    f"{folder / name} is not named {{digit}}_{{speaker}}_{{index}}.wav; rename or remove it."
                )
            self.file(path, "fetch it again.")
            found.append((name, int(match[1]), match[2]))
        if not found:
            raise FileNotFoundError(f"no recordings in {folder}. {self.source.layout_line}")
        return found

    def _read_mnist(self):
        folder = self.data_dir / "mnist"
        images = _read_idx(self._first(IMAGE_FILES), dimensions=3)
        labels = _read_idx(self._first(LABEL_FILES), dimensions=1)
        if len(images) != len(labels):
            raise ValueError(f"{folder} holds {len(images)} images but {len(labels)} labels; fetch both again.")
        if labels.max(initial=0) > 9:
            raise ValueError(f"{folder} holds the label {labels.max()}; labels are digits 0 to 9.")
        return images, labels

    def _first(self, names):
        for name in names:
            if f"mnist/{name}" in self.files:
                return self.file(f"mnist/{name}", "fetch it again.")
        places = f"{' nor '.join(names)} in {self.data_dir / 'mnist'}"
        raise FileNotFoundError(f"neither {places}. {self.source.layout_line}")

    def _pair(self, wavs, labels):
        """An image for each recording (`list[int]`), of the same digit, each once, whichever speakers are tested."""
        rng = np.random.default_rng((self.config.seed, 0))
        pools = {digit: rng.permutation(np.flatnonzero(labels == digit)).tolist() for digit in range(10)}
        for digit, pool in pools.items():
            needed = sum(w[1] == digit for w in wavs)
            if len(pool) < needed:
                raise ValueError(
                    f"MNIST in {self.data_dir} has {len(pool)} images of the digit {digit}, but there are {needed} "
                    "recordings of it; add images."
                )
        chosen = [0] * len(wavs)
        for index in rng.permutation(len(wavs)):
            chosen[index] = pools[wavs[index][1]].pop()
        return chosen

    def _corrupt(self, images, train):
        """The images (N, 28, 28) standardised and without leading components, float; None if they stay as they are."""
        removed = self.config.image_pca_removed
        if not removed and not self.config.image_noise:
            return None
        pixels = images.reshape(len(images), -1).astype(np.float32) / 255
        fitted_on = train or slice(None)  # with test speakers only there is nothing else to fit on
        if removed:
            pixels = remove_components(pixels, pixels[fitted_on], removed)
        fitted = pixels[fitted_on]
        return ((pixels - fitted.mean()) / fitted.std()).reshape(images.shape)

    def example(self, entry):
        config = self.config
        rng = np.random.default_rng((config.seed, 1, zlib.crc32(entry["wav"].encode())))
        image = self._images[entry["image"]]
        if self._standardised is not None:
            low, high = STORED_RANGE
            noisy = self._standardised[entry["image"]]
            noisy = noisy + config.image_noise * rng.standard_normal(noisy.shape)
            image = np.clip((noisy - low) / (high - low) * 255, 0, 255).round().astype(np.uint8)
        return {
            "audio": {"bytes": self._audio(entry["wav"], rng), "path": entry["wav"]},
            "image": {"bytes": png_bytes(image), "path": f"mnist_{entry['image']}.png"},
            "label": entry["label"],
        }

    def _audio(self, name, rng):
        content = self.read_media(f"fsdd/{name}", "fetch it again.", load_audio)
        if self.config.audio_snr_db is None:
            return content
        wave, rate = load_audio(content)
        power = float(np.mean(wave**2)) * 10 ** (-self.config.audio_snr_db / 10)
        wave = wave + np.sqrt(power) * rng.standard_normal(wave.shape)
        out = io.BytesIO()
        # Floating, because noise may exceed full scale; by scipy, because libsndfile writes the time of day into it.
        wavfile.write(out, rate, wave.astype(np.float32))
        return out.getvalue()


def remove_components(pixels, fitted, share):
    """`pixels` (N, D) without the leading principal components of `fitted` (M, D) that hold `share` of its variance."""
    centre = fitted.mean(axis=0)
    _, values, directions = np.linalg.svd(fitted - centre, full_matrices=False)
    explained = np.cumsum(values**2) / np.sum(values**2)
    leading = directions[: int(np.searchsorted(explained, share)) + 1]
    centred = pixels - centre
    return centred - centred @ leading.T @ leading


def _read_idx(path, dimensions):
    """A gzip-compressed idx file of unsigned bytes as an array with so many `dimensions`.

    No more is unpacked than the header announces, nor than [`MAX_VALUES`].
    """
    try:
        with gzip.open(path) as file:
            header = file.read(4 + 4 * dimensions)
            if len(header) < 4 + 4 * dimensions or header[:4] != bytes([0, 0, 8, dimensions]):
                raise ValueError(
                    f"{path} is not an idx file of unsigned bytes with {dimensions} dimensions; fetch it again."
                )
            shape = np.frombuffer(header, dtype=">u4", offset=4).astype(int)
            announced = math.prod(shape.tolist())
            if announced > MAX_VALUES:
                raise ValueError(f"{path} announces {announced:,} values; no more than {MAX_VALUES:,} are read.")
            content = file.read(announced)
            if len(content) != announced or file.read(1):
                found = f"more than {announced}" if len(content) == announced else len(content)
                raise ValueError(f"{path} announces {announced} values but holds {found}; fetch it again.")
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path} is not a whole gzip file ({error}); fetch it again.") from error
    return np.frombuffer(content, dtype=np.uint8).reshape(shape)
