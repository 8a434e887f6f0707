"""What the audit's numbers are worth: intervals, exact tests, corrections, detectable effects, lower bounds on ε.

Pure functions of arrays and counts. An `Estimate` comes back, or a `TooFew` that says what is missing; wrong input is a
`UserError`. Chance comes from the `numpy.random.Generator` that is handed in.
"""
