"""Rules of payment: which subscriptions a node serves, and what it holds back for proofs."""
