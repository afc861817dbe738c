"""Chat templates for LLMs whose tokenizer has none, by name."""

from __future__ import annotations

PLAIN = (
    "{{ bos_token or '' }}{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}Assistant: {{ message['content'] }}{{ eos_token }}\n"
    "{% else %}{{ message['role'] | capitalize }}: {{ message['content'] }}\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}Assistant:{% endif %}"
)

# The prompt of LTU (Gong et al. 2024), Alpaca's short one: all audio in front of the text, before the start token.
ALPACA_SHORT = (
    "{% for message in messages %}{{ '<|audio|>' * message['content'].count('<|audio|>') }}{% endfor %}"
    "{{ bos_token or '' }}{% for message in messages %}{% set text = message['content'] | replace('<|audio|>', '') %}"
    "{% if message['role'] == 'assistant' %}{{ text }}{{ eos_token }}"
    "{% elif message['role'] == 'system' %}{{ text }}\n\n"
    "{% else %}### Instruction:\n{{ text }}\n\n### Response:\n{% endif %}{% endfor %}"
)

TEMPLATES = {"plain": PLAIN, "alpaca-short": ALPACA_SHORT}
