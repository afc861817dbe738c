"""README and docs keep their word: commands parse, keys exist, code compiles, links work, the reference is whole."""

import ast
import dataclasses
import importlib.util
import json
import re
import shlex
import sys
import textwrap
import typing
from pathlib import Path

import pytest
import yaml

from alm.cli import build_parser, main
from alm.common.settings import load_settings, read_yaml
from alm.configs.shipped import CONFIGS, find_config, shipped_configs
from eval.benchmarks import BENCHMARKS
from train.pipeline.recipe import load_recipe
from train.settings import TrainSettings
from train.stage import STAGES

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(r"^( *)```(\w*)[^\n]*\n(.*?)^\1```", re.M | re.S)
BLOCKS = [(page, kind, text) for page in PAGES for _, kind, text in FENCE.findall(page.read_text("utf-8"))]
# A command may continue in the next line, and have a comment behind it; a launcher may stand before it.
COMMANDS = sorted(
    {
        (
            page.relative_to(ROOT).as_posix(),
            re.sub(r"^.*?-m alm |^.*?--module alm ", "alm ", line).split("  #")[0].removesuffix(" &").strip(),
        )
        for page, kind, text in BLOCKS
        if kind in ("", "bash", "sh", "console")
        for line in text.replace("\\\n", " ").splitlines()
        if re.match(r"alm |\S*\s?.*(-m|--module) alm ", line)
    }
)
COMPONENTS = re.findall(
    r'^```python title="[\w-]+/(\w+\.py)"\n(.*?)^```',
    "\n".join(page.read_text("utf-8") for page in PAGES),
    re.M | re.S,
)  # plug-ins that pages show
WRITTEN = {
    "pretrain.yaml",
    "align.yaml",
    "instruct.yaml",
    "eval.yaml",
    "ablate.yaml",
    "digits.yaml",
}  # by alm init, on the page


def subparsers(parser):
    """Every parser below one, actions of subcommands included."""
    for action in parser._subparsers._group_actions if parser._subparsers else ():
        for sub in action.choices.values():
            yield sub
            yield from subparsers(sub)


def docstrings():
    """Return place and text of every docstring."""
    for package in ("alm", "encoders", "projectors", "train", "eval", "benchmarks", "docs"):
        for path in sorted((ROOT / package).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                    where = f"{path.relative_to(ROOT).as_posix()}:{getattr(node, 'lineno', 1)}"
                    yield where, ast.get_docstring(node) or ""


def indented_blocks(text):
    """Code in a docstring: paragraphs that are indented, and no part of a section such as Args."""
    paragraphs = text.split("\n\n")
    for before, block in zip(paragraphs, paragraphs[1:], strict=False):
        if not re.search(r"^\w+:\n", before, re.M) and all(
            line.startswith("    ") for line in block.splitlines()
        ):
            yield textwrap.dedent(block)


SPANS = [
    (where, span.strip())
    for where, text in (*docstrings(), *((page.name, page.read_text("utf-8")) for page in PAGES))
    for span in (
        *re.findall(r"`((?:alm|make|python3? -m(?= )|python3?(?= \S+\.py)) [^`]+)`", FENCE.sub("", text)),
        *(
            line.split("  #")[0]
            for block in indented_blocks(text)
            for line in block.splitlines()
            if re.match(r"(?:alm|python3?|make) ", line)
        ),
    )
]


def options_of(words, parser):
    """The options that a command takes, and its first word that is none of its subcommands."""
    flags = {"--plugins"}
    for word in words:
        flags |= {flag for action in parser._actions for flag in action.option_strings}
        groups = parser._subparsers._group_actions if parser._subparsers else ()
        choices = {name: sub for action in groups for name, sub in action.choices.items()}
        if not choices:
            break
        if word.startswith("-") or re.fullmatch(r"[A-Z_]+|\.\.\.|…|\[.*|<.*|KEY=.*", word):
            continue
        if word not in choices:
            return flags, word
        parser = choices[word]
    return flags | {flag for action in parser._actions for flag in action.option_strings}, None


def wrong_command(span, parser):
    """Return what a command names but does not exist; None if everything exists."""
    words = re.sub(r"[\[\]…]|\.\.\.", " ", span).split(" | ")[0].split()
    named = {word.split("=")[0] for word in words if word.startswith("--")}
    if words[0] == "alm":
        flags, unknown = options_of([word for word in words[1:] if word != "|"], parser)
        return unknown or next(iter(named - flags), None)
    if words[0] == "make":
        targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text("utf-8"), re.M)
        return next((word for word in words[1:] if word not in targets and "=" not in word), None)
    if words[1] == "-m":
        if words[2] == "alm":
            return wrong_command(" ".join(words[2:]), parser)
        if words[2].partition(".")[0] not in ("benchmarks", "eval", "train"):
            return None
        found = importlib.util.find_spec(words[2])
        if found is None:
            return words[2]
        path = Path(found.origin)
    else:
        path = ROOT / words[1]
        if not path.is_file():
            return words[1]
    source = path.read_text("utf-8") + (ROOT / "benchmarks" / "measure.py").read_text("utf-8")
    # An option is written out, or made from a field of a dataclass.
    fields = {f"--{field.replace('_', '-')}" for field in re.findall(r"^    (\w+): \w", source, re.M)}
    return next((flag for flag in named - fields if f'"{flag}"' not in source), None)


