"""Send a trained model to the Hub, in one commit; or only write its model card.

usage: python scripts/push_to_hub.py --checkpoint DIR --repo_id USER/NAME [--setting value ...]
       python scripts/push_to_hub.py --checkpoint DIR --card_only [--setting value ...]

Sent are the weights (safetensors only), the settings of model, processor and tokenizer, the code that loads them
without this library, README.md with the pictures that it shows (written if nobody did), and of the run its
results, trainer_state.json and lfm_run.json, without paths. Everything else stays here: optimizer and other pickled
states, checkpoints, logs, data, hidden files. A file that holds an absolute path of this machine, a token or a password
stops it. The checkpoint's folder is only read.

Log in first, with 'hf auth login' or HF_TOKEN. A repository of that name is updated: weights that the model no longer
has are removed, other files stay, and so does a README.md that was edited there by hand.

examples:
  python scripts/push_to_hub.py --checkpoint outputs/av_mnist --repo_id me/av_mnist --dry_run
  python scripts/push_to_hub.py --checkpoint outputs/av_mnist --repo_id me/av_mnist --private --license apache-2.0
  python scripts/push_to_hub.py --checkpoint outputs/av_mnist --repo_id their/av_mnist --create_pr
  python scripts/push_to_hub.py --checkpoint outputs/av_mnist --card_only --license apache-2.0 --language en

train.py writes a card at its end; --card_only writes it anew, with what only a person knows, from what the run left. A
README.md that you wrote or edited (its line "Written by modeling_lfm" is gone) is left as it is.
"""

import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

from transformers.hf_argparser import HfArg

from modeling_lfm.scripts.common.console import hide_progress_bars, run, say
from modeling_lfm.scripts.common.settings import read_arguments


@dataclass
class PushArguments:
    """Settings of `push_to_hub.py`: which model is sent to which repository, and who sees it."""

    checkpoint: str = HfArg(help="Folder of the model that train.py wrote.")
    repo_id: str | None = HfArg(
        default=None, help="Name on the Hub, USER/NAME; with --card_only, what the card's code loads."
    )
    private: bool = HfArg(default=False, help="Let nobody else see it; refused if it is public already.")
    dry_run: bool = HfArg(default=False, help="Only show what would be sent; asks nobody.")
    revision: str | None = HfArg(default=None, help="Branch, made if need be; main if not given.")
    commit_message: str = HfArg(default="Upload model", help="First line of the commit.")
    create_pr: bool = HfArg(default=False, help="Propose it to a repository that is there.")
    card_only: bool = HfArg(default=False, help="Send nothing; write README.md and its pictures.")
    output: str | None = HfArg(default=None, help="Where --card_only writes; the checkpoint.")


@dataclass
class CardArguments:
    """What the run does not know, for the card."""

    license: str | None = HfArg(
        default=None, help="Licence of the weights, an identifier of the Hub such as apache-2.0."
    )
    model_name: str | None = HfArg(default=None, help="Title of the card; the repository's name.")
    language: list[str] = HfArg(default_factory=list, help="Of the texts or the speech, such as en.")
    tags: list[str] = HfArg(default_factory=list, help="Further tags.")
    datasets: list[str] = HfArg(default_factory=list, help="On the Hub; those of the benchmark.")
    dataset_name: str | None = HfArg(default=None, help="Name of the data; that of the benchmark.")
    base_model: list[str] = HfArg(
        default_factory=list, help="On the Hub, whose weights the towers started from; as recorded."
    )
    pipeline_tag: str | None = HfArg(default=None, help="Task of the Hub; that of the richest input.")


def check_arguments(args):
    """Raise a `ValueError` for what could never be sent."""
    from modeling_lfm.trainer.cards.card import check_metadata

    check_metadata("unknown", {"--repo_id": [args.repo_id or ""]})
    if args.repo_id.count("/") != 1:
        raise ValueError(f"--repo_id {args.repo_id} should be USER/NAME, such as me/{args.repo_id}.")
    if args.create_pr and args.revision is not None:
        raise ValueError("--create_pr proposes a change of main; leave --revision out.")


def describe(args, files):
    """What would be sent, as a text, of `files` (`dict[str, Path]`, by name in the repository)."""
    visible = "private" if args.private else "public"
    to = "a pull request" if args.create_pr else f"branch {args.revision or 'main'}"
    lines = [
        f"would be sent to {args.repo_id} ({visible}, if it is new), {to}, in one commit, {args.commit_message!r}:"
    ]
    lines += [f"{file.stat().st_size:>13,} bytes  {name}" for name, file in files.items()]
    left = [f"{path.name}{'/' if path.is_dir() else ''}" for path in sorted(Path(args.checkpoint).iterdir())]
    tops = {Path(name).parts[0] for name in files}
    return "\n".join([*lines, f"stays here: {', '.join(n for n in left if n.rstrip('/') not in tops) or 'nothing'}"])


def send(args, files, is_made):
    """Send `files` (`dict[str, Path]`) but a card that was edited there, and print what came of it.

    Args:
        args ([`PushArguments`]), is_made (`bool`): the model card is not somebody's own.
    """
    from modeling_lfm.trainer.hub import is_edited, open_repository, push_files

    found = open_repository(args.repo_id, "model", args.private, args.revision, args.create_pr)
    private = args.private if found is None else found.private
    does = "is new" if found is None else "exists: a pull request" if args.create_pr else "exists: updating it"
    say(f"{args.repo_id} ({'private' if private else 'public'}) {does}")
    if found is not None and is_made and is_edited(args.repo_id, args.revision):
        say("its README.md was edited by hand and stays as it is")
        files = {name: file for name, file in files.items() if name != "README.md"}
    commit = push_files(args.repo_id, files, args.commit_message, "model", args.revision, args.create_pr)
    if commit is None:
        return say("it has all of this already: nothing was left to send")
    say(f"sent {len(files)} files: {commit.pr_url or commit.commit_url}")
    revision = commit.pr_revision or args.revision
    where = f'"{args.repo_id}"' + (f', revision="{revision}"' if revision else "") + ", trust_remote_code=True"
    say(f"\nmodel = AutoModel.from_pretrained({where})\nprocessor = AutoProcessor.from_pretrained({where})")


def main(argv=None):
    args, card = read_arguments(argv, __doc__, PushArguments, CardArguments)
    hide_progress_bars()
    if args.card_only:
        from modeling_lfm.trainer.cards.card import write_model_card

        return say(f"model card: {write_model_card(args.checkpoint, args.repo_id, args.output, **asdict(card))}")
    check_arguments(args)
    from modeling_lfm.trainer.staging import stage_model

    with tempfile.TemporaryDirectory(prefix="lfm-push-") as folder:
        files, is_made = stage_model(args.checkpoint, Path(folder), args.repo_id, **asdict(card))
        say(describe(args, files)) if args.dry_run else send(args, files, is_made)


if __name__ == "__main__":
    run(main)
