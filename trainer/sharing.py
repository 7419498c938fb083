"""What [`LfmTrainer`] leaves for others: a model card, a state without paths of this machine, and what the Hub gets."""

import os
import shutil
from pathlib import Path

from huggingface_hub import CommitOperationAdd, HfApi
from transformers import Trainer
from transformers.trainer_utils import HubStrategy
from transformers.utils import PushInProgress, logging

from .card_facts import gather_from_trainer
from .model_card import as_list, save_card
from .run_record import describe_run, write_record
from .shared_files import check_contents, list_other_files, list_weights

logger = logging.get_logger(__name__)


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

        What is not given is taken from the run; results are those in `output_dir` (`save_metrics`), or of the last
        `evaluate` with `metric_key_prefix="test"`. Only the main process writes.

        Args:
            language, tags (`str` or `list[str]`, *optional*), license, model_name (`str`, *optional*): see
                [`render_model_card`][modeling_lfm.trainer.model_card.render_model_card].
            finetuned_from (`str` or `list[str]`, *optional*): models of the Hub whose weights the towers started from.
            tasks (`str` or `list[str]`, *optional*): tasks of the Hub; the first becomes the `pipeline_tag`.
            dataset_tags (`str` or `list[str]`, *optional*): data sets of the Hub.
            dataset (`str` or `list[str]`, *optional*): names of the data, for people.
            dataset_args (`str` or `list[str]`, *optional*): which part or configuration of it.

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
        checkpoint = self.state.best_model_checkpoint
        if checkpoint is not None:
            self.state.best_model_checkpoint = os.path.basename(checkpoint)
        super().save_state()
        self.state.best_model_checkpoint = checkpoint

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
