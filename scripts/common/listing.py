"""The methods as text: a table of what each says of itself, and its settings with their defaults."""

import textwrap
from dataclasses import MISSING, fields

WIDTHS = {"title": 14, "venue": 18, "fusion": 14, "modalities": 10, "extra passes a step": 28, "formula": 58}
INDENT = 14


def format_methods():
    """The table of every method (`str`), no wider than 160 columns."""
    from modeling_lfm.trainer.methods import METHODS, list_methods

    specs = list_methods()
    lines = _row("name", {title: title for title in WIDTHS})
    lines.append("-" * max(len(line) for line in lines))
    for spec in specs:
        cells = {
            "title": spec.label,
            "venue": spec.venue,
            "fusion": ", ".join(spec.fusions) if spec.fusions else "any",
            "modalities": _count(spec),
            "extra passes a step": spec.extra_passes,
            "formula": spec.formula + (f" ({spec.note})" if spec.note else ""),
        }
        lines += _row(spec.name, cells)
    lines += ["", "settings (--method.SETTING VALUE) and their defaults", ""]
    for spec in specs:
        known = fields(METHODS[spec.name].Settings)
        text = "  ".join(f"{f.name}={_default(f)}" for f in known) or "none"
        lines += textwrap.wrap(
            f"{spec.name:<{INDENT}}{text}", width=150, subsequent_indent=" " * INDENT, break_on_hyphens=False
        )
    return "\n".join(lines)


def _row(name, cells):
    """A row of the table, as many lines as its longest cell needs."""
    wrapped = [textwrap.wrap(cells[key], width) or [""] for key, width in WIDTHS.items()]
    lines = []
    for number in range(max(map(len, wrapped))):
        parts = [
            (cell[number] if number < len(cell) else "").ljust(width)
            for cell, width in zip(wrapped, WIDTHS.values(), strict=True)
        ]
        lines.append(f"{name if number == 0 else '':<{INDENT}}" + " ".join(parts).rstrip())
    return lines


def _count(spec):
    if spec.max_modalities is None:
        return f"{spec.min_modalities}+"
    return f"{spec.min_modalities}" + (f"-{spec.max_modalities}" if spec.max_modalities > spec.min_modalities else "")


def _default(setting):
    if setting.default is not MISSING:
        return setting.default
    return setting.default_factory() if setting.default_factory is not MISSING else "(required)"
