#!/usr/bin/env python3
"""Writes a JSONL file whose documents are as long as natural text: what docs/performance.md trains on.

    python docs/natural_corpus.py corpus.jsonl [BYTES]

Lengths are log-normal (mu 6.2, sigma 0.8), clipped to 57..2048 bytes, seed 0; the texts are cuts of this repository's own sources.
"""

import json
import math
import random
import subprocess
import sys


def main(path, total):
    files = subprocess.check_output(["git", "ls-files"], text=True).split()
    sources = [open(f, encoding="utf8").read() for f in files if f.endswith((".rs", ".md", ".cuh"))]
    text = "".join(sources).encode("ascii", "ignore").decode()
    random.seed(0)
    with open(path, "w") as out:
        while total > 0:
            # One token of a document is its end.
            length = int(min(2048, max(57, math.exp(random.gauss(6.2, 0.8)))))
            start = random.randrange(len(text) - length)
            out.write(json.dumps({"text": text[start : start + length - 1]}) + "\n")
            total -= length


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 6_000_000)
