"""Published scoring rules: one file per rule, which declares `OFFICIAL_RULE`; the file name is the registry key."""
