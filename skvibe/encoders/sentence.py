"""Sentence embeddings by a frozen pretrained model."""

import numpy as np

from skvibe.encoders._frozen import FrozenEncoder


class SentenceEncoder(FrozenEncoder):
    """Frozen sentence-transformers model as a scikit-learn transformer.

    Parameters
    ----------
    model : str or path, default="sentence-transformers/all-MiniLM-L6-v2"
        Name on the Hugging Face hub, or folder of a model that was saved.
    normalize : bool, default=True
        Scale the embeddings to unit length.
    batch_size : int, default=64
        Texts a batch.
    device : str or torch.device, default="auto"
        "auto" takes CUDA where there is one.
    model_params : dict, default=None
        More arguments of ``SentenceTransformer``, such as ``{"revision": "..."}`` or
        ``{"local_files_only": True}``.
    memory : str, path or joblib.Memory, default=None
        Keep embeddings there: the same texts are embedded once.
    keep_weights : bool, default=False
        Put the model's weights into pickles. False: they are loaded again from `model`.
    verbose : int, default=0
        1 prints how far the embedding is.

    Examples
    --------
    >>> from skvibe.encoders import SentenceEncoder
    >>> encoder = SentenceEncoder("path/to/a/model", batch_size=32)
    >>> X = encoder.fit_transform(["one text", "another"])  # doctest: +SKIP
    >>> X.shape  # doctest: +SKIP
    (2, 384)
    """

    def __init__(
        self,
        model="sentence-transformers/all-MiniLM-L6-v2",
        *,
        normalize=True,
        batch_size=64,
        device="auto",
        model_params=None,
        memory=None,
        keep_weights=False,
        verbose=0,
    ):
        self.model = model
        self.normalize = normalize
        self.batch_size = batch_size
        self.device = device
        self.model_params = model_params
        self.memory = memory
        self.keep_weights = keep_weights
        self.verbose = verbose

    def _load(self, device):
        try:
            from sentence_transformers import SentenceTransformer
        except ImportError as error:
            raise ImportError(
                "SentenceEncoder needs sentence-transformers: pip install "
                "'skvibe[text]'."
            ) from error
        return SentenceTransformer(
            str(self.model), device=str(device), **(self.model_params or {})
        ).eval()

    def _embed_batch(self, model, texts):
        return model.encode(
            texts,
            batch_size=len(texts),
            show_progress_bar=False,
            convert_to_numpy=True,
            normalize_embeddings=self.normalize,
        ).astype(np.float32, copy=False)

    def _embed(self, rows):
        # Texts of like length share a batch, so that little of it is padding.
        order = np.argsort([-len(text) for text in rows], kind="stable")
        embeddings = super()._embed([rows[i] for i in order])
        back = np.empty_like(order)
        back[order] = np.arange(len(order))
        return embeddings[back]

    def _settings(self):
        params = sorted((self.model_params or {}).items())
        return {
            **super()._settings(),
            "normalize": self.normalize,
            "model_params": repr(params),
        }

    def _validate(self, X, *, fitting):
        if isinstance(X, str):
            raise ValueError("X must be a list of texts; got one text. Use [text].")
        texts = np.asarray(X, dtype=object)
        if texts.ndim != 1 or len(texts) == 0:
            raise ValueError(
                "X must be a non-empty list of texts, or an array or column of shape "
                f"(n_samples,); got shape {texts.shape}."
            )
        texts = texts.tolist()
        for i, text in enumerate(texts):
            if not isinstance(text, str):
                raise ValueError(
                    f"X must hold texts; row {i} is {text!r} "
                    f"({type(text).__name__}). Fill or drop missing ones."
                )
        return texts

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.string = True
        tags.input_tags.one_d_array = True
        return tags
