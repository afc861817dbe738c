"""How long reading an answer takes: of usual length, of 8 kB and of 1 MB, in texts that repeat one phrase.

`python benchmarks/parsing.py` prints the slowest phrase per length; the bound for 1 MB is one second.
"""

import argparse
import time

from eval.parsing.choices import parse_choice

CHOICES = ["rain", "wind", "a dog barks", "A minor"]
PHRASES = (
    "The recording has a steady hiss that grows louder, which points to rain. ",
    "Answer: A? ",
    "not A ",
    "(A) ",
    "rain ",
    "cannot tell answer: ",
    "A is correct or ",
    "<think>",
    "<answeranswer",
    '{"a":',
    "the answer is ",
    "A. ",
)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lengths", type=int, nargs="+", default=[200, 8_000, 1_000_000])
    for length in parser.parse_args().lengths:
        times = {}
        for phrase in PHRASES:
            text = (phrase * (length // len(phrase) + 1))[:length]
            started = time.perf_counter()
            parse_choice(text, CHOICES)
            times[phrase] = time.perf_counter() - started
        slowest = max(times, key=times.get)
        print(f"{length:9d} characters: {max(times.values()):.4f} s at most, for {slowest!r}")


if __name__ == "__main__":
    main()
