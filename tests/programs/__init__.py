"""Random LangGraph programs, played bare and scheduled: what comes of them must be the same.

Does not replace tests that say what they test: what random programs find becomes one of those.

A program is a graph of small nodes with fake models, and the threads and loops that run it. It is drawn as a
tree of ingredients (`grammar`), written as Python source, and played in a subprocess (`worker`), first bare,
then with a scheduler of few slots (`judging`). Then

- the outcomes are the same: results, or the type of the error; a run that was cut off may also end as that;
- nothing is held, nothing waits, no job runs, every grant was given back, and `scheduler.check()` passes;
- the backend never had more requests at once than slots and counted over-commitments together;
- no call went ahead over the slots in a program that has no reason for it;
- the package raised nothing that nobody caught, and logged no error;
- no program stood still: if nothing happens for long, a watchdog tells where everything stands.

A program that fails is simplified and printed as a Python file, which runs as it stands. `features` lists the
ingredients, and those that the package is known to get wrong, which are left out.

    stage      what a written program imports: models, helpers, and how its graph is run
    grammar    ingredients, each a class that writes itself; drawing and simplifying
    judging, watchdog, stacks, worker      inside of the subprocess
    batches, finding, __main__             outside of it
"""
