"""Priors from any CLIP that open_clip can load: BiomedCLIP, the compact model, a folder, a hub name."""

from __future__ import annotations

import json
import logging
import os
import textwrap
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from ..device import find_device
from ..errors import BioAttError
from ..hu import WINDOWS_HU, to_window
from .dense import over_whole_slice, place_embeddings
from .sources import DESCRIPTORS, SliceKey, check_descriptors, check_slices, digest_of

BIOMEDCLIP = "hf-hub:microsoft/BiomedCLIP-PubMedBERT_256-vit_base_patch16_224"
PREPARATIONS = ("window", "minmax")
FORMS = ("vector", "dense")
BATCH_SIZE = 16  # slices per forward pass of the image tower


class ClipPrior:
    """Softmax over the descriptors' texts of a slice's similarity to each, by an open_clip model.

        slice (HU) -> uint8 -> the model's own preprocess -> image tower -> normalise --+
                                                                                        * logit_scale -> softmax -> p
        descriptors ---------> the model's own tokenizer --> text tower --> normalise --+   (once)

    The formula is the paper's (arXiv 2504.01662): p = softmax(exp(logit_scale) * image @ text.T). A model's
    logit_bias is one number for all descriptors and cancels. The paper scales each slice's minimum and maximum to
    0..255 (``minmax``); the default here is a fixed window, because padding and metal move the former.

    The form ``dense`` is ours: the same softmax at each place of the image tower's last map, `(n, K, h, w)`.

    The model is loaded, and tried once, when the object is made: what is wrong shows before a long job starts.

    Args:
        name: ``hf-hub:ORG/NAME`` or ``local-dir:PATH``, as open_clip reads them.
        descriptors: the K words, embedded once.
        preparation: ``window`` (clip to `window_hu`) or ``minmax``.
        window_hu: (lower, upper), only used by ``window``.
        form: ``vector``, one prior for a slice (the paper's), or ``dense``, one at each place.
        device: where the model runs; priors always come back on the CPU.
        label: the model in words, for `model`; by default its name.

    Raises:
        BioAttError: the model cannot be reached, read, or does not fit its config; an argument makes no sense.

    Example:
        >>> source = ClipPrior("local-dir:bundle/models/prior")  # doctest: +SKIP
        >>> source(slices_hu, keys).shape  # doctest: +SKIP
        torch.Size([160, 11])
    """

    def __init__(
        self,
        name: str,
        *,
        descriptors: Sequence[str] = DESCRIPTORS,
        preparation: str = "window",
        window_hu: tuple[float, float] = WINDOWS_HU["abdomen"],
        form: str = "vector",
        device: str | torch.device = "cpu",
        label: str = "",
    ) -> None:
        self.name = name
        self.descriptors = check_descriptors(descriptors)
        if form not in FORMS:
            raise BioAttError(f"the form of a prior must be one of {', '.join(FORMS)}, got {form!r}; choose one")
        self.form = form
        words = _preparation_in_words(preparation, window_hu)
        self.model = f"{label or 'open_clip model ' + name}, {words}{', dense' if form == 'dense' else ''}"
        self._preparation, self._window_hu = preparation, window_hu
        self._device = find_device(device)
        self._network, self._preprocess, tokenizer = load_clip(name)
        tokens = tokenizer(list(self.descriptors))
        self.digest = self._make_digest(tokens)
        self._network.to(self._device).eval()
        with torch.inference_mode():
            self._texts = self._network.encode_text(tokens.to(self._device), normalize=True).float()
            self._scale = self._network.logit_scale.exp().float()
        self._try_image_tower()

    def __call__(self, slices_hu: torch.Tensor, keys: Sequence[SliceKey]) -> torch.Tensor:
        """Return priors `(n, K)`, or dense `(n, K, h, w)`, of HU slices `(n, H, W)`; `keys` only name a slice."""
        count = check_slices(slices_hu, keys)
        rows = []
        for start in range(0, count, BATCH_SIZE):
            batch = slices_hu[start : start + BATCH_SIZE].detach().to("cpu", torch.float32)
            for key, image in zip(keys[start:], batch, strict=False):
                if not torch.isfinite(image).all():
                    raise BioAttError(f"{key} holds values that are not finite; correct the image before denoising it")
            rows.append(self._prior(prepare(batch, self._preparation, self._window_hu)))
        return torch.cat(rows)  # outside inference mode: a plain tensor, usable as a network's input in training

    @torch.inference_mode()
    def _prior(self, images: torch.Tensor) -> torch.Tensor:
        """Priors `(n, K)` or `(n, K, h, w)` of uint8 images `(n, H, W)`."""
        from PIL import Image

        inputs = torch.stack([self._preprocess(Image.fromarray(image.numpy())) for image in images]).to(self._device)
        if self.form == "vector":
            features = self._network.encode_image(inputs, normalize=True)
            return (self._scale * features.float() @ self._texts.T).softmax(dim=-1).cpu()
        places = place_embeddings(self._network.visual, inputs).float()
        maps = (self._scale * torch.einsum("nehw,ke->nkhw", places, self._texts)).softmax(dim=1).cpu()
        return over_whole_slice(maps, tuple(images.shape[-2:]), self._network.visual.preprocess_cfg["resize_mode"])

    def _try_image_tower(self) -> None:
        """One small image through everything, so that towers that do not belong together show now."""
        try:
            prior = self._prior(torch.zeros(1, 16, 16, dtype=torch.uint8))
        except RuntimeError as error:
            raise BioAttError(
                f"{self.name}: the image tower does not fit the text tower, whose embedding has {self._texts.shape[1]} "
                f"numbers ({_first_line(error)}); correct embed_dim in its open_clip_config.json"
            ) from error
        if not torch.isfinite(prior).all():
            raise BioAttError(f"{self.name}: the model's weights give no finite prior; download the model again")

    def _make_digest(self, tokens: torch.Tensor) -> str:
        """Digest of the loaded weights, tokens and preprocess: the same model has one digest in every form."""
        parts: list[str | bytes] = [*self.descriptors, self._preparation, repr(self._preprocess)]
        if self._preparation == "window":
            parts.append(repr(tuple(float(value) for value in self._window_hu)))
        if self.form != "vector":
            parts.append(self.form)
        parts.append(tokens.contiguous().numpy().tobytes())
        for key, value in sorted(self._network.state_dict().items()):
            parts += [key, value.detach().cpu().contiguous().numpy().tobytes()]
        return digest_of(*parts)


