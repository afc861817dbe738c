"""What a model needs on a hub: its card, and the way there. Knows no model class."""
