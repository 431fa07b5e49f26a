"""Results of finished models: on test text and other corpora, by position and context; completions; likelihoods."""