def prepare(slices_hu: torch.Tensor, preparation: str, window_hu: tuple[float, float]) -> torch.Tensor:
    """HU `(n, H, W)` to uint8 images `(n, H, W)`, truncated as the paper's code does.

    ``window`` clips to `window_hu`; ``minmax`` is (x - min) / (max - min) * 255 of each slice, and 0 for a slice
    that is constant.
    """
    if preparation == "window":
        return (to_window(slices_hu, window_hu) * 255).to(torch.uint8)
    lower = slices_hu.amin(dim=(1, 2), keepdim=True)
    width = slices_hu.amax(dim=(1, 2), keepdim=True) - lower
    width = torch.where(width > 0, width, torch.ones_like(width))  # a constant slice: 0 / 1
    return ((slices_hu - lower) / width * 255).to(torch.uint8)


def load_clip(name: str) -> tuple[torch.nn.Module, Callable[..., torch.Tensor], Callable[..., torch.Tensor]]:
    """Load (model, preprocess, tokenizer) of ``hf-hub:ORG/NAME`` or ``local-dir:PATH`` on the CPU, in float32.

    Weights are read from safetensors, or from a pickle that may hold tensors only.

    Raises:
        BioAttError: with the remedy, for everything that can be wrong with the folder, the hub or the weights.
    """
    try:
        import open_clip
    except ImportError as error:
        raise BioAttError("a prior from CLIP needs open_clip; pip install open_clip_torch transformers") from error
    text_cfg = _read_local_text_cfg(name) if name.startswith("local-dir:") else {}
    override = {"text_cfg": text_cfg} if text_cfg else {}
    try:
        with _quiet():
            network, preprocess = open_clip.create_model_from_pretrained(name, weights_only=True, **override)
    except Exception as error:  # open_clip, transformers, the hub and torch each raise classes of their own
        raise _explain(name, text_cfg, error) from error
    try:
        with _quiet():
            return network, preprocess, open_clip.get_tokenizer(name)
    except Exception as error:
        raise BioAttError(
            f"{name}: the tokenizer cannot be read ({_first_line(error)}); put its files (tokenizer.json, "
            "tokenizer_config.json, vocab.txt) into the folder, or use --prior compact"
        ) from error


