"""Promises of a `SharedStore`."""

from nodekit.testing.contracts.shared.announcements import Announcements
from nodekit.testing.contracts.shared.clusters import Clusters
from nodekit.testing.contracts.shared.jobs import SharedJobs
from nodekit.testing.contracts.shared.leases import Leases
from nodekit.testing.contracts.shared.overview import Overview
from nodekit.testing.contracts.shared.versions import Versions
from nodekit.testing.contracts.stores.store import JobStoreContract


class SharedStoreContract(SharedJobs, Leases, Announcements, Overview, Clusters, Versions, JobStoreContract):
    """Suite of a store on which several nodes work. Define the fixture `open_store`.

    The fixture gives a function. The function returns a store that is not entered yet, always on the same data. The
    data are empty when a test begins. The suite opens several stores at once, some of them in an event loop of their
    own. They hold a claim, or an announcement, for `lease_seconds` without renewing it::

        class TestMyStore(SharedStoreContract):
            lease_seconds = 0.5

            @pytest.fixture
            def open_store(self, tmp_path):
                return lambda: MyStore(tmp_path, lease_seconds=self.lease_seconds)

    `hold` simulates a node that dies or is paused. The fixture `open_other_version` gives stores of the schema before
    or after this one. A single store also keeps all promises of `JobStoreContract`.
    """
