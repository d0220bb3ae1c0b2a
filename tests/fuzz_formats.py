"""What else comes from outside, for the fuzz run: NIfTI, prior tables, lists of series, weights and checkpoints.

Each kind has seeds, a mutation of its own, and an examination that says how far an input came and what is wrong.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import zipfile
import zlib
from pathlib import Path
from types import SimpleNamespace

import nibabel
import numpy as np
import torch
from fuzz_dicom import examined, mutate_bytes
from scripts.cohort import read_list
from scripts.networks import load_weights, make_network, read_recipe
from scripts.priors import DESCRIPTORS, SliceKey, TablePrior, UniformPrior, write_prior_table
from scripts.training import Checkpoints, WeightAverage
from scripts.volumes.formats.nifti import geometry as nifti_geometry
from scripts.volumes.formats.nifti import write as write_nifti
from scripts.volumes.scope import scope_of
from scripts.volumes.volume import load_volume
from torch import nn

NUMBERS = "-1 0 1 2 nan inf 1e400 0x10 1_0 ٣ 99999999999999999999 1e-400 0.0909090909 -0.0".split()


class Nifti:
    """NIfTI files: header fields, voxels, and what holds them when they are packed."""

    @staticmethod
    def seeds(folder):
        """(name, content): data types, byte orders, slopes, 2-D, 4-D, NIfTI 1 and 2, packed."""
        rng, seeds = np.random.default_rng(0), []
        for kind in ("int16", "uint8", "int32", "uint16", "float32", "float64", "int8"):
            for shape in ((9, 8, 4), (9, 8), (6, 5, 3, 1)):
                for image_class in (nibabel.Nifti1Image, nibabel.Nifti2Image):
                    image = image_class(rng.integers(0, 100, shape).astype(kind), np.diag([0.7, 0.7, 2.0, 1.0]))
                    image.header.set_slope_inter(*((2.5, -1000.0) if kind != "float32" else (1.0, 0.0)))
                    if kind == "int32":
                        image.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", b"a note"))
                    if kind in ("uint16", "float64"):
                        image = image_class(image.dataobj, image.affine, image.header.as_byteswapped(">"))
                    content = image.to_bytes()
                    seeds += [(f"{kind} {shape}", content)] * 3 + [(f"{kind} {shape} gz", gzip.compress(content, 1))]
        return seeds

    @staticmethod
    def mutate(content, rng):
        """Change fields of the header, or bytes anywhere; of a packed file mostly of what is in it."""
        if content[:2] == b"\x1f\x8b" and rng.random() < 0.8:
            try:
                return gzip.compress(Nifti.mutate(gzip.decompress(content), rng), 1)
            except (OSError, EOFError, zlib.error):
                return mutate_bytes(content, rng)
        data = bytearray(content)
        if rng.random() < 0.4 or len(data) < 348:
            return mutate_bytes(content, rng)
        for _ in range(int(rng.integers(1, 4))):
            size = int(rng.choice([2, 4, 8]))
            at = int(rng.integers(0, 348 // size)) * size
            if at < 4 and rng.random() < 0.9:
                continue
            order = "little" if rng.random() < 0.7 else "big"
            number = int(rng.choice([0, 1, 2, 3, 4, 7, 16, 64, 127, 256, 512, 1024, 32767]))
            value = [
                number.to_bytes(size, order),
                rng.bytes(size),
                np.array(rng.choice([0.0, 1.0, -1.0, np.nan, np.inf, 1e-40, 3e38]), f"<f{max(size, 4)}").tobytes(),
                b"\xff" * size,
            ][int(rng.integers(4))]
            data[at : at + size] = value[:size]
        return bytes(data)

    @staticmethod
    def examine(content, scratch):
        """Read it, write it as a result is written, and read that."""
        name = "a.nii.gz" if content[:2] == b"\x1f\x8b" else "a.nii"

        def steps(source, target):
            nifti_geometry(source / name)
            yield "pixels"
            volume = load_volume(source / name, assume_hu=True)
            yield "writer"
            target.mkdir()
            write_nifti(source / name, volume.hu, target / name)
            back = load_volume(target / name, assume_hu=True)
            yield "right"
            image = nibabel.load(source / name)
            kind, slope = image.get_data_dtype(), float(image.dataobj.slope)
            allowed = (0.51 * abs(slope) if kind.kind in "iu" else 0.0) + 1e-5 * np.abs(np.nan_to_num(volume.hu)).max()
            with np.errstate(invalid="ignore", over="ignore"):
                near = np.isclose(back.hu, volume.hu, rtol=1e-5, atol=allowed, equal_nan=True)
            finite = np.isfinite(volume.hu) if kind.kind in "iu" else np.ones(near.shape, bool)
            yield "" if near[finite].all() and np.array_equal(back.affine, volume.affine) else "reads back other values"

        return examined(steps, {name: content}, scratch)


class Table:
    """Prior tables: each prior that is found must be one."""

    @staticmethod
    def seeds(folder):
        """(name, content): our own form and the authors', commas and semicolons."""
        keys = [SliceKey(i, f"1.2.{i}", f"p/s/{i:04d}.dcm") for i in range(4)]
        source = UniformPrior()
        rows = [(key, prior) for key, prior in zip(keys, source(torch.zeros(4, 2, 2), keys), strict=True)]
        ours = write_prior_table(folder / "table.csv", rows, source).read_bytes()
        authors = io.StringIO()
        writer = csv.writer(authors)
        writer.writerow(["File_Path", *DESCRIPTORS])
        writer.writerows([[f"p\\s\\{i}.dcm", *["0.1"] * 9, "0.05", "0.05"] for i in range(4)])
        theirs = authors.getvalue().encode()
        return [("ours", ours), ("authors'", theirs), ("semicolons", ours.replace(b",", b";"))]

    @staticmethod
    def mutate(content, rng):
        """Change cells, lines or bytes."""
        return mutate_text(content, rng)

    @staticmethod
    def examine(content, scratch):
        """Read it and ask for slices."""

        def steps(source, target):
            prior = TablePrior(source / "a.csv")
            yield "right"
            found = [SliceKey(i, f"1.2.{i}", f"p/s/{i:04d}.dcm") for i in range(4)]
            rows = prior(torch.zeros(4, 2, 2), found)
            sums = rows.sum(1)
            yield "" if torch.isfinite(rows).all() and ((sums - 1).abs() < 0.01).all() else "priors that are none"

        return examined(steps, {"a.csv": content}, scratch)


