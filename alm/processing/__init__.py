"""What the processor is made of: conversations, batches, the feature extractor, and processors as they were saved."""
