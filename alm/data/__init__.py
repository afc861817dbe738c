"""Data: records, manifests, shards, readers of other formats, published corpora, and composed scenes."""