def test_commands_in_docstrings_and_sentences_exist():
    parser = build_parser()
    assert sum(".py" in where for where, _ in SPANS) > 60 and len(SPANS) > 150
    assert {
        f"{where}: {span}": wrong for where, span in SPANS if (wrong := wrong_command(span, parser))
    } == {}
    assert (
        wrong_command("alm trian x", parser) == "trian"
        and wrong_command("alm data nothing", parser) == "nothing"
    )
    assert wrong_command("alm ask MODEL --nonsense", parser) == "--nonsense"
    assert wrong_command("python -m benchmarks.nothing", parser) == "benchmarks.nothing"
    assert wrong_command("python -m benchmarks.serving MODEL --nothing 3", parser) == "--nothing"
    assert wrong_command("make nothing", parser) == "nothing"


def test_code_in_docstrings_parses():
    checked = 0
    for where, text in docstrings():
        for block in indented_blocks(text):
            if re.match(r"\w+: \S", block):
                assert isinstance(yaml.safe_load(block), dict), where
                checked += 1
            for line in block.splitlines() if block.startswith("{") else ():
                assert isinstance(json.loads(re.sub(r", \.\.\.([\]}])", r"\1", line)), dict), where
                checked += 1
        for code in re.findall(r"^ *>>> (.*)$", text, re.M):
            compile(code, where, "single")
            checked += 1
    assert checked >= 4


def test_the_readme_fits_on_a_page_and_shows_commands():
    assert len((ROOT / "README.md").read_text("utf-8").splitlines()) <= 150
    assert sum(page == "README.md" for page, _ in COMMANDS) >= 5 and len(COMMANDS) > 30
    assert not any(
        "PLACEHOLDER" in page.read_text("utf-8") or "_OUTPUT" in page.read_text("utf-8") for page in PAGES
    )


@pytest.mark.parametrize(("page", "command"), COMMANDS)
def test_a_command_parses_and_names_what_is_there(page, command, tmp_path, monkeypatch):
    ran = []
    parser = build_parser()
    monkeypatch.setattr("alm.cli.build_parser", lambda: parser)
    for sub in subparsers(parser):
        sub.set_defaults(run=ran.append)
    words = [word for word in shlex.split(command)[1:] if word not in ("…", "...")]
    if "--plugins" in words:  # a folder of the reader's
        (tmp_path / "plugins").mkdir()
        for name, text in COMPONENTS:
            (tmp_path / "plugins" / name).write_text(text)
        monkeypatch.setenv("ALM_PLUGINS", str(tmp_path / "plugins"))
        words[words.index("--plugins") + 1] = str(tmp_path / "plugins")
    assert main(words) == 0
    (arguments,) = ran
    config, benchmark = getattr(arguments, "config", None), getattr(arguments, "benchmark", None)
    mine = (
        config is None or config in WRITTEN or config.isupper() or config.startswith(("CONFIG", "my", "mine"))
    )
    path = None if mine else find_config(config, ("recipes", "ablation", *STAGES.names()))
    assert (
        benchmark is None
        or benchmark in ("list", "compare-prompts")
        or benchmark in BENCHMARKS.names()
        or find_config(benchmark)
    )
    if " train " in f"{command} " and path is not None:
        if "stages" in read_yaml(path):
            load_recipe(path, arguments.overrides)
        else:
            load_settings(TrainSettings, path, arguments.overrides)


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_a_block_of_code_is_valid(number):
    page, kind, text = BLOCKS[number]
    if kind in ("python", "py"):
        compile(text, str(page), "exec")
    elif kind == "json":
        for line in text.strip().splitlines() if text.lstrip().startswith('{"id"') else [text]:
            json.loads(line)
    elif kind in ("yaml", "yml"):
        assert yaml.safe_load(text) is not None
    else:
        assert kind in ("", "bash", "text", "sh", "console"), f"{page}: a block of {kind}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_and_named_configs_lead_somewhere(page):
    text = page.read_text("utf-8")
    generated = {
        "reference/configs.md",
        "reference/commands.md",
        "reference/components.md",
        "reference/shipped.md",
    }
    generated |= {"contributing.md", "changelog.md", "results-speed.md", "results-pretraining.md"}
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text):
        if not target.startswith(("http:", "https:", "mailto:")):
            found = (page.parent / target).resolve()
            inside = (
                found.is_relative_to(ROOT / "docs")
                and found.relative_to(ROOT / "docs").as_posix() in generated
            )
            assert found.exists() or inside, f"{page}: {target}"
    for name in re.findall(r"configs/[\w./-]+\.(?:yaml|json|sbatch)", text):
        assert "NAME" in name or (ROOT / name).is_file(), f"{page}: {name}"


