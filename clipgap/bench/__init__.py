"""Races: our kernels against their peers, interleaved in one run, and what came of them."""
