"""Many trainings of one kind: a search over hyper-parameters, whose trials may differ in the method."""

from functools import partial
from operator import itemgetter

from .adapters import add_adapters
from .fitting import make_model
from .methods import make_method


class Searcher:
    """The part of [`LfmTrainer`] that searches hyper-parameters, and makes a model anew for each trial."""

    def call_model_init(self, trial=None):
        """As in transformers; in a search the method, its settings and the hold-out are those of the trial."""
        if trial is not None and self.hp_search_backend is not None:
            self._apply(trial)
        model = super().call_model_init(trial)
        add_adapters(model, self.args)
        if self.bound:
            self.model, self.optimizer = model, None
            self._bind()
        return model

    def hyperparameter_search(
        self, hp_space=None, compute_objective=None, n_trials=20, direction=None, *args, **kwargs
    ):
        """As in transformers, with `method`, `method.SETTING` and `holdout` in the space, too.

        Args:
            hp_space (*optional*): from an optuna trial to a `dict` of training arguments. A `method` is a name or a
                mapping, as in [`LfmTrainingArguments`]; `method.SETTING` is a setting of it, or of the one that is set.
            compute_objective (*optional*): from metrics to a number; `metric_for_best_model` if that is set.
            direction (`str`, *optional*): as `greater_is_better` says, if `metric_for_best_model` is the objective.

        Returns:
            `transformers.trainer_utils.BestRun`

        Raises:
            ValueError: a method or a setting that is unknown, or does not fit the model.
        """
        metric = self.args.metric_for_best_model
        if compute_objective is None and metric is not None:
            compute_objective = itemgetter(f"eval_{metric.removeprefix('eval_')}")
            direction = direction or ("maximize" if self.args.greater_is_better else "minimize")
        if self.model_init is None and self.config_given is not None:
            self.model_init = partial(make_model, self.config_given, self.args, self.given[0])
        self.searched = hp_space, self.args.method
        space = hp_space and partial(ask_transformers, hp_space)
        return super().hyperparameter_search(
            space, compute_objective, n_trials, direction or "minimize", *args, **kwargs
        )

    def _apply(self, trial):
        """Take the method and the hold-out that a trial asks for, and their data."""
        space, method = self.searched
        asked = {} if space is None else space(trial)
        method = asked.get("method", method)
        settings = {"name": method} if isinstance(method, str) else dict(method)
        settings |= {key.partition(".")[2]: value for key, value in asked.items() if key.startswith("method.")}
        self.args.method, self.args.holdout = settings, asked.get("holdout", self.args.holdout)
        self.method = make_method(settings)
        self.train_dataset = self._choose_data(self.args)


def ask_transformers(space, trial):
    """What a search space (from a trial to a `dict`) asks of transformers: all but the method and the hold-out."""
    return {key: value for key, value in space(trial).items() if key.partition(".")[0] not in ("method", "holdout")}
