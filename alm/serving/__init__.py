"""Serves a model through OpenAI's API, to the chat page and to other clients.

`requests.py` checks requests, which are untrusted; `app.py` answers them through an engine; `chat.py` is the page.
`vllm/` is the plug-in with which vLLM runs our models; it imports no other module of this package.
"""
