"""Damaged input of every kind: `python tests/fuzz.py --what dicom --inputs 20000 --seed 1`, and `--guided`.

By mutation each input is made from a seed file by a generator of (seed, number), so that a failure can be made again
by its number. Guided, atheris (libFuzzer) counts which branches of the bundle, pydicom and nibabel an input reaches,
keeps those that reach new ones, and goes on from them, with the same mutations and with its own. What is asked of an
input stands in fuzz_dicom.py and fuzz_formats.py; an input that fails is kept in the folder of `--keep`.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import multiprocessing
import os
import resource
import signal
import sys
import tempfile
import warnings
from collections import Counter
from pathlib import Path

if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "bundle")]

STAGES = ("parsing", "pixels", "writer", "right")
#: What an input may be, and where its seeds, mutation and examination are.
KINDS = {
    "dicom": ("fuzz_dicom", ""),
    "nifti": ("fuzz_formats", "Nifti"),
    "table": ("fuzz_formats", "Table"),
    "list": ("fuzz_formats", "List"),
    "checkpoint": ("fuzz_formats", "Checkpoint"),
}
MEMORY = 6 << 30
FROM_SEEDS = 0.7  # guided: of the inputs, so that more than half reach pixels
MOST_BYTES = 1 << 16  # of a guided input: small ones are fast, and reach as much


def find_kind(what):
    """What gives seeds, mutates and examines."""
    module, name = KINDS.get(what, (what, ""))
    found = importlib.import_module(module)
    return getattr(found, name) if name else found


def make_input(kind, seeds, seed, number):
    """Input `number` of the run `seed`: the name of its seed file, and its content."""
    import numpy as np

    rng = np.random.default_rng([seed, number])
    name, content = seeds[int(rng.integers(len(seeds)))]
    return name, kind.mutate(content, rng)


def work(what, seed, numbers, folder, connection):
    """Examine mutated inputs in a process of its own and tell of each."""
    kind, seeds = _begin(what, folder)
    for number in numbers:
        name, content = make_input(kind, seeds, seed, number)
        _examine(kind, content, folder, number, name, connection)


def work_guided(what, seed, numbers, folder, connection):
    """The same, driven by the coverage of the code: libFuzzer calls, and ends the process."""
    import atheris

    with atheris.instrument_imports(include=["scripts", "pydicom", "nibabel"]):
        kind, seeds = _begin(what, folder)
    import numpy as np

    corpus = folder / "corpus"
    corpus.mkdir(exist_ok=True)
    small = [(name, content) for name, content in seeds if len(content) <= MOST_BYTES]
    for i, content in enumerate({content: None for _, content in small}):
        (corpus / f"seed{i}").write_bytes(content)
    left = iter(numbers)

    def examine(content):
        number = next(left)
        _examine(kind, content, folder, number, "the corpus", connection)
        if number == numbers[-1]:
            os._exit(0)

    def change(content, most, own_seed):
        """Mostly from a seed: damage on damage ends at parsing. What libFuzzer changes is a few bytes at one place."""
        rng = np.random.default_rng([seed, own_seed])
        if rng.random() < FROM_SEEDS or len(content) < 20:
            content = small[int(rng.integers(len(small)))][1]
        if rng.random() < 0.75:
            changed = kind.mutate(content, rng)
            if changed != content and len(changed) <= most:
                return changed
        at = int(rng.integers(len(content)))
        return (content[:at] + atheris.Mutate(content[at : at + 64], 64) + content[at + 64 :])[:most]

    options = [f"-seed={seed + numbers[0] + 1}", f"-max_len={MOST_BYTES}"]
    options += ["-rss_limit_mb=0", "-timeout=120", "-verbosity=0", f"-artifact_prefix={folder}/"]
    atheris.Setup([sys.argv[0], *options, str(corpus)], examine, custom_mutator=change)
    atheris.Fuzz()


def _examine(kind, content, folder, number, name, connection):
    """Examine one input, keep it where it fails, and tell."""
    (folder / "current").write_bytes(content)
    stage, wrong = kind.examine(content, folder / "scratch")
    if wrong:
        (folder / f"failed-{number}").write_bytes(content)
    connection.send((number, name, stage, wrong))


def _begin(what, folder):
    """Limits, no words, and what the workers work with."""
    warnings.simplefilter("ignore")
    kind = find_kind(what)
    for name in ("seeds", "scratch"):
        (folder / name).mkdir(exist_ok=True)
    seeds = kind.seeds(folder / "seeds")
    logging.disable(logging.CRITICAL)
    signal.signal(signal.SIGPROF, _too_slow)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    return kind, seeds


def _too_slow(*_):
    from fuzz_dicom import TooSlow

    raise TooSlow


def run(what, seed, inputs, *, guided=False, keep=None, tell=print):
    """Examine `inputs` inputs; return how many ended at each stage, and the failures."""
    counts, failures, numbers = Counter(), [], range(inputs)
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as place:
        while numbers:
            folder = Path(tempfile.mkdtemp(dir=place))
            ours, theirs = context.Pipe(duplex=False)
            target = work_guided if guided else work
            process = context.Process(target=target, args=(what, seed, numbers, folder, theirs))
            process.start()
            theirs.close()
            before = numbers
            try:
                while numbers:
                    number, name, stage, wrong = ours.recv()
                    numbers = range(number + 1, inputs)
                    counts[stage] += 1
                    if wrong:
                        failures.append((number, name, stage, wrong))
                        tell(f"input {number} from {name}, {stage}: {wrong}")
                        _keep(folder / f"failed-{number}", keep, f"{what}-{seed}-{number}")
                    if sum(counts.values()) % 1000 == 0:
                        tell(f"{sum(counts.values())} inputs: {dict(counts)}, {len(failures)} failures")
            except EOFError:  # the process died at the input that it did not tell of
                if numbers == before:
                    raise RuntimeError("the seeds could not be made") from None
                counts["crash"] += 1
                failures.append((numbers[0], "", "crash", "the process died"))
                tell(f"input {numbers[0]}: the process died")
                _keep(folder / "current", keep, f"{what}-{seed}-{numbers[0]}")
                numbers = range(numbers[0] + 1, inputs)
            ours.close()
            process.join(60)
            process.kill()
    return counts, failures


def _keep(file, keep, name):
    """Put an input into `keep`, if that is named."""
    if keep is not None:
        keep.mkdir(parents=True, exist_ok=True)
        (keep / name).write_bytes(file.read_bytes())


def main():
    """Run and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--what", choices=KINDS, default="dicom")
    parser.add_argument("--inputs", type=int, default=20000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--guided", action="store_true", help="by the coverage of the code; needs atheris")
    parser.add_argument("--keep", type=Path, help="folder for inputs that fail")
    options = parser.parse_args()
    counts, failures = run(
        options.what,
        options.seed,
        options.inputs,
        guided=options.guided,
        keep=options.keep,
        tell=lambda line: print(line, flush=True),
    )
    total = sum(counts.values())
    for stage in (*STAGES, "crash"):
        print(f"{stage:<8} {counts[stage]:>7} {counts[stage] / total:>7.1%}")
    print(f"{options.what}: {total} inputs, seed {options.seed}, {len(failures)} failures")
    return 1 if failures else 0


if __name__ == "__main__":
    raise SystemExit(main())
