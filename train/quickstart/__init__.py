"""`alm quickstart`: the small text LLM, the workflow of all stages, and its report."""
