"""Composed scenes: generated or recorded sound events mixed into clips, with captions and questions about them."""
