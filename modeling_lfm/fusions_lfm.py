"""Fusions: the modalities' features in, the fused logits and each modality's own logits out."""

from functools import reduce
from typing import ClassVar

import torch
from torch import nn

from .fusion_base_lfm import FUSIONS, Fusion, SplitFusion, full_precision
from .mmtm_lfm import MmtmFusion  # noqa: F401  (registers itself)
from .weights_lfm import check_count


class SlicedHead(nn.Linear):
    """A linear classifier W of concatenated features, and what its slice for each of them says.

    Both come from one call: weights that are offloaded are there only while their module is called.
    """

    def forward(self, features, filled):
        """W [y_1; ...; y_M] + b of `filled`, and W_m z_m + b / M of each z_m of `features` (tuples of M (B, d))."""
        share = self.bias / len(features)
        slices = self.weight.chunk(len(features), dim=1)
        return super().forward(torch.cat(filled, dim=-1)), tuple(
            nn.functional.linear(feature, weight, share) for feature, weight in zip(features, slices, strict=True)
        )


@FUSIONS.register("concat")
class ConcatFusion(Fusion):
    """F = W [z_1; ...; z_M] + b. A modality's logits are its slice of the head, W_m z_m + b / M (OGM, CVPR 2022).

    In place of an absent z_m stands its absence feature; without modality dropout its slice is left out.
    """

    joint = True

    def __init__(self, config):
        super().__init__(config)
        self.head = SlicedHead(self.num_modalities * config.hidden_size, config.num_labels)

    def forward(self, features, present=None):
        return self.head(features, self.fill(features, present))


@FUSIONS.register("sum")
class SumFusion(SplitFusion):
    """F = sum_m f_m with f_m = W_m z_m + b_m, over the modalities that are present."""

    def forward(self, features, present=None):
        modality_logits = self.predict(features)
        return self.stack_present(modality_logits, present).sum(0), modality_logits


