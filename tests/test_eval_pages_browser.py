"""Pages in a real browser: what a stranger wrote runs no code, loads nothing and breaks no layout."""

import http.server
import shutil
import subprocess
import threading

import numpy as np
import pytest

from eval.reports.charts import interval_chart
from eval.reports.pages import html_page
from eval.reports.sections import Card, Cell, Example, Section, Table

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
    example = Example(wave, 16000, evil, evil, evil, evil, (evil,), False, evil)
    chart = interval_chart({evil: [(0.5, 0.4, 0.6)]}, [evil], title=evil)
    section = Section(
        evil, evil, [Card(evil, evil, [evil])], [Table([evil, evil], [[evil, Cell(evil, evil)]], evil)], [chart],
        [example], [evil], {evil: evil}, {evil: evil},
    )  # fmt: skip
    page = tmp_path / "page.html"
    page.write_text(html_page(f"title {evil}", [section]), encoding="utf-8")
    dom, console = browse(page, tmp_path, "--virtual-time-budget=3000", "--dump-dom")
    assert not asked and not console
    assert "<title>title &lt;script&gt;" in dom and "<iframe" not in dom and "<script" not in dom
    assert dom.count("<audio") == 1 and dom.count("<table") == 1 and "{{ 7 * 7 }}" in dom
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
