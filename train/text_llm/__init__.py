"""The small LLM of the quickstart, trained on text alone: tokenizer, exercises, optimiser. Independent of stages."""
