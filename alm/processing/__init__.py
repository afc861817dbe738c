"""The parts of the processor: conversations, batches, the feature extractor, and the files of a saved processor.

The processor itself is `alm.processor.AudioLanguageProcessor`; its `encode_conversation` turns a conversation into
token ids and labels, for training and for ranking by likelihood. For generation, evaluation and the server call
`apply_chat_template`, which uses the same code.
"""
