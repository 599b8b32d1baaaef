"""`nodekit certify`: run the suites that fit the providers of an installed package, and report the results.

Tests run in processes of their own, with pytest and a plugin that writes a line of JSON to a file for each event:

- `packages`: finds the distribution and its providers from metadata; nothing is imported
- `suites`: says which suite is for which kind of provider
- `examine_provider` (a process): finds out if a provider can be built, from which settings, and which suites fit it
- `settings`, `components`, `made`: make the settings, the component from them, and a class of tests around it
- `reporter` (pytest's plugin), `honest`: record what the tests did, and if a class changed those of its suite
- `processes`: runs such a process with a time limit, and ends all that it started
- `rows`, `table`: make the report
"""
