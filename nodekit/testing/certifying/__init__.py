"""What `nodekit certify` does: an installed package's offers, the suites that fit them, and what came of their tests.

Tests run in processes of their own, with pytest and a plugin that writes what happens to a file, a line of JSON each:

- `_packages`: which distribution, and what it offers; from metadata, nothing is imported
- `_suites`: which suite is for which kind of offer
- `_examine` (a process): whether an offer can be built, from which settings, and which suites fit it
- `_settings`, `_parts`, `_made`: the settings, the part made of them, and a class of tests around it
- `_reporter` (pytest's plugin), `_honest`: what the tests did, and whether a class changed those of its suite
- `_processes`: such a process with a limit, and an end
- `_rows`, `_table`: what is said of it
"""

from nodekit.testing.certifying._certifying import Wishes, certify
from nodekit.testing.certifying._packages import Package, PackageUnknown, find_package, offers_of
from nodekit.testing.certifying._rows import Certificate, Failure, Row
from nodekit.testing.certifying._table import END, START, between_marks, table

__all__ = [
    "END",
    "START",
    "Certificate",
    "Failure",
    "Package",
    "PackageUnknown",
    "Row",
    "Wishes",
    "between_marks",
    "certify",
    "find_package",
    "offers_of",
    "table",
]
