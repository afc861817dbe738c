"""Pictures and sounds of a report as text: line charts and interval charts as SVG, spectrograms, data addresses.

Charts take their colours from classes (`s0` … `s4`, `grid`, `tick`), so that a page's style sheet can serve light and
dark. Series differ in marker as well as in colour.
"""

import base64
import io
import math
from collections.abc import Callable, Mapping, Sequence
from html import escape

import numpy as np

WIDTH = 640
N_STYLES = 5
_MARGIN_LEFT, _MARGIN_RIGHT, _MARGIN_TOP, _MARGIN_BOTTOM = 60, 16, 28, 48
# More points than a chart has columns only make the page heavier.
_MOST_POINTS = 400

Points = Sequence[tuple[float, float]]


def line_chart(
    series: Mapping[str, Points], *, x_label: str, y_label: str, title: str, height: int = 260
) -> str:
    """Draw lines over one another.

    Args:
        series: Per name its (x, y) points in order of x; values that are not finite are left out.
        x_label: What x is.
        y_label: What y is.
        title: Read out in place of the picture.
        height: In the units in which the chart is `WIDTH` wide.

    Returns:
        An `<svg>` element; empty where no series has a point.
    """
    drawn = {name: _finite(points) for name, points in series.items()}
    drawn = {name: points for name, points in drawn.items() if points}
    if not drawn:
        return ""
    xs = [x for points in drawn.values() for x, _ in points]
    ys = [y for points in drawn.values() for _, y in points]
    x_ticks, y_ticks = _ticks(min(xs), max(xs)), _ticks(min(ys), max(ys))
    to_x = _scale(min(x_ticks[0], min(xs)), max(xs), _MARGIN_LEFT, WIDTH - _MARGIN_RIGHT)
    to_y = _scale(y_ticks[0], max(y_ticks[-1], max(ys)), height - _MARGIN_BOTTOM, _MARGIN_TOP)
    parts = []
    for tick in y_ticks:
        y = to_y(tick)
        parts.append(
            f'<line class="grid" x1="{_MARGIN_LEFT}" x2="{WIDTH - _MARGIN_RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        )
        parts.append(
            f'<text class="tick" x="{_MARGIN_LEFT - 6}" y="{y + 5:.1f}" text-anchor="end">{_number(tick)}</text>'
        )
    for tick in x_ticks:
        if tick <= max(xs):
            x, y = to_x(tick), height - _MARGIN_BOTTOM + 18
            parts.append(
                f'<text class="tick" x="{x:.1f}" y="{y}" text-anchor="middle">{_number(tick)}</text>'
            )
    middle = (_MARGIN_LEFT + WIDTH - _MARGIN_RIGHT) / 2
    parts.append(
        f'<text class="tick" x="{middle}" y="{height - 6}" text-anchor="middle">{escape(x_label)}</text>'
    )
    parts.append(f'<text class="tick" x="{_MARGIN_LEFT}" y="{_MARGIN_TOP - 14}">{escape(y_label)}</text>')
    for number, points in enumerate(drawn.values()):
        style = f"s{number % N_STYLES}"
        path = " ".join(f"{to_x(x):.1f},{to_y(y):.1f}" for x, y in points)
        parts.append(f'<polyline class="line {style}" points="{path}"/>')
        if len(points) <= 30:
            parts += [_marker(number, to_x(x), to_y(y)) for x, y in points]
    return _svg(parts, height, title) + legend(list(drawn))


def interval_chart(
    rows: Mapping[str, Sequence[tuple[float, float | None, float | None] | None]], *, title: str
) -> str:
    """Draw scores between 0 and 1 as markers with their intervals, one row per name, one marker per arm.

    Args:
        rows: Per row name, per arm (value, low, high) or None; all rows have the arms in one order.
        title: Read out in place of the picture.

    Returns:
        An `<svg>` element without legend; empty without rows.
    """
    if not rows:
        return ""
    left, step = 170, 12
    n_arms = max(len(arms) for arms in rows.values())
    row_height = step * n_arms + 14
    height = row_height * len(rows) + _MARGIN_BOTTOM
    to_x = _scale(0.0, 1.0, left, WIDTH - _MARGIN_RIGHT)
    parts = []
    for percent in range(0, 101, 25):
        x = to_x(percent / 100)
        parts.append(
            f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="4" y2="{height - _MARGIN_BOTTOM + 6}"/>'
        )
        parts.append(
            f'<text class="tick" x="{x:.1f}" y="{height - 16}" text-anchor="middle">{percent} %</text>'
        )
    for number, (name, arms) in enumerate(rows.items()):
        top = number * row_height + 10
        label_y = top + step * (n_arms - 1) / 2 + 4
        parts.append(
            f'<text class="label" x="{left - 10}" y="{label_y:.1f}" text-anchor="end">{escape(name)}</text>'
        )
        for arm, score in enumerate(arms):
            if score is None:
                continue
            value, low, high = score
            y = top + step * arm
            if low is not None and high is not None:
                ends = f'x1="{to_x(max(0.0, low)):.1f}" x2="{to_x(min(1.0, high)):.1f}"'
                parts.append(f'<line class="whisker s{arm % N_STYLES}" {ends} y1="{y}" y2="{y}"/>')
            parts.append(_marker(arm, to_x(value), y))
    return _svg(parts, height, title)


def legend(names: Sequence[str]) -> str:
    """Marker and name of each series, in order."""
    items = "".join(
        f'<li><svg class="key" viewBox="0 0 16 16" aria-hidden="true">{_marker(number, 8, 8)}</svg>{escape(name)}</li>'
        for number, name in enumerate(names)
    )
    return f'<ul class="legend">{items}</ul>'


def spectrogram_png(waveform: np.ndarray, sample_rate: int) -> bytes:
    """Picture of a clip's spectrum over time: 25 ms windows every 10 ms, linear frequency, 80 dB below the loudest.

    Args:
        waveform: (S,) float.
        sample_rate: In Hz.

    Returns:
        A PNG, at most 600 pixels wide, low frequencies at the bottom.
    """
    import matplotlib

    window = max(64, round(0.025 * sample_rate))
    hop = max(1, round(0.010 * sample_rate))
    padded = np.pad(np.asarray(waveform, dtype=np.float64), (0, max(0, window - len(waveform))))
    frames = np.lib.stride_tricks.sliding_window_view(padded, window)[::hop]
    # Wide pictures are thinned by averaging power, which keeps short sounds visible.
    power = np.abs(np.fft.rfft(frames * np.hanning(window), n=512 if window <= 512 else None)) ** 2
    group = math.ceil(len(power) / 600)
    power = np.stack([chunk.mean(axis=0) for chunk in np.array_split(power, math.ceil(len(power) / group))])
    level = 10 * np.log10(np.maximum(power, 1e-12))
    level = np.clip(level, level.max() - 80, level.max())
    shade = (level - level.min()) / max(1e-9, level.max() - level.min())
    pixels = matplotlib.colormaps["magma"](shade.T[::-1])
    return png_bytes(pixels)


def png_bytes(pixels: np.ndarray) -> bytes:
    """Encode (rows, columns, 4) values in [0, 1] as PNG."""
    import matplotlib

    matplotlib.use("Agg", force=False)
    from matplotlib import image

    file = io.BytesIO()
    image.imsave(file, pixels, format="png")
    return file.getvalue()


def flac_bytes(waveform: np.ndarray, sample_rate: int) -> bytes:
    """Encode a mono waveform as 16-bit FLAC, which every current browser plays."""
    import soundfile

    file = io.BytesIO()
    soundfile.write(file, np.clip(waveform, -1.0, 1.0), sample_rate, format="FLAC", subtype="PCM_16")
    return file.getvalue()


def data_address(kind: str, content: bytes) -> str:
    """A `data:` address that holds the content itself."""
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"


def _finite(points: Points) -> list[tuple[float, float]]:
    kept = [(float(x), float(y)) for x, y in points if math.isfinite(x) and math.isfinite(y)]
    stride = math.ceil(len(kept) / _MOST_POINTS)
    return kept if stride <= 1 else [*kept[::stride], kept[-1]]


def _ticks(low: float, high: float) -> list[float]:
    """About five round numbers that cover a range."""
    if high <= low:
        high = low + (abs(low) or 1.0)
    rough = (high - low) / 5
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * unit for factor in (1, 2, 5, 10) if factor * unit >= rough)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [number * step for number in range(first, last + 1)]


def _scale(low: float, high: float, start: float, end: float) -> Callable[[float], float]:
    span = (high - low) or 1.0
    return lambda value: start + (value - low) / span * (end - start)


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _marker(number: int, x: float, y: float) -> str:
    """A marker whose shape tells the series apart without colour."""
    style = f"mark s{number % N_STYLES}"
    shapes = (
        f'<circle class="{style}" cx="{x:.1f}" cy="{y:.1f}" r="4.5"/>',
        f'<rect class="{style}" x="{x - 4:.1f}" y="{y - 4:.1f}" width="8" height="8"/>',
        f'<path class="{style}" d="M{x:.1f} {y - 5.5:.1f}l5.5 5.5-5.5 5.5-5.5-5.5z"/>',
        f'<path class="{style}" d="M{x:.1f} {y - 5:.1f}l5 9h-10z"/>',
        f'<path class="{style}" d="M{x:.1f} {y + 5:.1f}l5-9h-10z"/>',
    )
    return shapes[number % N_STYLES]


def _svg(parts: Sequence[str], height: float, title: str) -> str:
    inner = "".join(parts)
    return f'<svg class="chart" viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(title)}">{inner}</svg>'
