"""Settings of LFM training, on top of those of `transformers.TrainingArguments`."""

from dataclasses import dataclass, field

from transformers import TrainingArguments

CHOICES = {
    "matching_loss": ("js", "infonce", "unimodal"),
    "total": ("ratio", "convex"),
    "alpha": ("learned", "lookahead", "constant", "linear", "stepwise", "heuristic", "polynomial"),
    "alpha_rule": ("cosine", "raw", "sign"),
    "alpha_solver": ("cg", "neumann", "identity"),
    "alpha_product": ("double_backward", "central_difference"),
    "alpha_parameters": ("head", "all"),
    "alpha_outer": ("calibrated", "plain"),
}
LEARNED = ("learned", "lookahead")


def _choice(name, default, help):
    return field(default=default, metadata={"help": f"{help} One of {', '.join(CHOICES[name])}."})


@dataclass
class LfmTrainingArguments(TrainingArguments):
    """Training arguments of [`LfmTrainer`].

    Three defaults differ from `TrainingArguments`: `eval_strategy="epoch"` would need an evaluation set, so it stays
    `"no"`, but `logging_strategy` is `"epoch"`, `remove_unused_columns` is False (inputs are named after modalities),
    and `report_to` is `"none"`.
    """

    matching_loss: str = _choice(
        "matching_loss",
        "js",
        "Loss that draws the modalities together (L_MM): Jensen-Shannon divergence of their predictions, InfoNCE on "
        "their features (the paper's text), or each modality's own cross-entropy (a control).",
    )
    total: str = _choice(
        "total",
        "ratio",
        "How the losses add up: L_CLS + min(alpha / (1 - alpha), 50) L_MM, or the paper's equation 1, "
        "(1 - alpha) L_CLS + alpha L_MM.",
    )
    temperature: float = field(default=0.07, metadata={"help": "Temperature of InfoNCE."})
    alpha: str = _choice(
        "alpha",
        "learned",
        "How the weight of L_MM moves, once an epoch: learned by the implicit hypergradient (costs a few steps an "
        "epoch), learned by lookahead (2 x lookahead_steps steps an epoch), or a schedule.",
    )
    alpha_value: float = field(
        default=0.0,
        metadata={"help": "alpha of 'constant' (0 trains the plain fusion baseline); p of 'stepwise' h(p)."},
    )
    alpha_start: float | None = field(
        default=None,
        metadata={"help": "First alpha of 'learned' (0.95 if not given), 'lookahead' (0.9) and 'linear' (0.95)."},
    )
    alpha_step: float | None = field(
        default=None,
        metadata={
            "help": "Step of the learned alpha: k in alpha -= k / T cos for rule 'cosine' (3 if not given; T epochs), "
            "eta in alpha -= eta h for 'raw', k in x -= k / T direction for 'lookahead' (6)."
        },
    )
    alpha_rule: str = _choice("alpha_rule", "cosine", "What of the hypergradient moves the learned alpha.")
    alpha_solver: str = _choice("alpha_solver", "cg", "How the implicit system (H + damping I) v = g is solved.")
    alpha_iterations: int = field(default=5, metadata={"help": "Iterations of the solver."})
    alpha_damping: float = field(default=0.1, metadata={"help": "Damping added to the Hessian."})
    alpha_product: str = _choice("alpha_product", "double_backward", "How Hessian-vector products are computed.")
    alpha_parameters: str = _choice(
        "alpha_parameters",
        "head",
        "Parameters of the inner problem: projections and fusion (cheap: towers run once), or all.",
    )
    alpha_outer: str = _choice(
        "alpha_outer",
        "calibrated",
        "Outer loss: cross-entropy of the fused and the single-modality predictions, each with its best inverse "
        "temperature, or the plain cross-entropy of the fused prediction.",
    )
    alpha_holdout: float = field(
        default=0.1,
        metadata={
            "help": "Part of the training set that is kept from training for the outer problem of a learned alpha, "
            "stratified by label: a fraction below 1, or a number of samples; 0 takes the evaluation set instead."
        },
    )
    alpha_inner_samples: int = field(
        default=256, metadata={"help": "Training samples on which the inner problem's derivatives are computed."}
    )
    lookahead_steps: int = field(
        default=20, metadata={"help": "Steps that 'lookahead' trains each of its two copies, once an epoch."}
    )
    polynomial_coefficients: list[float] | None = field(
        default=None,
        metadata={"help": "a b c d of alpha = a t^3 + b t^2 + c t + d; the paper's if not given."},
    )
    early_stopping_patience: int | None = field(
        default=None,
        metadata={"help": "Stop when metric_for_best_model has not improved for so many evaluations."},
    )

    logging_strategy: str = field(default="epoch", metadata={"help": "When to log: no, steps or epoch."})
    remove_unused_columns: bool = field(
        default=False, metadata={"help": "Must stay False: inputs are named after modalities."}
    )
    report_to: str | list[str] | None = field(
        default="none", metadata={"help": "Where to send logs, such as tensorboard; none by default."}
    )

    def __post_init__(self):
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                raise ValueError(f"{name}={getattr(self, name)!r} is unknown; choose one of {', '.join(choices)}.")
        for name in ("alpha_value", "alpha_start"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:
                raise ValueError(f"{name}={value} must lie in [0, 1].")
        for name in ("temperature", "alpha_iterations", "alpha_inner_samples", "lookahead_steps"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}={getattr(self, name)} must be positive.")
        for name in ("alpha_damping", "alpha_holdout"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}={getattr(self, name)} must not be negative.")
        if self.remove_unused_columns:
            raise ValueError("remove_unused_columns=True would drop every modality; leave it False.")
        if self.label_smoothing_factor:
            raise ValueError("label_smoothing_factor is not part of the objective; leave it 0.")
        if self.early_stopping_patience is not None and self.eval_strategy == "no":
            raise ValueError("early_stopping_patience needs evaluations: set eval_strategy to epoch or steps.")
        super().__post_init__()
        if self.device.type == "cpu":
            self.dataloader_pin_memory = False  # nothing to pin for, and torch warns at every epoch

    @property
    def learns_alpha(self):
        """`bool`: whether alpha follows a held-out part of the training set."""
        return self.alpha in LEARNED
