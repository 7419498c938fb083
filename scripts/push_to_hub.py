"""Send a trained model to the Hub: weights, settings, code and card, in one commit, and nothing else."""

import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from modeling_lfm.scripts.common import settings as arguments
from modeling_lfm.scripts.common.console import hide_progress_bars, run, say

HELP = """
Send a trained model to the Hub, in one commit.

usage: python scripts/push_to_hub.py --checkpoint DIR --repo_id USER/NAME [--setting value ...]
       python -m modeling_lfm.scripts.push_to_hub --checkpoint DIR --repo_id USER/NAME [--setting value ...]

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
  python scripts/push_to_hub.py --checkpoint outputs/av_mnist --repo_id me/av_mnist --revision longer_training
  python scripts/push_to_hub.py --checkpoint outputs/av_mnist --repo_id their/av_mnist --create_pr

settings:
{settings}
"""
LARGE = 10 * 2**20  # the Hub keeps larger files, and those that are no text, in its store of large files (LFS)


@dataclass
class PushArguments:
    """What is sent where."""

    checkpoint: str = field(metadata={"help": "Folder of the model that train.py wrote."})
    repo_id: str = field(metadata={"help": "Name on the Hub, USER/NAME or ORGANISATION/NAME."})
    private: bool = field(default=False, metadata={"help": "Let nobody else see it; refused if it is public already."})
    dry_run: bool = field(
        default=False, metadata={"help": "Only show what would be sent; asks nobody, needs no login."}
    )
    revision: str | None = field(default=None, metadata={"help": "Branch, made if need be; main if not given."})
    commit_message: str = field(default="Upload model", metadata={"help": "First line of the commit."})
    create_pr: bool = field(
        default=False, metadata={"help": "Propose it as a pull request to a repository that is there."}
    )
    license: str | None = field(
        default=None, metadata={"help": "Licence of the weights for the card, an identifier of the Hub: apache-2.0."}
    )


def check_arguments(args):
    """Raise a `ValueError` for what could never be sent."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(args.repo_id)
    except HFValidationError as error:
        raise ValueError(f"--repo_id {args.repo_id} cannot be a name on the Hub: {error}") from error
    if args.repo_id.count("/") != 1:
        raise ValueError(f"--repo_id {args.repo_id} should be USER/NAME, such as me/{args.repo_id}.")
    if args.create_pr and args.revision is not None:
        raise ValueError("--create_pr proposes a change of main; leave --revision out.")
    if not args.commit_message.strip():
        raise ValueError("--commit_message is empty; leave it out for 'Upload model'.")


def describe(args, files):
    """What would be sent, as a text.

    Args:
        args ([`PushArguments`])
        files (`dict[str, Path]`): by name in the repository.
    """
    visible = "private" if args.private else "public"
    to = "a pull request" if args.create_pr else f"branch {args.revision or 'main'}"
    sizes = {name: file.stat().st_size for name, file in files.items()}
    lines = [
        f"would be sent to {args.repo_id} ({visible}, if it is new), {to}, in one commit, {args.commit_message!r}:",
        *(f"{show_size(sizes[n]):>10}  {'LFS' if is_large(f) else 'regular':<8} {n}" for n, f in files.items()),
        f"{show_size(sum(sizes.values())):>10}  {len(files)} files",
    ]
    left = [f"{path.name}{'/' if path.is_dir() else ''}" for path in sorted(Path(args.checkpoint).iterdir())]
    left = [name for name in left if name not in files and not any(Path(file).parts[0] + "/" == name for file in files)]
    return "\n".join([*lines, f"stays here: {', '.join(left) or 'nothing'}"])


def show_size(size):
    """A number of bytes (`int`) for people, in units of 1000 as the Hub shows them."""
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"


def is_large(file):
    """Whether the Hub keeps a file (`Path`) as LFS; it has the last word."""
    if file.suffix == ".safetensors" or file.stat().st_size > LARGE:
        return True
    return b"\0" in file.read_bytes()[:8192]


def send(args, files, is_made):
    """Send `files` (`dict[str, Path]`), and print what came of it.

    Args:
        args ([`PushArguments`])
        is_made (`bool`): the model card is not somebody's own.

    Raises:
        OSError, ValueError: see [`open_model`], [`push_model`].
    """
    from modeling_lfm.scripts.common.hub_upload import open_model, push_model, read_text
    from modeling_lfm.trainer.cards.card import MARKER
    from modeling_lfm.trainer.hub import CARD, WEIGHT_NAMES

    found = open_model(args.repo_id, args.private, args.revision, args.create_pr)
    private = args.private if found is None else found.private
    does = "is new" if found is None else "exists: a pull request" if args.create_pr else "exists: updating it"
    say(f"{args.repo_id} ({'private' if private else 'public'}) {does}")
    if found is not None and is_made:
        theirs = read_text(args.repo_id, CARD, args.revision)
        if theirs is not None and MARKER not in theirs:
            say(f"its {CARD} was edited by hand and stays as it is")
            files = {name: file for name, file in files.items() if name != CARD}
    commit = push_model(
        args.repo_id, files, args.commit_message, args.revision, args.create_pr, is_stale=WEIGHT_NAMES.fullmatch
    )
    if commit is None:
        say("it has all of this already: nothing was left to send")
        return
    size = show_size(sum(file.stat().st_size for file in files.values()))
    say(f"sent {len(files)} files, {size}: {commit.pr_url or commit.commit_url}")
    revision = commit.pr_revision or args.revision
    where = f'"{args.repo_id}"' + (f', revision="{revision}"' if revision else "") + ", trust_remote_code=True"
    say(f"\nmodel = AutoModel.from_pretrained({where})")
    if "processor_config.json" in files:
        say(f"processor = AutoProcessor.from_pretrained({where})")


def push(args):
    """Check and send a model, or show what would be sent.

    Args:
        args ([`PushArguments`])

    Raises:
        OSError, ValueError: see [`stage_model`], [`send`].
    """
    check_arguments(args)
    hide_progress_bars()
    from modeling_lfm.scripts.common.model_staging import stage_model

    with tempfile.TemporaryDirectory(prefix="lfm-push-") as folder:
        files, is_made = stage_model(args.checkpoint, Path(folder), args.repo_id, args.license)
        if args.dry_run:
            say(describe(args, files))
        else:
            send(args, files, is_made)


def main(argv=None):
    argv = sys.argv[1:] if argv is None else argv
    if {"-h", "--help"} & set(argv):
        arguments.show_help(HELP.format(settings=arguments.describe(PushArguments)))
    (args,) = arguments.build(arguments.read_settings(argv), PushArguments)
    push(args)


if __name__ == "__main__":
    run(main)
