"""Training on a CUDA device: pairs of towers of usual size, their weights drawn, by number format, memory format and
compiler. Each row stands alone: one that fails, or for which the memory is too small, is told, and the others go on."""

import gc
import tempfile
import warnings

import torch
from torch.utils.flop_counter import FlopCounterMode

from modeling_lfm.scripts.speed import models
from modeling_lfm.scripts.speed.rows import Row
from modeling_lfm.scripts.speed.training import VARIANTS

QUIET = {"layerdrop": 0.0, "apply_spec_augment": False, "hidden_dropout": 0.0, "attention_dropout": 0.0}
QUIET |= {"feat_proj_dropout": 0.0, "activation_dropout": 0.0}
SMALL = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
SMALL_SOUND = {"conv_dim": [16, 16], "conv_kernel": [10, 4], "conv_stride": [5, 4], "num_feat_extract_layers": 2}
SMALL_SOUND |= {"num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 2}
EAGER = ("fp32", "bf16", "bf16, channels_last")
COMPILED = ("bf16", "bf16, compiled")
STEPS = (4, 12)  # of the two runs whose waits are counted: what a run does once falls out


def list_pairs(setup):
    """By name: towers, input shapes (two `dict`s), and samples a batch."""
    images = resnet("resnet50", setup), setup.pick((3, 32, 32), (3, 224, 224))
    bert = transformer(setup, "bert", hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, pooling="mean")
    sound = transformer(setup, "wav2vec2", **QUIET, **(SMALL_SOUND if setup.quick else {}))
    vit = transformer(setup, "vit", **({"image_size": 32} if setup.quick else {}))
    towers, shapes = models.pair(setup, 96)
    return {
        "ResNet18 + ResNet18": (towers, shapes, setup.pick(2, 16, 128)),
        "ResNet50 + BERT-base": (
            {"image": images[0], "text": bert},
            {"image": images[1], "text": setup.pick(8, 128)},
            setup.pick(2, 4, 64),
        ),
        "wav2vec2-base + ViT-B": (
            {"audio": sound, "image": vit},
            {"audio": (setup.pick(800, 48_000),), "image": images[1]},
            setup.pick(2, 4, 32),
        ),
    }


def resnet(name, setup):
    return {"tower": "timm", "name": name, "in_chans": 3, "model_args": models.TINY if setup.quick else {}}


def transformer(setup, kind, pooling=None, **config):
    """Entry of an encoder (`dict`) of base size, which is what transformers makes where nothing else is said."""
    entry = {"tower": "transformers", "config": {"model_type": kind, **(SMALL if setup.quick else {}), **config}}
    return entry | ({} if pooling is None else {"pooling": pooling})


def training(setup):
    """The bf16 rate of the device; of each pair the speed, its share of that rate, and how often a step waits."""
    rate = measure_rate(setup)
    yield Row(f"bf16 product of two matrices of {setup.pick(64, 1024, 8192)} squared", rate, "TFLOP/s")
    for name, pair in list_pairs(setup).items():
        first = {}
        for variant in EAGER:
            yield from guarded(f"{name}, {variant}", measure, setup, pair, variant, max(rate), first)
        yield from guarded(f"{name}, bf16: waits for the device", measure_waits, setup, pair)


def compiled(setup):
    """Compiled training beside that of the same process which is not; it compiles for minutes, and so comes last."""
    rate, pairs = measure_rate(setup), list(list_pairs(setup).items())
    for name, pair in pairs[: setup.pick(1, None)]:
        first = {}
        for variant in COMPILED:
            yield from guarded(f"{name}, {variant}", measure, setup, pair, variant, max(rate), first)


def guarded(what, function, *arguments):
    """The rows of a function, which takes `what` they are of; in place of those that fail a `Row` that says why."""
    try:
        yield from function(what, *arguments)
    except Exception as error:  # what else there is to be measured is dear
        short = isinstance(error, torch.OutOfMemoryError)
        why = "out of memory" if short else f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        yield Row(what, [], right=None if short else False, note=f"failed: {why}")
    gc.collect()  # a trainer and its callbacks know each other
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def measure_rate(setup):
    """What the device does of a product of matrices in bf16, in TFLOP/s, a number a round."""
    size = setup.pick(64, 1024, 8192)
    one, other = (torch.randn(size, size, dtype=torch.bfloat16, device=setup.device) for _ in range(2))
    times = setup.take_turns({"product": lambda: one @ other}, seconds=1.0)
    return [2e-12 * size**3 / seconds for seconds in times["product"]]


def measure(what, setup, pair, variant, rate, first):
    """Samples a second, and the share of `rate` (TFLOP/s); `first` (`dict`) keeps losses and arithmetic of the pair's
    first variant, with which the others are compared."""
    (towers, shapes, batch_size), settings = pair, dict(VARIANTS.get(variant, ({},))[0])
    if variant == "bf16, compiled":
        settings = {"bf16": True, "torch_compile": True, "torch_compile_backend": setup.pick("eager", "inductor")}
    samples = models.make_samples(shapes, batch_size)
    with tempfile.TemporaryDirectory() as folder:
        settings |= {"max_steps": 1, "learning_rate": 1e-4}
        step = models.make_step(
            models.make_trainer(
                setup, folder, models.make_model(towers, hidden_size=512), samples, batch_size, **settings
            )
        )
        found = [step().item() for _ in range(4)]
        times = setup.take_turns({"step": step})["step"]
        if not first:  # of a compiled model the counter would see other operators
            with FlopCounterMode(display=False) as counter:
                step()
            first |= {"losses": found, "work": counter.get_total_flops()}
    off = max(abs(one / other - 1) for one, other in zip(found, first["losses"], strict=True))
    peak = f"; {torch.cuda.max_memory_allocated() / 2**30:.1f} GB at most" if setup.device == "cuda" else ""
    note = f"batch {batch_size}{peak}; losses of 4 steps equal to 2 % those of the first line"
    yield Row(what, [batch_size / seconds for seconds in times], "samples/s", right=off <= 2e-2, note=note)
    if "bf16" in variant:
        work = 1e-12 * first["work"]
        shares = [100 * work / seconds / rate for seconds in times]
        yield Row(f"{what}, share of the measured rate", shares, "%", note=f"{work:.3g} TFLOP a step")


def measure_waits(what, setup, pair):
    """How often a step of LFM with an alpha by a schedule waits for the device, by CUDA's own account."""
    towers, shapes, batch_size = pair
    method, samples, counts = {"name": "lfm", "alpha": "heuristic"}, models.make_samples(shapes, batch_size), []
    with tempfile.TemporaryDirectory() as folder:
        for steps in STEPS:
            model = models.make_model(towers, "lfm", 512)
            settings = {"bf16": True, "max_steps": steps, "logging_strategy": "no", "learning_rate": 1e-4}
            trainer = models.make_trainer(setup, folder, model, samples, batch_size, method, **settings)
            counts.append(count_waits(trainer.train, setup.device))
    each = (counts[1] - counts[0]) / (STEPS[1] - STEPS[0])
    yield Row(what, [each], "a step", note=f"{counts[0]} and {counts[1]} in runs of {STEPS[0]} and {STEPS[1]} steps")


def count_waits(function, device="cuda"):
    """How often PyTorch warns, while a function without arguments runs, that it waits for the device (`int`)."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        if device == "cuda":
            torch.cuda.set_sync_debug_mode("warn")
        try:
            function()
        finally:
            if device == "cuda":
                torch.cuda.set_sync_debug_mode("default")
    return sum("synchronizing CUDA operation" in str(warning.message) for warning in told)
