"""Evaluate a trained model on one split of a benchmark, and write the metrics as JSON.

usage: python scripts/eval.py --checkpoint DIR [--setting value ...]
       accelerate launch scripts/eval.py --checkpoint DIR [--setting value ...]
       python -m modeling_lfm.scripts.eval --checkpoint DIR [--setting value ...]

The data set and its options are those of the training, unless given. Only the split that is asked for is built.

examples:
  python scripts/eval.py --checkpoint outputs/demo
  python scripts/eval.py --checkpoint outputs/av_mnist --benchmark av_mnist --data_dir data/av_mnist --split test \\
      --output metrics.json
  python scripts/eval.py --checkpoint outputs/av_mnist --data_dir data/av_mnist --benchmark_options.audio_snr_db 0
  python scripts/eval.py --checkpoint outputs/av_mnist --data_dir data/av_mnist --drop audio
  python scripts/eval.py --checkpoint outputs/seed1 outputs/seed2 outputs/seed3 --data_dir data/av_mnist

The JSON holds, all between 0 and 1: accuracy, map (mean average precision), f1 (macro), gap (of the modalities'
accuracies), for each modality MODALITY_accuracy, MODALITY_map, MODALITY_f1, and without_MODALITY_accuracy, ... of the
fused prediction where it is absent; further loss and samples, and of a model with temperatures calibration_error_before
and _after them. Of several labels a sample those count that reach the thresholds of the model. Where some samples lack
a modality (--missing absent), MODALITY_samples tells how many have it. With --drop all of it is without those
modalities.
"""

from dataclasses import dataclass

from transformers.hf_argparser import HfArg

from modeling_lfm.scripts.common import runs
from modeling_lfm.scripts.common.console import check_writable, run, write_json
from modeling_lfm.scripts.common.settings import read_arguments


@dataclass
class EvalArguments(runs.SplitArguments):
    """Settings of `eval.py`: the model, the split, and which modalities are left out."""

    checkpoint: list[str] = HfArg(
        kw_only=True,
        help="Folder of the model that train.py wrote, or a model on the Hub; several, such as those of other seeds, "
        "are evaluated as one, by the mean of their probabilities.",
    )
    drop: list[str] = HfArg(default_factory=list, help="Modalities to leave out, as if no sample had them.")
    output: str | None = HfArg(default=None, help="The JSON file to write; printed in any case.")
    bf16: bool = HfArg(default=False, help="Compute in bfloat16.")


def evaluate(args):
    """Metrics of a model on one split.

    Args:
        args ([`EvalArguments`])

    Returns:
        `dict[str, float]`: see [`compute_multimodal_metrics`]; further `loss` and `samples`.
    """
    model, processor = runs.load_together(args.checkpoint)
    args = runs.complete(args, *args.checkpoint)

    settings = {"per_device_eval_batch_size": args.per_device_eval_batch_size, "use_cpu": args.use_cpu}
    with runs.evaluating(model, processor, bf16_full_eval=args.bf16, **settings) as trainer:
        trainer.check_absent(args.drop)
        with trainer.args.main_process_first(desc="preparing the data"):
            dataset = runs.load_split(args, model.config, processor)
        report = runs.measure(trainer, dataset, args.drop)
    return report | ({"dropped": args.drop} if args.drop else {})


def main(argv=None):
    args = read_arguments(argv, __doc__, EvalArguments)
    check_writable("output", args.output)
    write_json(evaluate(args), args.output)


if __name__ == "__main__":
    run(main)
