"""Many features from one pass: every block, the state, the velocity and the denoised image, at every tau."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TypeVar

import torch
from torch import Tensor, nn

from lightly_prg.eval.embed import evaluation_mode
from lightly_prg.features import PRGEncoder
from lightly_prg.features.cells import Cell, Row, even_steps, places_on, steps_to
from lightly_prg.features.image_noise import noise_of_images
from lightly_prg.features.network_encoder import NetworkEncoder
from lightly_prg.features.reading import Reading, ReadOnTheWay, read_network, read_position
from lightly_prg.flow import CountedVelocity, encode
from lightly_prg.models.pooling import fitting_pool, pool

T = TypeVar("T")


class GridEncoder(nn.Module):
    """All features of a grid behind each other, from one solve of the ODE.

    The network is read where the solver evaluates it anyway; one more evaluation is needed where it does not, as at the
    last tau.

    Args:
        encoder: Whose features; a ``NetworkEncoder`` has no taus.
        rows: What is read. Rows whose pooling does not fit their activation are left out, see ``skipped``.
        taus: Positions on the path, 0 = data, 1 = noise; taken in ascending order. What lies outside the range of the
            path is moved to its nearer end, as in ``extract_features``.
        steps: Solver steps to the last tau; default ``even_steps`` of the encoder's own number.
        noised: Reads the network at randomly noised images ``alpha x + sigma noise`` in place of the states of the
            ODE (DDAE, arXiv 2303.09769). The noise of an image depends on its content and the seed alone; it is the
            same at every tau.
        seed: Of that noise.
        together: Whether all taus together, where there are several, are a cell as well.

    Attributes:
        rows: Those that can be read.
        skipped: For each of the others, why not.
        nfe: Network evaluations for one image, for the whole grid; an average where an adaptive solver varies.

    Raises:
        ValueError: If there is no such block, or nothing is left to read.

    Example:
        >>> encoder = PRGEncoder(lambda tau, x: -x, input_shape=(1, 8, 8))
        >>> grid = GridEncoder(encoder, [Row("state", pool="flatten")], taus=(0.5, 1.0))
        >>> grid(torch.rand(2, 1, 8, 8)).shape, [cell.taus for cell in grid.cells]
        (torch.Size([2, 128]), [(0.5,), (1.0,), (0.5, 1.0)])
    """

    def __init__(
        self,
        encoder: PRGEncoder | NetworkEncoder,
        rows: Sequence[Row],
        *,
        taus: Sequence[float] = (),
        steps: int | None = None,
        noised: bool = False,
        seed: int = 0,
        together: bool = True,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.training = encoder.training
        self.input_shape = encoder.input_shape
        self.taus = tuple(sorted(set(taus)))
        self.noised = noised
        self.seed = seed
        self.together = together
        if isinstance(encoder, PRGEncoder) != bool(self.taus):
            raise ValueError("A flow is read at one tau or more, another network at none.")
        self.steps = 0
        if isinstance(encoder, PRGEncoder):
            places = places_on(self.taus, encoder.path)
            self.steps = even_steps(encoder.path.tau_min, places, encoder.ode.steps) if steps is None else steps
        self.rows = tuple(dict.fromkeys(rows))
        self.skipped: dict[Row, str] = {}
        self._widths: dict[Row, int] = {}
        self._evaluations = 0  # of all images together, as the next two
        self._solving = 0
        self._images = 0
        self._measure()
        self.rows = tuple(self._widths)
        if not self.rows:
            raise ValueError("Nothing is left to read: " + " ".join(dict.fromkeys(self.skipped.values())))

    def forward(self, images: Tensor) -> Tensor:
        """Reads the whole grid: float images in [0, 1], ``(B, C, H, W)``, to ``(B, D)`` float32."""
        parts: dict[Row, list[Tensor]] = {row: [] for row in self.rows}
        for values in self._positions(images, self._pooled):
            for row, part in parts.items():
                part.append(values[row])
        return torch.cat([value for part in parts.values() for value in part], dim=1)

    @property
    def embedding_dim(self) -> int:
        """D of all cells, those of several taus not counted again."""
        return sum(self.width(row) for row in self.rows)

    @property
    def nfe(self) -> float:
        """Network evaluations for one image, for the whole grid."""
        if self._images == 0:
            self._one_image()
        return round(self._evaluations / self._images, 2)

    def width(self, row: Row) -> int:
        """Numbers that a row takes over all taus."""
        return self._widths[row] * max(len(self.taus), 1)

    @property
    def cells(self) -> tuple[Cell, ...]:
        """Every row at every tau, and with ``together``, where there are several, at all of them."""
        if not isinstance(self.encoder, PRGEncoder):
            return tuple(Cell(row, (), 0, True) for row in self.rows)
        counts, same = steps_to(self.encoder.path, self.encoder.ode, self.taus, self.steps)
        choices: list[tuple[tuple[float, ...], int, bool]] = [
            ((tau,), count, fits) for tau, count, fits in zip(self.taus, counts, same, strict=True)
        ]
        if self.together and len(self.taus) > 1:
            choices.append((self.taus, counts[-1], True))
        return tuple(Cell(row, taus, n, fits and not self.noised) for row in self.rows for taus, n, fits in choices)

    def columns(self, cell: Cell) -> slice:
        """Where a cell stands in what ``forward`` gives."""
        start = sum(self.width(row) for row in self.rows[: self.rows.index(cell.row)])
        if len(cell.taus) != 1:
            return slice(start, start + self.width(cell.row))
        one = self._widths[cell.row]
        start += self.taus.index(cell.taus[0]) * one
        return slice(start, start + one)

    def nfe_of(self, cell: Cell) -> float:
        """Network evaluations that a cell costs where it is read alone; the most for an adaptive solver."""
        if not isinstance(self.encoder, PRGEncoder):
            return 1
        readings = 0 if cell.row.source == "state" else len(cell.taus)
        if self.noised or cell.steps == 0:
            return readings
        if self._images == 0:
            self._one_image()
        solving = self._solving / self._images
        share = 1.0 if self.encoder.ode.solver == "dopri5" else cell.steps / self.steps
        return round(solving * share + readings, 2)

    def _pooled(self, reading: Reading) -> dict[Row, Tensor]:
        return {row: pool(reading.of(row.source, row.block).float(), row.pool) for row in self.rows}

    def _positions(self, images: Tensor, convert: Callable[[Reading], T]) -> Iterator[T]:
        """Yields what is read at one tau after the other, converted at once: whole activations take much memory."""
        blocks = tuple(dict.fromkeys(row.block for row in self.rows if row.block is not None))
        sources = {row.source for row in self.rows}
        self._images += len(images)
        if not isinstance(self.encoder, PRGEncoder):
            self._evaluations += len(images)
            yield convert(read_network(self.encoder, images, blocks, output="output" in sources))
            return
        path, velocity = self.encoder.path, self.encoder.velocity
        places = places_on(self.taus, path)
        on_the_way = ReadOnTheWay(velocity, path, sources, blocks, places, convert)
        solving = CountedVelocity(velocity if sources <= {"state"} else on_the_way, path)
        reading = CountedVelocity(velocity, path)
        for tau, state in zip(places, self._states(solving, images, places), strict=True):
            found = on_the_way.at(tau, state)
            yield convert(read_position(reading, tau, state, path, sources, blocks)) if found is None else found
        self._solving += solving.evaluations * len(images)
        self._evaluations += (solving.evaluations + reading.evaluations) * len(images)

    def _states(self, counted: CountedVelocity, images: Tensor, places: Sequence[float]) -> Sequence[Tensor] | Tensor:
        assert isinstance(self.encoder, PRGEncoder)
        x, path, ode = self.encoder.normalize(images), self.encoder.path, self.encoder.ode
        if self.noised:
            noise = noise_of_images(images, self.seed)
            return [path.interpolate(x, noise, tau) for tau in places]
        return encode(
            counted,
            x,
            tau_start=path.tau_min,
            tau_end=list(places),
            steps=self.steps,
            solver=ode.solver,
            gradient="full",
            rtol=ode.rtol,
            atol=ode.atol,
        )

    def _one_image(self) -> Reading:
        """What is read of a black image at the first tau; the whole path is run."""
        assert self.input_shape is not None, "The size of the images is not known: give the encoder input_shape."
        image = torch.zeros(1, *self.input_shape, device=self.encoder.mean.device)
        with torch.no_grad(), evaluation_mode(self.encoder, image.device):
            first, *_ = self._positions(image, lambda reading: reading)
        return first

    def _measure(self) -> None:
        """Finds the width of every row; grids are as fine as the activation at most, and nothing is read twice."""
        reading = self._one_image()
        self._evaluations = self._solving = self._images = 0
        flat: set[tuple[str, str | None]] = set()
        for row in self.rows:
            values = reading.of(row.source, row.block).float()
            if values.ndim == 2:  # a vector, however it is pooled
                if (row.source, row.block) in flat:
                    continue
                flat.add((row.source, row.block))
            fitting = replace(row, pool=fitting_pool(values, row.pool))
            try:
                self._widths[fitting] = pool(values, fitting.pool).shape[1]
            except ValueError as error:
                self.skipped[row] = str(error)
