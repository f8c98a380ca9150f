"""Side-by-side measurements: ours and torch's own, interleaved in one run on the machine at hand."""