class List:
    """Lists of series: each result must lie in the folder of results."""

    @staticmethod
    def seeds(folder):
        """(name, content): plain lists and CSV."""
        plain = b"patients/a/series3\npatients/b/low.nii.gz\n# a comment\n\n"
        table = b"input,output,series\npatients/a,a,3\npatients/b/low.nii.gz,b,\n"
        return [("plain", b"P" + plain), ("CSV", b"C" + table), ("semicolons", b"C" + table.replace(b",", b";"))]

    @staticmethod
    def mutate(content, rng):
        """Change cells, lines or bytes; the first letter says what the list is named."""
        return content[:1] + mutate_text(content[1:], rng)

    @staticmethod
    def examine(content, scratch):
        """Read it."""
        name = "a.csv" if content[:1] == b"C" else "a.txt"

        def steps(source, target):
            jobs = read_list(source / name, target)
            yield "right"
            inside = all(target in Path(job.target).parents for job in jobs)
            several = len({job.target for job in jobs}) == len(jobs)
            yield "" if inside and several and jobs else "results at one place or elsewhere"

        return examined(steps, {name: content[1:]}, scratch)


class Checkpoint:
    """Weights, checkpoints of a training, and recipes; torch's zip files are changed inside, too."""

    @staticmethod
    def seeds(folder):
        """(name, content), the first letter says what it is."""
        network, optimizer, schedule = Checkpoint.parts()
        validator = SimpleNamespace(state=SimpleNamespace(epoch=0))
        kept = Checkpoints(folder, network, optimizer, schedule, validator, WeightAverage(network))
        state = SimpleNamespace(epoch=1, iteration=3, epoch_length=3, max_epochs=1)
        kept.validator.state.metrics = {}
        kept.save(SimpleNamespace(state=state))
        kept.finish(SimpleNamespace(state=state))
        ranges = dict.fromkeys(("slice_thickness_mm", "pixel_spacing_mm", "kvp", "noise_sd_hu"), [0.5, 3.0])
        scope = ranges | {"regions": ["chest"], "patients": 3}
        definition = {
            "_target_": "BioAttUNet",
            "widths": [2, 3],
            "fold": 1,
            "attention": "prior",
            "num_descriptors": 11,
        }
        recipe = json.dumps({"network_def": definition, "prior_window_hu": [-160, 240], "scope": scope}).encode()
        checkpoint, weights = ((folder / name).read_bytes() for name in ("checkpoint.pt", "model.pt"))
        from safetensors.torch import save

        tensors = save({name: value.contiguous() for name, value in network.state_dict().items()})
        return [("checkpoint", b"C" + checkpoint), ("weights", b"W" + weights), ("safetensors", b"T" + tensors)] + [
            ("recipe", b"S" + recipe)
        ]

    @staticmethod
    def parts():
        """A small network with what trains it."""
        network = nn.Conv2d(1, 1, 3)
        optimizer = torch.optim.Adam(network.parameters())
        return network, optimizer, torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 10)

    @staticmethod
    def mutate(content, rng):
        """Change bytes, of a file inside a zip or of the whole."""
        kind, data = content[:1], content[1:]
        if kind == b"S":
            return kind + mutate_text(data, rng)
        if kind == b"T" or rng.random() < 0.2:
            return kind + mutate_bytes(data, rng)
        try:
            with zipfile.ZipFile(io.BytesIO(data)) as source:
                members = {one.filename: source.read(one) for one in source.infolist()}
        except Exception:
            return kind + mutate_bytes(data, rng)
        names = list(members)
        pickles = [name for name in names if name.endswith("data.pkl")]
        name = str(rng.choice(pickles if pickles and rng.random() < 0.7 else names))
        if rng.random() < 0.05:
            del members[name]
        elif len(members[name]) >= 20:
            members[name] = mutate_bytes(members[name], rng)
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as target:
            for one, inner in members.items():
                target.writestr(one, inner)
        return kind + buffer.getvalue()

    @staticmethod
    def examine(content, scratch):
        """Go on from it, or load it into the network."""
        kind = content[:1]
        name = {b"C": "checkpoint.pt", b"T": "model.safetensors", b"S": "model.json"}.get(kind, "model.pt")

        def steps(source, target):
            network, optimizer, schedule = Checkpoint.parts()
            if kind == b"C":
                kept = Checkpoints(source, network, optimizer, schedule, None, WeightAverage(network), resume=True)
                kept.load(SimpleNamespace(state=SimpleNamespace(epoch_length=3, max_epochs=5)))
            elif kind == b"S":
                recipe = read_recipe(source / "model.pt")
                make_network(recipe)
                scope_of(recipe.scope or {})
            else:
                load_weights(network, source / name)
            yield "right"
            yield ""

        return examined(steps, {name: content[1:]}, scratch)


def mutate_text(content, rng):
    """Change cells, lines or bytes of a text."""
    if rng.random() < 0.3 and len(content) >= 20:
        return mutate_bytes(content, rng)
    lines = content.split(b"\n")
    for _ in range(int(rng.integers(1, 4))):
        at = int(rng.integers(len(lines)))
        mark = b";" if b";" in lines[at] else b","
        cells = lines[at].split(mark)
        cell = int(rng.integers(len(cells)))
        kind = int(rng.integers(6))
        if kind == 0:
            lines.insert(at, lines[at])
        elif kind == 1 and len(lines) > 1:
            del lines[at]
        elif kind == 2:
            cells[cell] = str(rng.choice(NUMBERS)).encode()
        elif kind == 3:
            cells[cell] = rng.choice([b"", b'"', b"../../x", b"/x", b"~", b"\xff\xfe", b"a\x00b", b".", b"x" * 300])
        elif kind == 4:
            cells.insert(cell, cells[cell])
        else:
            del cells[cell]
        if kind > 1:
            lines[at] = mark.join(cells)
    return b"\n".join(lines)
