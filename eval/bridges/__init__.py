"""Our encoders as models of other people's test suites: one thin adapter per suite, which imports that suite.

`mteb_encoder` for MTEB's audio tasks (MAEB), `xares_model` for X-ARES. What a suite needs is installed with the extra
of its name; nothing else in `eval` imports these files.
"""
