"""Learning rates of towers: their own, and lower for each layer that is further from the head."""

from modeling_lfm.configuration_lfm import TRAINING_KEYS


def split_rates(groups, model):
    """Groups of an optimizer (`list[dict]`) split by the rates that the entries of `config.modalities` ask for.

    A tower's parameters learn at its `learning_rate`, or that of the group, times `layer_decay` to the power of the
    layers that follow, as in BEiT (Bao et al., ICLR 2022). Such a group has `tower`, its name; the others come first.

    Args:
        groups: `param_groups`, each with `lr`.
        model ([`LfmForMultimodalClassification`])

    Raises:
        ValueError: `layer_decay` for a tower without layers.
    """
    wanted = {}
    for name, spec in model.config.modalities.items():
        rate, decay = spec.get("learning_rate"), spec.get("layer_decay")
        if rate is None and decay is None:
            continue
        tower = model.lfm.towers[name]
        depths = {} if decay is None else tower.depths()
        top = max(depths.values(), default=0)
        if decay is not None and top == 0:
            raise ValueError(f"modalities.{name}: layer_decay={decay}, but its tower has no layers to be told apart.")
        for key, parameter in tower.named_parameters():
            wanted[parameter] = (name, rate, 1.0 if decay is None else decay ** (top - depths.get(key, top)))
    result = []
    for group in groups:
        members = {}
        for parameter in group["params"]:
            members.setdefault(wanted.get(parameter), []).append(parameter)
        for key, parameters in members.items():
            name, rate, factor = key or (None, None, 1.0)
            own = {"tower": name} if name else {}
            result.append(
                {**group, **own, "params": parameters, "lr": (group["lr"] if rate is None else rate) * factor}
            )
    return sorted(result, key=lambda group: "tower" in group)


def tower_rates(groups):
    """The learning rates in force of towers that have their own (`dict` by `learning_rate_{name}`), of their last
    layers."""
    rates = {}
    for group in groups:
        if "tower" in group:
            key = f"learning_rate_{group['tower']}"
            rates[key] = max(rates.get(key, 0.0), float(group["lr"]))
    return rates


def describe_training(model, args):
    """What of a model is trained, and how fast, where its towers differ in that: a line each (`list[str]`)."""
    lines = []
    for name, spec in model.config.modalities.items():
        if not any(spec.get(key) for key in TRAINING_KEYS):
            continue
        parameters = list(model.lfm.towers[name].parameters())
        trained = sum(p.numel() for p in parameters if p.requires_grad)
        line = f"{name}: {trained:,} of {sum(p.numel() for p in parameters):,} parameters are trained"
        if trained:
            rate, decay = spec.get("learning_rate") or args.learning_rate, spec.get("layer_decay")
            line += f" at the rate {rate:g}" + (f", {decay:g} of it a layer down" if decay else "")
        lines.append(line)
    return lines
