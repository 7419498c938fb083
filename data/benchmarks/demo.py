"""The built-in benchmark `demo`: real handwritten digits paired with synthetic spoken digits, with no download.

The images are scikit-learn's bundled set of handwritten digits. The audio is NOT speech: it is synthesised by a small
source-filter model (a sawtooth or noise, shaped by moving formants, Fant 1960) that pronounces a caricature of the ten
English digits in many voices. Nothing measured here says anything about real speech; the set exists to show on any
machine, within minutes, how one modality is learnt fast, dominates training, and is the less reliable one in test.
"""

import io
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import soundfile
from PIL import Image

from ..benchmark import Benchmark, BenchmarkConfig, png_bytes

SAMPLING_RATE = 8000  # Hz
IMAGE_SIZE = 16  # pixels, height and width
SPLIT_SIZES = {"train": 1000, "validation": 200, "test": 400}
NUM_VOICES = {"train": 24, "test": 12}  # validation shares the voices of train


class Segment(NamedTuple):
    """A stretch of a word: what excites the vocal tract, and where its formants are when the stretch ends."""

    length: float  # relative to the other segments of the word
    voiced: float  # amplitude of the sawtooth
    noise: float  # amplitude of the noise
    formants: tuple[float, float, float]  # Hz
    pitch: float = 1.0  # relative to the voice's


# Formants after Peterson and Barney (1952), rounded; consonants are noise around their usual centre.
WORDS = {
    "zero": [
        Segment(0.8, 0.4, 0.5, (300, 1800, 3400)),
        Segment(1.0, 1.0, 0.0, (420, 1900, 2500), 1.1),
        Segment(0.8, 0.9, 0.0, (440, 1250, 1650)),
        Segment(1.4, 1.0, 0.0, (480, 880, 2400), 0.85),
    ],
    "one": [
        Segment(0.8, 0.8, 0.0, (300, 650, 2200)),
        Segment(1.4, 1.0, 0.0, (640, 1190, 2390), 1.1),
        Segment(1.2, 0.5, 0.0, (280, 1300, 2300), 0.85),
    ],
    "two": [
        Segment(0.5, 0.0, 1.0, (2200, 2900, 3500)),
        Segment(1.0, 1.0, 0.0, (340, 1500, 2300), 1.15),
        Segment(1.8, 1.0, 0.0, (310, 870, 2240), 0.9),
    ],
    "three": [
        Segment(0.7, 0.0, 0.4, (1500, 2500, 3500)),
        Segment(0.9, 0.9, 0.0, (420, 1200, 1600), 1.1),
        Segment(1.9, 1.0, 0.0, (280, 2250, 2950), 0.9),
    ],
    "four": [
        Segment(0.8, 0.0, 0.4, (1100, 2100, 3300)),
        Segment(1.6, 1.0, 0.0, (570, 840, 2410), 1.1),
        Segment(1.0, 0.9, 0.0, (460, 1250, 1650), 0.85),
    ],
    "five": [
        Segment(0.8, 0.0, 0.4, (1100, 2100, 3300)),
        Segment(1.1, 1.0, 0.0, (730, 1090, 2440), 1.1),
        Segment(1.1, 1.0, 0.0, (400, 1950, 2550), 0.95),
        Segment(0.7, 0.4, 0.2, (300, 1100, 2200), 0.85),
    ],
    "six": [
        Segment(1.0, 0.0, 0.9, (2600, 3300, 3800)),
        Segment(0.9, 1.0, 0.0, (400, 1990, 2550), 1.05),
        Segment(0.5, 0.0, 0.0, (400, 1990, 2550)),
        Segment(1.0, 0.0, 0.9, (2600, 3300, 3800)),
    ],
    "seven": [
        Segment(0.9, 0.0, 0.9, (2600, 3300, 3800)),
        Segment(0.9, 1.0, 0.0, (540, 1840, 2480), 1.1),
        Segment(0.5, 0.5, 0.2, (320, 1200, 2300)),
        Segment(0.7, 0.9, 0.0, (520, 1500, 2400), 0.95),
        Segment(0.8, 0.5, 0.0, (280, 1400, 2300), 0.85),
    ],
    "eight": [
        Segment(1.2, 1.0, 0.0, (520, 1850, 2500), 1.05),
        Segment(1.2, 1.0, 0.0, (350, 2200, 2800), 0.95),
        Segment(0.7, 0.0, 0.0, (350, 2200, 2800)),
        Segment(0.5, 0.0, 0.9, (2200, 2900, 3500)),
    ],
    "nine": [
        Segment(0.8, 0.5, 0.0, (280, 1350, 2300)),
        Segment(1.1, 1.0, 0.0, (730, 1090, 2440), 1.1),
        Segment(1.1, 1.0, 0.0, (400, 1950, 2550), 0.95),
        Segment(0.9, 0.5, 0.0, (280, 1400, 2300), 0.85),
    ],
}


