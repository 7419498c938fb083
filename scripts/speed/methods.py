"""What a step of every method costs over one of concatenation, against the passes that its formula needs."""

import tempfile

import torch

from modeling_lfm.scripts.speed import models
from modeling_lfm.scripts.speed.suite import Row, Spread
from modeling_lfm.trainer.methods import list_methods

ROUNDS, BATCH_SIZE = 6, 16
QUICK = ("lfm", "ogm", "reconboost", "unimodal_2")
# Half as wide as ResNet18, on larger pictures: the arithmetic for each weight is that of ResNet18 at 128 x 128.
HALF = {"channels": [32, 64, 128, 256]}
# A stage a step, in turns: `state.epoch` in each.
STAGES = {"reconboost": ({"modality_epochs": 0.5, "joint_epochs": 0.5}, (0.1, 0.6))}


class Steps:
    """A trainer of one method that takes single steps."""

    def __init__(self, bench, method, towers, shapes, folder):
        settings, self.stages = STAGES.get(method, ({}, (None,)))
        settings, batch = {"name": method, **settings}, 4 if bench.quick else BATCH_SIZE
        model = models.make_model(towers, settings)
        samples = models.make_samples({name: shapes[name] for name in model.config.modality_names}, 2 * batch)
        self.trainer = models.make_trainer(bench, folder, model, samples, settings, batch, holdout=samples, max_steps=1)
        self.trainer.train()
        batches = models.make_batches(self.trainer.train_dataset, batch)
        self.step = models.make_step(self.trainer, batches)

    def __call__(self):
        """One step of each stage."""
        for stage in self.stages:
            if stage is not None:
                self.trainer.state.epoch = stage
            self.step()

    def is_finite(self):
        """Whether all weights are (`bool`)."""
        return all(parameter.isfinite().all().item() for parameter in self.trainer.model.parameters())


def measure_parts(bench, steps, rounds):
    """Shares of a step of concatenation (`dict`, sum 1): `forward`, `backward`, and the `rest`, as of the optimizer."""
    trainer, seconds = steps.trainer, {"forward": [], "backward": [], "rest": []}
    batches = models.make_batches(trainer.train_dataset, trainer.args.train_batch_size)
    for _ in range(rounds + 1):
        batch = trainer._prepare_inputs(next(batches))
        start = bench.now()
        loss = trainer.model(**batch).loss
        middle = bench.now()
        loss.backward()
        end = bench.now()
        trainer.accelerator.clip_grad_norm_(trainer.model.parameters(), trainer.args.max_grad_norm)
        trainer.optimizer.step()
        trainer.model.zero_grad()
        for name, value in zip(seconds, (middle - start, end - middle, bench.now() - end), strict=True):
            seconds[name].append(value)
    medians = {name: Spread.of(values[1:]).median for name, values in seconds.items()}
    return {name: value / sum(medians.values()) for name, value in medians.items()}


def expect(spec, number, parts):
    """Cost of a step over one of concatenation (`float`) by the passes of the method's formula."""
    forward, backward = spec.passes(number)
    return forward * parts["forward"] + backward * parts["backward"] + min(1, backward) * parts["rest"]


def compare(bench, spec, concat, towers, shapes, parts):
    """The `Row` of one method, and by how much it exceeds what is expected (percent)."""
    with tempfile.TemporaryDirectory() as folder:
        steps = Steps(bench, spec.name, towers, shapes, folder)
        times = bench.alternate({"concat": concat, spec.name: steps}, 1 if bench.quick else ROUNDS)
    ratio, stages = times.ratio(spec.name, "concat"), len(steps.stages)
    expected = expect(spec, len(towers), parts)
    excess = 100 * (ratio.median / stages / expected - 1)
    forward, backward = spec.passes(len(towers))
    row = ratio.row(
        f"{spec.title} (`{spec.name}`)",
        factor=1 / stages,
        correct=steps.is_finite(),
        check="weights stay finite",
        note=f"passes {forward:g} forwards, {backward:g} backwards: {expected:.2f} expected, {excess:+.0f} %",
    )
    return row, excess


def explain(bench, name, concat, towers, shapes):
    """What a step of the method `name` computes beyond one of concatenation: the operations (`dict`) that take most of
    the additional time, in percent of a step of concatenation, by torch's profiler."""
    with tempfile.TemporaryDirectory() as folder:
        steps = Steps(bench, name, towers, shapes, folder)
        steps()
        more, base = (profile_step(bench, found) for found in (steps, concat))
    whole = sum(base.values())
    additional = {key: 100 * (seconds - base.get(key, 0)) / whole for key, seconds in more.items()}
    return dict(sorted(additional.items(), key=lambda item: -item[1])[:3])


def profile_step(bench, steps, repeats=3):
    """Time of a step (`dict` by operation) in the operations themselves."""
    kinds = torch.profiler.ProfilerActivity
    with torch.profiler.profile(activities=[kinds.CUDA if bench.suite == "gpu" else kinds.CPU]) as profile:
        for _ in range(repeats):
            steps()
    key = "self_device_time_total" if bench.suite == "gpu" else "self_cpu_time_total"
    return {event.key: getattr(event, key) / repeats / len(steps.stages) for event in profile.key_averages()}


def settings(bench):
    """Towers and shapes of the suite (two `dict`s)."""
    if bench.quick:
        tiny = models.resnet(1, model_args=models.TINY_ARGS)
        return {"audio": tiny, "image": tiny}, {"audio": (1, 32, 32), "image": (1, 32, 32)}
    if bench.suite == "gpu":
        towers = {"audio": models.resnet(1), "image": models.resnet(3)}
        return towers, {"audio": (1, 257, 299), "image": (3, 224, 224)}
    towers = {"audio": models.resnet(1, model_args=HALF), "image": models.resnet(3, model_args=HALF)}
    return towers, {"audio": (1, 128, 128), "image": (3, 128, 128)}


def choose(bench):
    """The methods that are measured (`list[MethodSpec]`): those of two modalities, but the reference itself."""
    specs = [spec for spec in list_methods() if spec.name not in ("concat", "unimodal_3")]
    return [spec for spec in specs if spec.name in QUICK] if bench.quick else specs


def measure(bench):
    """See `benchmark_suite`."""
    towers, shapes = settings(bench)
    with tempfile.TemporaryDirectory() as folder:
        concat = Steps(bench, "concat", towers, shapes, folder)
        parts = measure_parts(bench, concat, 1 if bench.quick else 2 * ROUNDS)
        bench.details["parts"] = parts
        rows, excesses = [], {}
        for spec in choose(bench):
            row, excesses[spec.name] = compare(bench, spec, concat, towers, shapes, parts)
            rows.append(row)
        worst = max(excesses, key=excesses.get)
        profile = explain(bench, worst, concat, towers, shapes)
    bench.details["percent_above_formula"] = excesses
    bench.details["percent_by_operation"] = profile
    yield Row(
        f"most above its passes, of {len(excesses)} methods: {worst}",
        excesses[worst],
        goal="most above the passes of its formula",
        note="most of it in "
        + ", ".join(f"{name} {share:+.1f} %" for name, share in profile.items())
        + " of a step of concat, which is "
        + ", ".join(f"{name} {100 * share:.0f} %" for name, share in parts.items()),
    )
    yield from rows
