"""Model cards and uploads to the Hugging Face hub. Independent of the model classes."""
