"""Unimodal baselines: one modality of several, trained alone."""

from .base import Method, MethodSpec, register


class Unimodal(Method):
    """CE(W z_n + b): the encoder of the n-th modality at hand and a linear classifier, trained without the others.

    `config_settings` keeps only that modality; the model then has no other.
    """

    number: int
    """Which modality of those at hand, from 1."""

    def config_settings(self, modalities):
        if len(modalities) < self.number:
            raise ValueError(
                f"method {self.spec.name} trains modality number {self.number} alone, and there are only "
                f"{len(modalities)} ({', '.join(modalities)})."
            )
        name = list(modalities)[self.number - 1]
        return super().config_settings({name: modalities[name]})


def unimodal(place):
    """The [`Unimodal`] that trains the modality number `place` (`int`, from 1)."""
    spec = MethodSpec(
        name=f"unimodal_{place}",
        title=f"Unimodal-{place}",
        formula=f"CE(W z_{place} + b)",
        fusions=("concat",),
        min_modalities=1,
        max_modalities=1,
        multi_label=True,
        extra_passes="none; one encoder only",
        holes="samples that lack it are left out",
        row=f"Unimodal-{place}",
    )
    described = {"spec": spec, "number": place, "__doc__": Unimodal.__doc__, "__module__": __name__}
    return register(type(f"Unimodal{place}", (Unimodal,), described))


Unimodal1, Unimodal2, Unimodal3 = map(unimodal, (1, 2, 3))
