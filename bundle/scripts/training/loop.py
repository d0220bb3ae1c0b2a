"""What the training workflow needs besides MONAI's parts: checkpoints that a kill cannot spoil, and processes."""

from __future__ import annotations

import copy
import logging
import math
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import torch
from ignite.engine import Engine, Events
from monai.handlers import EarlyStopHandler
from torch import Tensor, nn

from ..errors import BioAttError
from ..hu import hu_to_network
from ..networks.recipe import Recipe, read_recipe, recipe_path, write_recipe
from ..networks.weights import check_size, fit_weights, read_state_dict
from ..staging import make_folder, staged_file

logger = logging.getLogger(__name__)

#: Structures above this count less in the loss, in network range: 60 HU.
_WEAK_STRUCTURE = hu_to_network(60.0) - hu_to_network(0.0)
#: Names of the files in a training's output folder.
CHECKPOINT, BEST, FINAL = "checkpoint.pt", "best.pt", "model.pt"
_IN_CHECKPOINT = "network average optimizer lr_scheduler epoch iteration epoch_length random".split()
_REMEDY = f"take {BEST} beside it as weights, or name another output folder"


@dataclass(eq=False)
class Checkpoints:
    """Keeps the last state of a training to go on from, its best weights so far, and its final ones.

    ::

        checkpoint.pt   network, optimizer, scheduler, epoch, random state: replaced whole, so a kill or a full disk
                        leaves the one before
        best.pt         weights alone, of the highest validation metric
        model.pt        weights alone, when the last epoch is done

    Beside best.pt and model.pt stands their recipe, best.json and model.json. MONAI's CheckpointSaver writes in place
    and calls what an exception left behind final
    (docs/adr/0008). An epoch is saved after all other handlers have seen its end, `EarlyStop` among them. Of several
    processes the first one writes, all read.

    Args:
        folder: where the files stand; made if missing.
        network: the bare network, not wrapped for several processes.
        average: of its weights, which is what best.pt and model.pt hold.
        recipe: of the weights, written beside them; None writes none.
        validator: the evaluator whose metric decides about the best weights.
        metric: its name in the validator's metrics; higher is better.
        interval: epochs between checkpoints; the last epoch always has one.
        resume: go on from checkpoint.pt if there is one.
        publish: a file that takes the final weights in place of model.pt, and is replaced if it exists: for an
            application that trains again and again, as MONAI Label does. An earlier checkpoint then does not count.

    Raises:
        BioAttError: when attached, no such folder can be made; when the training starts, a checkpoint cannot be read
            or belongs to another network; when it writes, the disk is full.
    """

    folder: str | os.PathLike[str]
    network: nn.Module
    optimizer: torch.optim.Optimizer
    lr_scheduler: Any
    validator: Engine
    average: WeightAverage
    recipe: Recipe | None = None
    metric: str = "denoised_psnr_db"
    interval: int = 1
    resume: bool = False
    publish: str | os.PathLike[str] = ""

    def __post_init__(self) -> None:
        self.folder = Path(self.folder)
        self.best = -math.inf

    def attach(self, engine: Engine) -> None:
        """Attach to a trainer."""
        make_folder(self.folder)
        engine.add_event_handler(Events.STARTED, self.load)
        engine.add_event_handler(Events.STARTED, self._save_behind_all_others)
        engine.add_event_handler(Events.COMPLETED, self.finish)

    def _save_behind_all_others(self, engine: Engine) -> None:
        if not engine.has_event_handler(self.save, Events.EPOCH_COMPLETED):
            engine.add_event_handler(Events.EPOCH_COMPLETED, self.save)

    def load(self, engine: Engine) -> None:
        """Set everything to where the checkpoint left it."""
        path = self.folder / CHECKPOINT
        if not path.exists():
            if self.resume:
                logger.info("no checkpoint in %s: the training starts over", self.folder)
            return
        if not self.resume and self.publish:
            (self.folder / BEST).unlink(missing_ok=True)
            return
        if not self.resume:
            raise BioAttError(
                f"{path} is there from a training that did not finish; go on with resume.json (resume=true), or name "
                "another output folder"
            )
        state = _read_checkpoint(path)
        fit_weights(self.network, state["network"], str(path))
        fit_weights(self.average.network, state["average"], str(path))
        try:
            self.optimizer.load_state_dict(state["optimizer"])
            self.lr_scheduler.load_state_dict(state["lr_scheduler"])
        except Exception as error:  # whatever PyTorch meets in what is damaged, or of another class
            raise BioAttError(f"{path} does not fit this optimizer or schedule ({error}); use its config") from error
        if state["epoch_length"] != engine.state.epoch_length:
            raise BioAttError(
                f"{path} comes from epochs of {state['epoch_length']} steps, here they have "
                f"{engine.state.epoch_length}; go on with the same data and batch, or name another output folder"
            )
        try:
            engine.state.epoch, engine.state.iteration = int(state["epoch"]), int(state["iteration"])
            self.best = float(state["best"])
            if state.get("early_stop") and hasattr(engine.state, "early_stop"):
                engine.state.early_stop.load_state_dict(state["early_stop"])
            torch.set_rng_state(state["random"]["torch"])
        except Exception as error:
            raise BioAttError(f"checkpoint {path} is damaged ({error}); {_REMEDY}") from error
        logger.info("going on after epoch %d of %d", state["epoch"], engine.state.max_epochs)

    def save(self, engine: Engine) -> None:
        """Write the best weights where they are, and the checkpoint."""
        validated = self.validator.state.epoch == engine.state.epoch
        value = self.validator.state.metrics.get(self.metric, math.nan) if validated else math.nan
        better = value > self.best
        self.best = value if better else self.best
        if idist.get_rank() > 0:
            return
        if better:
            self._save_weights(self.folder / BEST)
        if engine.state.epoch % self.interval and engine.state.epoch < engine.state.max_epochs:
            return
        state = {
            "network": self.network.state_dict(),
            "average": self.average.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "lr_scheduler": self.lr_scheduler.state_dict(),
            "epoch": engine.state.epoch,
            "iteration": engine.state.iteration,
            "epoch_length": engine.state.epoch_length,
            "best": self.best,
            "random": {"torch": torch.get_rng_state()},
        }
        if hasattr(engine.state, "early_stop"):
            state["early_stop"] = dict(engine.state.early_stop.state_dict())
        _save(self.folder / CHECKPOINT, state)

    def finish(self, engine: Engine) -> None:
        """Write the final weights."""
        if idist.get_rank() == 0:
            self._save_weights(Path(self.publish or self.folder / FINAL))

    def _save_weights(self, path: Path) -> None:
        """Write weights and their recipe; between the two there is none, rather than that of the weights before."""
        recipe_path(path).unlink(missing_ok=True)
        _save(path, {name: value.cpu() for name, value in self.average.network.state_dict().items()})
        if self.recipe is not None:
            write_recipe(path, self.recipe)


