"""How are the weights of one candidate coded?

`Coder` turns a recipe into blocks for each matrix of an fp32 graph. What several candidates need (the inputs' second
moments, 4-bit codes, what an error in each layer costs) is found once. Where a matrix lies on a grid already, its own
codes are kept.

Does not know how the graph is rewritten, nor what becomes of the candidates.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from edge_agent.manifest import Graph, Pass
from exporter.blocks import Blocks, Floats
from exporter.calibrate import second_moments, sensitivity
from exporter.gptq import gptq
from exporter.grid import find_grid
from exporter.quantize import Matrix, matrices
from exporter.recipes import Recipe
from exporter.rounding import round_to_nearest, search
from exporter.text import Text

if TYPE_CHECKING:
    import onnx_ir as ir

BLOCKS: Final = (32, 64, 128)
MOMENTS_BYTES: Final = 256 * 2**20  # held at a time; more means more passes over the calibration text
SENSITIVITY_TOKENS: Final = 256
GROUPS: Final = 32  # of consecutive weights, whose sensitivity is measured together
TOLERATED: Final = 0.25  # share of the summed divergence that stays in 4 bits
Progress = Callable[[str, float], None]


class Coder:
    """Codes the fp32 graph in `path`, calibrated on `text`."""

    def __init__(self, path: Path, graph: Graph, text: Text, *, block: int, tell: Progress) -> None:
        import onnx_ir as ir

        self._path, self._graph, self._text, self._block, self._tell = path, graph, text, block, tell
        model = ir.load(path)
        self._matrices = {name: one for name, one in matrices(model).items() if self._takes(one)}
        self._ends = {name for name, one in self._matrices.items() if one.embeds or _gives_logits(model, name)}
        self._grids: dict[str, Blocks | None] = {}
        self._coded: dict[tuple[str, str], Blocks] = {}
        self._sensitive: dict[str, list[str]] = {}

    @property
    def on_grid(self) -> bool:
        """Whether most of the weights were stored in 4 bits before."""
        body = [one for name, one in self._matrices.items() if name not in self._ends]
        found = sum(one.rows.size for one in body if self._grid(one, 4) is not None)
        return 2 * found > sum(one.rows.size for one in body)

    def codes(self, recipe: Recipe) -> dict[str, Blocks]:
        """Blocks by the name of the matrix. `recipe` is int4, mixed or int8."""
        if recipe.precision == "int8":
            return {name: self._int8(one) for name, one in self._matrices.items()}
        assert recipe.method is not None
        if recipe.precision == "int4":
            return self._int4(recipe.method, self._matrices)
        body = {name: one for name, one in self._matrices.items() if name not in self._ends}
        coded = self._int4(recipe.method, body)
        promoted = {*self._ends, *self._most_sensitive(recipe.method, coded)}
        return {name: self._int8(one) if name in promoted else coded[name] for name, one in self._matrices.items()}

    def tensors(self, blocks: Mapping[str, Blocks]) -> dict[str, str]:
        """The precision of each group of tensors: of the ends (embedding, head) and of the layers between."""
        told = {}
        groups = {
            "embedding": [name for name in self._ends if self._matrices[name].embeds],
            "head": [name for name in self._ends if self._matrices[name].inputs],
            "linear": [name for name in self._matrices if name not in self._ends],
        }
        for group, names in groups.items():
            bits = sorted({blocks[name].bits for name in names})
            told[group] = "+".join(f"int{one}" for one in bits) or "fp32"
        return told

    def record(self, recipe: Recipe, blocks: Mapping[str, Blocks]) -> Pass:
        """What was done, for the manifest."""
        parameters: dict[str, Any] = {"precision": recipe.precision, "block": self._block, "weights_only": True}
        if smaller := sorted({one.block for one in blocks.values() if one.block != self._block}):
            parameters["smaller_blocks"] = smaller  # of matrices that the block asked for does not divide
        if recipe.method is not None:
            parameters["method"] = recipe.method
            parameters["calibration"] = self._text.origin
            if searched := sum(self._is_searched(recipe.method, self._matrices[name], one)
                               for name, one in blocks.items()):  # fmt: skip
                parameters["k_quant"] = searched  # matrices that the method does not reach: looked up, or in no blocks
        if recipe.precision == "mixed":
            parameters["int8"] = [name for name, one in blocks.items() if one.bits == 8]
        exact = sum(self._grid(one, blocks[name].bits) is blocks[name] for name, one in self._matrices.items())
        if exact:
            parameters["kept_codes"] = exact  # matrices that were stored in as many bits before
        return Pass(name="quantize", parameters=parameters)

    def _takes(self, matrix: Matrix) -> bool:
        """Rows that are looked up must be whole blocks; an unlooked product may end in a short one."""
        return not matrix.embeds or self._is_whole(matrix)

    def _block_of(self, matrix: Matrix) -> int:
        """The block asked for, or the largest smaller one that divides the matrix where that one does not."""
        columns = matrix.rows.shape[1]
        smaller = (one for one in reversed(BLOCKS) if one <= self._block and columns % one == 0)
        return next(smaller, self._block)

    def _is_whole(self, matrix: Matrix) -> bool:
        return bool(matrix.rows.shape[1] % self._block_of(matrix) == 0)

    def _is_searched(self, method: str, matrix: Matrix, blocks: Blocks) -> bool:
        """Whether its 4 bits were found by k-quant search although another method was asked for."""
        if blocks.bits != 4 or method in ("round-to-nearest", "k-quant") or self._grid(matrix, 4) is blocks:
            return False
        return not (matrix.inputs and self._is_whole(matrix))

    def _int8(self, matrix: Matrix) -> Blocks:
        grid = self._grid(matrix, 8)
        if grid is not None and grid.offsets is None:
            return grid
        return round_to_nearest(matrix.rows, 8, self._block_of(matrix))

    def _int4(self, method: str, wanted: Mapping[str, Matrix]) -> dict[str, Blocks]:
        missing = {name: one for name, one in wanted.items() if (method, name) not in self._coded}
        told = f"quantizing to 4 bits by {method}"
        if method == "round-to-nearest":
            for name, one in missing.items():
                self._coded[method, name] = round_to_nearest(one.rows, 4, self._block_of(one))
        else:
            calibrated = dict(missing)
            if method == "source":
                for name, one in missing.items():
                    grid = self._grid(one, 4)
                    if grid is not None and not (one.embeds and grid.offsets is not None):
                        self._coded[method, name] = grid
                        del calibrated[name]
            for done, (name, one, moments) in enumerate(self._with_moments(calibrated)):
                self._tell(told, done / len(calibrated))
                self._coded[method, name] = self._calibrated(one, moments, by_gptq=method != "k-quant")
        return {name: self._coded[method, name] for name in wanted}

    def _calibrated(self, matrix: Matrix, moments: Floats | None, *, by_gptq: bool) -> Blocks:
        block = self._block_of(matrix)
        if moments is None:
            return search(matrix.rows, 4, block)
        if by_gptq and self._is_whole(matrix):
            return gptq(matrix.rows, moments, 4, block)
        return search(matrix.rows, 4, block, importance=moments.diagonal())

    def _with_moments(self, wanted: Mapping[str, Matrix]) -> Iterator[tuple[str, Matrix, Floats | None]]:
        """Each matrix with its input's second moments (None for one that is only looked up), bounded in memory."""
        batch: dict[str, Matrix] = {}
        held: dict[str, int] = {}
        for name, one in wanted.items():
            if not one.inputs:
                yield name, one, None
                continue
            batch[name] = one
            held[one.inputs[0]] = 4 * one.rows.shape[1] ** 2
            if sum(held.values()) >= MOMENTS_BYTES:
                yield from self._batch_with_moments(batch)
                batch, held = {}, {}
        if batch:
            yield from self._batch_with_moments(batch)

    def _batch_with_moments(self, batch: Mapping[str, Matrix]) -> Iterator[tuple[str, Matrix, Floats | None]]:
        moments = second_moments(
            self._path, self._graph, [one.inputs[0] for one in batch.values()], self._text.rows,
            lambda part: self._tell("calibrating", part),
        )  # fmt: skip
        for name, one in batch.items():
            yield name, one, moments[one.inputs[0]]

    def _most_sensitive(self, method: str, coded: Mapping[str, Blocks]) -> list[str]:
        """The weights that go to 8 bits: those of the groups whose 4 bits cost most, measured one group at a time."""
        lossy = [name for name in coded if not (method == "source" and self._grid(self._matrices[name], 4))]
        if not lossy:
            return []
        if method not in self._sensitive:
            size = -(-len(lossy) // GROUPS)
            groups = {lossy[at]: lossy[at : at + size] for at in range(0, len(lossy), size)}
            costs = sensitivity(
                self._path, self._graph,
                {name: {one: self._replacement(coded[one], one) for one in group} for name, group in groups.items()},
                self._text.first(SENSITIVITY_TOKENS).rows,
                lambda part: self._tell("measuring which layers are sensitive", part),
            )  # fmt: skip
            self._sensitive[method] = [one for name in promoted(costs) for one in groups[name]]
        return self._sensitive[method]

    def _replacement(self, blocks: Blocks, name: str) -> Callable[[], Floats]:
        """The dequantized weight, as the graph's initializer is laid out."""
        transposed = self._matrices[name].transposed
        return lambda: blocks.dequantized().T.copy() if transposed else blocks.dequantized()

    def _grid(self, matrix: Matrix, bits: int) -> Blocks | None:
        key = f"{matrix.name}:{bits}"
        if key not in self._grids:
            grid = find_grid(matrix.rows, bits, self._block_of(matrix))
            if bits == 8 and grid is not None and grid.offsets is not None:
                grid = None  # 8 bits round such a grid's minimum to a 30th of its step: not worth an input more
            self._grids[key] = grid
        return self._grids[key]


def promoted(costs: Mapping[str, float]) -> list[str]:
    """The costliest groups, until those left have at most `TOLERATED` of the summed cost; at most half of them.

    >>> promoted({"a": 0.1, "b": 5.0, "c": 0.1, "d": 0.2})
    ['b']
    """
    ordered = sorted(costs, key=lambda name: -costs[name])
    left = sum(costs.values())
    bound = TOLERATED * left
    chosen: list[str] = []
    for name in ordered[: len(ordered) // 2]:
        if left <= bound:
            break
        chosen.append(name)
        left -= costs[name]
    return chosen


def _gives_logits(model: ir.Model, name: str) -> bool:
    """Whether `name` is the weight of the output head."""
    value = model.graph.initializers[name]
    users = [use.node for use in value.uses()]
    outputs = [user.outputs[0] for user in users]
    outputs += [use.node.outputs[0] for user in users if user.op_type == "Transpose" for use in user.outputs[0].uses()]
    return any(output.is_graph_output() for output in outputs)
