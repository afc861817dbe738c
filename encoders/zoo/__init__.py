"""One file (or package) per encoder; the name is its registry key. Shared parts live one floor up, in `encoders/`."""
