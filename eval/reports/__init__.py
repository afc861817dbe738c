"""Scores and comparisons as text, Markdown and self-contained HTML pages."""
