"""The report is one whole HTML file that loads nothing, shows everything and believes nothing."""

import re
from html.parser import HTMLParser

import numpy as np
import pytest

from alm.common.errors import UserError
from eval.reports.charts import Panel, forest_chart, interval_chart, line_chart
from eval.reports.media import spectrogram, spectrogram_png
from eval.reports.score_report import Baseline, write_score_page
from eval.reports.score_table import format_p, stated_p
from eval.reports.sections import Example, Section

VOID = {"meta", "img", "br", "link", "input", "hr"}
EVIL = "<script>alert(\"x\")</script> & 'q' {title} \u2028"


class Checker(HTMLParser):
    """Collects tags and text, and sees to it that every element is closed."""

    def __init__(self):
        super().__init__()
        self.open, self.tags, self.text = [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def score(value, low=0.1, high=0.9):
    return {"value": value, "low": low, "high": high, "n": 12, "n_clips": 6}


def scores(
    arms=("none", "no_audio", "other_clip", "untrained_encoder"),
    keys=("caption/cider_d", "qa/overall", "qa/what"),
):
    return {
        "n_records": 12,
        "n_clips": 6,
        "limited": True,
        "notes": [f"A note. {EVIL}"],
        "backends": {"caption/cider_d": "cider_d[ptb=py]", "qa/overall": "accuracy[normalise=1]"},
        "arms": {
            arm: {
                "scores": {key: score(0.5) for key in keys},
                "n_missing": 1,
                "choice_parse_failures": {"n": 2, "of": 5, "rate": 0.4},
            }
            for arm in arms
        },
        "gaps": {arm: {key: score(0.25) for key in keys} for arm in arms if arm != "none"},
    }


def example(seconds=0.5, **changes):
    wave = np.sin(np.arange(int(16000 * seconds)) * 0.3).astype(np.float32)
    values = {
        "question": EVIL,
        "reference": EVIL,
        "answer": EVIL,
        "title": EVIL,
        "captions": (EVIL,),
        "verdict": "right",
    }
    return Example(wave, 16000, **{**values, **changes})


def clips(*examples):
    return [Section("Answers", examples=examples)]


def parse(path):
    html = path.read_text(encoding="utf-8")
    checker = Checker()
    checker.feed(html)
    assert checker.open == []
    return html, checker


def test_everything_is_shown_and_escaped(tmp_path):
    path = tmp_path / "report.html"
    curves = {
        f"align {EVIL}": [
            {"step": 1, "loss": 3.0},
            {"step": 2, "loss": 1.5, "eval_loss": 2.0},
            {"step": 3, "lr": 0.1},
        ]
    }
    write_score_page(
        path,
        title=EVIL,
        scores={EVIL: scores(), "second": scores(("none",), ("qa/overall",))},
        curves=curves,
        answers=clips(example(), example(verdict="", captions=(), answer="")),
        facts={EVIL: EVIL},
        baselines=[Baseline(EVIL, "what is this sound", 0.7, 80, 0.6, 0.8, model_value=0.9)],
    )
    html, checker = parse(path)
    text = "".join(checker.text)
    assert "<script" not in html and text.count(EVIL) >= 10
    tags = [tag for tag, _ in checker.tags]
    assert tags.count("audio") == 2 and tags.count("figure") == 3 and tags.count("img") == 2 + 3
    for needed in (
        "another clip's audio",
        "untrained encoder",
        "[10.0, 90.0]",
        "+25.0",
        "loss 1.500",
        "✓ right",
        "70.0",
    ):
        assert needed in text
    assert "A note." in text and "1 predictions missing" in text and "model: 2 of 5" in text


def test_nothing_is_loaded_from_elsewhere(tmp_path):
    path = tmp_path / "report.html"
    write_score_page(
        path,
        title="t",
        scores={"a": scores()},
        answers=clips(example(title="clip", question="q")),
    )
    html, checker = parse(path)
    addresses = [
        attrs[name] for _, attrs in checker.tags for name in ("src", "href", "data") if name in attrs
    ]
    assert addresses and all(address.startswith("data:") for address in addresses)
    assert not re.search(r"url\(|@import|https?://", html)
    assert any(attrs.get("http-equiv") == "Content-Security-Policy" for _, attrs in checker.tags)


def test_it_can_be_used_without_seeing_it(tmp_path):
    path = tmp_path / "report.html"
    write_score_page(
        path,
        title="t",
        scores={"a": scores()},
        curves={"align": [{"step": 0, "loss": 1.0}]},
        answers=clips(example()),
    )
    html, checker = parse(path)
    assert ("html", {"lang": "en"}) in checker.tags
    assert all(attrs.get("alt") for tag, attrs in checker.tags if tag == "img")
    assert all(attrs.get("aria-label") for tag, attrs in checker.tags if tag == "audio")
    assert ("svg", {}) not in checker.tags  # charts are images, each with its text
    assert all(attrs.get("scope") for tag, attrs in checker.tags if tag == "th")
    assert "width=device-width" in html and "prefers-color-scheme: dark" in html


def test_sparse_input_makes_a_whole_page(tmp_path):
    path = tmp_path / "report.html"
    write_score_page(path, title="t", scores={})
    parse(path)
    single = scores(("none",), ("qa/overall",))
    single["arms"]["none"]["scores"]["qa/overall"] = score(1.0, None, None)
    silent = Example(np.zeros(3, dtype=np.float32), 8000, "q", "r", "a")
    nan = [{"step": 1, "loss": float("nan")}, {"step": 2, "loss": None}, {"step": 3, "loss": 2.0}]
    write_score_page(
        path,
        title="t",
        scores={"a": single},
        curves={"s": nan, "empty": []},
        answers=clips(silent),
    )
    html, _ = parse(path)
    assert "100.0" in html and "nan" not in re.sub(r"base64,[^\"]*", "", html).lower()


def test_a_long_clip_is_cut_and_says_so(tmp_path):
    path = tmp_path / "report.html"
    write_score_page(
        path,
        title="t",
        scores={},
        answers=clips(example(seconds=62.0, title="long")),
    )
    assert "62.0 s (the first 60 s here)" in parse(path)[0]


def test_a_folder_that_is_not_there_is_a_typed_error(tmp_path):
    with pytest.raises(UserError, match="cannot be written"):
        write_score_page(tmp_path / "absent" / "report.html", title="t", scores={})


def test_charts_of_nothing_are_empty_and_flat_lines_draw():
    assert line_chart({}, x_label="x", y_label="y", title="t") is None
    assert interval_chart({}, title="t") is None
    flat = line_chart({"a": [(0, 1.0), (1, 1.0)]}, x_label="x", y_label="y", title="t")
    assert flat.svg.startswith("<svg") and "nan" not in flat.svg
    many = line_chart({"a": [(i, 1 / (i + 1)) for i in range(10000)]}, x_label="x", y_label="y", title="t")
    assert len(many.svg) < 3 * len(flat.svg)


def test_charts_draw_what_they_are_given():
    rows = {"rain $x$ <b>": [(0.5, 0.4, 0.6), None], "dog": [(1.0, None, None), (0.0, 0.0, 0.1)]}
    chart = interval_chart(rows, ["model", "no audio"], title="Accuracy")
    assert chart == interval_chart(
        rows, ["model", "no audio"], title="Accuracy"
    )  # the same whenever it is drawn
    assert (
        chart.svg
        != interval_chart(rows | {"dog": [(0.9, None, None), None]}, ["a", "b"], title="Accuracy").svg
    )
    assert chart.address.startswith("data:image/svg+xml;base64,")


def test_differences_that_are_not_shown_have_no_colour():
    """Those whose interval includes 0 or is not known are grey."""
    blue = "#1f77b4"  # matplotlib's first colour
    for ends, shown in (((0.1, 0.3), True), ((-0.1, 0.3), False), ((0.0, 0.3), False), ((None, None), False)):
        chart = forest_chart([Panel("points", {"rain": (0.2, *ends)}, True, ("worse", "better"))], title="t")
        assert (blue in chart.svg) is shown


def test_p_values_are_written_to_the_thousandth():
    assert [format_p(p) for p in (None, 0.0009, 0.001, 0.0054, 1.0)] == [
        "–",
        "<0.001",
        "0.001",
        "0.005",
        "1.000",
    ]
    assert [stated_p(p) for p in (0.0009, 0.0054)] == ["p < 0.001", "p = 0.005"]


def test_spectrogram_shows_where_the_sound_is():
    wave = np.zeros(16000, dtype=np.float32)
    wave[8000:] = 0.5 * np.sin(2 * np.pi * 1000 * np.arange(8000) / 16000)
    shades = spectrogram(wave, 16000)
    rows, columns = shades.shape
    assert shades[:, columns // 2 + 5 :].mean() > 2 * shades[:, : columns // 2 - 5].mean()
    loudest = shades[:, -20:].mean(axis=1).argmax()
    assert loudest / rows == pytest.approx(1000 / 8000, abs=0.02)


def test_a_spectrogram_has_axes_in_seconds_and_kilohertz():
    import io

    from matplotlib import image

    wave = np.random.default_rng(0).standard_normal(16000).astype(np.float32)
    pixels = image.imread(io.BytesIO(spectrogram_png(wave, 16000)))[..., :3]
    dark = (pixels.max(axis=-1) < 0.5) & (np.ptp(pixels, axis=-1) < 0.05)  # ink, not the colours of the map
    assert dark[:, :45].sum() > 100 and dark[-45:, :].sum() > 100
    longer = image.imread(io.BytesIO(spectrogram_png(np.tile(wave, 3), 16000)))[..., :3]
    assert not np.array_equal(longer[-45:], pixels[-45:])  # other seconds