class Voice(NamedTuple):
    """A synthetic speaker, or the ranges that speakers are drawn from."""

    pitch: float  # Hz
    formant_scale: float  # 1 for a long vocal tract, more for a short one
    duration: float  # seconds of a word
    noise: float  # amplitude of the background, relative to the word


# The first three ranges do not meet: a test voice is higher, of a shorter tract and faster than every training voice.
# The noise is as loud in both; without it audio is perfect on known voices, and validation can choose no model.
VOICE_RANGES = {
    "train": Voice(pitch=(90, 170), formant_scale=(0.92, 1.06), duration=(0.50, 0.60), noise=(0.20, 0.50)),
    "test": Voice(pitch=(190, 260), formant_scale=(1.14, 1.22), duration=(0.40, 0.48), noise=(0.20, 0.50)),
}


@dataclass
class DemoConfig(BenchmarkConfig):
    """Options of `demo`.

    Args:
        image_noise: standard deviation of the Gaussian noise added to each image, where paper is 0 and ink 1. It makes
            the images slower to learn than the audio.
        second_image: add a third modality, the column `second_image`: another image of the same digit, of the same
            split and as noisy. Audio and first image stay as they are. To train on all three:

                python scripts/train.py demo --benchmark_options.second_image true
                    --modalities.second_image "{tower: timm, name: resnet10t, in_chans: 1,
                                                model_args: {channels: [8, 16, 32, 32], stem_width: 8}}"
                    --processor.second_image "{type: image, size: [16, 16], num_channels: 1, mean: [0.41], std: [0.22]}"
    """

    image_noise: float = 0.3
    second_image: bool = False

    def __post_init__(self):
        if not self.image_noise >= 0:
            raise ValueError(f"image_noise must be 0 or more, not {self.image_noise!r}.")


class Demo(Benchmark):
    """1,000 training, 200 validation and 400 test pairs, balanced over ten digits; no image is in two pairs.

    As `second_image` each image is in one more pair of its split, so that splits share none.
    """

    BUILDER_CONFIG_CLASS = DemoConfig
    modalities = {"audio": "audio", "image": "image"}
    class_names = list(WORDS)
    summary = (
        "Real handwritten digits (scikit-learn's bundled set, with noise) paired with SYNTHETIC spoken digits; "
        "the voices of the test split are unlike those of training. Made on the spot, no download."
    )

    def _info(self):
        if self.config.second_image:
            self.modalities = {**type(self).modalities, "second_image": "image"}
        return super()._info()

    def plan(self):
        """Entries of each split: which images, which voice, and the seed of what is random in the example."""
        voices = draw_voices(self.config.seed)
        voices["validation"] = voices["train"]
        images = draw_images(self.config.seed)
        entries = {}
        for number, split in enumerate(SPLIT_SIZES):
            generator = np.random.default_rng([self.config.seed, 2, number])
            entries[split] = [
                {"image": image, "voice": voices[split][generator.integers(len(voices[split]))], "index": index}
                for index, image in enumerate(generator.permutation(images[split]).tolist())
            ]
        if self.config.second_image:
            partners = draw_partners(self.config.seed, images)
            for entry in (entry for split in entries.values() for entry in split):
                entry["second_image"] = partners[entry["image"]]
        return entries

    def example(self, entry):
        """One pair: audio, 16-bit mono wav at 8 kHz; image (and second_image), 16x16 grey PNG; label, the digit."""
        pixels, labels = _digits()
        label = int(labels[entry["image"]])
        # An image is in one pair only, so its number makes the generator the pair's own.
        generator = np.random.default_rng([self.config.seed, 3, entry["image"]])
        waveform = speak(WORDS[self.class_names[label]], Voice(*entry["voice"]), generator)
        soundfile.write(file := io.BytesIO(), waveform, SAMPLING_RATE, format="WAV", subtype="PCM_16")
        sample = {"audio": {"bytes": file.getvalue(), "path": f"{label}_{entry['image']:04d}.wav"}, "label": label}
        for column in ("image", "second_image"):
            if column in entry:
                content = png_bytes(_blur(pixels[entry[column]], self.config.image_noise, generator))
                sample[column] = {"bytes": content, "path": f"{label}_{entry[column]:04d}.png"}
        return sample


def draw_voices(seed: int) -> dict[str, list[Voice]]:
    """The voices of `train` (and `validation`) and of `test`, uniform in `VOICE_RANGES`."""
    generator = np.random.default_rng([seed, 0])
    return {
        split: [Voice(*(float(generator.uniform(*limits)) for limits in VOICE_RANGES[split])) for _ in range(number)]
        for split, number in NUM_VOICES.items()
    }


