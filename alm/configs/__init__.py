"""Run configs: shipped configs by name, descriptions of keys, JSON schemas, and commented YAML.

Everything here is derived from the dataclasses that parse the configs; no key is listed by hand.
"""
