"""Rendering of untrusted chat templates: a sandbox with limits on steps and sizes.

`transformers` renders in Jinja's sandbox, which denies access to code and files, but allows loops that run for days and
strings that fill the memory. This module counts every iteration and call, and checks every size before memory is
allocated. Templates get the same variables and functions as in `transformers`.
"""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Callable, Iterable
from functools import cache, wraps
from itertools import islice
from threading import local
from typing import Any

import jinja2
from jinja2 import meta, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

from alm.common.errors import UserError
from alm.common.text import error_line

MOST_STEPS = 200_000
"""Iterations and calls of one rendering."""
LONGEST_TEXT = 2_000_000
"""Characters of a template, and of any string or list that it makes."""

_LARGE_NUMBER = re.compile(r"\d{6}|\*")  # a width in a format string, or one given as an argument


class _Limit(Exception):
    """A template exceeds a limit."""


class _State(local):
    steps = 0


_state = _State()


def render(template: str, **variables: Any) -> str:
    """Render a chat template.

    Args:
        template: Jinja text.
        **variables: What `transformers` passes: `messages`, `add_generation_prompt`, special tokens, ...

    Raises:
        UserError: The template is broken, refuses the messages, or exceeds a limit.
    """
    _state.steps = 0
    try:
        # JSON types only, as in transformers: objects would bring methods along
        variables = json.loads(json.dumps(variables))
        return _limited_concat(_compiled(template).generate(**variables))
    except _Limit as error:
        raise UserError(
            f"the chat template {error}; give another chat_template, for example 'plain'"
        ) from error
    except jinja2.TemplateSyntaxError as error:
        raise UserError(
            f"the chat template is not valid Jinja (line {error.lineno}: {error_line(error)})"
        ) from error
    except Exception as error:  # a template can raise whatever Python raises
        raise UserError(
            f"the chat template fails on this conversation ({error_line(error)}); change the conversation, or give "
            "another chat_template, for example 'plain'"
        ) from error


@cache
def variables_of(template: str) -> frozenset[str]:
    """Names of the variables that a template reads; none of one that cannot be read.

    Args:
        template: Jinja text.
    """
    if len(template) > LONGEST_TEXT:
        return frozenset()
    try:
        return frozenset(meta.find_undeclared_variables(_environment().parse(template)))
    except jinja2.TemplateError:
        return frozenset()  # rendering it reports the error


@cache
def _compiled(template: str) -> jinja2.Template:
    _check_size(len(template))
    return _environment().from_string(template)


@cache
def _environment() -> jinja2.Environment:
    environment = _LimitedSandbox(
        trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationTag, loopcontrols]
    )
    environment.filters = {
        **{name: _limited(function) for name, function in environment.filters.items()},
        "tojson": _limited(_to_json),
        "join": _join,
        _COUNTED: _counted,
        _CONCAT: _limited_concat,
    }
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = lambda form: datetime.datetime.now().strftime(form)
    environment.globals["dict"] = _make_dict
    environment.globals["namespace"] = _Namespace
    del environment.globals["lipsum"]
    return environment


_COUNTED, _CONCAT = "counted items", "limited text"  # names that no template can spell


class _GenerationTag(Extension):
    """The tag `generation` of `transformers`, around what a model writes; it changes no text."""

    tags = {"generation"}

    def parse(self, parser: Any) -> nodes.Node | list[nodes.Node]:
        next(parser.stream)
        body: list[nodes.Node] = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return body


class _LimitedSandbox(ImmutableSandboxedEnvironment):
    """Jinja's sandbox with counted loops and calls, and sizes checked before they are made."""

    intercepted_binops = frozenset(["*", "**", "+", "%"])
    concat = staticmethod(lambda pieces: _limited_concat(pieces))

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree = super()._parse(source, name, filename)
        for loop in tree.find_all(nodes.For):
            loop.iter = nodes.Filter(loop.iter, _COUNTED, [], [], None, None, lineno=loop.lineno)
        for node in list(tree.find_all((nodes.Node,))):
            for field, value in node.iter_fields():
                if isinstance(value, nodes.Concat):
                    setattr(node, field, _as_filter(value))
                elif isinstance(value, list):
                    value[:] = [_as_filter(one) if isinstance(one, nodes.Concat) else one for one in value]
        return tree

    def call(self, context: Any, obj: Any, *args: Any, **kwargs: Any) -> Any:
        _count(1)
        _check_arguments(obj, args, kwargs)
        result = super().call(context, obj, *args, **kwargs)
        _check_result(result)
        return result

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        numbers = isinstance(left, int | float) and isinstance(right, int | float)
        if operator == "**" and not (numbers and abs(right) <= 64 and abs(left) <= 10**9):
            raise _Limit("raises a number to a large power")
        if operator == "*" and not numbers:
            length, times = (left, right) if isinstance(right, int) else (right, left)
            if isinstance(times, int) and hasattr(length, "__len__"):
                _check_size(len(length) * max(times, 0))
        if operator == "*" and numbers and max(abs(left), abs(right)) > 10**100:
            raise _Limit("multiplies large numbers")
        if operator == "+" and hasattr(left, "__len__") and hasattr(right, "__len__"):
            _check_size(len(left) + len(right))
        if operator == "%" and isinstance(left, str) and _LARGE_NUMBER.search(left):
            raise _Limit("formats with a large width")
        return super().call_binop(context, operator, left, right)


