"""Base classes for model families, which describe a model block by block.

A family says of a kind of models how they are made, which parts they have and what of each part can
be replaced by an equal function. Methods, training and files ask the family alone; no other code
looks at a model's class or at the names of its attributes.

Shapes: B batch, N tokens, D channels of a token, H heads, d width of a query and key head, e width
of a value head.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from torch import Tensor, nn

from adacomcat.checks import require
from adacomcat.config import ModelConfig
from adacomcat.models.heads import HeadAttention, Heads
from adacomcat.models.tokens import TokenSequence

Between = Literal["nothing", "bias", "norm", "rotary"]
"""Operations between the projections and the scores of a head."""


@dataclass(frozen=True)
class LinearView:
    """A linear layer that can be factorized.

    Attributes:
        site: `blocks.0.fc1`, `head`.
        module: its name in the model.
        kind: `fc1` and `fc2` of an MLP, `head` of a classifier, or another word of the family.
        inputs, outputs: features.
        tokens: rows of an image that pass through it.
    """

    site: str
    module: str
    kind: str
    inputs: int
    outputs: int
    tokens: int


@dataclass(frozen=True)
class AttentionView(ABC):
    """The attention of one block.

    Attributes:
        block: name of the block, the first part of its sites' names.
        module: name of the attention in the model.
        width: D, channels that it takes and gives.
        heads: H.
        head_width, value_width: d and e, of the dense model.
        scale: what scores are multiplied by; that which the model's forward uses.
        tokens: N, rows of an image that are projected.
        pairs: query-key pairs of an image: N squared, or fewer with windows.
        between: `bias` is a term added to the scores. `norm` and `rotary` change queries and keys
            themselves, so that their product is no longer one bilinear form of the input.
        attn_drop, proj_drop: shares dropped of the attention weights and of the output in training.
    """

    block: str
    module: str
    width: int
    heads: int
    head_width: int
    value_width: int
    scale: float
    tokens: int
    pairs: int
    between: Between = "nothing"
    attn_drop: float = 0.0
    proj_drop: float = 0.0

    @property
    def products(self) -> tuple[str, ...]:
        """Products of matrices that may be replaced as one: `qk` (Wq Wk^T) and `vo` (Wv Wo)."""
        return ("qk", "vo") if self.between in ("nothing", "bias") else ("vo",)

    @abstractmethod
    def read(self, tensors: Mapping[str, Tensor]) -> Heads:
        """Arrange the module's parameters, or optimizer moments of the same names, by heads."""

    @abstractmethod
    def write(self, heads: Heads) -> dict[str, Tensor]:
        """The inverse of `read`: name of each parameter -> a copy of its values."""

    def score_module(self, attention: nn.Module) -> nn.Module | None:
        """The module form of `between`, which a replaced attention continues to use; None: nothing.

        It is called as `(q, k, *args, **kwargs)` with queries and keys (B, H, N, d) and what the
        attention's own forward got beside the tokens, and returns both with a mask for the scores,
        (B or 1, H or 1, N, N) or None. Its parameters are those of the attention, the same objects.
        """
        assert self.between == "nothing", f"{type(self).__name__} has to say what {self.between} is"
        return None


@dataclass(frozen=True)
class StandInView(AttentionView):
    """The attention of a block where a method put another one in its place."""

    stand_in: HeadAttention = field(kw_only=True, repr=False, compare=False)

    def read(self, tensors: Mapping[str, Tensor]) -> Heads:
        return self.stand_in.read(tensors)

    def write(self, heads: Heads) -> dict[str, Tensor]:
        raise NotImplementedError("a method writes its own modules")

    def score_module(self, attention: nn.Module) -> nn.Module | None:
        return self.stand_in.between


@dataclass(frozen=True)
class BlockView:
    """One block of a model.

    Attributes:
        name: `blocks.0`.
        width: D; tokens: N, both those of this block.
        attention: None where a block has none, or one that cannot be read by heads.
        linears: its linear layers beside the attention's, in the order of the forward.
    """

    name: str
    width: int
    tokens: int
    attention: AttentionView | None
    linears: tuple[LinearView, ...]


