"""Chat templates for LLMs whose tokenizer has none: one file each, which assigns `CHAT_TEMPLATE`.

`render.py` is the only place that executes the Jinja of a tokenizer, a model directory or a config.
"""

from __future__ import annotations

from alm.common.errors import ConfigError
from alm.common.plugins import Registry

CHAT_TEMPLATES: Registry[str] = Registry(
    "chat template",
    "CHAT_TEMPLATE",
    "alm.templates",
    accepts=lambda found: isinstance(found, str),
    expected="'<a Jinja template>'",
)


def chat_template(name_or_text: str) -> str:
    """The Jinja text of a named template; text that is Jinja already is returned as it is.

    Raises:
        ConfigError: It is neither; names the nearest template.
    """
    if "{" in name_or_text:
        return name_or_text
    if not name_or_text.strip():
        raise ConfigError("chat_template: is empty; give a name or a Jinja template")
    return CHAT_TEMPLATES.get(name_or_text.replace("-", "_"))
