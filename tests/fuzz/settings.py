"""Settings of wrong types and values, unknown and nested ones, aliases, and YAML that is none, up to the first step."""

from dataclasses import fields

import yaml

from modeling_lfm.scripts.common.settings import DataArguments, ModelArguments
from modeling_lfm.scripts.common.training import find_checkpoint, parse_arguments, set_up
from modeling_lfm.trainer import LfmTrainingArguments

from .odd import ODD, make_odd
from .outcomes import Case, program

LEFT_OUT = ("hub", "push", "fsdp", "deepspeed", "accelerator", "parallelism", "compile", "dynamo", "local_rank", "ddp")
# They change the process, or write elsewhere.
LEFT_OUT += (
    "full_determinism",
    "report_to",
    "trackio",
    "project",
    "run_name",
    "log_level",
    "num_proc",
    "worker",
    "tf32",
)
POOL = (
    *("x", "", -1, 0, 1, 1.5, -0.5, 1e308, 10**12, True, None, [], {}, [1, 2], {"a": 1}, [[1]], "é\u2028\U0001f600"),
    *(float("nan"), float("inf"), "1e-3", "null", "{a: [b", "*x", "a\nb", "y" * 3000, "../../etc"),
)
# What has to be refused whatever else it may be: a value, and the words of which an error names one.
REFUSED = (
    *(
        ({key: value}, key)
        for key in ("hidden_size", "num_train_epochs", "learning_rate")
        for value in ("x", -1, [], {})
    ),
    *(({key: float("nan")}, key) for key in ("learning_rate", "num_train_epochs", "weight_decay", "modality_dropout")),
    *(({"per_device_train_batch_size": value}, "per_device_train_batch_size") for value in (0, -3, 1.5)),
    *(({"per_device_eval_batch_size": value}, "per_device_eval_batch_size") for value in (0, -3)),
    *(({"gradient_accumulation_steps": value}, "gradient_accumulation_steps") for value in (0, -1, 0.5)),
    *(({key: 0}, key) for key in ("max_train_samples", "max_eval_samples", "hidden_size")),
    *(({"hidden_size": value}, "hidden_size") for value in (10**9, True, None, 1.5)),
    *(({"modality_dropout": value}, "modality_dropout") for value in (-0.1, 1.5, "a", None)),
    *(({"holdout": value}, "holdout") for value in (-1, 5000, "x", float("nan"))),
    *(({"benchmark": value}, "benchmark") for value in ("nothing", None, 3, [], "", "a/b", "dem")),
    *(({"method": value}, "method") for value in ("lmf", 3, [], "", {"nam": "lfm"}, {"name": "ogm", "alpha": "x"})),
    *(({"method": {"name": "ogm", "alpha": value}}, "alpha") for value in (-5, float("nan"), [1])),
    *(({"method": {"name": "lfm", "alpha": value}}, "alpha") for value in ("learnt", -1, [])),
    *(({"fusion": value}, "fusion") for value in ("conct", 3, [])),
    *(({"fusion_args": value}, "fusion_args") for value in ({"ratoi": 3}, 3, "x")),
    *(({"modalities": value}, "modalities") for value in (None, {}, [], 3, "x", {"audio": None})),
    *(({"processor": value}, "processor") for value in (None, {}, [], 3, "x", {"audio": None}, {"audio": {}})),
    *(({"columns": value}, "columns") for value in ({"audoi": "audio"}, {"audio": "none"}, {"audio": 3}, [], 3)),
    *(({"benchmark_options": value}, "benchmark_options") for value in (3, [], "x")),
    ({"benchmark_options": {"image_nois": 1}}, "image_nois"),
    *(({"benchmark_options": {"image_noise": value}}, "image_noise") for value in (-1, "x", float("nan"), None, [])),
    *(({"benchmark_options": {"second_image": value}}, "second_image") for value in (3, "x", None)),
    *(({"benchmark_options": {"seed": value}}, "seed") for value in (-1, "x", None, 1.5)),
    *(({"lr_scheduler_type": value}, "lr_scheduler_type") for value in ("cosin", 3)),
    *(({"optim": value}, "optim") for value in ("adam_", 3)),
    *(({"eval_strategy": value}, "eval_strategy") for value in ("epochs", 3)),
    *(({"metric_for_best_model": value}, "metric_for_best_model") for value in ("acuracy", 3)),
    *(({"seed": value}, "seed") for value in ("x", 1.5, -1, 2**64)),
    *(({"data_dir": value}, value) for value in ("/nowhere", "no\nwhere")),
    *(({"resume_from_checkpoint": value}, value) for value in ("/nowhere",)),
    ({"resume_from_checkpoint": True}, "output"),
    *(({key: 1}, key) for key in ("learnin_rate", "hiden_size", "é", "__class__", "self", "0", "")),
)
NESTED = {
    "modalities.audio": ("tower", "name", "in_chans", "model_args", "pretrained", "unknown", "é", "frontend"),
    "modalities.audio.model_args": ("channels", "layers", "norm_layer", "act_layer", "checkpoint_path", "drop_rate"),
    "processor.audio": ("type", "sampling_rate", "n_fft", "hop_length", "duration", "in_model", "std", "unknown"),
    "processor.image": ("type", "size", "num_channels", "mean", "std", "crop", "range", "background", "augment"),
}  # fmt: skip
BOMB = "a: &a [1,1,1,1,1,1,1,1,1]\n" + "".join(
    f"{b}: &{b} [{','.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)
TEXTS = (
    *(BOMB, "a: &a [*a]", "a: &a {b: *a}", "x: *nothing", "[" * 3000, "{" * 3000, "a: b: c", "\t- a", "- a", "3", ""),
    *("a: 1\na: 2", "!!python/object/apply:os.system [ls]", "a: !!python/name:os.system", "a: !x 3", "? [a]\n: b"),
    *("1: 2", "null: 3", "a: 'unclosed", "%YAML 9.9\n---\na: 1", "a: 1\n---\nb: 2", "<<: 3", "a: !!timestamp x"),
    *("a: !!float x", "a: !!int y", "a: !!binary %", "a: 2020-13-45", "\ufeffbenchmark: demo", "a: \x07", "x" * 2**21),
    *("a: !!set {b}", "a: 0x_", "a: 0b", "a: !!bool 3", "a: !!null x", "a: 1:99:99"),
)


def settings_cases(rng, folder, tiny):
    """Endless cases, each a YAML file with one wrong thing in it, or a word of the command line."""
    base = yaml.safe_load(tiny.read_text())
    own = [
        (f.name, cls) for cls in (ModelArguments, DataArguments, LfmTrainingArguments) for f in fields(cls) if f.init
    ]
    names = [name for name, _ in own if not any(part in name for part in LEFT_OUT)]
    (folder / "settings").mkdir(parents=True)
    number = 0

    def start(argv):
        def main(words):
            settings = parse_arguments(words)
            find_checkpoint(settings[2])
            return set_up(*settings)

        return program(main, *argv, "--output_dir", folder / "run")

    def write(content):
        nonlocal number
        file, number = folder / "settings" / f"settings{number}.yaml", number + 1
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
        return file

    def any_setting():
        key, value = names[int(rng.integers(len(names)))], POOL[int(rng.integers(len(POOL)))]
        if rng.random() < 0.5:
            return [write(yaml.safe_dump({**base, key: value}, allow_unicode=True))], f"{key}: {value!r}", key
        return [tiny, f"--{key}={value}"], f"--{key}={value!r}", key

    def nested():
        parents = list(NESTED)[int(rng.integers(len(NESTED)))]
        key, value = str(rng.choice(NESTED[parents])), POOL[int(rng.integers(len(POOL)))]
        return [tiny, f"--{parents}.{key}={value}"], f"--{parents}.{key}={value!r}", f"{parents}.{key}"

    right = lambda trainer: None  # noqa: E731
    while True:
        for make in (0, 1, 2, 0, 1, 0, 3, 1):
            if make == 0:
                change, named = REFUSED[int(rng.integers(len(REFUSED)))]
                file = write(yaml.safe_dump({**base, **change}, allow_unicode=True))
                yield Case(f"{change}"[:120], lambda f=file: start([f]) or 1, (named, str(file)))
            elif make in (1, 2):
                argv, name, key = (any_setting, nested)[make - 1]()
                yield Case(name[:120], lambda a=argv: start(a) or 1, (*key.split(".")[-2:], *map(str, argv)), right)
            else:
                if rng.random() < 0.2:
                    file = make_odd(write(""), what := str(rng.choice(ODD)))
                    yield Case(f"YAML {what}", lambda f=file: start([f]) or 1, (file.name,))
                    continue
                text = TEXTS[int(rng.integers(len(TEXTS)))]
                content = rng.bytes(200) if rng.random() < 0.1 else text.encode()
                file = write(content)
                yield Case(f"YAML {content[:60]!r}", lambda f=file: start([f]) or 1, (file.name, "setting"))
