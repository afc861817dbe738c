"""The order of samples, caches of clips and features, quarantine. Independent of stages."""
