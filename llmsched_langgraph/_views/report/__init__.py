"""The report of a recording: its figures, one page that draws it, and its export for Perfetto.

Does not read files of other formats than `traces` does, and predicts or simulates nothing.
"""
