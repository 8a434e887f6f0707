"""The runtime checker of the test run: beartype, with an int accepted for a float as Python's typing has it."""

from beartype import BeartypeConf, beartype

checked = beartype(conf=BeartypeConf(is_pep484_tower=True))
