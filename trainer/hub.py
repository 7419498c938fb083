"""Sending to the Hub: repositories, one commit; and a trainer that sends its model.

`create_commit` and not `upload_folder`, which sends a folder in several commits where hf_xet is installed. What is sent
is chosen in `staging.py`; what must not be in it, in `privacy.py`.
"""

import os
import shutil
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, constants, errors
from transformers import Trainer
from transformers.trainer_utils import HubStrategy
from transformers.utils import PushInProgress, logging

from .cards.card import CARD, MARKER, as_list, save_card
from .cards.facts import gather_from_trainer
from .cards.record import describe_run, write_record
from .checkpoints import write_state
from .privacy import check_contents
from .staging import WEIGHT_NAMES, list_other_files, list_weights

logger = logging.get_logger(__name__)


def open_repository(name, repo_type="model", private=False, revision=None, create_pr=False):
    """Log in, and find a repository or make it.

    Args:
        name (`str`): such as `me/av_mnist`. repo_type (`str`): `"model"` or `"dataset"`.
        private (`bool`): only you may see it. create_pr (`bool`): it belongs to somebody else, and must be there.
        revision (`str`, *optional*): a branch, made if it is not there; `main` if not given.

    Returns:
        What the Hub tells of the repository (`huggingface_hub.ModelInfo`), or None if it was made now.

    Raises:
        OSError: not logged in, not allowed, the name is taken, no network. ValueError: it is public, but should be
            private.
    """
    api, found = HfApi(), None
    with explained(name):
        if ((api.whoami().get("auth") or {}).get("accessToken") or {}).get("role") == "read":
            raise OSError("the token may only read; make one that may write")
        try:
            found = api.repo_info(name, repo_type=repo_type)
        except errors.RepositoryNotFoundError:
            if create_pr:
                raise
            api.create_repo(name, repo_type=repo_type, private=private)
    if private and found is not None and not found.private:
        remedy = "give --public" if repo_type == "dataset" else "leave --private out"
        raise ValueError(f"{name} is public on the Hub; {remedy} if everybody may have it, or choose another name.")
    if revision is not None and not revision.startswith("refs/"):
        with explained(name):
            api.create_branch(name, branch=revision, repo_type=repo_type, exist_ok=True)
    return found


def is_edited(name, revision=None):
    """Whether the model card in a repository (`str`) is there and was edited by hand (`bool`)."""
    with explained(name):
        try:
            path = HfApi().hf_hub_download(name, CARD, revision=revision)
        except errors.LocalEntryNotFoundError:  # no connection; it is an EntryNotFoundError, too
            raise
        except errors.EntryNotFoundError:
            return False
    return MARKER not in Path(path).read_text(encoding="utf-8", errors="replace")


def push_files(name, files, message, repo_type="model", revision=None, create_pr=False, stale=WEIGHT_NAMES):
    """Send `files` (`dict[str, Path]` by name in a repository that [`open_repository`] opened) in one commit.

    Files of the repository that are called as `stale` (`re.Pattern`) tells, and are not among them, are removed in it.

    Returns:
        `huggingface_hub.CommitInfo`, or None if the Hub had it all already. Raises an `OSError` where it fails.
    """
    api = HfApi()
    with explained(name):
        there = api.repo_info(name, repo_type=repo_type, revision=revision)
        names = [file.rfilename for file in there.siblings if file.rfilename not in files]
        operations = [CommitOperationAdd(file, str(path)) for file, path in files.items()]
        operations += [CommitOperationDelete(file, is_folder=False) for file in names if stale.fullmatch(file)]
        commit = api.create_commit(
            name, operations, commit_message=message, repo_type=repo_type, revision=revision, create_pr=create_pr
        )
        return None if commit.oid == there.sha else commit


def push_dataset(name, folder):
    """Send a prepared folder (`Path`) to a data set of the Hub, but hidden files and what it has already; its address
    (`str`). An `OSError` where it fails: run again to go on."""
    api = HfApi()
    with explained(name):
        api.upload_folder(
            repo_id=name,
            folder_path=folder,
            repo_type="dataset",
            ignore_patterns=[".*", "**/.*"],
            delete_patterns="data/*.parquet",  # of an earlier preparation
            commit_message="Prepared data",
        )
    return f"{api.endpoint}/datasets/{name}"


@contextmanager
def explained(name):
    """Errors of the Hub's library as an `OSError` that names the repository (`str`) and what helps against most."""
    try:
        yield
    except Exception as error:
        causes = dict.fromkeys(" ".join(str(cause).split()) for cause in (error, error.__cause__) if cause is not None)
        said = "; ".join(filter(None, causes)) or type(error).__name__
        raise OSError(
            f"{name} on the Hub ({constants.ENDPOINT}): {said}. Log in ('hf auth login', or HF_TOKEN) with a "
            f"token that may write to {name.partition('/')[0]}, see to name, branch and network, and run the same "
            "command again: a commit arrives whole or not at all, and what was uploaded is not sent twice."
        ) from error


