"""The parts of the processor: conversations, batches, the feature extractor, and the files of a saved processor.

The processor itself is `alm.processor.AudioLanguageProcessor`; its `encode_conversation` turns a record into tokens and
labels, in training, evaluation and serving alike.
"""
