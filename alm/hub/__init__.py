"""Model cards and uploads to a hub. Knows no model class."""
