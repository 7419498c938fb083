"""Unimodal baselines: one modality of several, trained alone."""

from .base import Method, MethodSpec, register


def unimodal_spec(number):
    """The [`MethodSpec`] of training the modality `number` (`int`, from 1) alone."""
    return MethodSpec(
        name=f"unimodal_{number}",
        title=f"Unimodal-{number}",
        formula=f"CE(W z_{number} + b)",
        fusions=("concat",),
        min_modalities=1,
        max_modalities=1,
        multi_label=True,
        extra_passes="none; one encoder only",
        passes=lambda number: (1 / number, 1 / number),
        row=f"Unimodal-{number}",
    )


class Unimodal(Method):
    """CE(W z_n + b): the encoder of the n-th modality at hand and a linear classifier, trained without the others.

    `config_settings` keeps only that modality; the model then has no other.
    """

    number = 1
    """Which modality of those at hand, from 1."""

    def config_settings(self, modalities):
        if len(modalities) < self.number:
            raise ValueError(
                f"method {self.spec.name} trains modality number {self.number} alone, and there are only "
                f"{len(modalities)} ({', '.join(modalities)})."
            )
        name = list(modalities)[self.number - 1]
        return super().config_settings({name: modalities[name]})


@register
class Unimodal1(Unimodal):
    """[`Unimodal`] of the first modality."""

    spec = unimodal_spec(1)


@register
class Unimodal2(Unimodal):
    """[`Unimodal`] of the second modality."""

    spec, number = unimodal_spec(2), 2


@register
class Unimodal3(Unimodal):
    """[`Unimodal`] of the third modality."""

    spec, number = unimodal_spec(3), 3
