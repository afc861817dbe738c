"""What the processor is made of: conversations, batches, the feature extractor, and processors as they were saved.

The processor itself is `alm.processor.AudioLanguageProcessor`; its `encode_conversation` turns a record into tokens and
labels, in training, evaluation and serving alike.
"""
