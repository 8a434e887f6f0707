"""Settings of all property tests: how long an example takes is no property of the code."""

from hypothesis import settings

settings.register_profile("fedsim", deadline=None)
settings.load_profile("fedsim")
