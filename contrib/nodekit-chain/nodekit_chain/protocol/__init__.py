"""The protocol of the contracts, without input or output: values, calls, signatures and encodings."""
