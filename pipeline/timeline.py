"""A video's events drawn over its time, as SVG: a lane for each kind, stills along the top, names on hovering."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from pipeline.clock import format_time
from pipeline.plan import SECOND_US
from pipeline.sheet import colour_of
from pipeline.stills import Edit, opened, stills

_WIDTH, _LEFT, _RIGHT, _TOP = 1280, 150, 24, 64
_BAR, _SPACE, _ROWS = 12, 3, 8  # px; rows of bars that one kind may have beside each other
_STEPS = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 21600, 43200, 86400)
_STYLE = """\
text{font:12px system-ui,"Noto Sans","Noto Sans CJK SC",sans-serif;fill:#1c1e21}
.t{font-size:16px;font-weight:600}.f{fill:#6b7177}.g{stroke:#d8dadc}.l{fill:#f1f2f3}.p{fill:#fff}
@media(prefers-color-scheme:dark){text{fill:#e8eaed}.f{fill:#9aa0a6}.g{stroke:#3c4043}.l{fill:#202327}.p{fill:#17191c}}\
"""


def timeline(
    duration_us: int, events: Sequence[Mapping[str, Any]], *, title: str, pictures: Sequence[tuple[int, bytes]] = ()
) -> str:
    """An SVG. `events`: rows of the log (start_us, end_us, kind, text); `pictures`: (time, JPEG) of `even_stills`."""
    duration_us = max(duration_us, 1, *(e["end_us"] for e in events)) if events else max(1, duration_us)
    scale = (_WIDTH - _LEFT - _RIGHT) / duration_us
    colours = colour_of(events)
    top = _TOP + (_high(pictures) + 14 if pictures else 0)
    lanes, bottom = _lanes(events, colours, top, scale)
    length = format_time(duration_us // 1000 * 1000)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{bottom + 36}" '
        f'viewBox="0 0 {_WIDTH} {bottom + 36}" role="img" aria-label="{_text(f"Timeline of {title}")}">',
        f"<style>{_STYLE}</style>",
        f'<rect class="p" width="{_WIDTH}" height="{bottom + 36}"/>',
        f'<text class="t" x="24" y="32">{_text(title)}</text>',
        f'<text class="f" x="24" y="50">{length}, {len(events):,} events</text>',
        *_pictures(pictures, scale),
        *lanes,
        *_ticks(duration_us, scale, top - 6, bottom),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def even_stills(uri: str, count: int = 12, *, edit: Edit | None = None) -> list[tuple[int, bytes]]:
    """(time, JPEG) of small stills at even steps, for `timeline`; `edit` changes each before it is one (as `still`).

    Raises VideoError.
    """
    duration_us = opened(uri).duration_us
    times = [(2 * i + 1) * duration_us // (2 * count) for i in range(count)]
    return [(at, found.jpeg) for at, found in stills(uri, times, height=120, edit=edit) if found is not None]


def _lanes(
    events: Sequence[Mapping[str, Any]], colours: Mapping[str, tuple[int, int, int]], y: int, scale: float
) -> tuple[list[str], int]:
    """The lanes of all kinds from `y` on, and where they end."""
    parts = []
    for kind, colour in colours.items():
        bars, rows = _bars([e for e in events if e["kind"] == kind], scale)
        height = rows * (_BAR + _SPACE) + _SPACE
        count = sum(e["kind"] == kind for e in events)
        parts.append(f'<rect class="l" x="{_LEFT}" y="{y}" width="{_WIDTH - _LEFT - _RIGHT}" height="{height}"/>')
        parts.append(f'<text x="24" y="{y + 14}">{_text(kind[:18])} <tspan class="f">{count:,}</tspan></text>')
        parts.append(f'<g transform="translate({_LEFT},{y + _SPACE})" fill="rgb{colour}" fill-opacity=".85">')
        parts += bars
        parts.append("</g>")
        y += height + 6
    return parts, y


def _bars(events: Sequence[Mapping[str, Any]], scale: float) -> tuple[list[str], int]:
    """A bar for each event, in the first row that is free; those too near to tell apart share one."""
    free = [-1.0]  # where each row's last bar ends, px
    bars: list[str] = []
    hidden = 0
    for event in sorted(events, key=lambda e: (e["start_us"], -e["end_us"])):
        x = event["start_us"] * scale
        width = max(2.0, (event["end_us"] - event["start_us"]) * scale)
        row = next((i for i, end in enumerate(free) if end <= x), None)
        if row is None and len(free) < _ROWS:
            free.append(-1.0)
            row = len(free) - 1
        if row is None:
            hidden += 1
            continue
        free[row] = x + width + 0.4
        said = f"{format_time(event['start_us'])} to {format_time(event['end_us'])}  {event['text']}"
        bars.append(
            f'<rect x="{x:.2f}" y="{row * (_BAR + _SPACE)}" width="{width:.2f}" height="{_BAR}" rx="1.5">'
            f"<title>{_text(said[:500])}</title></rect>"
        )
    if hidden:
        bars.append(f"<title>{hidden:,} more lie too close together to be drawn</title>")
    return bars, len(free)


def _ticks(duration_us: int, scale: float, top: int, bottom: int) -> list[str]:
    step = next((s for s in _STEPS if s * SECOND_US * scale >= 70), _STEPS[-1]) * SECOND_US
    parts = []
    for t in range(0, duration_us + 1, step):
        x = _LEFT + t * scale
        parts.append(f'<line class="g" x1="{x:.1f}" x2="{x:.1f}" y1="{top}" y2="{bottom + 4}" stroke-opacity=".6"/>')
        parts.append(f'<text class="f" x="{x:.1f}" y="{bottom + 20}" text-anchor="middle">{format_time(t)}</text>')
    return parts


def _high(pictures: Sequence[tuple[int, bytes]]) -> int:
    return min(90, round((_WIDTH - _LEFT - _RIGHT) / len(pictures) * 9 / 16))


def _pictures(pictures: Sequence[tuple[int, bytes]], scale: float) -> list[str]:
    if not pictures:
        return []
    width = (_WIDTH - _LEFT - _RIGHT) / len(pictures)
    return [
        f'<image x="{_LEFT + i * width:.1f}" y="{_TOP}" width="{width - 2:.1f}" height="{_high(pictures)}" '
        f'preserveAspectRatio="xMidYMid slice" href="data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}">'
        f"<title>{format_time(at)}</title></image>"
        for i, (at, jpeg) in enumerate(pictures)
    ]


def _text(text: str) -> str:
    """Escaped for XML, without the control characters that it does not allow."""
    return escape("".join(c if c.isprintable() else " " for c in text))
