"""The grammar of random programs: ingredients, how one is written, drawn and simplified.

Does not play programs: `programs.stage` has what a written program imports.

    page                             the source while it is written, and where the pen stands in it
    models, calls, spreading, bounds ingredients of a node's function
    graphs                           nodes, layers, graphs, whole programs
    drawing, shrinking               trees of ingredients: drawn at random, simplified while they fail
"""
