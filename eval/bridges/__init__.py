"""Our encoders and models in other evaluation suites: one thin adapter per suite, which imports that suite.

`mteb_encoder` for MTEB's audio tasks (MAEB), `xares_model` for X-ARES, `lmms_model` for lmms-eval. Each suite is
installed with the extra of its name; nothing else in `eval` imports these files.
"""
