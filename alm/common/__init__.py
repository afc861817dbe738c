"""What every floor above uses: config parsing, atomic files, fingerprints, progress. Nothing about audio or models."""
