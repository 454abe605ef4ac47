"""The audit as one web page: figures, words, a table of the suspects."""
