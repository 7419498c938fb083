"""Write the model card of a trained model, README.md and its pictures, from what the run left."""

import sys
from dataclasses import asdict, dataclass, field

from modeling_lfm.scripts.common import settings as arguments
from modeling_lfm.scripts.common.console import run, say

HELP = """
Write the model card of a trained model.

usage: python scripts/write_card.py --checkpoint DIR [--setting value ...]
       python -m modeling_lfm.scripts.write_card --checkpoint DIR [--setting value ...]

train.py writes one at its end. This writes it anew, with what only a person knows, such as the licence, or elsewhere.
It is made from config.json, processor_config.json, trainer_state.json, lfm_run.json and the *_results.json of the
folder; nothing is unpickled, and the model is not run.

examples:
  python scripts/write_card.py --checkpoint outputs/av_mnist --license apache-2.0 --repo_id me/av_mnist
  python scripts/write_card.py --checkpoint outputs/mvsa_single --output model_cards/mvsa_single --license apache-2.0 \\
      --base_model sentence-transformers/all-MiniLM-L6-v2 --language en

settings:
{settings}

Written are README.md, and as far as the run logged them alpha.png, accuracy.png and gap.png. A README.md that you wrote
or edited (its line "Written by modeling_lfm" is gone) is left as it is.
"""


@dataclass
class CardArguments:
    """Of which model, and what the run does not know."""

    checkpoint: str = field(metadata={"help": "Folder of the model that train.py wrote."})
    output: str | None = field(default=None, metadata={"help": "Folder to write into; that of the model."})
    repo_id: str | None = field(
        default=None, metadata={"help": "Repository on the Hub that the card's code loads; the folder's name."}
    )
    model_name: str | None = field(default=None, metadata={"help": "Title of the card; the repository's name."})
    license: str | None = field(
        default=None, metadata={"help": "Licence of the weights, an identifier of the Hub such as apache-2.0."}
    )
    language: list[str] = field(default_factory=list, metadata={"help": "Of the texts or the speech, such as en."})
    tags: list[str] = field(default_factory=list, metadata={"help": "Further tags."})
    datasets: list[str] = field(
        default_factory=list, metadata={"help": "Data sets on the Hub; those of the benchmark, if it knows any."}
    )
    dataset_name: str | None = field(default=None, metadata={"help": "Name of the data; that of the benchmark."})
    base_model: list[str] = field(
        default_factory=list,
        metadata={"help": "Models on the Hub whose weights the towers started from; those that the run recorded."},
    )
    pipeline_tag: str | None = field(
        default=None, metadata={"help": "Task of the Hub; the classification task of the richest input."}
    )


def main(argv=None):
    argv = sys.argv[1:] if argv is None else argv
    if {"-h", "--help"} & set(argv):
        arguments.show_help(HELP.format(settings=arguments.describe(CardArguments)))
    (args,) = arguments.build(arguments.read_settings(argv), CardArguments)

    from modeling_lfm.trainer.cards.card import write_model_card

    settings = asdict(args)
    say(f"model card: {write_model_card(settings.pop('checkpoint'), **settings)}")


if __name__ == "__main__":
    run(main)
