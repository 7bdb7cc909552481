"""A model behind HTTP: `diffusionad serve MODEL` (needs the extra "serve").

A request goes through uploads (bytes to pixels), batching (pixels to score and map, many requests
at a time) and pictures (map to PNG); app puts them together and counters tells how it goes.
"""