def _as_filter(node: nodes.Concat) -> nodes.Filter:
    items = nodes.List(node.nodes, lineno=node.lineno)
    return nodes.Filter(items, _CONCAT, [], [], None, None, lineno=node.lineno)


def _count(steps: int) -> None:
    _state.steps += steps
    if _state.steps > MOST_STEPS:
        raise _Limit(f"takes more than {MOST_STEPS} steps")


def _counted(items: Iterable[Any]) -> list[Any]:
    """The items of a loop; one that is too long is refused before it starts."""
    found = list(islice(items, MOST_STEPS + 1))
    _count(len(found))
    return found


def _limited_concat(pieces: Iterable[Any]) -> str:
    texts, size = [], 0
    for piece in pieces:
        texts.append(piece if isinstance(piece, str) else str(piece))
        size += len(texts[-1])
        _check_size(size)
    return "".join(texts)


def _join(items: Iterable[Any], d: str = "", attribute: str | int | None = None) -> str:
    texts: list[str] = []
    for item in items:
        value = item if attribute is None else item[attribute]
        texts += [str(d), str(value)] if texts else [str(value)]
        _count(1)
    return _limited_concat(texts)


def _limited(function: Callable[..., Any]) -> Callable[..., Any]:
    """A filter with its arguments checked before it runs, and its result afterwards."""

    @wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        _count(1)
        _check_arguments(function, args, kwargs)
        result = function(*args, **kwargs)
        _check_result(result)
        return result

    return run


def _check_arguments(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    name = getattr(function, "__name__", "")
    owner = getattr(function, "__self__", None)
    values = [*args, *kwargs.values()]
    for value in values:
        if isinstance(value, int) and abs(value) > LONGEST_TEXT:
            raise _Limit(f"calls {name} with {str(value)[:20]}")
    texts = [value for value in [owner, *values] if isinstance(value, str)]
    if name == "join" and isinstance(owner, str) and args and hasattr(args[0], "__len__"):
        _check_size(len(owner) * len(args[0]) + sum(len(part) for part in args[0] if isinstance(part, str)))
    if name in ("replace", "do_replace") and len(texts) > 1:
        _check_size(len(texts[0]) * max(map(len, texts[1:])))
    if name in ("format", "format_map", "do_format") and any(map(_LARGE_NUMBER.search, texts)):
        raise _Limit("formats with a large width")


def _check_result(result: Any) -> None:
    if isinstance(result, str | list | tuple | dict):
        _check_size(len(result))


def _check_size(size: int) -> None:
    if size > LONGEST_TEXT:
        raise _Limit(f"makes a text or list of {size} characters or items, more than {LONGEST_TEXT}")


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: Any = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _make_dict(*args: Any, **kwargs: Any) -> dict[Any, Any]:
    """The built-in function, without the attributes of its type."""
    return dict(*args, **kwargs)


class _Namespace(Namespace):
    """Jinja's, without names that lead to Python's internals; as in `transformers`."""

    def __init__(*args: Any, **kwargs: Any) -> None:
        self, *rest = args  # so that a template can name an attribute `self`
        attributes = dict(*rest, **kwargs)
        for name in attributes:
            _check_name(name)
        Namespace.__init__(self, attributes)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_name(name)
        Namespace.__setitem__(self, name, value)


def _check_name(name: Any) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise jinja2.exceptions.SecurityError(f"namespace attribute {name!r} starts with an underscore")


def _raise_exception(message: str) -> None:
    raise jinja2.TemplateError(message)
