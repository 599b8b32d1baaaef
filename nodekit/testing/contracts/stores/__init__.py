"""What keeps jobs: tables, stores, and stores that outlive the process."""
