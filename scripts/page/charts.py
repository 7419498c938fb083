"""The answers of demo.py as HTML: readable on a light and a dark page, at the width of a desk and of a phone."""

from html import escape
from itertools import accumulate, pairwise

import numpy as np

from modeling_lfm.trainer.analysis.report import listing, shorten
from modeling_lfm.trainer.plots import COLOURS, DARK, INK, ON_LIGHT, ink, new_figure, to_svg

TOP = 5  # classes of which bars are drawn
NAMED = 8  # labels that are named, of all that hold
LONG = 60  # characters of a label where it stands within a sentence

CSS = """
.lfm { font-size: 15px; line-height: 1.45; color: var(--body-text-color); }
.lfm h3 { font-size: 15px; font-weight: 600; margin: 22px 0 6px; color: var(--body-text-color); }
.lfm .subdued { opacity: 0.72; font-size: 13.5px; margin: 0 0 8px; }
.lfm .verdict { font-size: 26px; font-weight: 650; overflow-wrap: anywhere; line-height: 1.25; }
.lfm .verdict small { font-size: 17px; font-weight: 400; white-space: nowrap; }
.lfm .problem { border-left: 4px solid #D55E00; padding: 6px 12px; margin: 0 0 12px; overflow-wrap: anywhere;
  background: var(--background-fill-secondary); }
.lfm .legend { display: flex; flex-wrap: wrap; gap: 4px 18px; margin-bottom: 10px; font-size: 13.5px; }
.lfm .legend i { display: inline-block; width: 12px; height: 12px; margin-right: 6px; vertical-align: -1px; }
.lfm i { background: var(--c); border-radius: 2px; }
.lfm .row { display: grid; grid-template-columns: minmax(100px, 22%) 1fr; gap: 2px 12px; padding: 5px 0;
  border-top: 1px solid var(--border-color-primary); align-items: center; }
.lfm .row > span { overflow: hidden; overflow-wrap: anywhere; display: -webkit-box; -webkit-box-orient: vertical;
  -webkit-line-clamp: 3; }
.lfm .row.best > span { font-weight: 650; }
.lfm .bar { display: grid; grid-template-columns: 1fr 62px; gap: 8px; align-items: center; height: 15px; }
.lfm .bar i { height: 9px; margin-left: calc(var(--x, 0) * 1%); width: calc(var(--w) * 1%); min-width: 1px; }
.lfm .bar b { font-weight: 400; font-size: 12.5px; line-height: 15px; text-align: right;
  font-variant-numeric: tabular-nums; }
.lfm .looks { display: flex; flex-wrap: wrap; gap: 4px 16px; margin: 0 0 10px; }
.lfm figure { margin: 0; flex: 1 1 220px; max-width: 320px; }
.lfm figure.square { flex-basis: 130px; max-width: 220px; }
.lfm figcaption { font-size: 13.5px; }
.lfm figure.clip { flex-basis: 100%; max-width: 100%; }
[id^="input-"] .image-frame img { min-height: 112px; object-fit: contain; }
.lfm svg { display: block; width: 100%; height: auto; min-width: 0 !important; max-width: 100% !important; }
"""
# Gradio would fetch a program from another server to trim a video.
CSS += '[id^="input-"] [aria-label="Trim video to selection"] { display: none; }\n'
CSS += f".lfm .tokens span {{ color: {ON_LIGHT}; display: inline-block; padding: 0 4px; margin: 1px; }}\n"
# Charts are drawn in the ink of a light page; of a dark one Gradio says so by a class.
CSS += f".lfm .fused {{ --c: {INK}; }} .dark .lfm .fused {{ --c: {DARK[INK]}; }}\n" + "\n".join(
    f'.dark .lfm svg [style*="{kind}: {light}"] {{ {kind}: {dark} !important; }}'
    for light, dark in DARK.items()
    for kind in ("fill", "stroke")
)


def show_percent(share):
    """Such as 97.3 %."""
    return f"{100 * share:.1f} %"


def style_of(place):
    """The colour of the modality number `place`, as in the plots of training."""
    return f"--c: {COLOURS[place % len(COLOURS)]}"


def draw_bar(share, style="", kind="", start=0.0, text=None):
    """A bar from `start` over the length `share`, both of the whole width (`float`), with its value as text."""
    text = show_percent(share) if text is None else text
    look = f"--w: {100 * share:.2f}; --x: {100 * start:.2f}; {style}"
    return f'<div class="bar {kind}" style="{look}"><i></i><b>{text}</b></div>'


def draw_answer(answer, places):
    """An [`Answer`] as HTML.

    Args:
        answer ([`Answer`])
        places (`dict[str, int]`): number of each modality of the model, which gives its colour.
    """
    parts = [f'<div class="problem" role="alert">{escape(problem)}</div>' for problem in answer.problems]
    if not answer.report:
        parts.append('<p class="subdued">Give the model at least one input, then press Predict.</p>')
    else:
        parts += [draw_verdict(answer), draw_probabilities(answer, places), draw_shares(answer, places)]
        parts += [draw_looks(answer)]
    return f'<div class="lfm">{"".join(parts)}</div>'


def draw_verdict(answer):
    """The predicted class, how sure the model is, and what it is predicted from."""
    fused = answer.fused
    labels = answer.report.get("labels", [answer.best])
    named = [f"{escape(shorten(label, 2 * LONG))} <small>{show_percent(fused[label])}</small>" for label in labels]
    said = ", ".join(named[:NAMED])
    if len(labels) > NAMED:
        said += f" <small>and {len(labels) - NAMED} more</small>"
    basis = f"Predicted from {listing(answer.alone)}."
    if answer.absent:
        basis += f" Left out: {', '.join(answer.absent)}."
    return f'<div class="verdict">{said or "none of the labels"}</div><p class="subdued">{escape(basis)}</p>'


