"""Run configs: the shipped ones by name, what their keys mean, their JSON schema, and commented YAML.

Everything here is derived from the dataclasses that parse the configs; no key is listed by hand.
"""