# -- while training --------------------------------------------------------------------------------------------


class SharingTrainer(Trainer):
    """A `transformers.Trainer` that writes its own model card, and that sends to the Hub what belongs to a model.

    transformers sends all of `output_dir` but its checkpoints: pickled arguments with their paths, logs, other files.
    """

    def create_model_card(
        self,
        language=None,
        license=None,
        tags=None,
        model_name=None,
        finetuned_from=None,
        tasks=None,
        dataset_tags=None,
        dataset=None,
        dataset_args=None,
    ):
        """Write README.md with its pictures, and `lfm_run.json`, from which `write_model_card` can make it again.

        Arguments as in transformers: of `tasks` the first becomes the `pipeline_tag`, and `dataset_tags` are data sets
        of the Hub. What is not given is taken from the run; results are those in `output_dir` (`save_metrics`), or of
        the last `evaluate` with `metric_key_prefix="test"`. Only the main process writes.

        Raises:
            ValueError: a licence or an identifier that the Hub would refuse.
        """
        if not self.is_world_process_zero():
            return
        write_record(self.args.output_dir, run=describe_run(self))
        names = " and ".join(as_list(dataset))
        if names and dataset_args:
            names = f"{names} ({', '.join(as_list(dataset_args))})"
        save_card(
            gather_from_trainer(self),
            self.args.output_dir,
            getattr(self, "hub_model_id", None) or self.args.hub_model_id,
            language=language,
            license=license,
            tags=tags,
            model_name=model_name,
            base_model=finetuned_from,
            pipeline_tag=next(iter(as_list(tasks)), None),
            datasets=dataset_tags,
            dataset_name=names or None,
        )

    def save_state(self):
        """As in transformers; of the best checkpoint `trainer_state.json` holds the name, without its folder."""
        if self.is_world_process_zero():
            best = self.state.best_model_checkpoint
            told = replace(self.state, best_model_checkpoint=best and os.path.basename(best))
            write_state(told, self.args.output_dir)

    def push_to_hub(
        self, commit_message="End of training", blocking=True, token=None, revision=None, private=None, **kwargs
    ):
        """Save the model, write its card, and send both with the results of the run, in one commit.

        Args: as in transformers; `kwargs` go to `create_model_card`.

        Returns:
            `huggingface_hub.CommitInfo`, or its future where `blocking` is False; None but on the main process.

        Raises:
            ValueError: a file holds a path of this machine, a token or a password; the message names the line.
        """
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        if self.hub_model_id is None:
            self.init_hf_repo(token=token, **({} if private is None else {"private": private}))
        self.save_model(_internal_call=True)
        if not self.is_world_process_zero():
            return None
        tags = [*as_list(kwargs.pop("tags", None)), *as_list(getattr(self.model, "model_tags", None))]
        self.create_model_card(tags=list(dict.fromkeys(tags)), **kwargs)
        self._finish_current_push()
        files = list_weights(self.args.output_dir) | list_other_files(self.args.output_dir)
        return self._send(files, commit_message, blocking, token, revision)

    def _send(self, files, message, blocking, token=None, revision=None):
        check_contents({name: file for name, file in files.items() if file.suffix != ".safetensors"})
        return HfApi().create_commit(
            self.hub_model_id,
            [CommitOperationAdd(name, str(file)) for name, file in files.items()],
            commit_message=message,
            token=self.args.hub_token if token is None else token,
            revision=self.args.hub_revision if revision is None else revision,
            run_as_future=not blocking,
        )

    def _push_from_checkpoint(self, checkpoint_folder):
        """While training: the model alone. A strategy that sends the optimizer sends all, as in transformers."""
        if self.args.hub_strategy != HubStrategy.EVERY_SAVE:
            super()._push_from_checkpoint(checkpoint_folder)
            return
        busy = self.push_in_progress is not None and not self.push_in_progress.is_done()
        if not self.is_world_process_zero() or (busy and not self.args.hub_always_push):
            return
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        found = list_weights(checkpoint_folder) | list_other_files(checkpoint_folder, run=False)
        # The checkpoint itself may be deleted before all of it is sent.
        files = {name: Path(shutil.copy(file, self.args.output_dir)) for name, file in found.items()}
        try:
            job = self._send(files, f"Training in progress, step {self.state.global_step}", blocking=False)
        except ValueError as error:  # training goes on
            logger.warning(f"{checkpoint_folder} was not sent to the Hub: {error}")
            return
        self.push_in_progress = PushInProgress([*(self.push_in_progress.jobs if busy else ()), job])
