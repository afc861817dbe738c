"""The parts of the processor: conversations, batches, the feature extractor, and the files of a saved processor.

The processor itself is `alm.processor.AudioLanguageProcessor`; its `encode_conversation` turns a conversation into
token ids and labels, for training and for answers by likelihood. Generation, in evaluation and in the server, calls
`apply_chat_template`, which encodes with the same code.
"""
