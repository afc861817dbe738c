"""Pages in a real browser: what a stranger wrote runs no code, loads nothing and breaks no layout."""

import base64
import hashlib
import html
import http.server
import json
import re
import shutil
import subprocess
import threading
from dataclasses import replace

import numpy as np
import pytest
import soundfile
from test_eval_ablation import arm_of, results_of

from alm.data.records import AUDIO_MARKER, AudioRef, Record
from eval.ablation.report import write_results
from eval.reports.answers import answer_sections
from eval.reports.charts import interval_chart
from eval.reports.compare import compare_runs
from eval.reports.comparison_page import write_comparison
from eval.reports.pages import html_page
from eval.reports.run_report import write_run_report
from eval.reports.score_report import write_score_page
from eval.reports.sections import Card, Cell, Example, Section, Table
from eval.scoring.predictions import prediction_key
from eval.scoring.scores import score_predictions, write_scores

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-quic",
    "--no-first-run", "--disable-component-update", "--disable-sync", "--enable-logging=stderr",
)  # fmt: skip


@pytest.fixture
def server():
    """A server on this machine that notes what is asked of it."""
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_):
            pass

    one = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=one.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{one.server_port}", asked
    one.shutdown()
    one.server_close()


def browse(page, tmp_path, *flags):
    """The page's final DOM, and what the browser logged about it."""
    done = subprocess.run(
        [CHROMIUM, *FLAGS, f"--user-data-dir={tmp_path / 'profile'}", *flags, page.as_uri()],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


def test_nothing_of_a_stranger_runs_or_loads(tmp_path, server):
    address, asked = server
    evil = (
        f"<script>document.title='owned'</script><img src='{address}/img' onerror=\"document.title='owned'\">"
        f"</style></pre></details><iframe src='{address}/frame'></iframe>\"'><svg onload=\"document.title='owned'\">"
        "{{ 7 * 7 }} {% raw %} \u202e\u2028\ud83d\x1b]0;owned\x07"
    )
    wave = np.sin(np.arange(8000) * 0.3).astype(np.float32)
    examples = [
        Example(wave, 16000, evil, evil, evil, evil, (evil,), verdict, evil) for verdict in ("wrong", evil)
    ]
    chart = interval_chart({evil: [(0.5, 0.4, 0.6)]}, [evil], title=evil)
    rows = [[evil, Cell(evil, evil), evil]]
    table = Table([evil, evil, evil], rows, evil, note=evil, tags=[(evil, evil)])
    section = Section(
        evil, evil, [Card(evil, evil, [evil])], [table], [chart], examples, [evil], {evil: evil}, {evil: evil},
        findings=[evil],
    )  # fmt: skip
    page = tmp_path / "page.html"
    page.write_text(html_page(f"title {evil}", [section]), encoding="utf-8")
    dom, console = browse(page, tmp_path, "--virtual-time-budget=3000", "--dump-dom")
    assert not asked and not console
    assert "<title>title &lt;script&gt;" in dom and "<iframe" not in dom
    assert dom.count("<script") == 1 and "3 of 3 shown" in dom  # the filter alone ran
    assert dom.count("<audio") == 2 and dom.count("<table") == 1 and "{{ 7 * 7 }}" in dom
    assert r"\x1b]0;owned" in dom and dom.rstrip().endswith("</html>")


def test_the_policy_stops_what_would_be_in_the_page_all_the_same(tmp_path, server):
    """The check above sees requests and code: the same page without escaping is stopped by the policy alone."""
    address, asked = server
    page = tmp_path / "page.html"
    hole = f"<script>document.title='owned'</script><img src='{address}/img'>"
    html = html_page("title", [Section("here", lead="HOLE")])
    page.write_text(html.replace("HOLE", hole))
    dom, console = browse(page, tmp_path, "--virtual-time-budget=3000", "--dump-dom")
    assert (
        not asked
        and "<title>title</title>" in dom
        and any("Content Security Policy" in line for line in console)
    )
    start = html.index("<meta http-equiv")
    page.write_text((html[:start] + html[html.index(">", start) + 1 :]).replace("HOLE", hole))
    dom, _ = browse(page, tmp_path, "--virtual-time-budget=3000", "--dump-dom")
    assert asked == ["/img"] and "<title>owned</title>" in dom


@pytest.mark.parametrize("width", [1280, 390])
def test_no_page_is_wider_than_the_screen(tmp_path, width):
    long = "a" * 300
    table = Table(["arm", *map(str, range(14))], [[long, *["12.3"] * 14]])
    page = tmp_path / "page.html"
    html = html_page(
        long, [Section(long, long, [Card("1", long)], [table], notes=[long], details={long: long})]
    )
    probe = (
        "<script>document.title = document.documentElement.scrollWidth + ' of ' + innerWidth</script></body>"
    )
    page.write_text(
        html.replace("default-src 'none';", "default-src 'none'; script-src 'unsafe-inline';").replace(
            "</body>", probe
        )
    )
    dom, _ = browse(page, tmp_path, f"--window-size={width},800", "--virtual-time-budget=1000", "--dump-dom")
    scroll, _, inner = dom.partition("<title>")[2].partition("</title>")[0].partition(" of ")
    assert int(scroll) <= int(inner)


KINDS = {"order": ("dog", "cat", "rain"), "presence": ("yes", "no")}


def asked(folder):
    """Questions of two kinds about four clips, with choices in one kind."""
    noise = 0.1 * np.random.default_rng(0).standard_normal(4000)
    found = []
    for number in range(24):
        clip, kind = number % 4, list(KINDS)[number % 2]
        soundfile.write(folder / f"c{clip}.wav", noise, 16000)
        answers = KINDS[kind]
        answer = answers[number % len(answers)]
        choices = answers if kind == "order" else ()
        messages = (
            {"role": "user", "content": AUDIO_MARKER + "what"},
            {"role": "assistant", "content": answer},
        )
        found.append(
            Record(
                f"q{number}",
                (AudioRef(folder / f"c{clip}.wav"),),
                messages,
                kind,
                "what",
                answer,
                choices,
                clip=f"c{clip}",
            )
        )
    return found


def said(records, name, known):
    """Lines of a model that knows some answers; the others are wrong or unreadable, and all without the recording."""
    lines = []
    for number, record in enumerate(records):
        others = [one for one in KINDS[record.kind] if one != record.answer]
        fails = others[0] if number % 2 else "I cannot say"
        for control in ("none", "no_audio", "other_clip"):
            right = control == "none" and number in known
            lines.append(
                {"id": record.id, "key": prediction_key(id=record.id, run=name, control=control), "model": name,
                 "clip": record.clip, "kind": record.kind, "control": control, "question": record.question,
                 "prediction": record.answer if right else fails, "references": [record.answer],
                 "choices": list(record.choices), "duration_s": 0.25}
            )  # fmt: skip
    return lines


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """The four pages by name, made of real files and answers."""
    folder = tmp_path_factory.mktemp("pages")
    records = asked(folder)
    manifest = folder / "data.jsonl"
    entries = [
        {"id": one.id, "audio": one.audio[0].path.name, "question": "what", "answer": one.answer}
        for one in records
    ]
    manifest.write_text("".join(json.dumps(one) + "\n" for one in entries))
    lines = {
        name: said(records, name, known)
        for name, known in (
            ("trained_on_much", [number for number in range(24) if number % 4 < 2]),
            ("trained_on_little", range(2, 24, 4)),
        )
    }
    scores = {}
    for name, found in lines.items():
        out = folder / name / "eval" / "mmar"
        out.mkdir(parents=True)
        (out / "predictions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in found))
        scores[name] = score_predictions(records, found) | {
            "run": {"benchmark": "mmar", "split": "test", "data": str(manifest), "prompt": "ours"}
        }
        write_scores(out / "scores.json", scores[name])
    name = "trained_on_much"
    write_run_report(folder / name / "eval" / "mmar", name, scores[name], records, lines[name])
    # A manifest leads to the recordings; the layout of MMAR would, too, but is longer to write.
    for name in lines:
        path = folder / name / "eval" / "mmar" / "scores.json"
        path.write_text(json.dumps({**scores[name], "run": {"benchmark": "manifest", "data": str(manifest)}}))
    comparison = compare_runs(folder / "trained_on_much", folder / "trained_on_little")
    quickstart = folder / "quickstart.html"
    extra = {"untrained_encoder": lines["trained_on_little"], "qformer": lines["trained_on_much"]}
    answers = {
        line["id"]: line["prediction"] for line in lines["trained_on_little"] if line["control"] == "none"
    }
    write_score_page(
        quickstart,
        title="Quickstart",
        scores={"test": score_predictions(records, lines["trained_on_much"], extra=extra)},
        curves={"align": [{"step": 1, "loss": 3.0}, {"step": 2, "loss": 2.0}]},
        answers=answer_sections(records, answers),
        facts={"model": str(folder / "run" / "model")},
    )
    big = {"trainable": 123456789, "parameters": 9876543210, "tokens": 123456789, "flops": 1.5e18}
    arms = [
        replace(arm_of("base", 0.6), cost=big),
        arm_of("oracle", 0.95),
        arm_of("an_encoder_with_a_long_name", 0.3),
    ]
    return folder, {
        "quickstart": quickstart,
        "evaluation": folder / "trained_on_much" / "eval" / "mmar" / "report.html",
        "comparison": write_comparison(folder / "page", comparison),
        "ablation": write_results(folder / "ablation", results_of(*arms)),
    }


PROBE = """
const shown = () => [...document.querySelectorAll("[data-answers]")].filter((one) => one.offsetParent).length;
const found = {
  page: document.documentElement.scrollWidth - innerWidth,
  cut: [...document.querySelectorAll(".scroll")].filter((one) => one.scrollWidth > one.clientWidth + 1).length,
  bars: [...document.querySelectorAll(".filter")].filter((one) => one.offsetParent).length,
  pictures: [...document.images].filter((one) => !one.naturalWidth).length,
  all: shown(),
};
for (const select of document.querySelectorAll(".filter select")) {
  select.value = select.options[1].value;
  select.dispatchEvent(new Event("change"));
  found[select.name] = shown();
  select.value = "";
  select.dispatchEvent(new Event("change"));
}
parent.postMessage([document.title, innerWidth, found], "*");
"""


@pytest.fixture(scope="module")
def seen(pages, tmp_path_factory):
    """What the browser shows of each page at each width, with and without JavaScript's filter."""
    folder = tmp_path_factory.mktemp("frames")
    frames = []
    for name, path in pages[1].items():
        text = path.read_text(encoding="utf-8")
        for kind in ("", "plain"):
            if kind:
                text = re.sub(r"<script>.*?</script>", "", text, flags=re.S)
            digest = base64.b64encode(hashlib.sha256(PROBE.encode()).digest()).decode()
            policy = re.search(r"script-src [^\"]*", text)
            probed = (
                text.replace(policy[0], f"{policy[0]} 'sha256-{digest}'")
                if policy
                else text.replace("media-src data:", f"media-src data:; script-src 'sha256-{digest}'")
            )
            probed = re.sub(r"<title>.*?</title>", f"<title>{name}{kind}</title>", probed)
            page = folder / f"{name}{kind}.html"
            page.write_text(probed.replace("</body>", f"<script>{PROBE}</script></body>"), encoding="utf-8")
            frames += [
                f'<iframe src="{page.as_uri()}" style="width:{width}px;height:800px"></iframe>'
                for width in ((1280,) if kind else (1280, 390))
            ]
    listen = (
        "<pre id=found></pre><script>const all = []; addEventListener('message', (one) => { all.push(one.data);"
        "document.querySelector('pre').textContent = JSON.stringify(all); });</script>"
    )
    page = folder / "frames.html"
    page.write_text(f"<meta charset=utf-8>{listen}{''.join(frames)}")
    dom, console = browse(page, folder, "--virtual-time-budget=8000", "--dump-dom")
    told = json.loads(html.unescape(re.search(r"<pre id=\"found\">(.*?)</pre>", dom, re.S)[1]))
    return {(name, width): found for name, width, found in told}, console


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("name", ["quickstart", "evaluation", "comparison", "ablation"])
def test_every_column_of_every_page_is_visible(seen, name, width):
    found = seen[0][name, width]
    assert found["page"] <= 0 and found["cut"] == 0 and found["pictures"] == 0
    assert not seen[1]


@pytest.mark.parametrize("name", ["quickstart", "evaluation", "comparison"])
def test_clips_and_rows_are_filtered_by_verdict_and_by_kind(seen, name):
    found = seen[0][name, 1280]
    assert found["bars"] == 1 and 0 < found["kinds"] < found["all"]
    assert 0 < found["answers"] < found["all"]
    plain = seen[0][f"{name}plain", 1280]
    assert plain["bars"] == 0
    assert plain["all"] == plain["answers"] == plain["kinds"] == found["all"]


def test_pages_name_models_and_no_folders(pages):
    folder, found = pages
    for path in found.values():
        text = re.sub(r"base64,[^\"]*", "", path.read_text(encoding="utf-8"))
        assert str(folder) not in text and "/tmp/" not in text
        assert text.index("What this shows") < text.index("<table")
    text = found["comparison"].read_text()
    assert "only trained_on_much is right" in text and "trained_on_much minus trained_on_little" in text
    assert (
        text.count("<audio") == 3
        and "only trained_on_little is right" in text
        and not re.search(r">(first|second)<", text)
    )
