"""What libraries say at every start but not of the run is kept back: warnings, by their words, and bars."""

import logging
import os
import sys
import warnings

# Logger -> beginning of what it says.
_LOGGED = {
    # A machine without a GPU is no fault.
    "DeepSpeed": "Setting accelerator to CPU",
    # Answers are sampled with the tokenizer's own marks, and by the run's settings.
    "transformers.trainer_utils": "The tokenizer has new PAD/BOS/EOS tokens",
    # A head that is tied to the embeddings is not written a second time.
    "transformers.trainer": "There were missing keys in the checkpoint model loaded: ['lm_head.weight'].",
}


def keep_back() -> None:
    """Keep the harmless warnings back in this process, and bars of progress where nobody watches them."""
    if (
        not sys.stderr.isatty()
    ):  # a bar that moves is many lines of a file; read when transformers is imported
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    # Our pins of TRL and vLLM are tested together; TRL would say otherwise six times at every start.
    warnings.filterwarnings("ignore", message="TRL currently supports vLLM", category=UserWarning)
    for name, words in _LOGGED.items():
        logging.getLogger(name).addFilter(_Without(words))


class _Without(logging.Filter):
    def __init__(self, words: str) -> None:
        super().__init__()
        self.words = words

    def filter(self, record: logging.LogRecord) -> bool:
        return not record.getMessage().startswith(self.words)
