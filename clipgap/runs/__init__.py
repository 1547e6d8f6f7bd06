"""Long runs: the life of an output folder, units and who does them, shares, progress, stopping.

with open_output(out, KIND, how) as output:            # locked; not ours or in the way: refused
    match output.begin(described, marks=marks):        # what is wanted against what is there
        case Complete(manifest): return …
        case Damaged(): …                              # mend, reopen, or output.start()
    tally = Tally(how, Progress(stage="embedding", total=…, done=…, noun="images"))
    executor = how.executor or Threads(4)              # or Here(), Processes(devices)
    for event in run_units(work, units, output.ledger, executor, how):
        tally.add(…)                                   # a Step or a Made, already on record
    # Of a share nothing follows: `ShareDone` has ended the run, and goes on where parts are merged.
    manifest = output.finish({**described, …}, files)  # manifest last; notes removed
"""