@pytest.fixture(scope="module")
def reference():
    """The generated pages."""
    sys.path.insert(0, str(ROOT / "docs"))
    try:
        from reference_pages import pages
    finally:
        sys.path.pop(0)
    return pages()


def keys_of(cls, prefix=""):
    """The keys that a config's parser takes, found by the types of fields alone."""
    hints = typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        if field.init:
            yield f"{prefix}{field.name}"
            waiting = [hints[field.name]]
            while waiting:
                hint = waiting.pop()
                waiting += typing.get_args(hint)
                if isinstance(hint, type) and dataclasses.is_dataclass(hint):
                    yield from keys_of(hint, f"{prefix}{field.name}.")


def unexplained(cls, title, page, left_out=()):
    """Keys that have no row, or no meaning in their row, in the part of the reference with this title."""
    start = page.index(f"# {title}\n")
    level = re.search(r"#*$", page[:start])[0].count("#") + 1
    part = re.split(rf"^#{{1,{level}}} ", page[start + 2 :], flags=re.M)[0]
    rows = [
        [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        for line in part.splitlines()
        if line[:1] == "|"
    ]
    explained = {row[0].strip("`") for row in rows if row[-1]}
    return [key for key in keys_of(cls) if key not in left_out and key not in explained]


@dataclasses.dataclass(frozen=True)
class Inner:
    """A section.

    Attributes:
        depth: How deep.
    """

    depth: int = 1
    silent: bool = False


@dataclasses.dataclass(frozen=True)
class Outer:
    """A config.

    Attributes:
        stage: A key that the reference has for another config.
        inner: A section.
    """

    stage: str = ""
    inner: Inner | None = None
    below: int = 3
    """Said here."""


def test_every_key_is_in_the_reference(reference):
    from reference_pages import _section, config_classes, option_classes

    page = reference["reference/configs.md"]
    assert {
        title: lost for title, cls in config_classes().items() if (lost := unexplained(cls, title, page))
    } == {}
    for option, classes in option_classes().items():
        for name, (cls, given) in classes.items():
            assert unexplained(cls, f"{option}: {name}", page, given) == [], (option, name)
    # A key of a settings class that is not in the page, or is there without a meaning, is found.
    assert unexplained(Outer, "Evaluations", page) == [
        "stage",
        "inner",
        "inner.depth",
        "inner.silent",
        "below",
    ]
    own = "\n".join(["## Own", "", *_section(Outer, "", staged=False)])
    assert unexplained(Outer, "Own", own) == ["inner.silent"]


def test_the_reference_shows_layouts_of_corpora_and_keys_beside_dataclasses(reference):
    from importlib import import_module

    page = reference["reference/components.md"]
    for name in ("clotho", "mmau", "fsd50k"):
        about = import_module(f"alm.data.corpora.{name}").__doc__.split("\n\n")[1].split("\n")[0]
        assert about in page, name
    for key in ("extends", "out", "defaults", "stages", "stages.name"):
        assert re.search(rf"^\| `{key}` \| \w", reference["reference/configs.md"], re.M), key
    assert not any("see the source" in text for text in reference.values())
    names = [name for name in reference if name.startswith("reference/")]
    lines = [line for name in names for line in reference[name].splitlines()]
    code = [span for line in lines for span in line.split("`")[1::2]]
    assert not any("&lt;" in span or "&gt;" in span for span in code) and "&amp;" not in "".join(lines)
    assert "`<digit>_<speaker>_<index>.wav`" in page


def test_every_class_that_parses_a_config_is_in_the_reference(reference):
    from reference_pages import config_classes

    classes = list(config_classes().values())
    for cls in classes:
        hints = typing.get_type_hints(cls).values()
        classes += [
            one for hint in hints for one in (hint, *typing.get_args(hint)) if dataclasses.is_dataclass(one)
        ]
    known = {cls.__name__ for cls in classes}
    parsed = set()
    for package in ("alm", "encoders", "projectors", "train", "eval"):
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                if isinstance(node, ast.Call) and getattr(node.func, "id", "") in (
                    "parse_settings",
                    "load_settings",
                ):
                    parsed |= {node.args[0].id} if isinstance(node.args[0], ast.Name) else set()
    assert len(parsed) > 8 and parsed - {"cls", "corpus"} <= known


def test_every_command_flag_component_and_config_is_in_the_reference(reference):
    from importlib import import_module

    from alm.commands.listing import KINDS

    flags = {
        flag
        for sub in subparsers(build_parser())
        for action in sub._actions
        for flag in action.option_strings
    }
    page = reference["reference/commands.md"]
    assert [flag for flag in flags - {"-h", "--help"} if not re.search(rf"`{flag}[ `]", page)] == []
    for action in build_parser()._subparsers._group_actions:
        assert [name for name in action.choices if f"## alm {name}\n" not in page] == []
    for kind, where in KINDS.items():
        module, _, name = where.partition(":")
        names = getattr(import_module(module), name).shipped()
        assert [one for one in names if f"| `{one}` |" not in reference["reference/components.md"]] == [], (
            kind
        )
    assert all(f"| `{name}` |" in reference["reference/shipped.md"] for name in shipped_configs())


def test_counts_in_pages_are_right_and_contributing_names_every_kind():
    from importlib import import_module

    from alm.commands.listing import KINDS

    readme = (ROOT / "README.md").read_text("utf-8")
    score = (ROOT / "docs" / "howto" / "score.md").read_text("utf-8")
    assert f"| any model on {len(BENCHMARKS.names())} benchmarks" in readme
    assert f"\n{len(BENCHMARKS.names())} benchmarks, each one file" in score
    assert f"| {len(KINDS)} kinds of components" in readme
    contributing = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    for where in KINDS.values():
        module, _, name = where.partition(":")
        attribute = getattr(import_module(module), name).attribute
        assert f"| `{attribute}`, " in contributing, attribute


def test_the_table_of_encoders_says_what_each_is(reference):
    from reference_pages import encoder_table

    from encoders.registry import ENCODERS, encoder_class

    rows = {row.split(" | ")[0].strip("| `"): row for row in encoder_table().splitlines()[2:]}
    published = [name for name in ENCODERS.shipped() if encoder_class(name).licence != "-"]  # no controls
    assert list(rows) == published and len(rows) > 10
    assert all(encoder_class(name).licence in row for name, row in rows.items())
    assert (
        "| 30 |" in rows["whisper"]
        and "| 10.26 |" in rows["audiomosaic"]
        and "CC-BY-NC-4.0" in rows["audiomae"]
    )
    assert "<!-- table of encoders -->" in (ROOT / "docs" / "encoders.md").read_text("utf-8")


def test_dead_links_of_a_built_site_are_found(tmp_path):
    sys.path.insert(0, str(ROOT / "docs"))
    try:
        from site_links import dead_links
    finally:
        sys.path.pop(0)
    (tmp_path / "sub").mkdir()
    right = '<h1 id="top"><a href="sub/b.html#x y"></a><a href="https://a.org/"></a><a href="#top"></a>'
    (tmp_path / "a.html").write_text(right + '<a href="mailto:a@b"></a><img src="data:image/png;base64,AA">')
    (tmp_path / "sub/b.html").write_text('<p id="x y"><a href="../a.html#top"></a><a name="old"></a>')
    assert dead_links(tmp_path) == []
    (tmp_path / "sub/b.html").write_text(
        '<a href="../a.html#gone"></a><a href="../c.html"></a><a href="../sub/"></a><a href="#old"></a>'
        '<script src="https://a.org/b.js"></script><link href="//a.org/b.css">'
    )
    found = dead_links(tmp_path)
    assert [line.split(": ", 1)[1] for line in found] == [
        "sub/b.html#x y: leads to no anchor", "../a.html#gone: leads to no anchor", "../c.html: leads to no file",
        "../sub/: leads to no file", "#old: leads to no anchor", "https://a.org/b.js: is loaded from the network",
        "//a.org/b.css: is loaded from the network",
    ]  # fmt: skip


def test_every_page_is_in_the_navigation(reference):
    listed = re.findall(r"[\w/.-]+\.md", (ROOT / "mkdocs.yml").read_text("utf-8"))
    there = {
        page.relative_to(ROOT / "docs").as_posix() for page in PAGES if page.is_relative_to(ROOT / "docs")
    }
    assert set(listed) == there | set(reference) and len(listed) == len(set(listed))
    assert CONFIGS == ROOT / "configs"


def test_overrides_may_stand_on_both_sides_of_an_option():
    seen = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("alm.commands.quickstart._quickstart", seen.append)
        assert main(["quickstart", "a.b=1", "--seed", "3", "c=2"]) == 0
    assert seen[0].overrides == ["a.b=1", "c=2"] and seen[0].seed == 3
    with pytest.raises(SystemExit):
        main(["quickstart", "--nonsense"])
    with pytest.raises(SystemExit):
        main(["ask", "m", "a.wav", "q", "--batch-size", "0"])