@dataclass(eq=False)
class StopOnNaN:
    """Ends a training whose loss is no number, before it spoils what was saved.

    Looks at the last step of an epoch, and every `interval` steps: each look waits for the device.

    Raises:
        BioAttError: at a step with a loss of NaN or infinity.
    """

    interval: int = 50

    def attach(self, engine: Engine) -> None:
        """Attach to a trainer, before its checkpoints."""
        engine.add_event_handler(Events.ITERATION_COMPLETED(every=self.interval), self)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        """Look at the loss of the last step."""
        loss = step_loss(engine.state.output).item()
        if not math.isfinite(loss):
            state = engine.state
            raise BioAttError(
                f"the loss is {loss} in epoch {state.epoch}, step {state.iteration}: look for NaN in the data, or "
                "lower learning_rate; the last checkpoint is kept"
            )


def step_loss(output: dict[str, Any]) -> Tensor:
    """The loss of a step from what MONAI's trainer gives, on its device."""
    return output["loss"].detach()


class ProbedSquaredError(nn.Module):
    """Squared error against targets without bias, and how a weak structure put into the input comes through.

    ::

        w |f(y) - r|^2 + c v w |f(y + s) - f(y) - s|^2,    v = min(1, (h / max|s|)^2)

    with input y, target r, structure s, and the patch's weight w, 1 / noise power of y: both terms are shares of the
    input's noise power. Structures higher than h = 60 HU count as one of 60 HU. The mean over pixels and
    patches; the second over the patches that were shown with a structure.
    Its gradient goes both ways, through f(y + s) and f(y).

    Args:
        structure_weight: c.

    Source of the second term: arXiv 2402.10010.
    """

    def __init__(self, structure_weight: float) -> None:
        super().__init__()
        self.structure_weight = structure_weight

    def forward(self, pred: Tensor, label: Tensor) -> Tensor:
        """Return the loss of a batch of `PatchBatches`: `pred` (B + P, 1, h, w), `label` (B, 3, h, w)."""
        count = len(label)
        target, structure, weight = label[:, 0], label[:, 1], label[:, 2]
        plain, probed = pred[:count, 0], pred[count:, 0]
        loss = (weight * (plain - target) ** 2).mean()
        shown = len(probed)
        if shown:
            through = probed - plain[:shown] - structure[:shown]
            highest = structure[:shown].abs().amax((-2, -1), keepdim=True)
            share = (_WEAK_STRUCTURE / highest.clamp(min=_WEAK_STRUCTURE)) ** 2
            loss = loss + self.structure_weight * (share * weight[:shown] * through**2).mean()
        return loss


