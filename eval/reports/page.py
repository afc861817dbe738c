"""The frame of a report page: one HTML file that loads nothing, for a phone or a desk, in light and dark."""

from html import escape


def page(title: str, body: str) -> str:
    """A whole page around a body.

    Args:
        title: Heading and title, as text.
        body: HTML.

    Returns:
        The page as HTML.
    """
    return _PAGE.format(title=escape(title), style=_STYLE, body=body)


_STYLE = """
:root { color-scheme: light dark; --paper: #fff; --ink: #1b1f24; --quiet: #57606a; --rule: #d0d7de; --panel: #f6f8fa;
  --good: #116329; --bad: #a40e26; --s0: #0b5cad; --s1: #767d86; --s2: #b35900; --s3: #7a3cc2; --s4: #116329; }
@media (prefers-color-scheme: dark) { :root { --paper: #0f1318; --ink: #e6edf3; --quiet: #9aa6b2; --rule: #30363d;
  --panel: #171c23; --good: #56d364; --bad: #ff8a80; --s0: #6cb6ff; --s1: #9aa6b2; --s2: #f0a35e; --s3: #c8a1ff;
  --s4: #56d364; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 70rem; padding: 1rem; background: var(--paper); color: var(--ink);
  font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: break-word; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: .5rem 0 0; } h2 { font-size: 1.25rem; margin: 2.5rem 0 .75rem; }
h3 { font-size: 1rem; margin: 0 0 .5rem; }
.quiet, small { color: var(--quiet); font-size: .875rem; } p { margin: 0; } small { display: block; }
.cards, .examples { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fit, minmax(min(15rem, 100%), 1fr)); }
.examples { grid-template-columns: repeat(auto-fill, minmax(min(20rem, 100%), 1fr)); }
.card, article { background: var(--panel); border: 1px solid var(--rule); border-radius: .5rem; padding: 1rem;
  min-width: 0; }
.big { font-size: 2.2rem; font-weight: 650; line-height: 1.2; }
.cards { margin-bottom: 1rem; } .scroll { overflow-x: auto; margin: .5rem 0 1rem; }
table { border-collapse: collapse; min-width: 100%; }
th, td { padding: .4rem .75rem; text-align: right;
  border-bottom: 1px solid var(--rule); font-variant-numeric: tabular-nums; white-space: nowrap; vertical-align: top; }
th { font-weight: 600; white-space: normal; min-width: 4.5rem; }
tbody th { min-width: min(10rem, 30vw); }
thead th { vertical-align: bottom; } th:first-child { max-width: 42vw;
  text-align: left; position: sticky; left: 0; background: var(--paper); }
.total td, .total th { border-bottom-width: 2px; font-weight: 650; } .total small { font-weight: 400; }
figure { margin: 1.5rem 0; max-width: 44rem; } figcaption { font-weight: 600; margin-bottom: .25rem; }
figcaption small { font-weight: 400; } .chart { display: block; width: 100%; height: auto; overflow: visible; }
.grid { stroke: var(--rule); } .tick, .label { fill: var(--quiet); font-size: 15px; } .label { fill: var(--ink); }
.line { fill: none; stroke-width: 2; stroke-linejoin: round; } .whisker { stroke-width: 2; opacity: .7; }
.line.s0, .whisker.s0 { stroke: var(--s0); } .line.s1, .whisker.s1 { stroke: var(--s1); }
.line.s2, .whisker.s2 { stroke: var(--s2); } .line.s3, .whisker.s3 { stroke: var(--s3); }
.line.s4, .whisker.s4 { stroke: var(--s4); } .mark.s0 { fill: var(--s0); } .mark.s1 { fill: var(--s1); }
.mark.s2 { fill: var(--s2); } .mark.s3 { fill: var(--s3); } .mark.s4 { fill: var(--s4); }
.legend { list-style: none; display: flex; flex-wrap: wrap; gap: .25rem 1.25rem; padding: 0; margin: .5rem 0 0;
  font-size: .875rem; } .key { width: 1rem; height: 1rem; margin-right: .35rem; vertical-align: -.15rem; }
img { display: block; width: 100%; height: 8rem; border-radius: .25rem; background: #000; }
audio { width: 100%; margin: .5rem 0; } dl { margin: 0; } dt { color: var(--quiet); font-size: .875rem; }
dd { margin: 0 0 .5rem; } .lines { white-space: pre-wrap; } .kind { color: var(--quiet); font-weight: 400; }
.right { color: var(--good); } .wrong { color: var(--bad); } .right, .wrong { white-space: nowrap; }
.facts { display: grid; grid-template-columns: minmax(6rem, auto) 1fr; gap: .25rem 1rem; } .facts dd { margin: 0; }
:focus-visible { outline: 2px solid var(--s0); outline-offset: 2px; }
"""

# The policy lets the page load nothing but what it holds.
_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; style-src 'unsafe-inline'; img-src data:; media-src data:">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<main>
<h1>{title}</h1>
{body}
</main>
</body>
</html>
"""