@dataclass(frozen=True)
class ModelView:
    """The parts of a model that can be factorized, in the order of its forward."""

    blocks: tuple[BlockView, ...]
    classifiers: tuple[LinearView, ...]

    @property
    def attentions(self) -> dict[str, AttentionView]:
        """Name of the module -> its view."""
        found = (block.attention for block in self.blocks)
        return {view.module: view for view in found if view is not None}

    @property
    def linears(self) -> dict[str, LinearView]:
        """Name of the module -> its view."""
        every = [linear for block in self.blocks for linear in block.linears]
        return {view.module: view for view in (*every, *self.classifiers)}


@dataclass(frozen=True)
class Support:
    """Support of a family, in words, for `adacomcat models`.

    Attributes:
        names: patterns of the models' names.
        searched: what can be searched -> in which models, or of what.
        refused: what is refused -> why.
    """

    names: tuple[str, ...]
    searched: Mapping[str, str]
    refused: Mapping[str, str]


class ModelFamily(ABC):
    """Models that are made alike and have the same parts.

    Every model has `num_classes` and `num_features` (the width of what its classifier takes), and
    gives logits (B, num_classes) of images (B, C, H, W). One instance serves all models: a family
    has no state of its own.
    """

    name: ClassVar[str]
    types: ClassVar[tuple[type[nn.Module], ...]]
    """The models' classes; a subclass of one is another model."""
    order: ClassVar[int] = 0
    """Families with a lower number are tried first; one that takes any model has a high one."""

    # Which models.

    def owns(self, model: nn.Module) -> bool:
        """Whether a model is of this family: by its very class."""
        return type(model) in self.types

    def names(self) -> tuple[str, ...]:
        """Names of all models that `create` makes, where they can be listed."""
        return ()

    @abstractmethod
    def support(self) -> Support:
        """Supported and refused models, in words."""

    @abstractmethod
    def makes(self, name: str) -> bool:
        """Whether `create` makes models of this name."""

    def explain(self, name: str) -> str:
        """Hint about a name that no family creates; may be empty."""
        return ""

    def image_size(self, name: str) -> int:
        """Side in pixels of the images that models of a name are made for by default."""
        return 224

    # Making and storing.

    @abstractmethod
    def create(
        self, config: ModelConfig, *, num_classes: int, in_chans: int, image_size: int
    ) -> nn.Module:
        """A model with random weights, for a data set's images and classes.

        Raises:
            ValueError: unknown options, or sizes that do not go together.
        """

    @abstractmethod
    def creation(self, model: nn.Module) -> tuple[str, dict[str, Any]]:
        """(name, JSON-able arguments) with which `build` makes a model's dense shape anew.

        Raises:
            ValueError: the model is not one that can be made anew.
        """

    @abstractmethod
    def build(self, name: str, arguments: Mapping[str, Any]) -> nn.Module:
        """A dense model from the output of `creation`, with random weights.

        Raises:
            ValueError: unknown arguments.
        """

    def sizes(self, model: nn.Module) -> dict[str, dict[str, Any]]:
        """Name of each part of `view` -> its sizes, as JSON-able data.

        Of an attention `heads`, `head_width` and `scale`, of a linear layer `inputs` and `outputs`:
        those of the dense model, also where a method's module stands in its place.
        """
        view = self.view(model)
        found: dict[str, dict[str, Any]] = {
            name: {"heads": part.heads, "head_width": part.head_width, "scale": part.scale}
            for name, part in view.attentions.items()
        }
        return found | {
            name: {"inputs": part.inputs, "outputs": part.outputs}
            for name, part in view.linears.items()
        }

    def resize_(self, model: nn.Module, sizes: Mapping[str, Mapping[str, Any]]) -> None:
        """Give parts of a dense model other sizes, as pruning left them; weights are undefined.

        Args:
            model: as `build` made it.
            sizes: of some parts, as `sizes` gives them.

        Raises:
            ValueError: parts that this family cannot resize.
        """
        require(not sizes, "sizes", sorted(sizes)[:5], f"none: {self.name} has no other sizes")

    @abstractmethod
    def convert_weights(
        self, model: nn.Module, state: Mapping[str, Tensor], where: str
    ) -> dict[str, Tensor]:
        """A state dict of the authors' naming in that of a dense model of this family.

        Args:
            model: the dense model.
            state: the weights; positions of another image size are interpolated.
            where: what they were read from, for messages.

        Raises:
            ValueError: weights of another model.
        """

    def image_size_of(self, config: ModelConfig, state: Mapping[str, Tensor]) -> int | None:
        """Image size in pixels that weights imply; None if they imply none."""
        return None

    # Inputs and outputs.

    def preprocessing(self, model: nn.Module) -> Mapping[str, Any]:
        """Preprocessing of a model's images, in timm's keys of a `pretrained_cfg`.

        Such are `mean`, `std`, `crop_pct`, `crop_mode`, `interpolation` and `label_names`.
        """
        made: Any = model
        return dict(getattr(made, "pretrained_cfg", None) or {})

    @abstractmethod
    def input_shape(self, model: nn.Module) -> tuple[int, int, int]:
        """(channels, height, width) of the images that a model takes.

        Raises:
            ValueError: it stands nowhere.
        """

    @abstractmethod
    def pooling(self, model: nn.Module) -> str:
        """Pooling of a model's tokens."""

    @abstractmethod
    def classifiers(self, model: nn.Module) -> tuple[str, ...]:
        """Names of the modules whose outputs are classes."""

    @abstractmethod
    def embeddings(self, model: nn.Module) -> tuple[str, ...]:
        """Names of the weights that make tokens of pixels."""

    @abstractmethod
    def blocks(self, model: nn.Module) -> tuple[str, ...]:
        """Names of the blocks, whose outputs a teacher's may be compared with."""

    def probe(self, model: nn.Module) -> Callable[[Tensor], Tensor]:
        """Function of images whose output a truncation should preserve.

        It takes images (B, C, H, W) and gives the logits (B, classes) of a classifier; of a
        backbone its final tokens (B, N, D), where all patches together weigh as much as one prefix
        token.
        """
        if self.view(model).classifiers:
            return model
        return lambda images: weighted_tokens(*self.final_tokens(model, images))

    @abstractmethod
    def final_tokens(self, model: nn.Module, images: Tensor) -> tuple[Tensor, int]:
        """Tokens (B, N, D) after the last norm, and how many of them are prefix tokens."""

    # Parts.

    @abstractmethod
    def view(self, model: nn.Module) -> ModelView:
        """The parts of a model that can be factorized, dense or with a method's modules in place.

        Raises:
            ValueError: a part that is not what this family knows (it is named).
        """

    @abstractmethod
    def tokens(self, model: nn.Module) -> TokenSequence:
        """Token sequence of a model, compressed or not.

        Raises:
            ValueError: a model whose tokens cannot be dropped or merged (the part is named).
        """

    def macs_outside_by_width(self, model: nn.Module, tokens: TokenSequence) -> int:
        """MACs outside the blocks of a token sequence by DiffRate's formula (arXiv 2305.17997).

        All tokens, prefix tokens too, count as patches of the embedding.
        """
        embeddings = sum(model.get_parameter(name).numel() for name in self.embeddings(model))
        sizes: Any = model
        return int(tokens.tokens * embeddings + sizes.num_features * sizes.num_classes)


def weighted_tokens(tokens: Tensor, prefix: int) -> Tensor:
    """Tokens (B, N, D) with each of the n patches, which follow the prefix, times n ** -0.5."""
    weights = tokens.new_ones(tokens.shape[1], 1)
    weights[prefix:] = max(tokens.shape[1] - prefix, 1) ** -0.5
    return tokens * weights
