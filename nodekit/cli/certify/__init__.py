"""What `nodekit certify` does: an installed package's offers, the suites that fit them, and what came of their tests.

Tests run in processes of their own, with pytest and a plugin that writes what happens to a file, a line of JSON each:

- `packages`: which distribution, and what it offers; from metadata, nothing is imported
- `suites`: which suite is for which kind of offer
- `examine_provider` (a process): whether an offer can be built, from which settings, and which suites fit it
- `settings`, `components`, `made`: the settings, the part made of them, and a class of tests around it
- `reporter` (pytest's plugin), `suite_limits`: the outcomes of tests, and the tests that a class overrides
- `processes`: such a process with a limit, and an end
- `rows`, `table`: what is said of it
"""
