"""A model behind OpenAI's API, for a page and for many callers.

`requests.py` reads what strangers send, `app.py` answers through an engine, `chat.py` is the page. `vllm/` is the
plug-in by which vLLM itself runs our models, and imports nothing of the rest. Nothing here trains.
"""
