"""`nodekit certify`: run the suites that fit the providers of an installed package, and report the results.

Tests run in processes of their own, with pytest and a plugin that writes a line of JSON to a file for each event:

- `packages`: which distribution, and its providers; from metadata, nothing is imported
- `suites`: which suite is for which kind of provider, and what a class leaves out or sets
- `examine_provider` (a process): whether a provider can be built, from which settings, and which suites fit it
- `settings`, `components`, `made_suite`: the settings, the component made of them, and a class of tests around it
- `reporter` (pytest's plugin): the outcomes of tests
- `processes`: such a process with a limit, and an end
- `rows`, `table`: what is said of it
"""
