"""`alm quickstart`: the workflow of all stages, and its report."""
