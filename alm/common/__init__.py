"""The basement, which every floor may import: errors, settings, files, text, processes, plug-ins, progress.

It imports nothing else of ours and knows nothing about audio; what only one floor needs belongs to that floor.
"""
