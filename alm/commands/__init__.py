"""The subcommands of `alm`, one file each; a file's `add` puts its parser under `commands`.

A subcommand imports what it needs when it runs, so that help is immediate.
"""