def draw_probabilities(answer, places):
    """Bars of the likeliest classes, of the fused prediction and of each modality alone."""
    fused, alone = answer.fused, answer.alone if len(places) > 1 else {}
    shown = list(dict.fromkeys([*list(fused)[:TOP], *(next(iter(values)) for values in alone.values())]))
    legend = '<span class="fused"><i></i>fused</span>' + "".join(
        f'<span style="{style_of(places[name])}"><i></i>{escape(name)} alone</span>' for name in alone
    )
    rows = []
    for label in shown:
        bars = draw_bar(fused[label], kind="fused") + "".join(
            draw_bar(values[label], style_of(places[name])) for name, values in alone.items()
        )
        best = " best" if label == answer.best else ""
        name = f'<span title="{escape(label)}">{escape(label)}</span>'
        rows.append(f'<div class="row{best}">{name}<div>{bars}</div></div>')
    return f'<h3>Probability of each class</h3><div class="legend">{legend}</div>{"".join(rows)}'


def draw_shares(answer, places):
    """From the baseline to the prediction, one bar for what each modality adds or takes."""
    levels, rows = list(accumulate([answer.baseline, *answer.shares.values()])), []
    low, high = min(0.0, *levels), max(1.0, *levels)  # on the way it may lead out of 0..1

    def add(name, a, b, text, style="", kind=""):
        bar = draw_bar(abs(b - a) / (high - low), style, kind, (min(a, b) - low) / (high - low), text)
        rows.append(f'<div class="row {"best" if kind else ""}"><span>{escape(name)}</span><div>{bar}</div></div>')

    add("no input", 0.0, levels[0], show_percent(levels[0]), "--c: #8A8A8F")
    for (name, share), (a, b) in zip(answer.shares.items(), pairwise(levels), strict=True):
        sign = "+" if share >= 0 else "\N{MINUS SIGN}"
        add(name, a, b, f"{sign}{100 * abs(share):.1f}", style_of(places[name]))
    fused = answer.fused[answer.best]
    add("fused", 0.0, fused, show_percent(fused), kind="fused")
    label = escape(shorten(answer.best, LONG))
    head = f"<h3>What each input adds to the probability of {label}</h3>"
    note = "Shapley values, in percentage points: they lead from a guess without any input to the fused prediction."
    return f'{head}<p class="subdued">{note}</p>{"".join(rows)}'


def draw_looks(answer):
    """What the model is given of each modality, and where it looks."""
    notes = {
        "grad_cam": "Grad-CAM: bright where it speaks for the class.",
        "rollout": "Attention rollout: what the tower's vector is made of, whatever is decided.",
        None: "The tower has neither a convolutional stage nor attention over its whole input, so there is no map.",
    }
    parts = ["<h3>Where the model looks</h3>"]
    for name, look in answer.looks.items():
        parts.append(f'<p class="subdued"><b>{escape(name)}.</b> {notes[look.kind]}</p>')
        parts.append(draw_tokens(look) if look.view is None else draw_views(look))
    return "".join(parts)


def draw_views(look):
    """The picture or spectrogram of a [`Look`], and each different map over it."""
    pictures = {"what the model is given": None}
    if look.kind == "rollout":
        pictures["attention"] = look.maps["fused"]
    elif look.kind is not None:
        same = look.classes["fused"] == look.classes["alone"]
        fused, alone = (shorten(look.classes[key], LONG) for key in ("fused", "alone"))
        if same and np.allclose(look.maps["fused"], look.maps["alone"], rtol=1e-3, atol=1e-9):
            pictures[f"for {fused}, fused and alone"] = look.maps["fused"]
        else:
            pictures |= {f"for {fused}, fused": look.maps["fused"], f"for {alone}, alone": look.maps["alone"]}
    height, width = look.view.pixels.shape[:2]
    kind = "spectrogram" if look.view.extent else "clip" if width > 2 * height else "square"
    figures = (
        f'<figure class="{kind}">{draw_figure(look.view, values)}<figcaption>{escape(caption)}</figcaption></figure>'
        for caption, values in pictures.items()
    )
    return f'<div class="looks">{"".join(figures)}</div>'


def draw_tokens(look):
    """Tokens of a text, the darker the more of the tower's vector is made of them."""
    from modeling_lfm.trainer.analysis.maps import shade_tokens

    colours = shade_tokens(look.maps.get("fused", np.zeros(len(look.tokens))), look.tokens, look.special)
    spans = (
        f'<span style="background: {colour}">{escape(token)}</span>'
        for token, colour in zip(look.tokens, colours, strict=True)
    )
    return f'<div class="tokens">{" ".join(spans)}</div>'


def draw_figure(view, values=None):
    """A [`View`] as an SVG element, with a map (`np.ndarray`, *optional*) over it."""
    from modeling_lfm.trainer.analysis.maps import draw_view

    height, width = view.pixels.shape[:2]
    inches = 2.7 if view.extent or width <= 2 * height else 5.4
    figure = new_figure(inches, 1.9 if view.extent else inches * min(height / width, 1.2))
    if view.extent is None:
        figure.set_layout_engine("none")
    axes = figure.subplots() if view.extent else figure.add_axes((0, 0, 1, 1))
    draw_view(axes, view, values)
    axes.spines[:].set_visible(False)
    if view.extent is None:
        axes.set(xticks=[], yticks=[])
    else:
        axes.tick_params(labelsize=8.5, length=2)
        axes.set_xlabel(view.labels[0], fontsize=9)
        axes.set_ylabel(view.labels[1], fontsize=9)
    return to_svg(ink(figure), standalone=False)
