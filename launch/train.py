"""``python -m recrl.launch.train CONFIG``: ``recrl train`` as ``accelerate launch -m`` wants it."""

import sys

from .cli import main

if __name__ == "__main__":
    main(["train", *sys.argv[1:]])
