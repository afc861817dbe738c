"""The small LLM of the quickstart, trained on text alone: tokenizer, exercises, optimiser. Knows no stage."""
