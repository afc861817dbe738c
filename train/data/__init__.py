"""The order of samples, caches of clips and features, quarantine. Knows no stage."""
