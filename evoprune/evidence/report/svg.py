"""Figures as inline SVG that takes its colours from the page."""

from __future__ import annotations

import hashlib
import html
import io
import re
from collections.abc import Callable
from typing import TYPE_CHECKING

from evoprune.formats import as_utf8

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["figure"]

WIDE, NARROW = (8.0, 4.6), (4.5, 4.2)
THEMED = {
    "#222222": "var(--ink)",
    "#000000": "var(--ink)",
    "#555555": "var(--soft)",
    "#8a8a8a": "var(--soft)",
    "#bbbbbb": "var(--line)",
    "#e6e6e6": "var(--line)",
    "#ececec": "var(--bar)",
    "#ffffff": "var(--page)",
    "#0072b2": "var(--blue)",
    "#d55e00": "var(--red)",
    "#009e73": "var(--green)",
    "#7a5195": "var(--violet)",
    "#cc79a7": "var(--pink)",
    "#e69f00": "var(--gold)",
    "#56b4e9": "var(--sky)",
    "#444444": "var(--soft)",
}
"""Colours of the figures that follow the page's theme."""


def figure(title: str, caption: str, draw: Callable[[Axes], object], about: str = "") -> dict[str, str]:
    label = as_utf8(f"{title}: {about}" if about else title)
    return {"title": title, "caption": caption, **{name: _svg(draw, size, label) for name, size in _SIZES.items()}}


_SIZES = {"wide": WIDE, "narrow": NARROW}


def _svg(draw: Callable[[Axes], object], size: tuple[float, float], label: str) -> str:
    """Inline SVG that takes greys and font from the page, with ids of its own; its words are text."""
    import matplotlib
    from matplotlib.figure import Figure

    figure, text = Figure(figsize=size, layout="constrained"), io.StringIO()
    ax = figure.subplots()
    ax.set_facecolor("none")
    draw(ax)
    if size[0] < WIDE[0]:
        _make_narrow(ax)
    with matplotlib.rc_context({"svg.hashsalt": f"evoprune {label}", "svg.fonttype": "none"}):
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None})
    svg = text.getvalue()
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg.replace(' height="', ' data-height="', 1), count=1)
    svg = _compact(svg, "f" + hashlib.blake2b(f"{label} {size[0]:g}".encode(), digest_size=4).hexdigest())
    return svg.replace("<svg ", f'<svg role="img" aria-label="{html.escape(label)}" ', 1)


def _compact(svg: str, own: str) -> str:
    """The same picture in fewer bytes: ids that nothing refers to and indents are left out, the others begin with `own`."""
    used = set(re.findall(r'(?:href="|url\()#([^")]+)', svg))
    svg = re.sub(r' id="([^"]*)"', lambda found: f' id="{own}-{found[1]}"' if found[1] in used else "", svg)
    svg = re.sub(r'href="#', f'href="#{own}-', svg).replace("url(#", f"url(#{own}-")
    svg = re.sub(r" font-family: [^;\"]*;", "", svg)  # that of the page
    return re.sub(r"<[^>]*>", lambda tag: _drawn(tag[0]), re.sub(r"\s*\n\s*", "\n", svg))


def _drawn(tag: str) -> str:
    """What is drawn, in thousandths of a point and the page's colours; the words between tags stay as they are."""
    for colour, variable in THEMED.items():
        tag = tag.replace(colour, variable)
    return re.sub(r"(\.\d{3})\d+", r"\1", tag)


def _make_narrow(ax: Axes) -> None:
    """No room at the side: a legend goes below; a title that is too long loses size."""
    legend = ax.get_legend()
    if legend is not None:
        handles, names = ax.get_legend_handles_labels()
        columns = 2 if max(map(len, names)) > 12 else 3
        ax.legend(handles, names, frameon=False, fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.18), ncols=columns)