def draw_images(seed: int) -> dict[str, np.ndarray]:
    """Numbers of the images of each split, the same many of each class, disjoint between splits."""
    generator = np.random.default_rng([seed, 1])
    labels = _digits()[1]
    shuffled = [generator.permutation(np.flatnonzero(labels == label)) for label in range(len(WORDS))]
    images, start = {}, 0
    for split, size in SPLIT_SIZES.items():
        stop = start + size // len(WORDS)
        images[split] = np.concatenate([of_class[start:stop] for of_class in shuffled])
        start = stop
    return images


def draw_partners(seed: int, images: dict[str, np.ndarray]) -> dict[int, int]:
    """For the number of each image of `images` that of another one, of the same class and split; each once."""
    generator = np.random.default_rng([seed, 4])
    labels, partners = _digits()[1], {}
    for numbers in images.values():
        for label in range(len(WORDS)):
            ring = generator.permutation(numbers[labels[numbers] == label]).tolist()
            partners.update(zip(ring, [*ring[1:], ring[0]], strict=True))
    return partners


def speak(word: list[Segment], voice: Voice, generator: np.random.Generator) -> np.ndarray:
    """Synthesise a word, its segments, by a voice; every utterance varies a little around it.

    Returns:
        float64 array of shape (samples,) at `SAMPLING_RATE`, peak 0.3 to 0.9.
    """
    samples = round(voice.duration * generator.uniform(0.95, 1.05) * SAMPLING_RATE)
    lengths = np.array([segment.length for segment in word]) * generator.uniform(0.85, 1.15, len(word))
    ends = np.cumsum(lengths) / lengths.sum()
    # Formants and pitch glide from the middle of a segment to the middle of the next; amplitudes switch faster.
    middles = ends - lengths / lengths.sum() / 2
    time = np.arange(samples) / samples
    pitch = voice.pitch * generator.uniform(0.94, 1.06) * np.interp(time, middles, [s.pitch for s in word])
    phase = np.cumsum(pitch) / SAMPLING_RATE + generator.uniform()
    current = np.minimum(np.searchsorted(ends, time, side="right"), len(word) - 1)
    # A moving average over 10 ms, and silence before and after, so that nothing clicks.
    window = np.full(SAMPLING_RATE // 100, 100 / SAMPLING_RATE)
    amplitudes = np.array([[segment.voiced, segment.noise] for segment in word])[current].T
    voiced, noise = (np.convolve(part, window, mode="same") for part in amplitudes)
    source = voiced * (2 * (phase % 1) - 1) + 0.3 * noise * generator.standard_normal(samples)
    formants = np.array([segment.formants for segment in word]) * voice.formant_scale
    formants = formants * generator.uniform(0.96, 1.04, formants.shape)
    waveform = _filter(source, np.stack([np.interp(time, middles, track) for track in formants.T]))
    waveform = waveform / np.abs(waveform).max() + voice.noise * generator.standard_normal(samples)
    return waveform / np.abs(waveform).max() * generator.uniform(0.3, 0.9)


def _filter(source: np.ndarray, formants: np.ndarray, frame: int = 128) -> np.ndarray:
    """Shape a source (samples,) by resonances that move, formants (3, samples) in Hz, through overlapping frames."""
    hop = frame // 2
    padded = np.pad(source, (hop, frame))
    starts = np.arange(0, len(source) + hop, hop)
    window = np.sin(np.pi * (np.arange(frame) + 0.5) / frame)  # its square adds up to 1 over half-overlapping frames
    spectra = np.fft.rfft(padded[starts[:, None] + np.arange(frame)] * window)
    centres = formants[:, np.minimum(starts, len(source) - 1)][:, :, None]
    widths = 60 + 0.06 * centres
    frequencies = np.fft.rfftfreq(frame, 1 / SAMPLING_RATE)
    gains = np.array([1.0, 0.6, 0.35])[:, None, None] / (1 + ((frequencies - centres) / widths) ** 2)
    frames = np.fft.irfft(spectra * (gains.sum(0) + 0.01), n=frame) * window
    output = np.zeros(len(padded))
    for start, values in zip(starts, frames, strict=True):
        output[start : start + frame] += values
    return output[hop : hop + len(source)]


@lru_cache(maxsize=1)
def _digits() -> tuple[np.ndarray, np.ndarray]:
    """All images, (1797, 8, 8) float64 from 0 to 1, and their labels, (1797,)."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    return digits.images / 16, digits.target


def _blur(pixels: np.ndarray, noise: float, generator: np.random.Generator) -> np.ndarray:
    """Enlarge an image of 0 to 1 and add noise; as grey values, where 0 and 1 lie at 64 and 192."""
    image = Image.fromarray(pixels.astype(np.float32)).resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BILINEAR)
    values = np.asarray(image) + noise * generator.standard_normal((IMAGE_SIZE, IMAGE_SIZE))
    # Half a unit of head room on both sides, or clipping would take most of the noise away again.
    return np.clip(64 + 128 * values, 0, 255).round().astype(np.uint8)
