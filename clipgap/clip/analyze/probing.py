"""What goes on inside of an image tower: its blocks, what they give, and what depends on that."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from clipgap.errors import InputError, UsageError

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module

Score = Callable[["Tensor"], "Tensor"]
"""One number an image, of the features of a batch."""

_SHOWN = 8


@dataclass(frozen=True)
class Block:
    """A module whose output is looked at, and how that lies."""

    name: str
    batch: int  # the axis of images
    neurons: int  # the axis of channels or features; all others are places

    def rows(self, output: Tensor) -> Tensor:
        """Images × places × neurons."""
        rest = [axis for axis in range(output.ndim) if axis not in (self.batch, self.neurons)]
        ordered = output.permute(self.batch, *rest, self.neurons)
        return ordered.reshape(len(ordered), -1, ordered.shape[-1])


@dataclass(frozen=True)
class Attribution:
    """What the neurons of a block do for a score, in a batch."""

    effects: Tensor  # images × neurons, float64
    change: Tensor  # by which the score rises from a silent block to this one: their sum, if exact


@dataclass(frozen=True)
class Path:
    """Which neurons of one block may lead to which of the next."""

    sources: Sequence[int]
    targets: Sequence[int]


class _Reached(Exception):
    """A pass has come as far as it is wanted."""


class Probe:
    """An image tower in evaluation mode whose blocks can be read and replaced."""

    def __init__(
        self, name: str, tower: Module, features: Callable[[Tensor], Tensor], image: Tensor
    ) -> None:
        """`image` is any that the tower takes; it shows how outputs lie."""
        self._features = features
        self._modules = dict(tower.named_modules())
        self._name, self._image = name, image

    def blocks(self, patterns: Sequence[str] = ()) -> list[Block]:
        """Those that match, in the order in which they are computed; without patterns the tower's
        own: see `natural_blocks`."""
        names = [name for name in self._modules if name]
        asked = [name for name in names if any(fnmatchcase(name, each) for each in patterns)]
        for pattern in patterns:
            if not any(fnmatchcase(name, pattern) for name in names):
                raise UsageError(
                    f"--blocks {pattern}: {self._name} has no such module; it has "
                    f"{', '.join(names[:_SHOWN])} …"
                )
        shapes = self._shapes(asked or natural_blocks(self._modules[""]))
        found, unfit = [], []
        for name, seen in shapes.items():
            block = _block(name, seen)
            if block is None:
                unfit.append(name)
            else:
                found.append(block)
        if asked and (unfit or len(found) < len(asked)):
            idle = [name for name in asked if name not in shapes]
            raise UsageError(
                f"--blocks: {self._name} has no one output of {(unfit or idle)[0]!r} for each "
                "image; name modules that are called once and give one tensor"
            )
        if not found:
            raise InputError(f"{self._name}: none of its modules can be looked into; try --blocks")
        return found

    def read(self, batch: Tensor, blocks: Sequence[Block]) -> tuple[Tensor, list[Tensor]]:
        """The features of a batch, and what each block gave on the way."""
        import torch

        seen: dict[str, Tensor] = {}
        with torch.no_grad(), self._hooks({b.name: _keeps(seen, b.name) for b in blocks}):
            features = self._features(batch)
        return features, [seen[block.name] for block in blocks]

    def attribute(
        self, batch: Tensor, block: Block, output: Tensor, score: Score, steps: int
    ) -> Attribution:
        """Integrated gradients of the score by what a block gives, from silence to its output.

        The mean of the gradients in the middles of `steps` equal parts of the way, times the way:
        if the steps are fine enough they add up to what the score changes.
        """
        import torch

        gradients = torch.zeros_like(output, dtype=torch.float64)
        for step in range(steps):
            part = (output * ((step + 0.5) / steps)).requires_grad_()
            with torch.enable_grad(), self._hooks({block.name: _gives(part)}):
                reached = score(self._features(batch))
            (gradient,) = torch.autograd.grad(reached.sum(), part)
            gradients += gradient
        ends = []
        for end in (torch.zeros_like(output), output):
            with torch.no_grad(), self._hooks({block.name: _gives(end)}):
                ends.append(score(self._features(batch)).double())
        effects = block.rows(gradients * output).sum(dim=1) / steps
        return Attribution(effects, ends[1] - ends[0])

    def trace(
        self, batch: Tensor, blocks: tuple[Block, Block], output: Tensor, path: Path, steps: int
    ) -> Tensor:
        """Integrated gradients of neurons of the second block by those of the first, from silence
        to its output; a row for each of `path.targets`, a column for each of `path.sources`.

        Of a neuron the mean over places counts. All are sums over the images of the batch.
        """
        import torch

        source, target = blocks
        reached: list[Tensor] = []

        def stops(module: Module, given: Any, found: Tensor) -> None:
            reached.append(target.rows(found).mean(dim=1).sum(dim=0))
            raise _Reached

        found = torch.zeros(len(path.targets), len(path.sources), dtype=torch.float64)
        for step in range(steps):
            part = (output * ((step + 0.5) / steps)).requires_grad_()
            hooks = {source.name: _gives(part), target.name: stops}
            with torch.enable_grad(), suppress(_Reached), self._hooks(hooks):
                self._features(batch)
            neurons = reached.pop()
            if not neurons.requires_grad:  # nothing leads from one block to the other
                continue
            for row, neuron in enumerate(path.targets):
                (gradient,) = torch.autograd.grad(
                    neurons[neuron], part, retain_graph=True, materialize_grads=True
                )
                effects = source.rows(gradient * output).double().sum(dim=(0, 1)).cpu()
                found[row] += effects[list(path.sources)]
        return found / steps

    def _shapes(self, names: Sequence[str]) -> dict[str, list[Any]]:
        """What modules give for two images, and for three; in the order in which they do."""
        import torch

        found: dict[str, list[Any]] = {}

        def keeps(name: str) -> Any:
            return lambda module, given, output: found.setdefault(name, []).append(
                tuple(output.shape) if torch.is_tensor(output) else None
            )

        with torch.no_grad(), self._hooks({name: keeps(name) for name in names}):
            for count in (2, 3):
                self._features(torch.stack([self._image] * count))
        return found

    @contextmanager
    def _hooks(self, hooks: Mapping[str, Any]) -> Iterator[None]:
        handles = [self._modules[name].register_forward_hook(hook) for name, hook in hooks.items()]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


def natural_blocks(tower: Module) -> list[str]:
    """The blocks of a network: the members of its stacks, and what stands beside stacks.

    A stack is a list of modules of one kind that have modules of their own. What is beside and in
    one piece with weights, such as a convolution, is left out: the activation behind it tells more.
    If that leaves nothing, the network's modules are its blocks.
    """
    found = list(_blocks_in(tower, ""))
    return found or [name for name, _ in tower.named_children()]


def _blocks_in(parent: Module, path: str) -> Iterator[str]:
    from torch import nn

    for name, child in parent.named_children():
        has_parts = next(child.children(), None) is not None
        if any(_is_stack(each) for each in child.modules()):
            yield from _blocks_in(child, f"{path}{name}.")
        elif has_parts or not (
            isinstance(child, nn.Identity | nn.Dropout)
            or next(child.parameters(recurse=False), None) is not None
        ):
            yield path + name


def _is_stack(module: Module) -> bool:
    from torch import nn

    members = list(module.children())
    return (
        isinstance(module, nn.Sequential | nn.ModuleList)
        and len({type(each) for each in members}) == 1
        and all(next(each.children(), None) is not None for each in members)
    )


def _block(name: str, shapes: Sequence[Any]) -> Block | None:
    """How a module's output lies, by its shapes for two images and for three."""
    if len(shapes) != 2 or None in shapes or len(shapes[0]) != len(shapes[1]):
        return None
    differ = [axis for axis, sizes in enumerate(zip(*shapes, strict=True)) if len(set(sizes)) > 1]
    if len(differ) != 1 or (shapes[0][differ[0]], shapes[1][differ[0]]) != (2, 3):
        return None
    rest = [axis for axis in range(len(shapes[0])) if axis != differ[0]]
    sizes = [shapes[0][axis] for axis in rest]
    if len(rest) == 3:
        # Images are square, so of height, width and channels the odd one is that of channels.
        last = sizes[0] == sizes[1] != sizes[2]
        return Block(name, differ[0], rest[2] if last else rest[0])
    return Block(name, differ[0], rest[-1]) if len(rest) in (1, 2) else None


def _keeps(into: dict[str, Tensor], name: str) -> Any:
    def hook(module: Module, given: Any, output: Tensor) -> None:
        into[name] = output.clone()

    return hook


def _gives(output: Tensor) -> Any:
    return lambda module, given, replaced: output.clone()  # the next module may work in place