@FUSIONS.register("weight")
class WeightFusion(SumFusion):
    """F = sum_m a_m f_m, a = softmax over modalities of one shared attention network's score of z_m.

    After CMML (Yang et al., IJCAI 2019): layers d -> d/2 -> d/4 -> 1 with ReLU, and the predictions weighted, as the
    LFM paper's table calls it. The released CMML code weights features instead; its loss terms are not part of a
    fusion. The softmax is over the modalities that are present.
    """

    def __init__(self, config):
        super().__init__(config)
        d = config.hidden_size
        self.attention = nn.Sequential(
            nn.Linear(d, max(d // 2, 1)),
            nn.ReLU(),
            nn.Linear(max(d // 2, 1), max(d // 4, 1)),
            nn.ReLU(),
            nn.Linear(max(d // 4, 1), 1),
        )

    def forward(self, features, present=None):
        _, modality_logits = super().forward(features)
        scores = self.attention(torch.stack(features))  # (M, B, 1)
        weights = self.stack_present(scores, present, absent=-torch.inf).softmax(dim=0)
        return (weights * torch.stack(modality_logits)).sum(0), modality_logits


class JointFusion(Fusion):
    """F = `fuse`(z_1, ..., z_M), with an absence feature in place of each z_m that is absent.

    What a modality predicts alone is F with all others absent.
    """

    joint = True

    def fuse(self, features):
        """The fused logits (B, K) of M features (B, d)."""
        raise NotImplementedError(f"{type(self).__name__} must define fuse")

    def forward(self, features, present=None):
        absent = [self.absence_feature(place, feature) for place, feature in enumerate(features)]
        alone = tuple(
            self.fuse([feature if place == m else absent[place] for place in range(len(features))])
            for m, feature in enumerate(features)
        )
        return self.fuse(self.fill(features, present)), alone


@FUSIONS.register("film")
class FilmFusion(JointFusion):
    """F = W h_M + b, where each feature is scaled and shifted by what came before it: h_m = gamma_m * z_m + beta_m.

    [gamma_m; beta_m] = W_m h_{m-1} + b_m (2 d numbers) and h_1 = z_1: with two modalities the first conditions the
    second, as audio conditions video in the table of the LFM paper. The chain for more than two is our derivation.

    Source: Perez et al., "FiLM: Visual Reasoning with a General Conditioning Layer", AAAI 2018, equation 2; gamma is
    predicted as it is, without adding 1.
    """

    def __init__(self, config):
        super().__init__(config)
        d = config.hidden_size
        self.conditions = nn.ModuleList(nn.Linear(d, 2 * d) for _ in range(self.num_modalities - 1))
        self.head = nn.Linear(d, config.num_labels)

    def fuse(self, features):
        hidden = features[0]
        for condition, feature in zip(self.conditions, features[1:], strict=True):
            scale, shift = condition(hidden).chunk(2, dim=-1)
            hidden = scale * feature + shift
        return self.head(hidden)


@FUSIONS.register("lstm")
class LstmFusion(JointFusion):
    """F = W h + b, h the last hidden state of an LSTM that reads the features as a sequence of M steps.

    `fusion_args`: `num_layers` of the LSTM. An interpretation of ML-LSTM (Nie et al., Multimedia Tools and Applications
    2021, 10.1007/s11042-020-08796-8), whose abstract tells of an LSTM that fuses modalities while it learns; no code of
    it is public.

    Raises:
        ValueError: `num_layers` is not a positive integer.
    """

    defaults: ClassVar = {"num_layers": 2}

    def __init__(self, config):
        super().__init__(config)
        layers, d = config.fusion_arg("num_layers"), config.hidden_size
        check_count("fusion_args num_layers", layers)
        self.lstm = nn.LSTM(d, d, num_layers=layers, batch_first=True)
        self.head = nn.Linear(d, config.num_labels)

    def fuse(self, features):
        states, _ = self.lstm(torch.stack(tuple(features), dim=1))
        return self.head(states[:, -1])


def to_evidence(logits):
    """e = softplus(f), not negative, of logits f (..., K); in float32, float64 is kept."""
    return nn.functional.softplus(full_precision(logits))


def combine(first, second):
    """Dempster's rule: the evidence (..., K) of two opinions of evidence `first` and `second`, together.

    With the conflict C = sum over i != j of b1_i b2_j the rule is

        b = (b1 b2 + b1 u2 + b2 u1) / (1 - C),  u = u1 u2 / (1 - C),  S = K / u,  e = b S.

    C cancels in e = K b / u, and with b = e / S and u = K / S there remains e = e1 + e2 + e1 e2 / K: nothing is
    subtracted and nothing vanishes, however sure and contrary the two are. Their order does not matter.
    """
    return first + second + first * second / first.shape[-1]


@FUSIONS.register("etmc")
class EtmcFusion(SplitFusion):
    """F = log alpha, alpha - 1 the evidence of all views combined by Dempster's rule: each modality and a pseudo view.

    f_m = W_m z_m + b_m and f_pseudo = W [z_1; ...; z_M] + b; evidence softplus(f). So softmax(F) = alpha / S is the
    expected probability, argmax F the prediction, and K / sum_k exp(F_k) the uncertainty u.

    An absent modality is a view without evidence, which changes nothing in Dempster's rule, and the pseudo view reads
    an absence feature in its place.

    Source: Han et al., "Trusted Multi-View Classification With Dynamic Evidential Fusion", TPAMI 2023, and its
    released code (`models/TMC.py`).
    """

    joint = True

    def __init__(self, config):
        super().__init__(config)
        self.pseudo_head = nn.Linear(self.num_modalities * config.hidden_size, config.num_labels)

    def pseudo_logits(self, features):
        """f_pseudo, (B, K), of M features (B, d)."""
        return self.pseudo_head(torch.cat(features, dim=-1))

    def forward(self, features, present=None):
        modality_logits = self.predict(features)
        evidence = self.stack_present(map(to_evidence, modality_logits), present)
        pseudo = to_evidence(self.pseudo_logits(self.fill(features, present)))
        return torch.log1p(reduce(combine, (*evidence, pseudo))), modality_logits


@FUSIONS.register("qmf")
class QmfFusion(SplitFusion):
    """F = sum_m c_m f_m with f_m = W_m z_m + b_m and the confidence c_m = log sum_k exp(f_mk) / 10.

    No gradient flows through c_m. It is negative where all logits are low. The sum is over the modalities that are
    present.

    Source: Zhang et al., "Provable Dynamic Fusion for Low-Quality Multimodal Data", ICML 2023, and its released code
    (`src/models/late_fusion.py`).
    """

    @staticmethod
    def confidence(logits):
        """c (...) of logits (..., K), in float32; float64 is kept."""
        return full_precision(logits).logsumexp(-1) / 10

    def forward(self, features, present=None):
        modality_logits = self.predict(features)
        confidences = (self.confidence(logits).detach().unsqueeze(-1) for logits in modality_logits)
        weighted = (c * logits for c, logits in zip(confidences, modality_logits, strict=True))
        return self.stack_present(weighted, present).sum(0), modality_logits


@FUSIONS.register("domfn")
class DomfnFusion(SplitFusion):
    """Fuses the samples on which the modalities agree; the others are left to the modality that is surest.

    q_m = sigmoid(W_m z_m + b_m), and for the fused prediction q = sigmoid(MLP [z_1; ...; z_M]), one hidden layer of 64
    with ReLU. With the penalty pen_m = max_k (q_m - mean_j q_j)_k^2 a sample is fused if pen_m / tau < gamma for all m.
    In evaluation F is q for those and q_m, m of the highest max_k q_mk, for the others; in training F is q throughout.

    As in the released code cross-entropy is applied to q, so sigmoids take the place of logits: all of them, fused or
    not, lie between 0 and 1, on one scale. softmax(F) is the probability that was trained; it is never far from
    uniform, exp(1) : 1 between two classes at most.

    A sample of which a modality is absent is left to the surest of those that are present.

    `fusion_args`: `gamma` and `tau`. pen_m is at most ((M - 1) / M)^2, 1/4 for two modalities: with gamma tau above
    that every sample is fused.

    Source: Yang et al., "DOMFN: A Divergence-Orientated Multi-Modal Fusion Network for Resume Assessment", ACM MM 2022,
    and its released code (`models/encoder.py`, `engines/mosi_trainer.py`).
    """

    defaults: ClassVar = {"gamma": 0.8, "tau": 0.5}

    def __init__(self, config):
        super().__init__(config)
        self.gamma, self.tau = config.fusion_arg("gamma"), config.fusion_arg("tau")
        self.fused_head = nn.Sequential(
            nn.Linear(self.num_modalities * config.hidden_size, 64), nn.ReLU(), nn.Linear(64, config.num_labels)
        )

    @staticmethod
    def penalties(predictions):
        """pen (M, B) of the modalities' q (M, B, K)."""
        return (predictions - predictions.mean(0)).square().amax(-1)

    def fuses(self, penalties):
        """Which samples are fused (B,), of pen (M, B)."""
        return (penalties / self.tau < self.gamma).all(0)

    def forward(self, features, present=None):
        outputs = list(self.predict(features))
        outputs.append(self.fused_head(torch.cat(features, dim=-1)))
        outputs = [full_precision(output).sigmoid() for output in outputs]
        fused, alone = outputs.pop(), torch.stack(outputs)
        if self.training and present is None:
            return fused, tuple(alone)
        surest = self.stack_present(alone.amax(-1), present, absent=-1).argmax(0)
        routed = alone[surest, torch.arange(surest.shape[0], device=surest.device)]
        fuses = True if self.training else self.fuses(self.penalties(alone))
        fuses = fuses if present is None else fuses & present.all(0)
        return torch.where(fuses.unsqueeze(-1), fused, routed), tuple(alone)


@FUSIONS.register("mla")
class MlaFusion(Fusion):
    """F = sum_m w_m f_m with f_m = W z_m + b: one linear head for all modalities, and the surer modality weighs more.

    For each sample w_m = exp(-H_m) / sum_j exp(-H_j), H_m the entropy of softmax(f_m) in nats; or w is fixed by
    `fusion_args`: `weights`, M numbers in the order of the modalities. Where some are absent, the others share their
    weight in proportion.

    Source: Zhang et al., "Multimodal Representation Learning by Alternating Unimodal Adaptation", CVPR 2024,
    where the exponent is max_j H_j - H_m, which gives the same weights. The released code (`main.py`) takes each
    softmax over the batch instead of the classes, and gives all samples of a batch the same weights.

    Raises:
        ValueError: not as many weights as modalities.
    """

    defaults: ClassVar = {"weights": None}

    def __init__(self, config):
        super().__init__(config)
        self.weights = config.fusion_arg("weights")
        if self.weights is not None and len(self.weights) != self.num_modalities:
            raise ValueError(
                f"fusion_args weights={self.weights} must hold one number for each of {', '.join(config.modalities)}."
            )
        self.head = nn.Linear(config.hidden_size, config.num_labels)

    def forward(self, features, present=None):
        modality_logits = tuple(self.head(feature) for feature in features)
        logits = torch.stack(modality_logits)
        logits = full_precision(logits)
        if self.weights is None:
            log_p = logits.log_softmax(-1)
            sureness = (log_p.exp() * log_p).sum(-1, keepdim=True)  # -H, (M, B, 1)
            weights = self.stack_present(sureness, present, absent=-torch.inf).softmax(0)
        else:
            weights = logits.new_tensor(self.weights).view(-1, 1, 1)
            if present is not None:
                there = self.stack_present(weights.expand(*logits.shape[:2], 1), present)
                weights = there * (weights.sum() / there.sum(0))
        return (weights * logits).sum(0), modality_logits


@FUSIONS.register("reconboost")
class ReconBoostFusion(Fusion):
    """F = b sum_m f_m with f_m = W_2 ReLU(W_1 z_m + b_1) + b_2, one head for all modalities; the number b is learned.

    The sum is over the modalities that are present.

    Source: Hua et al., "ReconBoost: Boosting Can Achieve Modality Reconcilement", ICML 2024, and its released code
    (`models/dynamic_net.py`). `fusion_args`: `width` of the hidden layer. b starts from 1.
    """

    defaults: ClassVar = {"width": 256}

    def __init__(self, config):
        super().__init__(config)
        width = config.fusion_arg("width")
        self.head = nn.Sequential(nn.Linear(config.hidden_size, width), nn.ReLU(), nn.Linear(width, config.num_labels))
        self.boost_rate = nn.Parameter(torch.empty(()))
        self.reset_parameters()

    def reset_parameters(self):
        """b = 1; the layers of the head initialise themselves."""
        nn.init.ones_(self.boost_rate)

    def forward(self, features, present=None):
        modality_logits = tuple(self.head(feature) for feature in features)
        return self.boost_rate * self.stack_present(modality_logits, present).sum(0), modality_logits
