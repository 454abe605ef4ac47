"""The ``save`` method that every estimator of this package has."""


class SaveMixin:
    """Adds `save` to an estimator; `skvibe.load` is its counterpart."""

    def save(self, path):
        """Write the estimator to a file that cannot run code when loaded.

        Parameters
        ----------
        path : str or path-like
            File to write; read it back with `skvibe.load`.

        Raises
        ------
        TypeError
            If the estimator holds something that cannot be stored without code.
        OSError
            If the file cannot be written; an older one is then untouched.

        See Also
        --------
        skvibe.save : The same for any estimator of this package, and for Pipelines.
        """
        # Imported here: persistence is needed by few and imports much.
        from skvibe.persistence import save

        save(self, path)
