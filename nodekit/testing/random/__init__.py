"""Random sequences of operations on a store, beside a model of it: what `nodekit.testing.model` runs."""
