"""The prompt of LTU (Gong et al. 2024), Alpaca's short one: all audio in front of the text, before the start token."""

CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|audio|>' * message['content'].count('<|audio|>') }}{% endfor %}"
    "{{ bos_token or '' }}{% for message in messages %}{% set text = message['content'] | replace('<|audio|>', '') %}"
    "{% if message['role'] == 'assistant' %}{{ text }}{{ eos_token }}"
    "{% elif message['role'] == 'system' %}{{ text }}\n\n"
    "{% else %}### Instruction:\n{{ text }}\n\n### Response:\n{% endif %}{% endfor %}"
)
