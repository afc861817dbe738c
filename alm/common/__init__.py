"""Shared by all packages: errors, settings, files, text, processes, plug-ins, progress.

It imports no other package of this repository and knows nothing about audio. Code for one package alone belongs there.
"""