def _read_local_text_cfg(name: str) -> dict[str, Any]:
    """The text_cfg of a folder's open_clip_config.json, a text tower beside it named by its absolute path."""
    folder = Path(name.removeprefix("local-dir:"))
    config = folder / "open_clip_config.json"
    if not folder.is_dir():
        raise BioAttError(f"{name}: no such folder {folder}; give the folder of a downloaded open_clip model")
    if not config.is_file():
        raise BioAttError(f"{name}: open_clip_config.json is missing in {folder}; download the model's folder whole")
    try:
        text_cfg = dict(json.loads(config.read_text(encoding="utf-8"))["model_cfg"]["text_cfg"])
    except (ValueError, KeyError, TypeError) as error:
        raise BioAttError(
            f"{config} is not an open_clip config with model_cfg.text_cfg ({_first_line(error)}); download it again"
        ) from error
    if not any(path.suffix in (".safetensors", ".bin", ".pth") for path in folder.iterdir()):
        raise BioAttError(
            f"{name}: no weights in {folder}; put open_clip_model.safetensors or open_clip_pytorch_model.bin there"
        )
    tower = text_cfg.get("hf_model_name")
    if tower:
        text_cfg["hf_model_pretrained"] = False  # the checkpoint holds the text tower's weights
        if not Path(tower).is_dir() and (folder / tower).is_dir():
            text_cfg["hf_model_name"] = str((folder / tower).resolve())
    return text_cfg


def _explain(name: str, text_cfg: dict[str, Any], error: Exception) -> BioAttError:
    """Say in one line why open_clip could not load `name`, and what to do."""
    text = str(error)
    if "loading state_dict" in text:
        sizes = "the embedding size (embed_dim) or another size differs" if "size mismatch" in text else "keys differ"
        return BioAttError(
            f"{name}: the weights do not fit open_clip_config.json, {sizes} "
            f"({_first_line(text, skip=1)}); take both files from the same model"
        )
    tower = text_cfg.get("hf_model_name")
    if tower and not Path(tower).is_dir():
        folder = name.removeprefix("local-dir:")
        return BioAttError(
            f"{name}: model_cfg.text_cfg.hf_model_name in {folder}/open_clip_config.json is {tower!r}, a name on the "
            "model hub, which is not reachable; put that model's config.json into a folder beside it (e.g. "
            "text_tower) and write the folder's name there"
        )
    if name.startswith("hf-hub:"):
        offline = " (HF_HUB_OFFLINE is set)" if os.environ.get("HF_HUB_OFFLINE", "0") not in ("", "0") else ""
        return BioAttError(
            f"{name} is neither in the local cache nor reachable on the model hub{offline}: {_first_line(error)}; use "
            "--prior compact, or local-dir:PATH with a downloaded folder"
        )
    return BioAttError(f"{name} cannot be loaded: {_first_line(error)}; download its folder again, or use compact")


def _first_line(error: Exception | str, skip: int = 0) -> str:
    """The first line of a message that says something, shortened to 160 characters at a word, without its full stop."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return textwrap.shorten(lines[min(skip, len(lines) - 1)], 160).rstrip(".") if lines else type(error).__name__


def _preparation_in_words(preparation: str, window_hu: tuple[float, float]) -> str:
    if preparation not in PREPARATIONS:
        raise BioAttError(f"preparation must be one of {', '.join(PREPARATIONS)}, got {preparation!r}; choose one")
    if preparation == "minmax":
        return "each slice scaled from its minimum to its maximum"
    if len(window_hu) != 2 or not window_hu[0] < window_hu[1]:
        raise BioAttError(f"window_hu must be (lower, upper) with lower < upper, got {tuple(window_hu)}; swap them")
    return f"window {window_hu[0]:g} to {window_hu[1]:g} HU"


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the loading libraries' log lines, warnings and progress bars off the terminal, for as long as it lasts."""
    from transformers.utils import logging as chatter

    bars = chatter.is_progress_bar_enabled()
    chatter.disable_progress_bar()
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
        if bars:
            chatter.enable_progress_bar()