def on_targets(loss: nn.Module) -> Callable[[Tensor, Tensor], Tensor]:
    """`loss` as a training takes it: `ProbedSquaredError` itself, any other on images and their targets alone.

    A batch of `PatchBatches` holds more: of the output (B + P, 1, h, w) patches that are shown with a structure, of the
    label (B, 3, h, w) structures and weights, are left out. Targets without bias are noisy: only a squared error leads
    from them to the truth.

    Args:
        loss: called with the network's output and the target, (B, 1, h, w) each.
    """
    if isinstance(loss, ProbedSquaredError):
        return loss
    return lambda pred, label: loss(pred[: len(label)], label[:, :1])


@dataclass(eq=False)
class Attached:
    """Attaches a part that a config names elsewhere: MONAI's checks read each handler of a config as a component."""

    part: Any

    def attach(self, engine: Engine) -> None:
        """Attach the part to an engine."""
        self.part.attach(engine)


class WeightAverage:
    """The running average of a network's weights over the steps of its training: what is validated and kept.

    ``average <- d average + (1 - d) weights``, d = min(decay, (1 + n) / (10 + n)) after n steps, so that the first
    weights are soon forgotten.

    Args:
        decay: d after many steps.

    Attributes:
        network: the network with the average for its weights.
    """

    def __init__(self, network: nn.Module, decay: float = 0.999) -> None:
        self.trained = network
        self.network = copy.deepcopy(network).requires_grad_(False)
        self.decay = decay

    def attach(self, engine: Engine) -> None:
        """Attach to a trainer, before its validation."""
        engine.add_event_handler(Events.STARTED, self.start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.update)

    def start(self, engine: Engine) -> None:
        """Begin with the weights that the training begins with, on its device."""
        self.network.to(next(self.trained.parameters()).device, memory_format=torch.channels_last)
        self.network.load_state_dict(self.trained.state_dict())

    @torch.no_grad()
    def update(self, engine: Engine) -> None:
        """Take in the weights of one step."""
        steps = engine.state.iteration
        share = 1.0 - min(self.decay, (1 + steps) / (10 + steps))
        torch._foreach_lerp_(list(self.network.parameters()), list(self.trained.parameters()), share)


def clip_gradients(optimizer: torch.optim.Optimizer, max_norm: float) -> torch.optim.Optimizer:
    """Let `optimizer` scale gradients down to a total norm of `max_norm` before each step; 0 leaves them alone.

    Returns:
        The optimizer itself.
    """
    if max_norm > 0.0:
        parameters = [one for group in optimizer.param_groups for one in group["params"]]
        optimizer.register_step_pre_hook(lambda *_: torch.nn.utils.clip_grad_norm_(parameters, max_norm) and None)
    return optimizer


