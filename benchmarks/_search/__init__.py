"""Parts of `benchmarks.search`: the corpus, the oracle, what is searched, the tables."""
