"""Encoder transfer: a head on labelled clips, over folds or published splits. No LLM."""
