"""Shared by all packages: errors, settings, files, text, processes, plug-ins, progress.

It imports nothing else of ours and knows nothing about audio; what only one package needs belongs to that package.
"""