class EarlyStop(EarlyStopHandler):
    """MONAI's early stop, of the trainer that it is attached to: a config cannot name a trainer in its own handlers.

    `Checkpoints` keeps its count, so a training that goes on stops where it would have stopped.

    Args:
        patience: epochs without a higher score before the training ends.
        score_function: of the trainer; a higher score is better.
    """

    def attach(self, engine: Engine) -> None:
        """Attach to a trainer."""
        self.set_trainer(engine)
        engine.state.early_stop = self._handler  # Ignite's, which has the count
        super().attach(engine)


@dataclass(frozen=True, kw_only=True)
class LastValidation:
    """A measure of the last validation, as the function of an engine that handlers of a trainer ask for.

    Args:
        validator: evaluator that makes the measure.
        measure: its name among the evaluator's metrics.
        factor: it is multiplied by; -1 makes a score of an error.

    Raises:
        BioAttError: validation gives no such measure.
    """

    validator: Engine
    measure: str
    factor: float = 1.0

    def __call__(self, engine: Engine) -> float:
        """Return the measure; `engine` is not asked."""
        known = self.validator.state.metrics
        if self.measure not in known:
            raise BioAttError(f"validation gives no {self.measure}; use one of {', '.join(sorted(known))}")
        return self.factor * float(known[self.measure])


def initialise_from(network: nn.Module, weights: str) -> None:
    """Initialise `network` from a weights file before it is trained; empty: it is trained from scratch.

    Raises:
        BioAttError: the file cannot be read, or belongs to another network.
    """
    if weights:
        fit_weights(network, read_state_dict(weights), weights)


def start_process_group() -> None:
    """Start the process group that torchrun announces: NCCL with GPUs, Gloo without."""
    if "LOCAL_RANK" not in os.environ:
        raise BioAttError("multi_gpu_train.json is for torchrun; start it with torchrun --nproc_per_node=N -m ...")
    idist.initialize("nccl" if torch.cuda.is_available() else "gloo")


def end_process_group() -> None:
    """End the process group."""
    idist.finalize()


def local_device() -> torch.device:
    """The GPU of this process, or the CPU."""
    rank = int(os.environ.get("LOCAL_RANK", 0))
    return torch.device("cuda", rank) if torch.cuda.is_available() else torch.device("cpu")


def published_weights(bundle_root: str | os.PathLike[str]) -> str:
    """The weights that a training replaces: the bundle's own where MONAI Label trains its copy, else none, ``""``.

    MONAI Label names no place for what it trains, and takes these weights for the next request. With several GPUs it
    starts torchrun with a config of its own, ``monailabel_train.json``.
    """
    by_label = "monailabel" in sys.modules or any("monailabel_train.json" in word for word in sys.argv)
    return str(Path(bundle_root) / "models" / FINAL) if by_label else ""


def published_share(weights: str) -> float:
    """``prior_share`` of the network that is trained: that of the weights it goes on from in MONAI Label, else 1.

    MONAI Label puts what was trained into the network that it made at its start, so the share must stay the same.
    """
    return float((read_recipe(weights).network_def or {}).get("prior_share", 1.0)) if weights else 1.0


def is_first_process() -> bool:
    """Whether this process writes and speaks for all."""
    return int(os.environ.get("RANK", 0)) == 0


def _save(path: Path, state: Any) -> None:
    with staged_file(path) as partial:
        try:
            torch.save(state, partial)
        except RuntimeError as error:  # PyTorch's zip writer turns a full disk into this
            raise OSError(str(error).splitlines()[0]) from error


def _read_checkpoint(path: Path) -> dict[str, Any]:
    try:
        check_size(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
        missing = set(_IN_CHECKPOINT) - set(state)
    except Exception as error:  # torch, zipfile and pickle each have their own for a damaged file
        raise BioAttError(f"checkpoint {path} cannot be read; {_REMEDY}") from error
    if missing:
        raise BioAttError(f"checkpoint {path} lacks {', '.join(sorted(missing))}; name another output folder")
    return state
