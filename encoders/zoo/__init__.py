"""One file (or package) per encoder; the name is its registry key. Shared parts are in `encoders/`."""
